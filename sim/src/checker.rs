//! What callers were told, and whether the node may ever have told them so.
//!
//! The checker knows only replies, as they leave, and what is read back from the logs after a
//! crash. A promise is judged twice: against what was promised before, when it is made; and
//! against the durable history, when that is known.

pub(crate) mod moves;
mod promises;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use omnirelay_queue::LeaseId;

use crate::history::{End, History, LeaseKey, Phase};
use crate::violation::{Violation, broken};

use moves::{Bundle, Moved};
use promises::{keeps, lost};

/// A namespace as the checker has to know it.
#[derive(Debug, Clone)]
pub struct Space {
    /// Its first shard.
    pub first_shard: u32,
    /// How many it has.
    pub shards: u32,
    /// Whether it keeps what it acknowledges.
    pub durable: bool,
    /// How long request ids are remembered.
    pub dedupe_ns: u64,
    /// How long restored items are.
    pub restore_ns: u64,
    /// Names it in bundles.
    pub origin: [u8; 16],
    /// Whether a job's items are leased one after the other.
    pub ordered: bool,
    /// Whether partition keys take turns, and no worker asks out of turn: their weights.
    pub weights: Option<BTreeMap<String, u32>>,
}

/// Which life of the node, and its clock.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Counts from 1.
    pub life: u32,
    /// The node's time.
    pub now: u64,
    /// The node's time at the life's beginning.
    pub booted_at: u64,
}

/// What a token's last call may have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Its owner has it and nobody has tried to end it.
    Held,
    /// Somebody asked to end it, and it is not known what came of that.
    InDoubt,
    /// It never reached its owner.
    Undelivered,
    /// Acknowledged as completed.
    Completed,
    /// Acknowledged as failed.
    Failed,
    /// Refused: over for ever.
    Fenced,
}

#[derive(Debug, Clone)]
struct Grant {
    space: usize,
    shard: u32,
    key: LeaseKey,
    fate: Fate,
    granted_in: u32,
    /// When its fate was last heard of.
    life: u32,
    /// The end that its owner was told last.
    ends_at: u64,
    /// The longest that the lease can be relied on after a restart.
    lease_ns: u64,
}

#[derive(Debug, Clone)]
struct Promise {
    space: usize,
    shard: u32,
    life: u32,
    what: Promised,
}

#[derive(Debug, Clone)]
enum Promised {
    Enqueued {
        lsn: u64,
        job: String,
    },
    Granted {
        key: LeaseKey,
        job: String,
    },
    Ended {
        key: LeaseKey,
        lsn: u64,
        how: End,
    },
    Over {
        key: LeaseKey,
        reason: Option<String>,
        told_at: u64,
    },
    Gone {
        item: u64,
        phase: Phase,
    },
    Drained {
        item: u64,
        moved: Moved,
    },
    Redriven {
        item: u64,
        lsn: u64,
    },
    Restored {
        space: usize,
        moved: Moved,
    },
}

/// A lease as a reply says it.
#[derive(Debug, Clone)]
pub struct GrantReply {
    /// The namespace's place in the list.
    pub space: usize,
    /// The token's lease id, as text.
    pub lease_id: String,
    /// The item.
    pub sequence_id: u64,
    /// Its attempt.
    pub attempt: u32,
    /// The job in its payload.
    pub job: String,
    /// Its end by the node's clock.
    pub ends_at: u64,
    /// Its duration.
    pub lease_ns: u64,
    /// Whether it reaches anybody; if not, it is given back.
    pub delivered: bool,
}

/// An enqueue as a reply says it.
#[derive(Debug, Clone)]
pub struct EnqueueReply {
    /// The node's time when it was asked for.
    pub asked_at: u64,
    /// The namespace's place in the list.
    pub space: usize,
    /// The shard in the receipt.
    pub shard: u32,
    /// The LSN in the receipt.
    pub lsn: u64,
    /// The item.
    pub sequence_id: u64,
    /// Whether it was known.
    pub duplicate: bool,
    /// The job.
    pub job: String,
    /// The request id it was sent under.
    pub request_id: Option<String>,
    /// The durability in the receipt.
    pub durability: String,
}

