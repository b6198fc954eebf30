//! Very many connections that do nothing.

use std::time::Duration;

use quinn::TransportConfig;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::abuse::{Caller, Raw};
use crate::args::Args;
use crate::node::Node;

/// Sockets of the clients, which connections share.
const SOCKETS: usize = 8;
/// Handshakes at a time of a socket: together fewer than the server takes without a retry.
const HANDSHAKES: usize = 8;
/// So that none ends meanwhile.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Until handshakes are confirmed and whatever was needed for them is let go.
const CALM: Duration = Duration::from_secs(3);
/// What an idle connection may need of the server.
const BYTES_MAX: f64 = 20_000.0;
const REST_MAX: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Idle {
    pub(crate) row: &'static str,
    pub(crate) connections: u32,
    pub(crate) connects_per_s: f64,
    pub(crate) bytes_per_connection: f64,
    pub(crate) server_bytes_before: u64,
    pub(crate) server_bytes_with: u64,
    pub(crate) server_bytes_after: u64,
    pub(crate) broken: Vec<String>,
}

pub(crate) async fn run(args: &Args, row: &'static str) -> anyhow::Result<Idle> {
    let wanted = args.connections;
    let most = format!("limits.connections_max_per_core={}", wanted + 10);
    let node = Node::start(&args.place, &[&most]).await?;
    let sockets: anyhow::Result<Vec<Raw>> = (0..SOCKETS)
        .map(|_| {
            let mut transport = TransportConfig::default();
            transport.keep_alive_interval(Some(KEEP_ALIVE));
            Raw::new(node.server.addresses.rpc, &node.certificate(), transport)
        })
        .collect();
    let sockets = sockets?;
    // What the first connection of a process needs is not each one's.
    let first = Caller::new(sockets[0].connect().await?).await?;
    sleep(CALM).await;
    let before = node.memory()?.now;

    let began = Instant::now();
    let mut open = Vec::new();
    let mut opening = JoinSet::new();
    for number in 0..wanted as usize {
        if opening.len() == SOCKETS * HANDSHAKES
            && let Some(opened) = opening.join_next().await
        {
            open.push(opened??);
        }
        let connecting = sockets[number % SOCKETS].connecting()?;
        opening.spawn(async move { Caller::new(connecting.await?).await });
    }
    while let Some(opened) = opening.join_next().await {
        open.push(opened??);
    }
    let connects_per_s = f64::from(wanted) / began.elapsed().as_secs_f64();
    sleep(CALM).await;
    let with = node.memory()?.now;
    let counted = node.metrics().await?.connections();

    drop((first, open));
    for socket in &sockets {
        socket.close().await;
    }
    let rest = node
        .settle(REST_MAX, |now| now.connections() == 0.0)
        .await?;
    let after = node.memory()?.now;
    let ended = node.end().await;

    let bytes = with.saturating_sub(before) as f64 / f64::from(wanted);
    let promises = [
        (
            counted != f64::from(wanted + 1),
            format!("{counted} connections are open instead of {}", wanted + 1),
        ),
        (
            bytes > BYTES_MAX,
            format!("an idle connection needs {bytes:.0} bytes"),
        ),
        (
            rest.connections() > 0.0,
            format!("{} connections stay", rest.connections()),
        ),
    ];
    let broken = promises
        .into_iter()
        .filter(|(is, _)| *is)
        .map(|(_, why)| why);
    Ok(Idle {
        row,
        connections: wanted,
        connects_per_s,
        bytes_per_connection: bytes,
        server_bytes_before: before,
        server_bytes_with: with,
        server_bytes_after: after,
        broken: broken.chain(ended).collect(),
    })
}
