//! The replication stream over gRPC: subscriptions that come to the cores are filled here, off
//! them, as those over HTTP are.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use omnirelay_net::grpc::{self, Compression, PREFIX_BYTES, replication as wire};
use omnirelay_queue::ShardId;
use prost::Message;
use tokio::time::timeout;

use super::outgoing::STALL_TIME_MAX;
use super::replication::{blocking, open, place_for, wait_for_growth};
use super::status::NodeStatus;
use crate::replication::{
    Chunk, Chunks, Event, Place, Reach, Refusal, Replication, Start, Subscribers, Subscription,
};

/// A chunk takes no further event once it has this many bytes of payload. Smaller than over HTTP:
/// what a subscriber leaves lying stays with its connection, which may have many.
const CHUNK_BYTES: usize = 64 << 10;
/// The most events in a chunk.
const CHUNK_EVENTS: usize = 128;

/// Fills subscriptions for as long as there are cores. There are at most as many tasks as places
/// for readers.
pub(crate) async fn serve(status: Arc<NodeStatus>, mut subscribers: Subscribers) {
    while let Some(subscription) = subscribers.next().await {
        match place_for(&status, subscription.shard) {
            Ok((replication, place)) => {
                let status = Arc::clone(&status);
                tokio::spawn(fill(status, replication, place, subscription));
            }
            Err(refusal) => subscription.chunks.end(&refusal),
        }
    }
}

async fn fill(
    status: Arc<NodeStatus>,
    replication: Arc<Replication>,
    place: Place,
    subscription: Subscription,
) {
    let pump = Pump {
        status,
        place,
        compression: subscription.compression,
        chunks: subscription.chunks,
    };
    let (shard, start) = (subscription.shard, subscription.start);
    let reading = pump.run(Arc::clone(&replication), shard, start);
    let refusal = tokio::select! {
        // Whoever cancels gives its place back at once, whatever is being read for it.
        () = pump.chunks.gone() => return,
        Err(refusal) = reading => refusal,
    };
    if matches!(refusal, Refusal::Slow) {
        replication.places().drop_one();
    }
    refusal.log();
    let Pump { place, chunks, .. } = pump;
    drop(place);
    chunks.end(&refusal);
}

struct Pump {
    status: Arc<NodeStatus>,
    place: Place,
    compression: Compression,
    chunks: Chunks,
}

impl Pump {
    async fn run(
        &self,
        replication: Arc<Replication>,
        shard: ShardId,
        start: Start,
    ) -> Result<Infallible, Refusal> {
        let mut feed = open(replication, &self.place, shard, start).await?;
        let log = feed.log();
        loop {
            let end = log.end();
            let compression = self.compression;
            let read;
            (feed, read) = blocking(move || {
                let chunk = feed.next(CHUNK_EVENTS, CHUNK_BYTES);
                let framed = chunk.map(|chunk| Framed::new(chunk, compression));
                (feed, framed)
            })
            .await;
            let Framed { reach, bytes } = read.map_err(Refusal::Read)?;
            self.place.has_read(reach);
            if !bytes.is_empty() {
                let put = timeout(STALL_TIME_MAX, self.chunks.put(bytes));
                put.await.map_err(|_| Refusal::Slow)?;
            }
            self.place.has_taken(reach, feed.position());
            if !self.status.is_serving() {
                feed.leave();
                return Err(Refusal::Ending);
            }
            if reach.at_end {
                // Whoever comes back after this one has gone finds it here.
                feed.leave();
                wait_for_growth(&self.status, &log, end, None).await;
            }
        }
    }
}

/// A chunk as it goes over the wire.
struct Framed {
    reach: Reach,
    bytes: Bytes,
}

impl Framed {
    fn new(chunk: Chunk, compression: Compression) -> Framed {
        let reach = chunk.reach();
        let mut out = BytesMut::new();
        for event in chunk.events {
            out.extend_from_slice(&framed(event, compression));
        }
        Framed {
            reach,
            bytes: out.freeze(),
        }
    }
}

fn framed(event: Event, compression: Compression) -> Bytes {
    let message = wire::Event::from(event);
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    out.put_bytes(0, PREFIX_BYTES);
    message.encode_raw(&mut out);
    grpc::frame(out, compression)
}