/// An item that was taken in under a request id.
#[derive(Debug, Clone, Copy)]
struct Taken {
    sequence_id: u64,
    /// When that was asked for: the record, from which the window is counted, is not older, and
    /// may be a good deal older than the reply.
    asked_at: u64,
    life: u32,
}

/// All promises of a run.
#[derive(Debug, Default)]
pub struct Checker {
    spaces: Vec<Space>,
    promises: Vec<Promise>,
    items: BTreeMap<(usize, u64), String>,
    requests: BTreeMap<(usize, String, String), Taken>,
    grants: BTreeMap<String, Grant>,
    /// Tokens of an item, in the order of their replies.
    tokens: BTreeMap<(usize, u64), Vec<String>>,
    /// Items that were taken out or away, in which life and how.
    gone: BTreeMap<(usize, u64), (u32, &'static str)>,
    /// Items that somebody asked to take away.
    doomed: BTreeSet<(usize, u64)>,
    bundles: BTreeMap<(usize, String), Bundle>,
    /// The earliest node time at which each drain request was asked for, answered or not.
    drains_asked: BTreeMap<(usize, String), u64>,
    /// Items that came in, by namespace, origin and number there, and in which life.
    came: BTreeMap<(usize, [u8; 16], u64), u32>,
    histories: BTreeMap<u32, History>,
    /// Node time at which each life before this one began and ended.
    lives: BTreeMap<u32, (u64, u64)>,
    /// Numbers of items that are lost are given again, and bundles may name either.
    numbers_repeat: bool,
    memory_lost: u64,
    was_full: bool,
}

impl Checker {
    /// Knows the namespaces, and nothing that happened.
    pub fn new(spaces: Vec<Space>) -> Checker {
        let mut checker = Checker {
            spaces,
            ..Checker::default()
        };
        checker.histories = checker.empty_histories();
        checker
    }

    /// Acknowledgements in memory namespaces that were found lost after a crash.
    pub fn memory_lost(&self) -> u64 {
        self.memory_lost
    }

    /// A disk was full.
    pub fn disk_was_full(&mut self) {
        self.was_full = true;
    }

    /// What the logs said last.
    pub fn histories(&self) -> &BTreeMap<u32, History> {
        &self.histories
    }

    /// Histories in which nothing has happened yet.
    pub fn empty_histories(&self) -> BTreeMap<u32, History> {
        let shards = self
            .spaces
            .iter()
            .flat_map(|s| (s.first_shard..s.first_shard + s.shards).map(move |shard| (shard, s)));
        shards
            .map(|(shard, space)| (shard, History::new(shard, space)))
            .collect()
    }

    fn promise(&mut self, at: Moment, space: usize, shard: u32, what: Promised) {
        self.promises.push(Promise {
            space,
            shard,
            life: at.life,
            what,
        });
    }

    /// Whether something from `life` must still hold at `at`.
    fn holds(&self, space: usize, life: u32, at: Moment) -> bool {
        self.spaces[space].durable || life == at.life
    }

    /// An item was acknowledged.
    ///
    /// # Errors
    /// The rule that the reply breaks.
    pub fn enqueued(&mut self, at: Moment, reply: EnqueueReply) -> Result<(), Violation> {
        let space = &self.spaces[reply.space];
        let index = u64::from(reply.shard.wrapping_sub(space.first_shard));
        let id = reply.lsn * u64::from(space.shards) + index;
        broken(
            id != reply.sequence_id,
            "a sequence id names its shard and record",
            || format!("{reply:?}, expected {id}"),
        )?;
        let told = if space.durable { "disk" } else { "memory" };
        broken(
            reply.durability != told,
            "a receipt says the durability that was",
            || format!("{reply:?}"),
        )?;
        let name = (reply.space, reply.sequence_id);
        let known = self.items.get(&name);
        broken(
            known.is_some_and(|known| *known != reply.job),
            "sequence ids are unique",
            || format!("{reply:?}, was {known:?}"),
        )?;
        broken(
            known.is_some() && !reply.duplicate,
            "sequence ids are unique",
            || format!("{reply:?} again"),
        )?;
        broken(
            reply.duplicate && reply.request_id.is_none(),
            "only a request id makes a duplicate",
            || format!("{reply:?}"),
        )?;
        self.items.insert(name, reply.job.clone());
        self.request_answered(at, &reply)?;
        let what = Promised::Enqueued {
            lsn: reply.lsn,
            job: reply.job,
        };
        self.promise(at, reply.space, reply.shard, what);
        Ok(())
    }

