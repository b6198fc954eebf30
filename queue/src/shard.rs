//! A shard: one part of a namespace's queue, owned by one core at a time.
//!
//! `handle_*` methods take a request and the time, decide, append a record and
//! apply it. The shard's time never goes back: a request that is earlier than
//! one before is taken to be as late.

mod apply;
pub(crate) mod carry;
pub(crate) mod checkpoint;
pub(crate) mod digest;
pub(crate) mod drain;
mod enqueue;
mod explain;
mod intervene;
mod lease;
mod line;
mod listing;
pub(crate) mod restore;
mod settle;
mod survey;
mod time;
mod trimmed;

use std::collections::BTreeMap;

use crate::dedupe::Dedupe;
use crate::drains::Drains;
use crate::ids::{
    EPOCH_MAX, Epoch, Lsn, Nanos, Place, SEQUENCE_ID_MAX, SHARD_ID_MAX, SequenceId, ShardSpec,
};
use crate::index::Index;
use crate::item::{Item, Lease, State};
use crate::keys::Keys;
use crate::list::List;
use crate::options::{Fairness, Options, Ordering};
use crate::outcome::{Decision, FenceReason, Head, TokenRefused};
use crate::owners::Owners;
use crate::ready::Ready;
use crate::record::{Event, LeaseRef, Log, Record};
use crate::resources::Resources;
use crate::roots::Roots;
use crate::settled::Settled;
use crate::slab::{Slab, Slot};
use crate::stats::Stats;
use crate::token::{LeaseId, Token};
use crate::wheel::Wheel;

use carry::WrittenTurns;

pub use apply::ReplayError;

/// A shard of a namespace's queue.
#[derive(Debug)]
pub struct Shard {
    spec: ShardSpec,
    options: Options,
    last_lsn: Lsn,
    epoch: Epoch,
    /// Where replay began with a log that had given up its oldest records,
    /// every item up to this LSN may have been among those; 0 when none had.
    unknown_to: Lsn,
    /// False while a log is replayed that has given up its oldest records: what
    /// that carries comes in no order.
    lists_are_ordered: bool,
    slab: Slab,
    index: Index,
    ready: Ready,
    keys: Keys,
    /// Only where items of one resource are leased one at a time.
    resources: Option<Box<Resources>>,
    dead: List,
    wheel: Wheel,
    /// The latest time that the shard was told. Apart from the last LSN: the
    /// two in one load would wait for the clock's store.
    clock: Nanos,
    dedupe: Dedupe,
    /// Items that were restored.
    restored: Dedupe,
    drains: Drains,
    settled: Settled,
    owners: Owners,
    stats: Stats,
    /// Bytes of the log that the items' bodies and errors take.
    item_bytes: u64,
    /// Where the items' bodies lie.
    roots: Roots,
    /// The item that the last offered record is of, and where its error lies
    /// that was asked for.
    asked_for: Option<(Lsn, Place)>,
    written_turns: WrittenTurns,
    last_grant_at: Nanos,
    /// Items that were redriven, and how many attempts they had at first.
    redriven: BTreeMap<Lsn, u16>,
}

impl Shard {
    /// An empty shard, in epoch 0: it answers nothing before it is opened by
    /// [`handle_open`](Shard::handle_open).
    ///
    /// # Panics
    /// When `spec` contradicts itself or `options` are not valid.
    pub fn new(spec: ShardSpec, options: Options) -> Shard {
        assert!(spec.shard.0 <= SHARD_ID_MAX, "the shard is out of range");
        assert!(spec.index < spec.count, "the shard's index is out of range");
        if let Err(error) = options.validate() {
            panic!("a shard was given options that are not valid: {error}");
        }
        Shard {
            spec,
            last_lsn: Lsn(0),
            epoch: Epoch(0),
            unknown_to: Lsn(0),
            lists_are_ordered: true,
            clock: Nanos(0),
            slab: Slab::new(),
            index: Index::new(),
            ready: Ready::new(),
            keys: Keys::new(spec.secret, options.fairness == Fairness::PartitionKey),
            resources: (options.ordering == Ordering::PerResource)
                .then(|| Box::new(Resources::new())),
            dead: List::EMPTY,
            wheel: Wheel::new(),
            dedupe: Dedupe::new(options.dedupe_window),
            restored: Dedupe::new(options.restore_window),
            drains: Drains::new(options.dedupe_window),
            settled: Settled::new(options.dedupe_window),
            owners: Owners::new(spec.secret),
            stats: Stats::default(),
            item_bytes: 0,
            roots: Roots::new(),
            asked_for: None,
            written_turns: WrittenTurns::default(),
            last_grant_at: Nanos(0),
            redriven: BTreeMap::new(),
            options,
        }
    }

    /// Opens the shard: begins a new epoch, in which every active lease gets
    /// its full recorded duration. LSNs skip ahead by `skip`, past those that
    /// a crash may have undone where nothing is durable.
    ///
    /// # Panics
    /// When the epochs are used up.
    pub fn handle_open(&mut self, now: Nanos, skip: u64, log: &mut impl Log) -> Decision<Epoch> {
        let previous = self.epoch;
        assert!(previous.0 < EPOCH_MAX, "the shard's epochs are used up");
        let epoch = Epoch(previous.0 + 1);
        let record = Record {
            lsn: Lsn(self.last_lsn.0 + 1 + skip),
            epoch,
            at: self.advance(now),
            event: Event::EpochStarted { previous },
        };
        let place = log.append(&record);
        self.lists_are_ordered = true;
        self.apply(&record, place);
        Decision {
            outcome: epoch,
            rests_on: Some(record.lsn),
        }
    }

