//! Subscriptions that come to a core, on their way to whoever reads the logs for them, and what
//! comes back. Neither side waits for the other: a core asks or is refused, and looks at what has
//! come when it is woken.

use std::task::{Context, Poll};

use bytes::Bytes;
use omnirelay_net::grpc::Compression;
use omnirelay_net::grpc::replication::SubscribeRequest;
use omnirelay_net::rpc;
use omnirelay_queue::ShardId;
use tokio::sync::mpsc;

use super::{Busy, READERS_MAX, Refusal, Start};

/// Subscriptions that wait to be looked at: further ones are told to come back later, as those
/// that find no place for a reader.
const WAITING_MAX: usize = 2 * READERS_MAX;
/// Chunks that wait for the subscriber, beside the last word. One more may be in the hands of its
/// connection.
const CHUNKS_MAX: usize = 1;

/// Framed messages one after the other, or why there are no more.
type Chunk = Result<Bytes, rpc::Error>;

/// What a subscriber asks for, and the way back to it.
#[derive(Debug)]
pub struct Subscription {
    /// Of which shard.
    pub shard: ShardId,
    /// From where.
    pub start: Start,
    /// How messages are to be framed.
    pub compression: Compression,
    /// Where they go.
    pub chunks: Chunks,
}

/// Where subscriptions are handed over; cheap to clone.
#[derive(Debug, Clone)]
pub struct Subscriptions(mpsc::Sender<Subscription>);

/// Where they arrive.
#[derive(Debug)]
pub struct Subscribers(mpsc::Receiver<Subscription>);

/// Both ends, made anywhere.
pub fn subscriptions() -> (Subscriptions, Subscribers) {
    let (to, from) = mpsc::channel(WAITING_MAX);
    (Subscriptions(to), Subscribers(from))
}

/// What is said of a subscription in another encoding.
pub fn proto_only() -> rpc::Error {
    rpc::Error::encoding_unsupported(
        "a subscription is made in proto; the admin port has the same events as JSON",
    )
}

impl Subscriptions {
    /// Asks for events as a request says.
    ///
    /// # Errors
    /// If it names no shard, and as [`Subscriptions::open`].
    pub fn subscribe(
        &self,
        asked: &SubscribeRequest,
        compression: Compression,
    ) -> Result<Subscribed, Refusal> {
        let shard = asked
            .shard
            .ok_or_else(|| Refusal::Request("the request says no shard; the first is 0".into()))?;
        let start = Start {
            from: asked.from,
            snapshot: asked.snapshot,
        };
        self.open(ShardId(shard), start, compression)
    }

    /// Asks for a shard's events.
    ///
    /// # Errors
    /// If too many wait, or nobody reads the logs any more.
    pub fn open(
        &self,
        shard: ShardId,
        start: Start,
        compression: Compression,
    ) -> Result<Subscribed, Refusal> {
        let (chunks, subscribed) = mpsc::channel(CHUNKS_MAX + 1);
        let last_word = chunks.clone().try_reserve_owned();
        let subscription = Subscription {
            shard,
            start,
            compression,
            chunks: Chunks {
                last_word: last_word.expect("the queue is new and has room"),
                chunks,
            },
        };
        match self.0.try_send(subscription) {
            Ok(()) => Ok(Subscribed(subscribed)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(Refusal::Busy(Busy::Readers)),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Refusal::NotServing),
        }
    }
}

impl Subscribers {
    /// Waits for the next; `None` once no core can have one any more.
    pub async fn next(&mut self) -> Option<Subscription> {
        self.0.recv().await
    }
}

/// What comes to a subscriber. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscribed(mpsc::Receiver<Chunk>);

impl Subscribed {
    /// The next chunk; an error is the last.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        self.0.poll_recv(cx)
    }
}

/// Where a subscriber's chunks are put.
#[derive(Debug)]
pub struct Chunks {
    chunks: mpsc::Sender<Chunk>,
    /// Kept free, so that a subscriber with a full queue can be told why it ends.
    last_word: mpsc::OwnedPermit<Chunk>,
}

impl Chunks {
    /// Waits for room and puts a chunk. Does nothing once the subscriber has gone.
    pub async fn put(&self, chunk: Bytes) {
        // Whoever has gone is found by `gone`.
        let _ = self.chunks.send(Ok(chunk)).await;
    }

    /// Waits until the subscriber has gone.
    pub async fn gone(&self) {
        self.chunks.closed().await;
    }

    /// Ends the subscription.
    pub fn end(self, why: &Refusal) {
        self.last_word.send(Err(why.to_error()));
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const START: Start = Start {
        from: None,
        snapshot: false,
    };

    fn open(to: &Subscriptions) -> Result<Subscribed, Refusal> {
        to.open(ShardId(0), START, Compression::Identity)
    }

    #[tokio::test]
    async fn a_full_queue_takes_the_last_word_and_the_subscriber_gets_all_before_it() {
        let (to, mut from) = subscriptions();
        let mut subscribed = open(&to).unwrap();
        let Chunks { chunks, last_word } = from.next().await.unwrap().chunks;
        let out = Chunks { chunks, last_word };
        out.put(Bytes::from_static(b"a")).await;
        let waits = timeout(Duration::from_millis(1), out.put(Bytes::from_static(b"b")));
        assert!(waits.await.is_err(), "there is room for one");
        out.end(&Refusal::Slow);
        let chunk = poll_fn(|cx| subscribed.poll_next(cx)).await.unwrap();
        assert_eq!(chunk.unwrap(), "a");
        let last = poll_fn(|cx| subscribed.poll_next(cx)).await.unwrap();
        assert_eq!(last.unwrap_err().error_code, "replication.slow_reader");
        assert!(poll_fn(|cx| subscribed.poll_next(cx)).await.is_none());
    }

    #[tokio::test]
    async fn a_subscriber_that_goes_is_seen_to_go() {
        let (to, mut from) = subscriptions();
        let subscribed = open(&to).unwrap();
        let chunks = from.next().await.unwrap().chunks;
        drop(subscribed);
        chunks.gone().await;
    }

    #[test]
    fn only_so_many_wait_to_be_looked_at() {
        let (to, from) = subscriptions();
        let waiting: Vec<_> = (0..WAITING_MAX).map(|_| open(&to).unwrap()).collect();
        assert!(matches!(open(&to), Err(Refusal::Busy(Busy::Readers))));
        drop(from);
        assert!(matches!(open(&to), Err(Refusal::NotServing)));
        drop(waiting);
    }
}
