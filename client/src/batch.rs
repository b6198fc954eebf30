//! Joining calls that are made at the same time into one frame.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use omnirelay_net::messages::{
    self, BATCH_ITEMS_MAX, EnqueueBatchRequest, EnqueueRequest, EnqueueResult, SettleItem,
    SettleRequest, SettleResult,
};
use omnirelay_net::rpc::{BATCH_BYTES_MAX, Call, Reply};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::client::Client;
use crate::connection::Route;
use crate::error::Error;
use crate::retry::{Tried, retry};

/// How single enqueues and settlements that are made at the same time are joined into one frame.
///
/// Nothing waits to be joined: what is called within one turn of the runtime goes together, and
/// while [`Batching::in_flight_max`] frames are on their way, what is called meanwhile gathers. So
/// a lone call is as quick as without, and many make few frames. Each call has its own result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// The most calls in one frame, 1 to 1,000; 1,000. With 1, calls are not joined.
    pub items_max: usize,
    /// The most bytes of items in one frame; 1 MiB. An item that is larger goes alone.
    pub bytes_max: usize,
    /// Frames of one namespace and kind on their way at a time; 4.
    pub in_flight_max: usize,
}

impl Default for Batching {
    fn default() -> Batching {
        Batching {
            items_max: BATCH_ITEMS_MAX,
            bytes_max: 1 << 20,
            in_flight_max: 4,
        }
    }
}

impl Batching {
    /// Every call is a frame of its own, and any number of them are on their way.
    #[must_use]
    pub fn off() -> Batching {
        Batching {
            items_max: 1,
            in_flight_max: Semaphore::MAX_PERMITS,
            ..Batching::default()
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if !(1..=BATCH_ITEMS_MAX).contains(&self.items_max) {
            return Err(format!("`items_max` is 1 to {BATCH_ITEMS_MAX}"));
        }
        if !(1..=BATCH_BYTES_MAX).contains(&self.bytes_max) {
            return Err(format!("`bytes_max` is 1 to {BATCH_BYTES_MAX}"));
        }
        if !(1..=Semaphore::MAX_PERMITS).contains(&self.in_flight_max) {
            return Err("`in_flight_max` is at least 1".into());
        }
        Ok(())
    }
}

/// KiB of items that wait to be joined, at most.
const QUEUE_KIB_MAX: u32 = 64 << 10;

/// A kind of call that can be joined with others.
pub(crate) trait Joined: fmt::Debug + Send + 'static {
    type Item: fmt::Debug + Clone + Send + 'static;
    type Done: fmt::Debug + Send + 'static;
    fn bytes(item: &Self::Item) -> usize;
    fn call(items: Vec<Self::Item>) -> Call;
    fn results(reply: Reply) -> Option<Vec<Result<Self::Done, messages::Error>>>;
}

/// Enqueues, as `enqueueBatch`.
#[derive(Debug)]
pub(crate) struct Enqueues;

impl Joined for Enqueues {
    type Item = EnqueueRequest;
    type Done = EnqueueResult;

    fn bytes(item: &EnqueueRequest) -> usize {
        item.payload.as_ref().map_or(0, |payload| {
            let attributes = payload.attributes.iter();
            payload.body.len() + attributes.map(|(k, v)| k.len() + v.len()).sum::<usize>()
        })
    }

    fn call(items: Vec<EnqueueRequest>) -> Call {
        Call::EnqueueBatch(EnqueueBatchRequest {
            items,
            namespace: None,
        })
    }

    fn results(reply: Reply) -> Option<Vec<Result<EnqueueResult, messages::Error>>> {
        let Reply::EnqueueBatch(batch) = reply else {
            return None;
        };
        let outcome = |mut result: EnqueueResult| match result.error.take() {
            Some(error) => Err(error),
            None => Ok(result),
        };
        Some(batch.results.into_iter().map(outcome).collect())
    }
}

/// Completions, failures and heartbeats, as `settle`.
#[derive(Debug)]
pub(crate) struct Settles;

impl Joined for Settles {
    type Item = SettleItem;
    type Done = SettleResult;

    fn bytes(item: &SettleItem) -> usize {
        let metadata = item.metadata.iter();
        let text = item.reason.as_ref().map_or(0, String::len);
        text + metadata.map(|(k, v)| k.len() + v.len()).sum::<usize>()
    }

    fn call(items: Vec<SettleItem>) -> Call {
        Call::Settle(SettleRequest {
            items,
            namespace: None,
        })
    }

    fn results(reply: Reply) -> Option<Vec<Result<SettleResult, messages::Error>>> {
        let Reply::Settle(settled) = reply else {
            return None;
        };
        let outcome = |mut result: SettleResult| match result.error.take() {
            Some(error) => Err(error),
            None => Ok(result),
        };
        Some(settled.results.into_iter().map(outcome).collect())
    }
}

/// Joins the calls of one kind in one namespace.
#[derive(Debug)]
pub(crate) struct Batcher<K: Joined> {
    client: Client,
    route: Arc<Route>,
    batching: Batching,
    queue: Mutex<Queue<K>>,
    in_flight: Arc<Semaphore>,
    room: Arc<Semaphore>,
}

#[derive(Debug)]
struct Queue<K: Joined> {
    entries: VecDeque<Entry<K>>,
    /// A task is there that will take what is in it.
    taken_care_of: bool,
}

