//! What a shard's records say, told by rules of their own: a plain map of items, written without
//! the queue's code. It judges whether each record may follow from those before, and says what
//! became of every item and every lease.

use std::collections::BTreeMap;

use omnirelay_queue::{Event, LeaseRef, Record};

use crate::violation::{Violation, broken};

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
}

impl End {
    /// The contract's reason for refusing its token.
    pub fn reason(self) -> &'static str {
        match self {
            End::Completed => "completed",
            End::Failed => "failed",
            End::Expired => "expired",
            End::Released => "superseded",
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
    /// The resource it is about.
    pub resource: String,
    /// Where it is.
    pub phase: Phase,
    /// Attempts that count.
    pub attempts: u16,
    max_attempts: u16,
    enqueued_at: u64,
    ttl_ns: Option<u64>,
    /// Every lease it was ever given, in order.
    pub leases: Vec<LeaseKey>,
}

/// A shard's history.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The shard.
    pub shard: u32,
    durable: bool,
    dedupe_ns: u64,
    last_lsn: u64,
    last_at: u64,
    epoch: u32,
    /// By the LSN of their enqueue.
    pub items: BTreeMap<u64, Item>,
    /// How leases ended.
    pub ended: BTreeMap<LeaseKey, Ended>,
    /// Time of each epoch's beginning.
    pub epochs: BTreeMap<u32, u64>,
    requests: BTreeMap<(String, String), u64>,
    /// Each record's LSN and fingerprint.
    pub prints: Vec<(u64, u64)>,
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
    /// Nothing has happened. In a shard that is not `durable` LSNs may skip.
    pub fn new(shard: u32, durable: bool, dedupe_ns: u64) -> History {
        History {
            shard,
            durable,
            dedupe_ns,
            ..History::default()
        }
    }

