//! Promises about items outside a lease: taken out, taken in, taken away, revived.

use omnirelay_net::messages::{PendingItem, Timestamp};
use omnirelay_net::rpc::parse_origin;

use crate::client::job_of;
use crate::history::{Item, Phase};
use crate::violation::{Violation, broken};

use super::{Checker, Moment, Promised};

/// What a bundle said of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) origin: [u8; 16],
    pub(super) sequence_id: u64,
    job: String,
    attempt: u32,
    max_attempts: Option<u32>,
    priority: u32,
    enqueued_at: u64,
    is_dead: bool,
}

/// A bundle as it was first handed out.
#[derive(Debug)]
pub(super) struct Bundle {
    life: u32,
    items: Vec<Moved>,
    /// Everything that the request was ever given.
    given: Vec<Moved>,
}

impl Moved {
    fn of(item: &PendingItem) -> Moved {
        Moved {
            origin: parse_origin(&item.origin).unwrap_or_default(),
            sequence_id: item.sequence_id,
            job: item.payload.as_ref().map(job_of).unwrap_or_default(),
            attempt: item.attempt,
            max_attempts: item.max_attempts,
            priority: item.priority.unwrap_or(0),
            enqueued_at: nanos(item.enqueued_at),
            is_dead: item.dead_letter,
        }
    }

    /// Whether an item that came in has what was said of it, and may have had attempts since.
    pub(super) fn is_in(&self, item: &Item) -> bool {
        self.same(item) && u32::from(item.attempts) >= self.attempt
    }

    /// Whether an item that was taken out is as was said of it.
    pub(super) fn was(&self, item: &Item) -> bool {
        let max_attempts = self.max_attempts == Some(u32::from(item.max_attempts));
        self.same(item) && u32::from(item.attempts) == self.attempt && max_attempts
    }

    fn same(&self, item: &Item) -> bool {
        let said = (&self.job, self.enqueued_at, self.priority);
        said == (&item.job, item.enqueued_at, u32::from(item.priority))
    }
}

impl Checker {
    fn place(&self, space: usize, id: u64) -> (u32, u64) {
        let space = &self.spaces[space];
        let index = u32::try_from(id % u64::from(space.shards)).expect("few shards");
        (space.first_shard + index, id / u64::from(space.shards))
    }

    /// Somebody is about to take items away: their leases may end from now on.
    pub fn cancelling(&mut self, space: usize, ids: &[u64]) {
        for id in ids {
            self.doomed.insert((space, *id));
            let tokens = self.tokens.get(&(space, *id)).cloned();
            for lease_id in tokens.into_iter().flatten() {
                self.settling(&lease_id);
            }
        }
    }

    /// An item was taken away.
    ///
    /// # Errors
    /// The rule that the reply breaks.
    pub fn cancelled(&mut self, at: Moment, space: usize, id: u64) -> Result<(), Violation> {
        self.goes(at, space, id, "cancelled")?;
        let (shard, item) = self.place(space, id);
        let phase = Phase::Cancelled;
        self.promise(at, space, shard, Promised::Gone { item, phase });
        Ok(())
    }

    /// A dead letter was revived, by the record with this LSN.
    pub fn redriven(&mut self, at: Moment, space: usize, id: u64, lsn: u64) {
        let (shard, item) = self.place(space, id);
        self.promise(at, space, shard, Promised::Redriven { item, lsn });
    }

    /// An item is gone: it must not be found again.
    fn goes(
        &mut self,
        at: Moment,
        space: usize,
        id: u64,
        how: &'static str,
    ) -> Result<(), Violation> {
        let before = self.gone.insert((space, id), (at.life, how));
        let again = before.filter(|(life, _)| self.holds(space, *life, at));
        let is_wrong = again.is_some() && !self.numbers_repeat;
        broken(is_wrong, "an item leaves once", || {
            format!("{id} {how}, was {again:?}")
        })
    }

    /// Somebody is about to ask for a bundle: from now on shards may remember their parts of it.
    pub fn draining(&mut self, at: Moment, space: usize, request: &str) {
        let asked_at = self.drains_asked.entry((space, request.to_owned()));
        // The clock of a life may begin before what an earlier one has not written down.
        let asked_at = asked_at.or_insert(at.now);
        *asked_at = at.now.min(*asked_at);
    }

