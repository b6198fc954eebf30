//! The replication stream: every committed change of a shard as an event, read from the log's
//! files beside the node that writes them.
//!
//! | File | Holds |
//! |---|---|
//! | `event.rs` | what an event is, and its JSON |
//! | `translate.rs` | from a record to an event |
//! | `tally.rs` | counts and owners, kept while reading |
//! | `log.rs` | a log's files, up to where it is durable |
//! | `reader.rs` | a shard's events from any of them on |
//! | `anchors.rs` | where readers left off |
//! | `snapshot.rs` | a shard as it stands, as events |
//! | `feed.rs` | a reader's whole life: snapshot, then events |
//! | `recent.rs` | the newest events of all shards, from the logs' ends |
//! | `places.rs` | how many readers there may be, and where they are |
//! | `subscription.rs` | subscribers over gRPC, from the cores to whoever reads for them |
//! | `refusal.rs` | why there are no events, in the words of every way to ask |
//! | `oldest.rs` | from which event on each shard can be read |
//!
//! No core has a part in it: a core's work is the same with and without readers. Everything here
//! blocks on the disk and runs on threads that may.

mod anchors;
mod event;
mod feed;
mod log;
mod oldest;
mod places;
mod reader;
mod recent;
mod refusal;
mod snapshot;
mod subscription;
mod tally;
mod translate;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use omnirelay_queue::{Options, ShardId};
use omnirelay_wal::{Disk, RealDisk};

use crate::node::Layout;

use anchors::{Anchor, Anchors};
use translate::Shard;

pub use event::{Event, EventType, Metadata};
pub use feed::{Chunk, Feed, Reach, Start};
pub use log::CommittedLog;
pub use places::{Busy, Opening, Place, Places};
pub use reader::ReadError;
pub use recent::RecentEvent;
pub use refusal::Refusal;
pub use subscription::{
    Chunks, Subscribed, Subscribers, Subscription, Subscriptions, proto_only, subscriptions,
};

/// How many readers there may be at once: each holds up to a batch of the log and what it sends.
pub const READERS_MAX: usize = 32;

/// All logs of a node, for readers of its events.
#[derive(Debug)]
pub struct Replication<D: Disk = RealDisk> {
    layout: Arc<Layout>,
    logs: Vec<Arc<CommittedLog<D>>>,
    anchors: Mutex<Anchors>,
    events: AtomicU64,
    /// What was found of each log.
    oldest: Mutex<Vec<Option<Oldest>>>,
    places: Arc<Places>,
}

/// The oldest event of each of a log's shards, and the segment that the log began with then.
type Oldest = (u32, BTreeMap<ShardId, u64>);

impl<D: Disk> Replication<D> {
    /// All logs of the node, in order.
    ///
    /// # Panics
    /// If there are more or fewer than the layout says.
    pub fn new(layout: Arc<Layout>, logs: Vec<CommittedLog<D>>) -> Replication<D> {
        assert_eq!(logs.len(), usize::from(layout.logs()), "one of each log");
        Replication {
            oldest: Mutex::new(vec![None; logs.len()]),
            layout,
            logs: logs.into_iter().map(Arc::new).collect(),
            anchors: Mutex::default(),
            events: AtomicU64::new(0),
            places: Arc::default(),
        }
    }

    /// How many events have been handed out.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Who reads.
    pub fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Whether the node has this shard.
    pub fn has(&self, shard: ShardId) -> bool {
        self.layout.namespace_of(shard).is_some()
    }

    /// All shards of the node.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.layout.shards()
    }

    fn log_of(&self, shard: ShardId) -> Arc<CommittedLog<D>> {
        Arc::clone(&self.logs[usize::from(self.layout.log_of(shard).0)])
    }

    /// A shard of the node, and what it goes by.
    fn shard(&self, shard: ShardId) -> (Arc<Shard>, Options) {
        let namespace = self.layout.namespace_of(shard);
        let namespace = self
            .layout
            .namespace(namespace.expect("a shard of this node"));
        let known = Shard {
            spec: namespace.shard_spec(shard.0 - namespace.first_shard.0),
            namespace: namespace.name.clone(),
        };
        (Arc::new(known), namespace.options.clone())
    }

    fn keep(&self, shard: ShardId, anchor: Anchor) {
        self.anchors().keep(shard, anchor);
    }

    fn anchors(&self) -> MutexGuard<'_, Anchors> {
        // What is lost with a panic are places that can be found again.
        self.anchors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