    /// Takes the next record in.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn record(&mut self, record: &Record<'_>, print: u64) -> Result<(), Violation> {
        let (lsn, at, epoch) = (record.lsn.0, record.at.0, record.epoch.0);
        let next = self.last_lsn + 1;
        let begins = matches!(record.event, Event::EpochStarted { .. });
        let follows = lsn == next || (begins && !self.durable && lsn > next);
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
        self.change(record).map_err(|mut violation| {
            violation.detail = format!(
                "{} record {lsn} at {at}: {}; {:?}",
                self.at(),
                violation.detail,
                record.event
            );
            violation
        })?;
        (self.last_lsn, self.last_at, self.epoch) = (lsn, at, epoch);
        self.prints.push((lsn, print));
        Ok(())
    }

    fn at(&self) -> String {
        format!("shard {}", self.shard)
    }

    fn change(&mut self, record: &Record<'_>) -> Result<(), Violation> {
        let (lsn, at) = (record.lsn.0, record.at.0);
        match &record.event {
            Event::EpochStarted { .. } => {
                self.epochs.insert(record.epoch.0, at);
                for item in self.items.values_mut() {
                    if let Phase::Leased(lease) = &mut item.phase {
                        lease.ends_at = at + lease.granted_ms * 1_000_000;
                    }
                }
            }
            Event::Enqueued(body) => {
                let payload = &body.payload;
                if let Some(id) = payload.request_id {
                    let request = (payload.resource_id.to_owned(), id.to_owned());
                    let before = self.requests.insert(request, at);
                    let again = before.is_some_and(|before| at < before + self.dedupe_ns);
                    broken(
                        again,
                        "a request id makes one item within the window",
                        || format!("{} {id} again, first at {before:?}", payload.resource_id),
                    )?;
                }
                let item = Item {
                    resource: payload.resource_id.to_owned(),
                    phase: Phase::Waiting(body.ready_at.0.max(at)),
                    attempts: 0,
                    max_attempts: body.max_attempts,
                    enqueued_at: at,
                    ttl_ns: body.ttl.map(|ttl| u64::from(ttl.0) * 1_000_000),
                    leases: Vec::new(),
                };
                self.items.insert(lsn, item);
            }
            Event::LeaseGranted {
                lease, duration, ..
            } => {
                let key = key(lease);
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
                item.leases.push(key);
                let granted_ms = u64::from(duration.0);
                item.phase = Phase::Leased(Lease {
                    key,
                    ends_at: at + granted_ms * 1_000_000,
                    granted_ms,
                });
                let own = lease.epoch == record.epoch;
                broken(!own, "a lease is of the epoch it is granted in", || {
                    format!("{key:?}")
                })?;
            }
            Event::GrantReleased {
                lease,
                counted,
                dead,
            } => {
                let (item, _) = self.end(lease, record, End::Released)?;
                broken(
                    *counted || *dead,
                    "an undelivered grant does not count",
                    || format!("{:?}", lease),
                )?;
                item.attempts -= 1;
                item.phase = Phase::Waiting(at);
            }
            Event::Heartbeat { lease, .. } => {
                let active = self.is_active(key(lease));
                broken(!active, "only an active lease is renewed", || {
                    format!("{lease:?}")
                })?;
            }
            Event::Completed { lease } => {
                self.end(lease, record, End::Completed)?.0.phase = Phase::Completed
            }
            Event::Failed(body) => {
                let (item, _) = self.end(&body.lease, record, End::Failed)?;
                let spent = item.attempts >= item.max_attempts;
                broken(
                    spent && !body.dead,
                    "an item has max_attempts attempts",
                    || "it waits again".to_owned(),
                )?;
                item.phase = if body.dead {
                    Phase::Dead
                } else {
                    Phase::Waiting(body.ready_at.0.max(at))
                };
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
                item.phase = if *dead {
                    Phase::Dead
                } else {
                    Phase::Waiting(at)
                };
            }
            Event::ItemExpired { item, .. } => {
                let item = self.items.get_mut(&item.0).ok_or_else(unknown_item)?;
                let waits = matches!(item.phase, Phase::Waiting(_));
                broken(!waits, "only a waiting item outlives its time", || {
                    format!("it was {:?}", item.phase)
                })?;
                let over = item.ttl_ns.is_some_and(|ttl| item.enqueued_at + ttl <= at);
                broken(!over, "no item ends before its time", || {
                    format!("enqueued at {} for {:?}", item.enqueued_at, item.ttl_ns)
                })?;
                item.phase = Phase::Outlived;
            }
        }
        Ok(())
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
        let ended = Ended {
            how,
            at: record.at.0,
            lsn: record.lsn.0,
            epoch: record.epoch.0,
        };
        self.ended.insert(key, ended);
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
        at < ended.at + self.dedupe_ns
    }

    /// Whether the lease is the item's active one.
    pub fn is_active(&self, key: LeaseKey) -> bool {
        let item = self.items.get(&key.0);
        item.is_some_and(|item| matches!(item.phase, Phase::Leased(lease) if lease.key == key))
    }

    /// How many items are in which state.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for item in self.items.values() {
            match item.phase {
                Phase::Waiting(_) => counts.waiting += 1,
                Phase::Leased(_) => counts.active += 1,
                Phase::Dead => counts.dead += 1,
                Phase::Completed | Phase::Outlived => {}
            }
        }
        counts
    }

    /// Whether `later` begins with all of this.
    ///
    /// # Errors
    /// Where they part.
    pub fn continues_in(&self, later: &History) -> Result<(), Violation> {
        let same = later.prints.len() >= self.prints.len()
            && later.prints[..self.prints.len()] == self.prints;
        broken(!same, "what was durable stays as it was", || {
            let parts = self
                .prints
                .iter()
                .zip(&later.prints)
                .position(|(a, b)| a != b);
            format!(
                "{}: {} records, then {}; they part at {parts:?}",
                self.at(),
                self.prints.len(),
                later.prints.len()
            )
        })
    }
}

fn unknown_item() -> Violation {
    Violation::new("a record is about an item that is there", String::new())
}