    /// An item was acknowledged, perhaps under a request id that was seen before.
    fn request_answered(&mut self, at: Moment, reply: &EnqueueReply) -> Result<(), Violation> {
        let Some(id) = &reply.request_id else {
            return Ok(());
        };
        let request = (reply.space, reply.job.clone(), id.clone());
        let first = self.requests.get(&request);
        if first.is_some_and(|first| first.sequence_id == reply.sequence_id) {
            return Ok(());
        }
        let dedupe_ns = self.spaces[reply.space].dedupe_ns;
        // Replies may leave in another order than their records were made. What comes between this
        // and the window's real end, the records tell.
        let within = first.is_some_and(|first| {
            let asked_at = first.asked_at.min(reply.asked_at);
            self.holds(reply.space, first.life, at) && at.now < asked_at + dedupe_ns
        });
        broken(
            within,
            "a request id gives one sequence id within the window",
            || format!("{reply:?}, was {first:?}"),
        )?;
        if reply.duplicate {
            // Another call has taken it in, and when that was is not known.
            self.requests.remove(&request);
            return Ok(());
        }
        let taken = Taken {
            sequence_id: reply.sequence_id,
            asked_at: reply.asked_at,
            life: at.life,
        };
        self.requests.insert(request, taken);
        Ok(())
    }

    /// A lease was handed out.
    ///
    /// # Errors
    /// The rule that the reply breaks.
    pub fn granted(&mut self, at: Moment, reply: GrantReply) -> Result<(), Violation> {
        let (shard, key) = self.read_token(
            &reply.lease_id,
            reply.space,
            reply.sequence_id,
            reply.attempt,
        );
        let known = self.items.get(&(reply.space, reply.sequence_id));
        let other = known.is_some_and(|known| *known != reply.job);
        broken(
            other,
            "a lease brings the payload that was enqueued",
            || format!("{reply:?}, enqueued {known:?}"),
        )?;
        broken(
            self.grants.contains_key(&reply.lease_id),
            "no token is given twice",
            || format!("{reply:?}"),
        )?;
        let name = (reply.space, reply.sequence_id);
        let gone = self.gone.get(&name);
        let gone = gone.filter(|(life, _)| self.holds(reply.space, *life, at));
        // A lease may be on its way while its item is taken away, but not while it is taken out.
        broken(
            gone.is_some() && !self.doomed.contains(&name),
            "what was taken out is not handed out",
            || format!("{reply:?}, {gone:?}"),
        )?;
        for lease_id in self.tokens.get(&name).into_iter().flatten() {
            let other = &self.grants[lease_id];
            if !self.holds(other.space, other.life, at) {
                continue;
            }
            let late = format!("{reply:?} at {at:?}, while {lease_id} is {other:?}");
            broken(
                other.fate == Fate::Completed,
                "a completed item is not handed out",
                || late.clone(),
            )?;
            broken(
                self.is_live(other, at),
                "an item has at most one valid token",
                || late.clone(),
            )?;
            let counted =
                other.fate != Fate::Undelivered && self.holds(other.space, other.granted_in, at);
            let not_more = counted && reply.attempt <= u32::from(other.key.1);
            broken(
                not_more,
                "attempts increase by one for each grant that counts",
                || late,
            )?;
        }
        let fate = if reply.delivered && self.doomed.contains(&name) {
            // Somebody has asked to take its item away.
            Fate::InDoubt
        } else if reply.delivered {
            Fate::Held
        } else {
            Fate::Undelivered
        };
        let grant = Grant {
            space: reply.space,
            shard,
            key,
            fate,
            granted_in: at.life,
            life: at.life,
            ends_at: reply.ends_at,
            lease_ns: reply.lease_ns,
        };
        self.grants.insert(reply.lease_id.clone(), grant);
        self.tokens.entry(name).or_default().push(reply.lease_id);
        self.promise(
            at,
            reply.space,
            shard,
            Promised::Granted {
                key,
                job: reply.job,
            },
        );
        Ok(())
    }

