//! What a shard's records say, told by rules of their own: a plain map of items, written without
//! the queue's code. It judges whether each record may follow from those before, and says what
//! became of every item and every lease.

mod agreement;

use std::collections::{BTreeMap, BTreeSet};

use omnirelay_queue::{Event, ItemSnapshot, LeaseRef, PayloadRef, Record, SnapshotState};

use crate::checker::Space;
use crate::line::Lines;
use crate::tape::digest;
use crate::turns::Turns;
use crate::violation::{Violation, broken};

const NANOS_PER_MS: u64 = 1_000_000;
/// The attribute of a payload that says which job it is.
pub const JOB_ATTRIBUTE: &str = "job";

/// Names a lease in its shard: the item's LSN, attempt, grant counter, epoch.
pub type LeaseKey = (u64, u16, u16, u32);

/// The key of a lease in a record.
fn key(lease: &LeaseRef) -> LeaseKey {
    (lease.item.0, lease.attempt, lease.grant, lease.epoch.0)
}

/// Where an item is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Can be leased from this time on.
    Waiting(u64),
    /// Has an owner.
    Leased(Lease),
    /// A dead letter.
    Dead,
    /// Done.
    Completed,
    /// Outlived its time.
    Outlived,
    /// Taken away.
    Cancelled,
    /// Taken out.
    Drained,
}

impl Phase {
    /// Whether there is still something to be done.
    pub fn is_open(self) -> bool {
        matches!(self, Phase::Waiting(_) | Phase::Leased(_))
    }

    /// Whether the item is there, if only as a dead letter.
    pub fn is_there(self) -> bool {
        self.is_open() || self == Phase::Dead
    }
}

/// An active lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub key: LeaseKey,
    /// It does not end before: its duration from the grant, or from the epoch's beginning.
    /// Heartbeats move the end further, most of them without a record.
    pub ends_at: u64,
    granted_ms: u64,
}

/// How a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its item was completed.
    Completed,
    /// Its attempt was failed.
    Failed,
    /// It ran out.
    Expired,
    /// It never reached its owner.
    Released,
    /// Its item was taken away.
    Cancelled,
}

impl End {
    /// The contract's reason for refusing its token.
    pub fn reason(self) -> &'static str {
        match self {
            End::Completed => "completed",
            End::Failed => "failed",
            End::Expired => "expired",
            End::Released | End::Cancelled => "superseded",
        }
    }
}

/// The record that ended a lease.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// How.
    pub how: End,
    /// Its time.
    pub at: u64,
    /// Its LSN.
    pub lsn: u64,
    /// The epoch it was decided in.
    pub epoch: u32,
}

/// An item.
#[derive(Debug, Clone)]
pub struct Item {
    /// The job it is, which no other item of the run is, unless it was taken out and in again.
    pub job: String,
    /// Where it is.
    pub phase: Phase,
    /// Attempts that count.
    pub attempts: u16,
    /// Attempts until it is a dead letter.
    pub max_attempts: u16,
    attempts_at_first: u16,
    grants: u16,
    /// When it was enqueued.
    pub enqueued_at: u64,
    /// How long it lives, if not for ever.
    pub ttl_ns: Option<u64>,
    /// Its priority.
    pub priority: u8,
    resource: String,
    key: String,
    /// Stands for the bytes of the body that it was enqueued with.
    body: u64,
    /// Stands for the bytes of its last failure; those of none if it never failed.
    error: u64,
    /// Every lease it was ever given here, in order.
    pub leases: Vec<LeaseKey>,
}

/// An item that was taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    request: Option<[u64; 2]>,
    item: u64,
    at: u64,
}

/// A shard's history.
#[derive(Debug, Clone)]
pub struct History {
    /// The shard.
    pub shard: u32,
    space: Space,
    last_lsn: u64,
    last_at: u64,
    epoch: u32,
    /// By the LSN of their enqueue.
    pub items: BTreeMap<u64, Item>,
    /// Of `items`, those that are there.
    there: BTreeSet<u64>,
    /// How leases ended.
    pub ended: BTreeMap<LeaseKey, Ended>,
    /// Time and LSN of each epoch's beginning.
    pub epochs: BTreeMap<u32, (u64, u64)>,
    requests: BTreeMap<(String, String), u64>,
    /// By origin and number there: the item that came of it, and when.
    pub restored: BTreeMap<([u8; 16], u64), (u64, u64)>,
    /// By the LSN of the record that took it out.
    taken: BTreeMap<u64, Taken>,
    /// Requests of which the shard's part is complete, since when.
    complete: BTreeMap<[u64; 2], u64>,
    /// By the record's LSN: the item.
    pub redriven: BTreeMap<u64, u64>,
    lines: Lines,
    turns: Option<Turns>,
    /// Things written again.
    pub carries: u64,
}

