//! As many streams as a connection may have, with half a frame on each.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use omnirelay_net::frame::{VERSION, encode};
use quinn::TransportConfig;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::attacker::{Done, Stop, Target};
use super::raw::{Raw, hello};

const CONNECTIONS: usize = 16;
const CONNECTION_EVERY: Duration = Duration::from_millis(200);
/// As many as the server allows.
const STREAMS: usize = 128;
const SENT_BYTES: usize = 16 << 10;

pub(super) async fn run(
    target: &Target,
    ready: oneshot::Sender<()>,
    stop: &Stop,
) -> anyhow::Result<Done> {
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(1)));
    let raw = Raw::new(target.server, &target.certificate, transport)?;
    let mut half = BytesMut::from(&encode::hello(&hello(VERSION))[..]);
    // The length of a frame, 32 KiB, as a varint; then half of it.
    half.put_slice(&[0x80, 0x80, 0x02]);
    half.put_bytes(0x1a, SENT_BYTES);
    // Whoever waits for it may have given up.
    let _ = ready.send(());
    let mut held = Vec::new();
    while !stop.is_set() && held.len() < CONNECTIONS {
        let connection = raw.connect().await?;
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            let (mut out, back) = connection.open_bi().await?;
            out.write_all(&half).await?;
            streams.push((out, back));
        }
        held.push((connection, streams));
        sleep(CONNECTION_EVERY).await;
    }
    stop.wait().await;
    let sent = held.iter().map(|(_, streams)| streams.len() as u64).sum();
    raw.close().await;
    Ok(Done {
        sent,
        ..Done::default()
    })
}