    /// What a lease id says: shard, and the lease in it. Bits as the token's documentation has
    /// them: shard 20, epoch 24, grant counter 16, around the UUID's version.
    fn read_token(
        &self,
        text: &str,
        space: usize,
        sequence_id: u64,
        attempt: u32,
    ) -> (u32, LeaseKey) {
        let id: LeaseId = text.parse().expect("the node writes UUIDs");
        let high = (u128::from_be_bytes(*id.as_bytes()) >> 64) as u64;
        let fields = ((high >> 16) << 12) | (high & 0xfff);
        let lsn = sequence_id / u64::from(self.spaces[space].shards);
        let attempt = u16::try_from(attempt).unwrap_or(u16::MAX);
        (
            (fields >> 40) as u32,
            (
                lsn,
                attempt,
                fields as u16,
                (fields >> 16) as u32 & 0xff_ffff,
            ),
        )
    }

    /// Whether the owner may rely on the lease at this time.
    fn is_live(&self, grant: &Grant, at: Moment) -> bool {
        if grant.fate != Fate::Held || !self.holds(grant.space, grant.life, at) {
            return false;
        }
        if grant.life == at.life {
            return at.now < grant.ends_at;
        }
        let ended = |life: u32| {
            self.lives
                .get(&life)
                .map_or(u64::MAX, |&(_, ended_at)| ended_at)
        };
        // Every life since then gave it its duration anew, unless it had run out by then.
        let since = self.lives.range(grant.life + 1..at.life);
        let outlived = ended(grant.life) >= grant.ends_at
            || since
                .into_iter()
                .any(|(_, &(began, ended))| ended >= began + grant.lease_ns);
        !outlived && at.now < at.booted_at + grant.lease_ns
    }

    /// A life of the node is over.
    pub fn life_over(&mut self, at: Moment) {
        self.lives.insert(at.life, (at.booted_at, at.now));
    }

    /// Somebody is about to end a lease: from now on its fate is not known.
    pub fn settling(&mut self, lease_id: &str) {
        if let Some(grant) = self.grants.get_mut(lease_id)
            && grant.fate == Fate::Held
        {
            grant.fate = Fate::InDoubt;
        }
    }

    /// Somebody is about to renew a lease: until the answer is there, it may end as late or as
    /// early as that.
    pub fn renewing(&mut self, lease_id: &str, ends_at: u64, lease_ns: u64) {
        if let Some(grant) = self.grants.get_mut(lease_id) {
            grant.ends_at = grant.ends_at.min(ends_at);
            grant.lease_ns = grant.lease_ns.min(lease_ns);
        }
    }

    /// A lease was renewed.
    ///
    /// # Errors
    /// The rule that the reply breaks.
    pub fn renewed(
        &mut self,
        at: Moment,
        lease_id: &str,
        ends_at: u64,
        lease_ns: u64,
    ) -> Result<(), Violation> {
        let Some(grant) = self.grants.get_mut(lease_id) else {
            return Ok(());
        };
        let over = matches!(grant.fate, Fate::Completed | Fate::Failed | Fate::Fenced);
        let durable = self.spaces[grant.space].durable || grant.life == at.life;
        broken(over && durable, "a lease that is over stays over", || {
            format!("{lease_id} renewed, was {grant:?}")
        })?;
        if over {
            // The crash of a memory namespace has undone its end.
            grant.fate = Fate::Held;
        }
        (grant.ends_at, grant.lease_ns, grant.life) = (ends_at, lease_ns, at.life);
        Ok(())
    }