/// Items by state, as `stats` counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting or delayed.
    pub waiting: u64,
    /// Leased.
    pub active: u64,
    /// Dead letters.
    pub dead: u64,
}

impl History {
    /// Nothing has happened in this shard of the namespace.
    pub fn new(shard: u32, space: &Space) -> History {
        History {
            shard,
            turns: space.weights.clone().map(Turns::new),
            space: space.clone(),
            last_lsn: 0,
            last_at: 0,
            epoch: 0,
            items: BTreeMap::new(),
            there: BTreeSet::new(),
            ended: BTreeMap::new(),
            epochs: BTreeMap::new(),
            requests: BTreeMap::new(),
            restored: BTreeMap::new(),
            taken: BTreeMap::new(),
            complete: BTreeMap::new(),
            redriven: BTreeMap::new(),
            lines: Lines::default(),
            carries: 0,
        }
    }

    /// Takes the next record in, with its encoded body.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn record(&mut self, record: &Record<'_>, body: &[u8]) -> Result<(), Violation> {
        let (lsn, at, epoch) = (record.lsn.0, record.at.0, record.epoch.0);
        let begins = matches!(record.event, Event::EpochStarted { .. });
        let carries = matches!(record.event, Event::Carry(_));
        let next = self.last_lsn + u64::from(!carries);
        let follows = lsn == next || (begins && !self.space.durable && lsn > next);
        broken(!follows, "LSNs are gap-free and never repeat", || {
            format!("{} record {lsn} comes after {}", self.at(), self.last_lsn)
        })?;
        broken(at < self.last_at, "a shard's time never goes back", || {
            format!("{} record {lsn}: {at} after {}", self.at(), self.last_at)
        })?;
        let right = if begins {
            epoch == self.epoch + 1
        } else {
            epoch == self.epoch && epoch > 0
        };
        broken(
            !right,
            "the epoch is raised at every open and by nothing else",
            || {
                format!(
                    "{} record {lsn}: epoch {epoch} after {}",
                    self.at(),
                    self.epoch
                )
            },
        )?;
        self.change(record, body).map_err(|mut violation| {
            violation.detail = format!(
                "{} record {lsn} at {at}: {}; {:?}",
                self.at(),
                violation.detail,
                record.event
            );
            violation
        })?;
        (self.last_lsn, self.last_at, self.epoch) = (lsn, at, epoch);
        Ok(())
    }

    fn at(&self) -> String {
        format!("shard {}", self.shard)
    }

    fn change(&mut self, record: &Record<'_>, body: &[u8]) -> Result<(), Violation> {
        let (lsn, at) = (record.lsn.0, record.at.0);
        match &record.event {
            Event::EpochStarted { .. } => self.epoch_started(record.epoch.0, lsn, at),
            Event::Enqueued(enqueued) => {
                let payload = &enqueued.payload;
                self.remember_request(payload, at)?;
                let max_attempts = enqueued.max_attempts;
                let item = Item {
                    max_attempts,
                    attempts_at_first: max_attempts,
                    enqueued_at: at,
                    ttl_ns: enqueued.ttl.map(|ttl| u64::from(ttl.0) * NANOS_PER_MS),
                    priority: enqueued.priority,
                    ..Item::new(payload, body)
                };
                self.items.insert(lsn, item);
                self.wait(lsn, enqueued.ready_at.0, at);
            }
            Event::LeaseGranted {
                lease, duration, ..
            } => self.granted(record, lease, u64::from(duration.0))?,
            Event::GrantReleased {
                lease,
                counted,
                dead,
                ..
            } => {
                broken(
                    *counted || *dead,
                    "an undelivered grant does not count",
                    || format!("{:?}", lease),
                )?;
                self.end(lease, record, End::Released)?.0.attempts -= 1;
                self.wait(lease.item.0, at, at);
            }
            Event::Heartbeat { lease, .. } => {
                let active = self.is_active(key(lease));
                broken(!active, "only an active lease is renewed", || {
                    format!("{lease:?}")
                })?;
            }
            Event::Completed { lease } => {
                self.end(lease, record, End::Completed)?;
                self.leave(lease.item.0, Phase::Completed);
            }
            Event::Failed(failed) => {
                let (item, _) = self.end(&failed.lease, record, End::Failed)?;
                let spent = item.attempts >= item.max_attempts;
                broken(
                    spent && !failed.dead,
                    "an item has max_attempts attempts",
                    || "it waits again".to_owned(),
                )?;
                item.error = digest(body);
                self.wait_or_die(failed.lease.item.0, failed.dead, failed.ready_at.0, at);
            }
            Event::Expired { lease, dead } => {
                let (item, ended) = self.end(lease, record, End::Expired)?;
                broken(
                    at < ended.ends_at,
                    "no lease ends before its duration",
                    || format!("it was to end at {}", ended.ends_at),
                )?;
                let spent = item.attempts >= item.max_attempts;
                broken(spent != *dead, "an item has max_attempts attempts", || {
                    format!("{} of {}", item.attempts, item.max_attempts)
                })?;
                self.wait_or_die(lease.item.0, *dead, at, at);
            }
            Event::ItemExpired { item: lsn, .. } => {
                let item = self.items.get_mut(&lsn.0).ok_or_else(unknown_item)?;
                let waits = matches!(item.phase, Phase::Waiting(_));
                broken(!waits, "only a waiting item outlives its time", || {
                    format!("it was {:?}", item.phase)
                })?;
                let over = item.ttl_ns.is_some_and(|ttl| item.enqueued_at + ttl <= at);
                broken(!over, "no item ends before its time", || {
                    format!("enqueued at {} for {:?}", item.enqueued_at, item.ttl_ns)
                })?;
                self.leave(lsn.0, Phase::Outlived);
            }
            Event::Cancelled { item: lsn, .. } => {
                let item = self.items.get(&lsn.0).ok_or_else(unknown_item)?;
                broken(
                    !item.phase.is_there(),
                    "only what is there is cancelled",
                    || format!("it was {:?}", item.phase),
                )?;
                if let Phase::Leased(lease) = item.phase {
                    self.ended
                        .insert(lease.key, Ended::of(record, End::Cancelled));
                }
                self.leave(lsn.0, Phase::Cancelled);
            }
            Event::Redriven {
                item: lsn,
                max_attempts,
            } => {
                self.redriven.insert(record.lsn.0, lsn.0);
                self.revive(lsn.0, *max_attempts, at)?;
            }
            Event::DrainSnapshot {
                request,
                snapshot: Some(snapshot),
            } => self.drained(record, *request, snapshot)?,
            Event::DrainSnapshot { request, .. } => {
                if let Some(request) = request {
                    self.complete.insert(*request, at);
                }
            }
            Event::RestoreSnapshot {
                origin,
                sequence_id,
                enters_request,
                snapshot,
            } => {
                self.restored(lsn, at, (*origin, sequence_id.0), *enters_request, snapshot)?;
            }
            Event::Carry(carry) => {
                self.carries += 1;
                self.carried(carry)?;
            }
        }
        Ok(())
    }

    fn epoch_started(&mut self, epoch: u32, lsn: u64, at: u64) {
        self.epochs.insert(epoch, (lsn, at));
        for lsn in &self.there {
            let item = self.items.get_mut(lsn).expect("it is there");
            if let Phase::Leased(lease) = &mut item.phase {
                lease.ends_at = at + lease.granted_ms * NANOS_PER_MS;
            }
        }
        if let Some(turns) = &mut self.turns {
            turns.begin();
        }
    }

    fn remember_request(&mut self, payload: &PayloadRef<'_>, at: u64) -> Result<(), Violation> {
        let Some(id) = payload.request_id else {
            return Ok(());
        };
        let request = (payload.resource_id.to_owned(), id.to_owned());
        let before = self.requests.insert(request, at);
        let again = before.is_some_and(|before| at < before + self.space.dedupe_ns);
        broken(
            again,
            "a request id makes one item within the window",
            || format!("{} {id} again, first at {before:?}", payload.resource_id),
        )
    }

    fn granted(
        &mut self,
        record: &Record<'_>,
        lease: &LeaseRef,
        granted_ms: u64,
    ) -> Result<(), Violation> {
        let (at, key) = (record.at.0, key(lease));
        let item = self.item(lease)?;
        let Phase::Waiting(from) = item.phase else {
            return Err(Violation::new(
                "an item has at most one lease",
                format!("it was {:?}", item.phase),
            ));
        };
        broken(from > at, "a delay is not cut short", || {
            format!("ready at {from}")
        })?;
        broken(
            lease.attempt != item.attempts + 1,
            "attempts count granted leases, and no others",
            || format!("attempt {} after {}", lease.attempt, item.attempts),
        )?;
        broken(
            lease.attempt > item.max_attempts,
            "an item has max_attempts attempts",
            || format!("attempt {} of {}", lease.attempt, item.max_attempts),
        )?;
        broken(
            item.leases.contains(&key),
            "no two leases are alike",
            || format!("{key:?} again"),
        )?;
        item.attempts = lease.attempt;
        item.grants = lease.grant;
        item.leases.push(key);
        item.phase = Phase::Leased(Lease {
            key,
            ends_at: at + granted_ms * NANOS_PER_MS,
            granted_ms,
        });
        let own = lease.epoch == record.epoch;
        broken(!own, "a lease is of the epoch it is granted in", || {
            format!("{key:?}")
        })?;
        let item = &self.items[&lease.item.0];
        if self.space.ordered {
            self.lines.lease(&item.resource, lease.item.0)?;
        }
        match &mut self.turns {
            Some(turns) => turns.serve(&item.key, lease.item.0),
            None => Ok(()),
        }
    }

    fn revive(&mut self, lsn: u64, max_attempts: u16, at: u64) -> Result<(), Violation> {
        let item = self.items.get_mut(&lsn).ok_or_else(unknown_item)?;
        broken(
            item.phase != Phase::Dead,
            "only a dead letter is redriven",
            || format!("it was {:?}", item.phase),
        )?;
        let more = item.attempts.saturating_add(item.attempts_at_first);
        broken(
            max_attempts != more,
            "a redriven item has its attempts once more",
            || format!("{max_attempts}, not {more}"),
        )?;
        item.max_attempts = max_attempts;
        if item.ttl_ns.is_some_and(|ttl| item.enqueued_at + ttl <= at) {
            item.ttl_ns = None;
        }
        self.wait(lsn, at, at);
        Ok(())
    }

    fn drained(
        &mut self,
        record: &Record<'_>,
        request: Option<[u64; 2]>,
        snapshot: &ItemSnapshot<'_>,
    ) -> Result<(), Violation> {
        let lsn = snapshot.lsn.0;
        self.agrees(snapshot)?;
        let item = &self.items[&lsn];
        broken(
            !matches!(item.phase, Phase::Waiting(_) | Phase::Dead),
            "only what waits or is dead is taken out",
            || format!("it was {:?}", item.phase),
        )?;
        let window = self.space.dedupe_ns;
        let is_over = request.and_then(|request| self.complete.get(&request));
        broken(
            is_over.is_some_and(|since| record.at.0 < since + window),
            "a bundle that is complete stays as it is",
            || format!("complete since {is_over:?}"),
        )?;
        let taken = Taken {
            request,
            item: lsn,
            at: record.at.0,
        };
        self.taken.insert(record.lsn.0, taken);
        self.leave(lsn, Phase::Drained);
        Ok(())
    }

    fn restored(
        &mut self,
        lsn: u64,
        at: u64,
        name: ([u8; 16], u64),
        enters_request: bool,
        snapshot: &ItemSnapshot<'_>,
    ) -> Result<(), Violation> {
        let before = self.restored.insert(name, (lsn, at));
        broken(
            before.is_some_and(|(_, before)| at < before + self.space.restore_ns),
            "an item is restored once",
            || format!("{name:?} again, first {before:?}"),
        )?;
        let shards = u64::from(self.space.shards);
        let is_here = name.0 == self.space.origin
            && name.1 % shards == u64::from(self.shard - self.space.first_shard)
            && self.there.contains(&(name.1 / shards));
        broken(is_here, "what never left is not restored", || {
            format!("{name:?} is there")
        })?;
        let enqueued = snapshot
            .enqueued()
            .map_err(|error| Violation::new("a restored item can be read", error.to_string()))?;
        if enters_request {
            self.remember_request(&enqueued.payload, at)?;
        }
        let item = Item {
            attempts: snapshot.attempt,
            max_attempts: snapshot.max_attempts,
            attempts_at_first: snapshot.max_attempts,
            grants: snapshot.grant,
            enqueued_at: snapshot.enqueued_at.0,
            ttl_ns: snapshot.ttl.map(|ttl| u64::from(ttl.0) * NANOS_PER_MS),
            priority: snapshot.priority,
            error: digest(snapshot.error),
            ..Item::new(&enqueued.payload, snapshot.body)
        };
        self.items.insert(lsn, item);
        let is_dead = snapshot.state == SnapshotState::Dead;
        self.wait_or_die(lsn, is_dead, snapshot.since.0, at);
        Ok(())
    }

    fn wait_or_die(&mut self, lsn: u64, dead: bool, from: u64, at: u64) {
        if dead {
            self.leave(lsn, Phase::Dead);
            self.there.insert(lsn);
        } else {
            self.wait(lsn, from, at);
        }
    }

    /// An item waits, from some time on.
    fn wait(&mut self, lsn: u64, from: u64, at: u64) {
        let item = self.items.get_mut(&lsn).expect("just seen");
        item.phase = Phase::Waiting(from.max(at));
        self.there.insert(lsn);
        if self.space.ordered {
            self.lines.stand(&item.resource, lsn);
        }
        if let Some(turns) = &mut self.turns {
            if from <= at {
                turns.wait(&item.key, lsn);
            } else {
                turns.leave(&item.key, lsn);
            }
        }
    }

    /// An item waits no longer.
    fn leave(&mut self, lsn: u64, phase: Phase) {
        let item = self.items.get_mut(&lsn).expect("just seen");
        item.phase = phase;
        self.there.remove(&lsn);
        if self.space.ordered {
            self.lines.leave(&item.resource, lsn);
        }
        if let Some(turns) = &mut self.turns {
            turns.leave(&item.key, lsn);
        }
    }

    fn item(&mut self, lease: &LeaseRef) -> Result<&mut Item, Violation> {
        self.items.get_mut(&lease.item.0).ok_or_else(unknown_item)
    }

    /// Ends the active lease; gives the item, whose phase the caller sets, and the lease.
    fn end(
        &mut self,
        lease: &LeaseRef,
        record: &Record<'_>,
        how: End,
    ) -> Result<(&mut Item, Lease), Violation> {
        let key = key(lease);
        self.ended.insert(key, Ended::of(record, how));
        let item = self.items.get_mut(&lease.item.0).ok_or_else(unknown_item)?;
        match item.phase {
            Phase::Leased(current) if current.key == key => Ok((item, current)),
            phase => Err(Violation::new(
                "only an active lease can end",
                format!("{key:?} {how:?}, the item was {phase:?}"),
            )),
        }
    }

    /// Whether the end of a lease is to be remembered at a time.
    pub fn remembers(&self, ended: &Ended, at: u64) -> bool {
        at < ended.at + self.space.dedupe_ns
    }

    /// Whether the lease is the item's active one.
    pub fn is_active(&self, key: LeaseKey) -> bool {
        let item = self.items.get(&key.0);
        item.is_some_and(|item| matches!(item.phase, Phase::Leased(lease) if lease.key == key))
    }

    /// How many items are in which state.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for lsn in &self.there {
            match self.items[lsn].phase {
                Phase::Waiting(_) => counts.waiting += 1,
                Phase::Leased(_) => counts.active += 1,
                Phase::Dead => counts.dead += 1,
                Phase::Completed | Phase::Outlived | Phase::Cancelled | Phase::Drained => {}
            }
        }
        counts
    }
}

impl Item {
    /// An item that nothing is known of but what it carries.
    fn new(payload: &PayloadRef<'_>, body: &[u8]) -> Item {
        let mut attributes = payload.attributes.iter();
        let job = attributes.find(|(name, _)| *name == JOB_ATTRIBUTE);
        Item {
            job: job.map_or("", |(_, job)| job).to_owned(),
            phase: Phase::Dead,
            attempts: 0,
            max_attempts: 0,
            attempts_at_first: 0,
            grants: 0,
            enqueued_at: 0,
            ttl_ns: None,
            priority: 0,
            resource: payload.resource_id.to_owned(),
            key: payload.partition_key.unwrap_or_default().to_owned(),
            body: digest(body),
            error: digest(&[]),
            leases: Vec::new(),
        }
    }
}

impl Ended {
    fn of(record: &Record<'_>, how: End) -> Ended {
        Ended {
            how,
            at: record.at.0,
            lsn: record.lsn.0,
            epoch: record.epoch.0,
        }
    }
}

fn unknown_item() -> Violation {
    Violation::new("a record is about an item that is there", String::new())
}
