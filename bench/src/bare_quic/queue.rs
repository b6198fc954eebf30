//! The least that passes for a durable queue: a list in memory, and a write with one sync a turn.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use omnirelay_net::frame::CallFrame;
use omnirelay_net::frame::encode::{self, ReplyHead};
use omnirelay_net::messages::read::EnqueueItems;
use omnirelay_net::messages::view::TokenView;
use omnirelay_net::messages::write::{
    Back, EnqueuedView, LeaseView, ReceiptView, SettledView, nested,
};
use omnirelay_net::messages::{BATCH_ITEMS_MAX, Stats, StatsResponse, Timestamp};
use omnirelay_net::rpc::{
    Call, EncodeReply, Encoding, Error, Procedure, Reply, Request, decode_request,
};

use super::log::Log;
use super::service::{CallKey, Service, procedure};

/// Items that it holds at most.
const ITEMS_MAX: usize = 1_000_000;
/// Lease calls that wait at most.
const WAITING_MAX: usize = 65_536;
/// How long a lease call waits at most, and unless it says.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Bytes of a batch's head and of an item's records beside its payload, so that a cycle takes as
/// many as in the node's log.
const BATCH_BYTES: usize = 32;
const ENQUEUE_BYTES: usize = 60;
const LEASE_BYTES: usize = 60;
const SETTLE_BYTES: usize = 50;

/// What is in a reply and not made up anew.
const RECEIPT: ReceiptView<'static> = ReceiptView {
    shard: 7,
    lsn: 1_000_000,
    durability: "disk",
};
const TIME: Timestamp = Timestamp {
    seconds: 1_790_000_000,
    nanos: 123_456_789,
};
const LEASE_ID: &str = "018f4e9a-7c1d-7abc-8def-0123456789ab";
const OWNER: &str = "omnirelay-loadgen";
const LEASE_FOR_MS: u64 = 30_000;

/// What is around the payload of a lease, and a result's length: room that suffices.
const AROUND_BYTES: usize = 192;
const RESULT_BYTES: usize = 64;

/// Answers `enqueueBatch`, `leaseBatch`, `settle` and `stats`: whatever comes is given out once, in
/// its order, and forgotten then. Nothing is checked, expires or comes back.
#[derive(Debug)]
pub(super) struct Queue {
    log: Log,
    /// The oldest first.
    items: VecDeque<Item>,
    waiting: VecDeque<Waiting>,
    /// Items that have ever come.
    enqueued: u64,
    leased: u64,
    /// Of the turn.
    record_bytes: usize,
    replies: VecDeque<(CallKey, Bytes)>,
}

/// An item, where it lies in its request.
#[derive(Debug, Clone)]
struct Item {
    request: Rc<EnqueueItems>,
    index: usize,
    sequence_id: u64,
}

/// A lease call that waits for items.
#[derive(Debug)]
struct Waiting {
    key: CallKey,
    items_max: usize,
    until: Instant,
}