#[derive(Debug)]
struct Entry<K: Joined> {
    item: K::Item,
    bytes: usize,
    deadline: Instant,
    done: oneshot::Sender<Answer<K::Done>>,
    _room: OwnedSemaphorePermit,
}

/// Inside, what the server said of the item; outside, what came of the frame.
type Answer<T> = Tried<Result<T, Error>>;

impl<K: Joined> Batcher<K> {
    pub(crate) fn new(client: Client, route: Arc<Route>, batching: Batching) -> Arc<Batcher<K>> {
        Arc::new(Batcher {
            client,
            route,
            batching,
            queue: Mutex::new(Queue {
                entries: VecDeque::new(),
                taken_care_of: false,
            }),
            in_flight: Arc::new(Semaphore::new(batching.in_flight_max)),
            room: Arc::new(Semaphore::new(QUEUE_KIB_MAX as usize)),
        })
    }

    /// Makes a call as part of whichever frame comes next, again where only it was refused for
    /// the moment.
    pub(crate) async fn put(self: &Arc<Self>, item: K::Item, deadline: Instant) -> Tried<K::Done> {
        let open = AtomicBool::new(false);
        let (this, item, noted) = (self, &item, &open);
        let tried = retry(self.client.bucket(), deadline, || async move {
            let answer = this.submit(item.clone(), deadline).await;
            noted.fetch_or(answer.unknown, Relaxed);
            match answer.result {
                Ok(answered) => answered.map(Ok),
                // A frame that failed has had its retries already.
                Err(error) => Ok(Err(error)),
            }
        })
        .await;
        let unknown = open.load(Relaxed) || tried.unknown;
        let result = tried.result.and_then(|answered| answered);
        Tried { result, unknown }
    }

    async fn submit(self: &Arc<Self>, item: K::Item, deadline: Instant) -> Answer<K::Done> {
        let bytes = K::bytes(&item);
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
        let kib = kib.saturating_add(1).min(QUEUE_KIB_MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(kib);
        let Ok(Ok(room)) = timeout_at(deadline, room).await else {
            return late("the call's time ran out before it could be sent", false);
        };
        let (done, answer) = oneshot::channel();
        let start = {
            let mut queue = self.queue();
            queue.entries.push_back(Entry {
                item,
                bytes,
                deadline,
                done,
                _room: room,
            });
            !std::mem::replace(&mut queue.taken_care_of, true)
        };
        if start {
            tokio::spawn(flush(Arc::clone(self)));
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => late("the runtime ended before the reply", true),
            Err(_) => late(
                "no reply within the call's time; the outcome is not known",
                true,
            ),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<K>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes together next; nothing where there is nothing, and then nobody takes care.
    fn take(&self) -> Vec<Entry<K>> {
        let mut queue = self.queue();
        let mut taken = Vec::new();
        let mut bytes = 0;
        while taken.len() < self.batching.items_max {
            let Some(entry) = queue.entries.pop_front() else {
                break;
            };
            // Its caller has left.
            if entry.done.is_closed() {
                continue;
            }
            if !taken.is_empty() && bytes + entry.bytes > self.batching.bytes_max {
                queue.entries.push_front(entry);
                break;
            }
            bytes += entry.bytes;
            taken.push(entry);
        }
        queue.taken_care_of = !taken.is_empty();
        taken
    }

    async fn send(&self, entries: Vec<Entry<K>>) {
        let deadline = entries.iter().map(|entry| entry.deadline).max();
        let deadline = deadline.unwrap_or_else(Instant::now);
        let items = entries.iter().map(|entry| entry.item.clone()).collect();
        let call = K::call(items);
        let tried = self.client.call(&self.route, &call, deadline).await;
        let unknown = tried.unknown;
        let results = tried.result.and_then(|reply| {
            let results = K::results(reply).filter(|results| results.len() == entries.len());
            results.ok_or_else(|| Error::malformed_reply("a batch's results are not its items'"))
        });
        match results {
            Ok(results) => {
                for (entry, result) in entries.into_iter().zip(results) {
                    let outcome =
                        result.map_err(|error| omnirelay_net::rpc::Error::from(error).into());
                    answer(entry, Ok(outcome), unknown);
                }
            }
            Err(error) => {
                for entry in entries {
                    answer(entry, Err(error.clone()), unknown);
                }
            }
        }
    }
}

fn answer<K: Joined>(
    entry: Entry<K>,
    result: Result<Result<K::Done, Error>, Error>,
    unknown: bool,
) {
    // Whoever asked may have given up.
    let _ = entry.done.send(Tried { result, unknown });
}

fn late<T>(message: &str, sent: bool) -> Answer<T> {
    Tried {
        result: Err(Error::deadline(message.to_owned(), sent)),
        unknown: false,
    }
}

async fn flush<K: Joined>(batcher: Arc<Batcher<K>>) {
    // Whoever is to call in this turn of the runtime does so first.
    tokio::task::yield_now().await;
    loop {
        let slot = Arc::clone(&batcher.in_flight).acquire_owned().await;
        let entries = batcher.take();
        if entries.is_empty() {
            return;
        }
        let batcher = Arc::clone(&batcher);
        tokio::spawn(async move {
            batcher.send(entries).await;
            drop(slot);
        });
    }
}