    /// The waiting item that [`handle_lease`](Shard::handle_lease) would lease
    /// to a worker that asks for this partition key, or for any.
    pub fn head(&mut self, now: Nanos, partition_key: Option<&str>) -> Option<Head> {
        let best = self.best(now.max(self.clock), partition_key);
        best.map(|(_, head)| head)
    }

    /// When [`handle_time`](Shard::handle_time) next has something to do.
    pub fn next_deadline(&self) -> Option<Nanos> {
        self.wheel.next_deadline()
    }

    /// How many items are in which state.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The LSN of the last record.
    pub fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// The epoch; 0 before the shard was first opened.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Which shard this is.
    pub fn spec(&self) -> &ShardSpec {
        &self.spec
    }

    /// What the shard goes by.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The shard's time: the latest that it was told.
    pub fn last_time(&self) -> Nanos {
        self.clock
    }

    /// Who holds leases, and how many, in no order.
    pub fn owners(&self) -> impl Iterator<Item = (&str, u64)> {
        self.owners.iter()
    }

    /// Dead letters, in the order that they were given up on.
    pub fn dead_letters(&self) -> impl Iterator<Item = SequenceId> + '_ {
        let slots = self.dead.iter(&self.slab);
        slots.map(|slot| self.spec.sequence_id(self.slab[slot].lsn))
    }

    /// Takes the time of a request.
    fn advance(&mut self, now: Nanos) -> Nanos {
        self.clock = self.clock.max(now);
        self.clock
    }

    /// Appends and applies the next record.
    ///
    /// # Panics
    /// When the shard was not opened.
    #[inline]
    fn commit(&mut self, event: Event<'_>, log: &mut impl Log) -> Lsn {
        self.commit_at(event, log).0
    }

    /// Appends and applies the next record, and says where its body lies.
    ///
    /// # Panics
    /// When the shard was not opened.
    // Inlined so that the event is made where the record is.
    #[inline]
    fn commit_at(&mut self, event: Event<'_>, log: &mut impl Log) -> (Lsn, Place) {
        assert!(self.epoch > Epoch(0), "the shard was not opened");
        let record = Record {
            lsn: Lsn(self.last_lsn.0 + 1),
            epoch: self.epoch,
            at: self.clock,
            event,
        };
        let place = log.append(&record);
        self.apply(&record, place);
        (record.lsn, place)
    }

    /// A refusal: it rests on all that went before.
    fn refuse<T>(&self, outcome: T) -> Decision<T> {
        Decision {
            outcome,
            rests_on: (self.last_lsn > Lsn(0)).then_some(self.last_lsn),
        }
    }

    fn refuse_token<T>(&self, refused: TokenRefused) -> Decision<Result<T, TokenRefused>> {
        match refused {
            TokenRefused::Fenced { .. } => self.refuse(Err(refused)),
            // What the token itself says rests on nothing.
            TokenRefused::Unknown | TokenRefused::NotMine => Decision {
                outcome: Err(refused),
                rests_on: None,
            },
        }
    }

    #[inline]
    fn issue(&self, lease: &LeaseRef) -> Token {
        self.spec.token(lease)
    }

    /// The item whose active lease a token is for.
    #[inline]
    fn check(&mut self, token: &Token) -> Result<Slot, TokenRefused> {
        let id = token.lease_id;
        if token.sequence_id.0 > SEQUENCE_ID_MAX {
            return Err(TokenRefused::Unknown);
        }
        let issued = LeaseId::issue(
            &self.spec.secret,
            id.shard(),
            id.epoch(),
            token.sequence_id,
            token.attempt,
            id.grant(),
        );
        let (true, Ok(attempt)) = (issued == id, u16::try_from(token.attempt)) else {
            return Err(TokenRefused::Unknown);
        };
        let item = self.spec.lsn_of(token.sequence_id);
        let (Some(item), true) = (item, id.shard() == self.spec.shard) else {
            return Err(TokenRefused::NotMine);
        };
        if id.epoch() > self.epoch {
            return Err(TokenRefused::NotMine);
        }
        let lease = LeaseRef {
            item,
            attempt,
            grant: id.grant(),
            epoch: id.epoch(),
        };
        let reason = match self.index.get(&self.slab, item) {
            None => self.settled.reason(&lease),
            Some(slot) => match self.slab[slot].ended(&lease) {
                None => {
                    self.index.expect(slot);
                    return Ok(slot);
                }
                reason => reason,
            },
        };
        Err(TokenRefused::Fenced { reason })
    }

    /// The lease of an item that is leased.
    ///
    /// # Panics
    /// When it is not.
    fn leased(&self, slot: Slot) -> &Lease {
        match &self.slab[slot].state {
            State::Leased { lease, .. } => lease,
            state => panic!("an item that is not leased was taken for leased: {state:?}"),
        }
    }
}

impl Item {
    /// How a lease of this item ended; `None` when it is active.
    fn ended(&self, lease: &LeaseRef) -> Option<FenceReason> {
        let is_last = *lease == self.last_lease();
        match &self.state {
            State::Leased { .. } if is_last => None,
            State::Leased { .. } => Some(FenceReason::Superseded),
            _ if is_last => self.last_end.or(Some(FenceReason::Superseded)),
            _ => Some(FenceReason::Superseded),
        }
    }
}
