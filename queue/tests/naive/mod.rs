//! The simplest queue that could be right: every item that ever was, in a
//! list, looked through for everything.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use omnirelay_queue::{
    Fairness, FenceReason, ItemState, ItemView, Lsn, Nanos, Options, Ordering, Shard, Stats, Token,
    TokenRefused,
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum State {
    /// Its time has come, whether or not its resource is free.
    Waiting,
    Delayed,
    Leased {
        token: Token,
        expires_at: Nanos,
        recorded: Duration,
        duration: Duration,
    },
    Dead,
    Gone,
}

#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) lsn: Lsn,
    pub(crate) resource: u8,
    pub(crate) key: Option<u8>,
    pub(crate) enqueued_at: Nanos,
    pub(crate) since: Nanos,
    pub(crate) ttl: Option<Duration>,
    pub(crate) priority: u8,
    pub(crate) attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) max_attempts_at_first: u32,
    pub(crate) state: State,
    /// The last lease that ended, and how.
    pub(crate) last_end: Option<(Token, FenceReason)>,
}

impl Item {
    fn ttl_end(&self) -> Option<Nanos> {
        self.ttl
            .map(|ttl| ceil(self.enqueued_at.saturating_add(ttl)))
    }

    /// When something happens to it by time alone.
    fn due(&self) -> Option<Nanos> {
        match self.state {
            State::Waiting => self.ttl_end(),
            State::Delayed => Some(self.ttl_end().map_or(self.since, |end| end.min(self.since))),
            State::Leased { expires_at, .. } => Some(ceil(expires_at)),
            State::Dead | State::Gone => None,
        }
    }

    fn is_in_chain(&self) -> bool {
        !matches!(self.state, State::Dead | State::Gone)
    }

    fn is_leased(&self) -> bool {
        matches!(self.state, State::Leased { .. })
    }
}

pub(crate) fn ceil(at: Nanos) -> Nanos {
    Nanos::from_millis(at.millis_ceil())
}

pub(crate) struct Model {
    options: Options,
    pub(crate) items: Vec<Item>,
    /// Every token that was ever granted.
    pub(crate) tokens: Vec<Token>,
    pub(crate) requests: Vec<(u8, Lsn, Nanos)>,
    clock: Nanos,
    /// Whose turn it is on each resource.
    turns: BTreeMap<u8, Option<Lsn>>,
    /// For a key that waits, and another: how many items of the other were
    /// leased in turn since the first was served, or lost or got its first.
    gaps: BTreeMap<(Option<u8>, Option<u8>), u32>,
}

impl Model {
    pub(crate) fn new(options: Options) -> Model {
        Model {
            options,
            items: Vec::new(),
            tokens: Vec::new(),
            requests: Vec::new(),
            clock: Nanos(0),
            turns: BTreeMap::new(),
            gaps: BTreeMap::new(),
        }
    }

    pub(crate) fn is_fair(&self) -> bool {
        self.options.fairness == Fairness::PartitionKey
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for item in &self.items {
            match item.state {
                State::Waiting => stats.pending += 1,
                State::Delayed => stats.delayed += 1,
                State::Leased { .. } => stats.active += 1,
                State::Dead => stats.dead += 1,
                State::Gone => {}
            }
        }
        stats
    }

    pub(crate) fn item_mut(&mut self, lsn: Lsn) -> &mut Item {
        let item = self.items.iter_mut().find(|item| item.lsn == lsn);
        item.expect("it was enqueued")
    }

    /// What time alone does, in the order in which it is due.
    pub(crate) fn pass(&mut self, now: Nanos) {
        let floor = Nanos::from_millis(now.millis_floor());
        while let Some((due, lsn)) = self
            .items
            .iter()
            .filter_map(|item| Some((item.due()?, item.lsn)))
            .filter(|(due, _)| *due <= floor)
            .min()
        {
            let at = due.max(self.clock);
            let item = self.item_mut(lsn);
            let is_over = item.ttl_end().is_some_and(|end| end <= at);
            match item.state {
                State::Leased { token, .. } => {
                    item.last_end = Some((token, FenceReason::Expired));
                    item.since = at;
                    item.state = match item.attempt >= item.max_attempts {
                        true => State::Dead,
                        false => State::Waiting,
                    };
                }
                _ if is_over => item.state = State::Gone,
                _ => item.state = State::Waiting,
            }
            self.settle(at);
        }
        self.clock = self.clock.max(now);
    }

    /// Passes turns on, after each change.
    pub(crate) fn settle(&mut self, at: Nanos) {
        self.clock = self.clock.max(at);
        if self.options.ordering == Ordering::None {
            return;
        }
        for (resource, turn) in self.turns_due() {
            if self.turns.get(&resource) == Some(&turn) {
                continue;
            }
            self.turns.insert(resource, turn);
            if let Some(lsn) = turn {
                let item = self.item_mut(lsn);
                if item.state == State::Waiting
                    || (item.state == State::Delayed && item.since <= at)
                {
                    item.state = State::Waiting;
                    item.since = at;
                }
            }
        }
    }

    /// As [`settle`](Model::settle), but nobody's waiting begins anew.
    pub(crate) fn settle_released(&mut self, lsn: Lsn, at: Nanos) {
        let since = self.item_mut(lsn).since;
        self.settle(at);
        self.item_mut(lsn).since = since;
    }