    /// An item was completed, or its attempt failed.
    ///
    /// # Errors
    /// The rule that the reply breaks.
    pub fn settled(
        &mut self,
        at: Moment,
        lease_id: &str,
        sequence_id: u64,
        lsn: u64,
        completed: bool,
    ) -> Result<(), Violation> {
        let Some(grant) = self.grants.get(lease_id).cloned() else {
            return Err(Violation::new(
                "only a token that was given is honoured",
                lease_id.to_owned(),
            ));
        };
        if self.holds(grant.space, grant.life, at) {
            let over = matches!(grant.fate, Fate::Completed | Fate::Failed | Fate::Fenced);
            broken(over, "a lease that is over stays over", || {
                format!("{lease_id} settled, was {grant:?}")
            })?;
            for other in &self.tokens[&(grant.space, sequence_id)] {
                let done = other != lease_id && self.grants[other].fate == Fate::Completed;
                let counts = self.holds(grant.space, self.grants[other].life, at);
                broken(
                    done && completed && counts,
                    "an item is completed once",
                    || format!("{lease_id} after {other}"),
                )?;
            }
        }
        let fate = if completed {
            Fate::Completed
        } else {
            Fate::Failed
        };
        let how = if completed {
            End::Completed
        } else {
            End::Failed
        };
        let known = self.grants.get_mut(lease_id).expect("just seen");
        (known.fate, known.life) = (fate, at.life);
        self.promise(
            at,
            grant.space,
            grant.shard,
            Promised::Ended {
                key: grant.key,
                lsn,
                how,
            },
        );
        Ok(())
    }

    /// A token was refused as over.
    ///
    /// # Errors
    /// The rule that the refusal breaks.
    pub fn fenced(
        &mut self,
        at: Moment,
        lease_id: &str,
        reason: Option<&str>,
    ) -> Result<(), Violation> {
        let Some(grant) = self.grants.get(lease_id).cloned() else {
            return Ok(());
        };
        broken(
            self.is_live(&grant, at),
            "no lease ends before its duration",
            || format!("{lease_id} fenced ({reason:?}) at {at:?}, was {grant:?}"),
        )?;
        if self.holds(grant.space, grant.life, at) {
            let expected = match grant.fate {
                Fate::Completed => Some("completed"),
                _ => None,
            };
            let other = expected.is_some() && reason.is_some() && reason != expected;
            broken(other, "a refusal says how the lease ended", || {
                format!("{lease_id}: {reason:?}, was {grant:?}")
            })?;
        }
        let undone = !self.holds(grant.space, grant.life, at);
        let known = self.grants.get_mut(lease_id).expect("just seen");
        if undone || matches!(known.fate, Fate::Held | Fate::InDoubt) {
            known.fate = Fate::Fenced;
        }
        known.life = at.life;
        let what = Promised::Over {
            key: grant.key,
            reason: reason.map(str::to_owned),
            told_at: at.now,
        };
        self.promise(at, grant.space, grant.shard, what);
        Ok(())
    }

    /// A token was refused as unknown, or as another owner's.
    ///
    /// # Errors
    /// If this node gave it out.
    pub fn disowned(&self, lease_id: &str) -> Result<(), Violation> {
        broken(
            self.grants.contains_key(lease_id),
            "a token that was given is never unknown",
            || lease_id.to_owned(),
        )
    }

