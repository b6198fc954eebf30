//! What other threads tell a core: log threads their results, the admin side its wishes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use omnirelay_net::messages::ExplainResponse;
use omnirelay_net::rpc;
use omnirelay_net::runtime::{Notifier, NotifierListener};
use omnirelay_wal::{Scanned, Spare};
use tokio::sync::oneshot;

use super::telemetry::CoreReport;
use crate::node::{LogId, NamespaceId};

/// Events that may wait for a core. Each log has one batch, a few spares and a few reads under
/// way, and scrapes are few; a sender that finds it full waits.
const INBOX_EVENTS_MAX: usize = 1_024;

/// Something that happened off the core.
#[derive(Debug)]
pub enum Event {
    /// A batch is on disk.
    Synced {
        /// The batch's log.
        log: LogId,
        /// Its number.
        batch: u64,
        /// Its bytes on disk.
        bytes: u64,
        /// Its records.
        records: u64,
        /// How long writing and syncing took.
        took: Duration,
    },
    /// The log can no longer be written.
    LogFailed(LogId, String),
    /// A spare segment, or why there is none yet.
    Spare(LogId, Result<Spare, String>),
    /// Bytes that the core asked for.
    Read(u64, Result<Bytes, String>),
    /// A part of a segment that is given up.
    Scanned(LogId, Result<Scanned, String>),
    /// A segment has been given up, and perhaps become a spare.
    Retired(LogId, u32, Result<Option<Spare>, String>),
    /// All cores' new epochs are on disk: take calls.
    Serve,
    /// Take no more calls; finish what is open.
    Drain,
    /// Say how you are.
    Report(oneshot::Sender<CoreReport>),
    /// Say where an item stands.
    Explain(ExplainAsk),
}

/// Where an item stands is asked for.
#[derive(Debug)]
pub struct ExplainAsk {
    /// The item's namespace.
    pub namespace: NamespaceId,
    /// The item.
    pub sequence_id: u64,
    /// How long whoever asks waits.
    pub time: Duration,
    /// Where the answer goes.
    pub to: oneshot::Sender<Result<ExplainResponse, rpc::Error>>,
}

/// The senders' end; cheap to clone.
#[derive(Debug, Clone)]
pub struct Inbox {
    queue: Arc<ArrayQueue<Event>>,
    notifier: Notifier,
}

/// The core's end.
#[derive(Debug)]
pub(super) struct InboxReader {
    queue: Arc<ArrayQueue<Event>>,
    listener: NotifierListener,
}

/// Makes a core's inbox.
pub(super) fn inbox() -> (Inbox, InboxReader) {
    let queue = Arc::new(ArrayQueue::new(INBOX_EVENTS_MAX));
    let (notifier, listener) = Notifier::pair();
    (
        Inbox {
            queue: Arc::clone(&queue),
            notifier,
        },
        InboxReader { queue, listener },
    )
}

impl Inbox {
    /// Hands an event over; waits while the inbox is full.
    pub fn send(&self, event: Event) {
        let mut event = event;
        while let Err(back) = self.queue.push(event) {
            event = back;
            self.notifier.notify();
            std::thread::yield_now();
        }
        self.notifier.notify();
    }

    /// Hands an event over unless the inbox is full.
    pub fn try_send(&self, event: Event) -> Result<(), Event> {
        self.queue.push(event)?;
        self.notifier.notify();
        Ok(())
    }
}

impl InboxReader {
    /// The next event, if there is one.
    pub(super) fn try_next(&mut self) -> Option<Event> {
        self.queue.pop()
    }

    /// Waits until there may be an event.
    pub(super) async fn notified(&mut self) {
        self.listener.notified().await;
    }
}