    fn turns_due(&self) -> BTreeMap<u8, Option<Lsn>> {
        let resources: BTreeSet<u8> = self.items.iter().map(|item| item.resource).collect();
        let turn = |resource| {
            let chain = self
                .items
                .iter()
                .filter(|item| item.resource == resource && item.is_in_chain());
            match chain.clone().any(Item::is_leased) {
                true => None,
                false => chain.map(|item| item.lsn).min(),
            }
        };
        resources.into_iter().map(|r| (r, turn(r))).collect()
    }

    pub(crate) fn can_be_leased(&self, item: &Item) -> bool {
        let has_turn = || self.turns.get(&item.resource) == Some(&Some(item.lsn));
        item.state == State::Waiting && (self.options.ordering == Ordering::None || has_turn())
    }

    pub(crate) fn leasable(&self) -> BTreeMap<Lsn, Option<u8>> {
        let items = self.items.iter().filter(|item| self.can_be_leased(item));
        items.map(|item| (item.lsn, item.key)).collect()
    }

    /// Effective priority and age of the best item, of a key or of any.
    pub(crate) fn best(&self, key: Option<Option<u8>>, now: Nanos) -> Option<(u64, Nanos)> {
        let items = self.items.iter().filter(|item| self.can_be_leased(item));
        items
            .filter(|item| key.is_none_or(|key| item.key == key))
            .map(|item| (Reverse(self.effective(item, now)), item.since))
            .min()
            .map(|(Reverse(priority), since)| (priority, since))
    }

    pub(crate) fn effective(&self, item: &Item, now: Nanos) -> u64 {
        let aging = self.options.priority_aging.as_nanos();
        let waited = now.since(item.since).as_nanos() / aging;
        (u64::from(item.priority) + waited as u64).min(255)
    }

    fn weight(&self, key: Option<u8>) -> u32 {
        let weight = key.and_then(|key| self.options.weights.get(name(key)));
        weight.copied().unwrap_or(1)
    }

    /// An item of `key` was leased in turn: no key that waits for its own turn
    /// may see more of that than the key's weight.
    pub(crate) fn note_turn(&mut self, key: Option<u8>) -> Result<(), String> {
        let weight = self.weight(key);
        let waiting: BTreeSet<Option<u8>> = self.leasable().into_values().collect();
        for other in waiting.into_iter().filter(|other| *other != key) {
            let gap = self.gaps.entry((other, key)).or_default();
            *gap += 1;
            if *gap > weight {
                return Err(format!(
                    "{other:?} waits while {key:?}, of weight {weight}, is served {gap} times"
                ));
            }
        }
        Ok(())
    }

    /// Keys that lost a leasable item were served, or lost their place.
    pub(crate) fn note_losses(&mut self, before: &BTreeMap<Lsn, Option<u8>>) {
        let after = self.leasable();
        for (lsn, key) in before {
            if !after.contains_key(lsn) {
                self.gaps.retain(|(waiting, _), _| waiting != key);
            }
        }
    }

    pub(crate) fn note_epoch(&mut self) {
        self.gaps.clear();
    }

    /// What any token is worth now.
    pub(crate) fn check(
        &mut self,
        token: &Token,
        shard: &Shard,
    ) -> Result<&mut Item, TokenRefused> {
        let lsn = shard.spec().lsn_of(token.sequence_id).expect("ours");
        let item = self.item_mut(lsn);
        if matches!(item.state, State::Leased { token: current, .. } if current == *token) {
            return Ok(item);
        }
        let reason = match item.last_end {
            Some((last, reason)) if last == *token && !item.is_leased() => reason,
            _ => FenceReason::Superseded,
        };
        Err(TokenRefused::Fenced {
            reason: Some(reason),
        })
    }

    /// How the item is shown.
    pub(crate) fn shown(&self, item: &Item) -> ItemState {
        match item.state {
            State::Waiting if self.can_be_leased(item) => ItemState::Waiting,
            State::Waiting => ItemState::Blocked,
            State::Delayed => ItemState::Delayed,
            State::Leased { .. } => ItemState::Leased,
            State::Dead => ItemState::Dead,
            State::Gone => panic!("what is gone is not shown"),
        }
    }

    /// Whether a view shows what is so.
    pub(crate) fn is_shown_by(&self, view: &ItemView) -> bool {
        let Some(item) = self.items.iter().find(|item| item.lsn == view.lsn) else {
            return false;
        };
        let (expires_at, token) = match (item.state, item.last_end) {
            (
                State::Leased {
                    expires_at, token, ..
                },
                _,
            ) => (Some(expires_at), Some(token)),
            (_, Some((_, FenceReason::Superseded)) | None) => (None, None),
            (_, Some((token, _))) => (None, Some(token)),
        };
        let ttl_end = item.ttl.map(|ttl| item.enqueued_at.saturating_add(ttl));
        view.state == self.shown(item)
            && view.priority == item.priority
            && view.enqueued_at == item.enqueued_at
            && (view.ready_at == item.since || item.state == State::Dead)
            && (view.expires_at, view.last_token) == (expires_at, token)
            && view.ttl_end == ttl_end
            && u32::from(view.attempt) == item.attempt
            && u32::from(view.max_attempts) == item.max_attempts
    }
}

/// The name of a partition key.
pub(crate) fn name(key: u8) -> &'static str {
    ["a", "b", "c", "d"][usize::from(key)]
}