    /// A bundle was handed out.
    ///
    /// # Errors
    /// The rule that the reply breaks.
    pub fn drained(
        &mut self,
        at: Moment,
        space: usize,
        request: Option<&str>,
        items: &[PendingItem],
        max: u32,
    ) -> Result<(), Violation> {
        let moved: Vec<Moved> = items.iter().map(Moved::of).collect();
        let foreign = moved
            .iter()
            .find(|moved| moved.origin != self.spaces[space].origin);
        broken(
            foreign.is_some(),
            "a bundle says which namespace it is of",
            || format!("{foreign:?}"),
        )?;
        // Each shard forgets its part when its window is over: some may be given again, some new.
        // The window is counted from the records: the oldest may be of the first call, even if
        // that was never answered.
        let is_remembered = request.is_none_or(|request| {
            let asked_at = self.drains_asked[&(space, request.to_owned())];
            at.now < asked_at + self.spaces[space].dedupe_ns
        });
        broken(
            moved.len() > max as usize && is_remembered,
            "a bundle is no longer than asked",
            || format!("{} of {max}", moved.len()),
        )?;
        let mut again = Vec::new();
        if let Some(request) = request {
            let name = (space, request.to_owned());
            if let Some(before) = self.bundles.get(&name) {
                let counts =
                    is_remembered && self.holds(space, before.life, at) && !self.numbers_repeat;
                broken(
                    counts && before.items != moved,
                    "the same request gets the same bundle",
                    || format!("{request}: {moved:?}, was {:?}", before.items),
                )?;
                again.clone_from(&before.given);
            }
            let mut given = again.clone();
            given.extend(moved.iter().filter(|moved| !again.contains(moved)).cloned());
            let bundle = Bundle {
                life: at.life,
                items: moved.clone(),
                given,
            };
            self.bundles.insert(name, bundle);
        }
        for moved in moved.into_iter().filter(|moved| !again.contains(moved)) {
            self.goes(at, space, moved.sequence_id, "taken out")?;
            let (shard, item) = self.place(space, moved.sequence_id);
            self.promise(at, space, shard, Promised::Drained { item, moved });
        }
        Ok(())
    }

    /// A bundle was taken in.
    ///
    /// # Errors
    /// The rule that the reply breaks.
    pub fn restored(
        &mut self,
        at: Moment,
        space: usize,
        items: &[PendingItem],
        added: u32,
    ) -> Result<(), Violation> {
        let mut again = 0;
        let items_count = u32::try_from(items.len()).expect("few items");
        // What adds nothing came in before, or never left. The latter is not remembered when it
        // leaves at last; and where a crash may undo that it left, it may have to come in again.
        let all_came = self.spaces[space].durable || added == items_count;
        for item in items {
            let moved = Moved::of(item);
            let name = (space, moved.origin, moved.sequence_id);
            let before = match all_came {
                true => self.came.insert(name, at.life),
                false => self.came.get(&name).copied(),
            };
            again += u32::from(before.is_some_and(|life| self.holds(space, life, at)));
            let shard = self.spaces[space].first_shard;
            self.promise(at, space, shard, Promised::Restored { space, moved });
        }
        let most = items_count - again;
        let is_wrong = added > most && !self.numbers_repeat;
        broken(is_wrong, "an item is restored once", || {
            format!("{added} added of {}, {again} were there", items.len())
        })
    }

    /// Whether an item that was restored is there, in one of its namespace's shards.
    pub(super) fn came_in(
        &self,
        histories: &std::collections::BTreeMap<u32, crate::history::History>,
        space: usize,
        moved: &Moved,
    ) -> bool {
        let name = (moved.origin, moved.sequence_id);
        let all = &self.spaces[space];
        let mut shards = all.first_shard..all.first_shard + all.shards;
        let (shard, item) = self.place(space, moved.sequence_id);
        // What never left was found to be there.
        let never_left = moved.origin == all.origin
            && histories[&shard]
                .items
                .get(&item)
                .is_some_and(|item| moved.job == item.job);
        if self.numbers_repeat {
            return true;
        }
        // A crash may have undone that it left; then it left once more, with other attempts, and
        // is the same item still.
        let may_be_older = self
            .spaces
            .iter()
            .any(|space| space.origin == moved.origin && !space.durable);
        let came = shards.any(|shard| {
            let history = &histories[&shard];
            let item = history.restored.get(&name);
            let item = item.map(|(lsn, _)| &history.items[lsn]);
            item.is_some_and(|item| moved.is_in(item) || may_be_older && moved.same(item))
        });
        came || never_left
    }
}

/// A time of the wire.
pub(crate) fn nanos(at: Option<Timestamp>) -> u64 {
    let at = at.unwrap_or_default();
    u64::try_from(at.seconds).unwrap_or(0) * 1_000_000_000 + u64::try_from(at.nanos).unwrap_or(0)
}