    /// Judges everything promised so far by what the logs hold after a crash. Unless it is
    /// `proven`, the end of what they hold may still be lost: the page cache has it, the disk
    /// perhaps not.
    ///
    /// # Errors
    /// The first promise that is not kept.
    pub fn recovered(
        &mut self,
        histories: BTreeMap<u32, History>,
        proven: bool,
    ) -> Result<(), Violation> {
        for promise in &self.promises {
            let kept = match &promise.what {
                Promised::Restored { space, moved } => {
                    match self.came_in(&histories, *space, moved) {
                        true => Ok(()),
                        false => Err(lost("a restored item is there", promise)),
                    }
                }
                _ => keeps(&histories[&promise.shard], promise),
            };
            if self.spaces[promise.space].durable {
                kept?;
            } else if kept.is_err() {
                self.memory_lost += 1;
            }
        }
        self.delivered_grants_stand(&histories)?;
        if proven {
            self.promises.clear();
            self.histories = histories;
        }
        Ok(())
    }

    /// Goes by what the logs hold after syncs have lied: what they say is so, and what else was
    /// promised is void.
    pub fn recovered_less(&mut self, histories: BTreeMap<u32, History>) {
        self.promises.clear();
        self.requests.clear();
        self.bundles.clear();
        self.came.clear();
        let spaces = &self.spaces;
        let item = |space: usize, id: u64| {
            let shards = u64::from(spaces[space].shards);
            let index = u32::try_from(id % shards).expect("few shards");
            let history = &histories[&(spaces[space].first_shard + index)];
            history.items.get(&(id / shards))
        };
        self.items
            .retain(|&(space, id), _| item(space, id).is_some());
        self.gone
            .retain(|&(space, id), _| item(space, id).is_some_and(|item| !item.phase.is_there()));
        self.grants.retain(|_, grant| {
            let history = &histories[&grant.shard];
            let item = history.items.get(&grant.key.0);
            grant.ends_at = 0;
            grant.fate = match history.ended.get(&grant.key).map(|ended| ended.how) {
                Some(End::Completed) => Fate::Completed,
                Some(End::Failed) => Fate::Failed,
                Some(End::Released) => Fate::Undelivered,
                Some(End::Expired | End::Cancelled) => Fate::Fenced,
                None => Fate::InDoubt,
            };
            item.is_some_and(|item| item.leases.contains(&grant.key))
        });
        let grants = &self.grants;
        for tokens in self.tokens.values_mut() {
            tokens.retain(|token| grants.contains_key(token));
        }
        self.numbers_repeat = true;
        // Which grants reached somebody is known only of those that were heard of.
        self.was_full = true;
        self.histories = histories;
    }

    /// No lease that reached its owner was taken back, and none that reached nobody was left to
    /// run out, except where the disk was full: there may be no room to say that it is undone.
    fn delivered_grants_stand(&self, histories: &BTreeMap<u32, History>) -> Result<(), Violation> {
        for (lease_id, grant) in &self.grants {
            let history = &histories[&grant.shard];
            let Some(ended) = history.ended.get(&grant.key) else {
                continue;
            };
            let taken = ended.how == End::Released && grant.fate != Fate::Undelivered;
            broken(
                taken,
                "a lease that reached its owner is not taken back",
                || format!("{lease_id}: {ended:?}, {grant:?}"),
            )?;
        }
        let known: BTreeSet<(u32, LeaseKey)> = self
            .grants
            .values()
            .filter(|g| g.fate != Fate::Undelivered)
            .map(|g| (g.shard, g.key))
            .collect();
        for (shard, history) in histories {
            for (key, ended) in &history.ended {
                let left = ended.how == End::Expired
                    && ended.epoch == key.3
                    && !known.contains(&(*shard, *key));
                broken(
                    left && !self.was_full,
                    "a lease that reached nobody is undone",
                    || format!("shard {shard}: {key:?} {ended:?}"),
                )?;
            }
        }
        Ok(())
    }

    /// Items that are neither done nor dead.
    pub fn unfinished(&self) -> BTreeSet<(u32, u64)> {
        let mut open = BTreeSet::new();
        for (shard, history) in &self.histories {
            for (lsn, item) in &history.items {
                if item.phase.is_open() {
                    open.insert((*shard, *lsn));
                }
            }
        }
        open
    }
}
