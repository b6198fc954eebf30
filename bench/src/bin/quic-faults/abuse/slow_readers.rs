//! Clients that ask for pages and take none of them.

use std::time::Duration;

use omnirelay_net::messages::PeekRequest;
use omnirelay_net::rpc::Call;
use quinn::TransportConfig;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::attacker::{Done, Stop, Target};
use super::raw::{Caller, Raw};

const CONNECTIONS_MAX: usize = 64;
const CONNECTION_EVERY: Duration = Duration::from_millis(200);
const PAGES: u64 = 32;
/// Of a page, and how long each of them is: 128 KiB together.
const ITEMS: u32 = 32;
const ITEM_BYTES: usize = 4 << 10;

pub(super) async fn run(
    target: &Target,
    ready: oneshot::Sender<()>,
    stop: &Stop,
) -> anyhow::Result<Done> {
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window((64_u32 << 10).into())
        .keep_alive_interval(Some(Duration::from_secs(1)));
    let raw = Raw::new(target.server, &target.certificate, transport)?;
    let mut owner = Caller::new(raw.connect().await?).await?;
    let pages = owner.enqueue_delayed(ITEMS, ITEM_BYTES).await?;
    // Whoever waits for it may have given up.
    let _ = ready.send(());
    let peek = Call::Peek(PeekRequest {
        max_items: Some(ITEMS),
        ..PeekRequest::default()
    });
    let (mut held, mut sent) = (Vec::new(), 0);
    while !stop.is_set() && held.len() < CONNECTIONS_MAX {
        let mut reader = Caller::new(raw.connect().await?).await?;
        for _ in 0..PAGES {
            reader.ask(&peek).await?;
            sent += 1;
        }
        held.push(reader);
        sleep(CONNECTION_EVERY).await;
    }
    stop.wait().await;
    drop(held);
    owner.cancel(pages).await?;
    raw.close().await;
    Ok(Done {
        sent,
        ..Done::default()
    })
}