impl Queue {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            items: VecDeque::new(),
            waiting: VecDeque::new(),
            enqueued: 0,
            leased: 0,
            record_bytes: 0,
            replies: VecDeque::new(),
        }
    }

    fn take(&mut self, now: Instant, key: CallKey, call: &CallFrame) -> Result<(), Error> {
        let procedure = procedure(call)?;
        match decode_request(procedure, Encoding::Proto, &call.body())? {
            Request::EnqueueBatch(items) => self.enqueue(key, items)?,
            Request::Call(Call::LeaseBatch(lease)) => {
                let wait = lease.wait_ms.map_or(WAIT_MAX, Duration::from_millis);
                if self.waiting.len() == WAITING_MAX {
                    return Err(Error::backpressure("too many lease calls wait"));
                }
                self.waiting.push_back(Waiting {
                    key,
                    items_max: (lease.max_items as usize).clamp(1, BATCH_ITEMS_MAX),
                    until: now + wait.min(WAIT_MAX),
                });
            }
            Request::Settle(items) => {
                self.leased = self.leased.saturating_sub(items.len() as u64);
                self.record_bytes += items.len() * SETTLE_BYTES;
                self.reply(key, &Settled(items.len()));
            }
            Request::Call(Call::Stats(_)) => {
                let stats = Stats {
                    pending_count: self.items.len() as u64,
                    active_lease_count: self.leased,
                    ..Stats::default()
                };
                self.reply(key, &Reply::Stats(StatsResponse { stats: Some(stats) }));
            }
            other => {
                let other = other.procedure();
                return Err(Error::procedure_unknown(format!(
                    "this server does not know {other}, only {}, {}, {} and {}",
                    Procedure::EnqueueBatch,
                    Procedure::LeaseBatch,
                    Procedure::Settle,
                    Procedure::Stats
                )));
            }
        }
        Ok(())
    }

    fn enqueue(&mut self, key: CallKey, request: EnqueueItems) -> Result<(), Error> {
        if self.items.len() + request.len() > ITEMS_MAX {
            return Err(Error::backpressure(format!("{ITEMS_MAX} items wait")));
        }
        let bodies = (0..request.len()).filter_map(|index| request.get(index).payload);
        let bytes =
            bodies.map(|payload| ENQUEUE_BYTES + payload.body.len() + payload.resource_id.len());
        self.record_bytes += bytes.sum::<usize>();
        let reply = Enqueued {
            first: self.enqueued + 1,
            items: request.len(),
        };
        let request = Rc::new(request);
        for index in 0..request.len() {
            self.enqueued += 1;
            self.items.push_back(Item {
                request: Rc::clone(&request),
                index,
                sequence_id: self.enqueued,
            });
        }
        self.reply(key, &reply);
        Ok(())
    }

    /// Gives what there is to those who wait, and tells those who have waited for too long.
    fn grant(&mut self, now: Instant) {
        while !self.items.is_empty()
            && let Some(waiting) = self.waiting.pop_front()
        {
            let count = waiting.items_max.min(self.items.len());
            self.leased += count as u64;
            self.record_bytes += count * LEASE_BYTES;
            let leases = Leases(self.items.drain(..count).collect());
            self.reply(waiting.key, &leases);
        }
        if self.next_deadline().is_some_and(|at| at <= now) {
            let error = Error::none_available("nothing came");
            let replies = &mut self.replies;
            self.waiting.retain(|Waiting { key, until, .. }| {
                if *until <= now {
                    replies.push_back((*key, encode::error(&head(*key), &error)));
                }
                *until > now
            });
        }
    }

    fn reply(&mut self, key: CallKey, reply: &impl EncodeReply) {
        let reply = encode::reply(&head(key), Encoding::Proto, reply);
        self.replies.push_back((key, reply));
    }
}

impl Service for Queue {
    fn handle_call(&mut self, now: Instant, key: CallKey, call: &CallFrame) {
        if let Err(error) = self.take(now, key, call) {
            let reply = encode::error(&head(key), &error);
            self.replies.push_back((key, reply));
        }
    }

    fn handle_turn_end(&mut self, now: Instant) -> io::Result<()> {
        self.grant(now);
        match std::mem::take(&mut self.record_bytes) {
            0 => Ok(()),
            bytes => self.log.append(BATCH_BYTES + bytes),
        }
    }

    fn handle_gone(&mut self, connection: usize) {
        self.waiting
            .retain(|waiting| waiting.key.connection != connection);
    }

    fn poll_reply(&mut self) -> Option<(CallKey, Bytes)> {
        self.replies.pop_front()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }
}

fn head(key: CallKey) -> ReplyHead<'static> {
    ReplyHead {
        id: key.id,
        shard: Some(RECEIPT.shard),
        ..ReplyHead::default()
    }
}

/// Results of items that were put in.
struct Enqueued {
    first: u64,
    items: usize,
}

impl EncodeReply for Enqueued {
    fn encode_behind(&self, zeros: usize, _: Encoding) -> BytesMut {
        let mut out = Back::with_capacity(zeros + self.items * RESULT_BYTES);
        for sequence_id in (self.first..self.first + self.items as u64).rev() {
            let view = EnqueuedView {
                sequence_id,
                duplicate: false,
                stats: None,
                receipt: RECEIPT,
            };
            nested(&mut out, 1, &view);
        }
        out.into_bytes_behind(zeros)
    }
}

/// Leases of items.
struct Leases(Vec<Item>);

impl EncodeReply for Leases {
    fn encode_behind(&self, zeros: usize, _: Encoding) -> BytesMut {
        let payload = |item: &Item| item.request.get(item.index).payload.map(|it| it.body.len());
        let bytes = self
            .0
            .iter()
            .map(|item| AROUND_BYTES + payload(item).unwrap_or(0));
        let mut out = Back::with_capacity(zeros + bytes.sum::<usize>());
        for item in self.0.iter().rev() {
            let Some(payload) = item.request.get(item.index).payload else {
                continue;
            };
            let view = LeaseView {
                payload,
                sequence_id: item.sequence_id,
                attempt: 1,
                enqueued_at: TIME,
                last_error: None,
                ownership_token: TokenView {
                    sequence_id: item.sequence_id,
                    attempt: 1,
                    lease_id: LEASE_ID,
                },
                owner_peer_id: OWNER,
                lease_expires_at: TIME,
                lease_for_ms: LEASE_FOR_MS,
            };
            nested(&mut out, 1, &view);
        }
        out.into_bytes_behind(zeros)
    }
}

