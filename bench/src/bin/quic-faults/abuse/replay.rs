//! Datagrams of a real connection, sent once more.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use omnirelay_net::messages::StatsRequest;
use omnirelay_net::rpc::{Call, Reply};
use quinn::TransportConfig;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::attacker::{Done, Stop, Target};
use super::datagrams::{send, sources};
use super::raw::{Caller, Raw};
use crate::proxy::{Path, Proxy};

/// Enqueued by the recorded connection, without request ids: done twice, one would be two.
const ITEMS: u32 = 50;
const ITEM_BYTES: usize = 200;
const PER_SECOND: f64 = 2_000.0;
/// Until the server has forgotten a connection that was closed.
const FORGOTTEN: Duration = Duration::from_millis(500);

pub(super) async fn run(
    target: &Target,
    ready: oneshot::Sender<()>,
    stop: &Stop,
) -> anyhow::Result<Done> {
    let sources = sources(target)?;
    let path = Path {
        duplication: 1.0,
        ..Path::default()
    };
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let proxy = Proxy::start(any, target.server, path, 1)?;
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(1)));
    let raw = Raw::new(proxy.address, &target.certificate, transport)?;
    let mut caller = Caller::new(raw.connect().await?).await?;
    let names = caller.enqueue_delayed(ITEMS, ITEM_BYTES).await?;
    let record = proxy.record();
    // Whoever waits for it may have given up.
    let _ = ready.send(());

    let began = Instant::now();
    let mut sent = 0;
    while !stop.is_set() {
        let due = began.elapsed().as_secs_f64() * PER_SECOND;
        while (sent as f64) < due {
            replay(&sources, &record, sent);
            sent += 1;
        }
        sleep(Duration::from_millis(1)).await;
    }
    let mut broken = Vec::new();
    match caller.call(&Call::Stats(StatsRequest::default())).await? {
        Reply::Stats(stats) => {
            let delayed = stats.stats.unwrap_or_default().delayed_count;
            if delayed != u64::from(ITEMS) {
                broken.push(format!(
                    "{ITEMS} items were enqueued, and {delayed} are there"
                ));
            }
        }
        other => anyhow::bail!("no reply to stats: {other:?}"),
    }
    caller.cancel(names).await?;
    raw.close().await;
    sleep(FORGOTTEN).await;
    for number in 0..record.len() as u64 {
        replay(&sources, &record, number);
        sent += 1;
    }
    Ok(Done { sent, broken })
}

fn replay(sources: &[UdpSocket], record: &[Vec<u8>], number: u64) {
    let index = usize::try_from(number).unwrap_or_default() % record.len();
    send(sources, number, &record[index]);
}