/// Results of so many leases that ended well.
struct Settled(usize);

impl EncodeReply for Settled {
    fn encode_behind(&self, zeros: usize, _: Encoding) -> BytesMut {
        let mut out = Back::with_capacity(zeros + self.0 * RESULT_BYTES);
        for _ in 0..self.0 {
            nested(&mut out, 1, &SettledView(RECEIPT));
        }
        out.into_bytes_behind(zeros)
    }
}

#[cfg(test)]
mod tests {
    use bench::bare_node::{Rounds, Shape, load};
    use omnirelay_net::frame::encode::CallHead;
    use omnirelay_net::frame::{Frame, FrameReader};
    use omnirelay_net::messages::{
        EnqueueBatchRequest, EnqueueRequest, LeaseBatchRequest, Payload, PeekRequest, SettleItem,
        SettleRequest, StatsRequest,
    };
    use omnirelay_net::rpc::{DEFAULT_NAMESPACE, codes, decode_reply};
    use quinn_proto::{Dir, Side, StreamId};

    use super::*;
    use crate::bare_quic::log::SECTOR_BYTES;

    fn frame(bytes: Bytes) -> Frame {
        let mut reader = FrameReader::default();
        reader.push(bytes);
        let frame = reader.next(1 << 20).unwrap().expect("a whole frame");
        Frame::decode(&frame).unwrap()
    }

    fn open() -> (Queue, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::create(&dir.path().join("log")).unwrap();
        (Queue::new(log), dir)
    }

    fn call(queue: &mut Queue, now: Instant, id: u64, call: &Call) {
        let procedure = format!("{DEFAULT_NAMESPACE}::{}", call.procedure());
        let head = CallHead {
            id,
            procedure: &procedure,
            ..CallHead::default()
        };
        let Frame::Call(call) = frame(encode::call(&head, Encoding::Proto, call).unwrap()) else {
            panic!("no call");
        };
        let key = CallKey {
            connection: 0,
            stream: StreamId::new(Side::Client, Dir::Bi, 0),
            id,
        };
        queue.handle_call(now, key, &call);
    }

    /// The replies of a turn, by the calls' names.
    fn end_turn(queue: &mut Queue, now: Instant) -> Vec<(u64, Result<Bytes, Error>)> {
        queue.handle_turn_end(now).unwrap();
        let replies = std::iter::from_fn(|| queue.poll_reply());
        replies
            .map(|(key, reply)| {
                let Frame::Reply(reply) = frame(reply) else {
                    panic!("no reply");
                };
                assert_eq!(reply.id, key.id);
                (reply.id, reply.outcome)
            })
            .collect()
    }

    fn enqueue(names: &[&str]) -> Call {
        let items = names.iter().map(|name| EnqueueRequest {
            payload: Some(Payload {
                resource_type: "thing".to_owned(),
                resource_id: (*name).to_owned(),
                payload_encoding: "text/plain".to_owned(),
                body: Bytes::from(name.repeat(9)),
                ..Payload::default()
            }),
            ..EnqueueRequest::default()
        });
        Call::EnqueueBatch(EnqueueBatchRequest {
            items: items.collect(),
            namespace: None,
        })
    }

    fn lease(max_items: u32) -> Call {
        Call::LeaseBatch(LeaseBatchRequest {
            max_items,
            wait_ms: Some(1_000),
            ..LeaseBatchRequest::default()
        })
    }

    fn names(reply: &Result<Bytes, Error>) -> Vec<String> {
        let body = reply.as_ref().unwrap();
        let Ok(Reply::LeaseBatch(batch)) =
            decode_reply(Procedure::LeaseBatch, Encoding::Proto, body)
        else {
            panic!("no leases");
        };
        let payloads = batch.leases.into_iter().map(|lease| {
            assert!(lease.ownership_token.is_some());
            lease.payload.expect("a payload")
        });
        payloads
            .inspect(|payload| assert_eq!(payload.body, payload.resource_id.repeat(9)))
            .map(|payload| payload.resource_id)
            .collect()
    }

    fn counts(queue: &mut Queue, now: Instant) -> (u64, u64) {
        call(queue, now, 99, &Call::Stats(StatsRequest::default()));
        let replies = end_turn(queue, now);
        let body = replies[0].1.as_ref().unwrap();
        let Ok(Reply::Stats(reply)) = decode_reply(Procedure::Stats, Encoding::Proto, body) else {
            panic!("no counts");
        };
        let stats = reply.stats.unwrap();
        (stats.pending_count, stats.active_lease_count)
    }

    #[test]
    fn items_are_given_out_once_in_their_order_whoever_waits_first() {
        let (mut queue, _dir) = open();
        let now = Instant::now();
        call(&mut queue, now, 1, &lease(2));
        call(&mut queue, now, 2, &lease(9));
        assert!(end_turn(&mut queue, now).is_empty());
        call(&mut queue, now, 3, &enqueue(&["a", "b", "c"]));
        let replies = end_turn(&mut queue, now);
        assert_eq!(replies.iter().map(|it| it.0).collect::<Vec<_>>(), [3, 1, 2]);
        assert_eq!(names(&replies[1].1), ["a", "b"]);
        assert_eq!(names(&replies[2].1), ["c"]);
        assert_eq!(counts(&mut queue, now), (0, 3));
        let settle = Call::Settle(SettleRequest {
            items: vec![SettleItem::default(); 3],
            namespace: None,
        });
        call(&mut queue, now, 4, &settle);
        let replies = end_turn(&mut queue, now);
        let body = replies[0].1.as_ref().unwrap();
        let Ok(Reply::Settle(reply)) = decode_reply(Procedure::Settle, Encoding::Proto, body)
        else {
            panic!("no results");
        };
        assert_eq!(reply.results.iter().filter(|it| it.success).count(), 3);
        assert_eq!(counts(&mut queue, now), (0, 0));
    }

    #[test]
    fn who_waits_in_vain_is_told_and_who_has_gone_gets_nothing() {
        let (mut queue, _dir) = open();
        let now = Instant::now();
        call(&mut queue, now, 1, &lease(1));
        let later = queue.next_deadline().expect("it waits");
        assert!(end_turn(&mut queue, now).is_empty());
        let replies = end_turn(&mut queue, later);
        assert!(replies[0].1.as_ref().unwrap_err().is(codes::NONE_AVAILABLE));
        call(&mut queue, later, 2, &lease(1));
        queue.handle_gone(0);
        call(&mut queue, later, 3, &enqueue(&["a"]));
        assert_eq!(end_turn(&mut queue, later).len(), 1);
        assert_eq!(counts(&mut queue, later), (1, 0));
    }

    #[test]
    fn a_cycle_writes_as_many_bytes_as_in_the_nodes_log() {
        const ROUNDS: usize = 200;
        let shape = Shape {
            calls: 1,
            items: 64,
        };
        let dir = tempfile::tempdir().unwrap();
        let mut rounds = Rounds::open(dir.path(), shape);
        rounds.run(ROUNDS, &mut ());
        let before = rounds.node().written();
        rounds.run(ROUNDS, &mut ());
        let node = (rounds.node().written() - before).bytes as f64 / ROUNDS as f64;
        let (mut queue, _dir) = open();
        let now = Instant::now();
        let items = vec![SettleItem::default(); shape.items];
        let settle = Call::Settle(SettleRequest {
            items,
            namespace: None,
        });
        let [enqueues, leases] = [load::enqueues(shape), load::leases(shape)];
        let mut own = 0;
        for asked in [&enqueues[0], &leases[0], &settle] {
            call(&mut queue, now, 1, asked);
            queue.grant(now);
            own += (BATCH_BYTES + queue.record_bytes).next_multiple_of(SECTOR_BYTES);
            assert_eq!(end_turn(&mut queue, now).len(), 1);
        }
        let ratio = own as f64 / node;
        assert!(
            (0.95..1.05).contains(&ratio),
            "{own} bytes, the node {node}"
        );
    }

    #[test]
    fn a_turn_without_records_writes_nothing() {
        let (mut queue, dir) = open();
        let now = Instant::now();
        let path = dir.path().join("log");
        let written = || path.metadata().unwrap().modified().unwrap();
        let before = written();
        call(&mut queue, now, 1, &Call::Peek(PeekRequest::default()));
        let replies = end_turn(&mut queue, now);
        let refused = replies[0].1.as_ref().unwrap_err();
        assert!(refused.message.contains("does not know peek"), "{refused}");
        assert_eq!(written(), before);
        call(&mut queue, now, 2, &enqueue(&["a"]));
        assert_eq!(end_turn(&mut queue, now).len(), 1);
        assert!(written() > before);
    }
}
