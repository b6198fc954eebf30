//! Work finding: a lease call names a namespace, not a shard, so somebody has to bring waiting
//! workers and waiting items together, across shards, logs and cores.
//!
//! A core gives its own workers its own items first. Whenever the board shows that another core's
//! best item is better it asks there, and every few takes it asks the next of the others anyway. If nothing is anywhere, the call parks
//! and the core tells the others of its interest; the first of them to have an item left over
//! offers it. An offer is a hint, not a reservation: the worker's core asks for the item, and asks
//! elsewhere or parks again when somebody was quicker.

use std::collections::VecDeque;

use omnirelay_queue::{Fairness, Head, Nanos, Stats};
use omnirelay_wal::Disk;

use super::calls::{CallId, Seek};
use super::core::Core;
use super::errors;
use super::keyed::KeyedSeekers;
use super::layout::{CoreId, LogId, NamespaceId};
use super::part::{Message, Part, Ticket};

/// Every so many takes a core goes to the next of the others' logs whose best item has at least
/// the priority of its own best, however long that has waited: no local backlog, and no backlog
/// of a third core, hides what waits there for longer than so many takes for each log elsewhere.
pub(super) const LOOK_AROUND_EVERY: u32 = 8;
/// How much longer than its own best item another core's must have waited to be preferred at any
/// other take: less is not worth the hop.
const REMOTE_HEAD_START: Nanos = Nanos(5_000_000);

/// Entries of ended calls that may be among those that wait.
const WAITING_SLACK: usize = 64;

/// What a core knows of one namespace's seekers.
#[derive(Default)]
pub(super) struct Seekers {
    /// Parked calls, first come first. Entries of calls that ended stay until they reach the front.
    waiting: VecDeque<CallId>,
    /// Parked calls that want items of one partition key.
    pub(super) by_key: KeyedSeekers,
    /// Cores whose workers wait and that have not been made an offer since they said so.
    interested: Vec<CoreId>,
    /// We have told the others of our interest and some may not have answered.
    told: Vec<CoreId>,
    takes: u32,
    /// The log elsewhere that was gone to last because it was its turn.
    looked_at: u16,
    changed: bool,
}

/// The core's side of work finding.
pub(super) struct Work {
    seekers: Vec<Seekers>,
    changed: Vec<NamespaceId>,
}

impl Work {
    pub(super) fn new(namespaces: usize) -> Work {
        Work {
            seekers: (0..namespaces).map(|_| Seekers::default()).collect(),
            changed: Vec::new(),
        }
    }

    pub(super) fn of(&mut self, namespace: NamespaceId) -> &mut Seekers {
        &mut self.seekers[usize::from(namespace.0)]
    }

    /// Items of a namespace may have become ready here.
    pub(super) fn note_change(&mut self, namespace: NamespaceId) {
        let seekers = self.of(namespace);
        if !seekers.changed {
            seekers.changed = true;
            self.changed.push(namespace);
        }
    }
}

impl<D: Disk> Core<D> {
    /// The best waiting item, of a partition key or of any, of each of a namespace's shards in one
    /// of this core's logs.
    pub(super) fn log_heads(
        &mut self,
        now: Nanos,
        namespace: NamespaceId,
        log: usize,
        key: Option<&str>,
    ) -> impl Iterator<Item = (usize, Head)> {
        let shards = self.logs[log].shards.iter_mut().enumerate();
        shards
            .filter(move |(_, owned)| owned.namespace == namespace)
            .filter_map(move |(slot, owned)| Some((slot, owned.shard.head(now, key)?)))
    }

    /// The best waiting item of a namespace, of a partition key or of any, in one of this core's
    /// logs.
    pub(super) fn log_head(
        &mut self,
        now: Nanos,
        namespace: NamespaceId,
        log: usize,
        key: Option<&str>,
    ) -> Option<Head> {
        let heads = self.log_heads(now, namespace, log, key);
        let heads = heads.map(|(_, head)| head);
        heads.reduce(|best, head| if is_better(head, best) { head } else { best })
    }

    pub(super) fn log_stats(&self, namespace: NamespaceId, log: usize) -> Stats {
        self.logs[log].totals.of(namespace)
    }

    /// A namespace's counts: exact for this core's logs, as published for the others'.
    pub(super) fn namespace_stats(&self, namespace: NamespaceId) -> Stats {
        let mut sum = Stats::default();
        for log in (0..self.layout.logs()).map(LogId) {
            let part = match self.local_log(log) {
                Some(local) => self.log_stats(namespace, local),
                None => self.board.log_stats(namespace, log),
            };
            sum.pending += part.pending;
            sum.active += part.active;
            sum.delayed += part.delayed;
            sum.dead += part.dead;
        }
        sum
    }

    /// Looks for work for a lease call: asks the most promising log, or parks the call.
    pub(super) fn seek(&mut self, now: Nanos, id: CallId) {
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        let namespace = call.namespace;
        let wish = call.lease.as_ref().expect("only lease calls seek");
        let (take, tried, wait_until) = (wish.take.clone(), wish.tried.clone(), wish.wait_until);
        let chosen = match &take.key {
            None => self.choose_log(now, namespace, &tried),
            Some(key) => self.choose_log_by_key(now, namespace, key, &tried),
        };
        match chosen {
            Some(log) => {
                let call = self.calls.get_mut(id).expect("just seen");
                call.lease.as_mut().expect("a lease call").seek = Seek::Asked(log);
                call.outstanding += 1;
                let ticket = Ticket {
                    core: self.id,
                    call: id,
                };
                self.dispatch(now, ticket, log, Part::Take(namespace, take));
            }
            None if wait_until <= now || self.draining => {
                let error = match self.failure() {
                    Some((_, why)) => errors::durability_lost(why),
                    None => errors::none_available(),
                };
                self.answer(id, Err(error));
            }
            None if take.key.is_some() => self.park_by_key(now, id, namespace),
            None => self.park(id, namespace, wait_until),
        }
    }

    /// The log to ask next: the best of our own, unless another is better or it is time to look.
    fn choose_log(&mut self, now: Nanos, namespace: NamespaceId, tried: &[LogId]) -> Option<LogId> {
        if let [only] = &self.logs[..]
            && self.layout.logs() == 1
        {
            // With nothing to compare it with, its heads need no look: who takes from it looks.
            let may_have_any = only.totals.of(namespace).pending > 0 && only.can_grant();
            return (may_have_any && !tried.contains(&only.id)).then_some(only.id);
        }
        let mut own: Option<(LogId, Head)> = None;
        for log in 0..self.logs.len() {
            let id = self.logs[log].id;
            if !tried.contains(&id)
                && self.logs[log].can_grant()
                && let Some(head) = self.log_head(now, namespace, log, None)
                && own.is_none_or(|(_, best)| is_better(head, best))
            {
                own = Some((id, head));
            }
        }
        let mut other: Option<(LogId, Head)> = None;
        for log in (0..self.layout.logs()).map(LogId) {
            if self.layout.core_of(log) != self.id
                && !tried.contains(&log)
                && let Some(head) = self.published_head(now, namespace, log)
                && other.is_none_or(|(_, best)| is_better(head, best))
            {
                other = Some((log, head));
            }
        }
        let seekers = self.work.of(namespace);
        seekers.takes = seekers.takes.wrapping_add(1);
        let look_around = seekers.takes.is_multiple_of(LOOK_AROUND_EVERY);
        match (own, other) {
            (Some((own, head)), Some((other, remote))) => {
                let least = head.effective_priority;
                if look_around && let Some(log) = self.next_elsewhere(now, namespace, tried, least)
                {
                    return Some(log);
                }
                let since = remote.ready_since.0.saturating_add(REMOTE_HEAD_START.0);
                let head_start = Head {
                    ready_since: Nanos(since),
                    ..remote
                };
                Some(if is_better(head_start, head) {
                    other
                } else {
                    own
                })
            }
            (own, other) => own.or(other).map(|(log, _)| log),
        }
    }

    /// The best waiting item of another core's log, as that published it, with what its priority
    /// has gained since.
    fn published_head(&self, now: Nanos, namespace: NamespaceId, log: LogId) -> Option<Head> {
        let (head, published_at) = self.board.head(namespace, log)?;
        let options = &self.layout.namespace(namespace).options;
        Some(match options.fairness {
            Fairness::Fifo => head.aged_on(published_at, now, options.priority_aging),
            // Priorities count within a key only.
            Fairness::PartitionKey => head,
        })
    }

    /// The next of the others' logs, in turn, whose best item has at least this priority.
    pub(super) fn next_elsewhere(
        &mut self,
        now: Nanos,
        namespace: NamespaceId,
        tried: &[LogId],
        least: u8,
    ) -> Option<LogId> {
        let logs = self.layout.logs();
        let from = self.work.of(namespace).looked_at;
        let next = (1..=logs)
            .map(|step| LogId((from + step) % logs))
            .find(|&log| {
                let is_elsewhere = self.layout.core_of(log) != self.id && !tried.contains(&log);
                let head = is_elsewhere.then(|| self.published_head(now, namespace, log));
                head.flatten()
                    .is_some_and(|head| head.effective_priority >= least)
            })?;
        self.work.of(namespace).looked_at = next.0;
        Some(next)
    }

    /// What a log answered to a take. Empty: somebody was quicker, look elsewhere.
    pub(super) fn handle_taken(&mut self, now: Nanos, id: CallId, log: LogId, empty: bool) {
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        let namespace = call.namespace;
        if empty {
            call.lease
                .as_mut()
                .expect("only lease calls take")
                .tried
                .push(log);
            self.seek(now, id);
        }
        // Others of ours may still wait for what that core has.
        self.tell_interest(namespace);
    }

    fn park(&mut self, id: CallId, namespace: NamespaceId, until: Nanos) {
        self.calls.park(id, until);
        let waiting = &mut self.work.of(namespace).waiting;
        waiting.push_back(id);
        // Calls that ended behind one that waits long must not pile up.
        if waiting.len() > 2 * self.calls.parked() + WAITING_SLACK {
            let calls = &mut self.calls;
            waiting.retain(|&id| calls.is_parked(id));
        }
        self.tell_interest(namespace);
    }

    /// Tells the cores that have logs of their own, and do not know it yet, that workers wait here.
    fn tell_interest(&mut self, namespace: NamespaceId) {
        if !self.has_waiting(namespace) {
            return;
        }
        for core in (0..self.layout.cores()).map(CoreId) {
            if core != self.id
                && core.0 < self.layout.logs()
                && !self.work.of(namespace).told.contains(&core)
            {
                self.work.of(namespace).told.push(core);
                self.messages
                    .push_back((core, Message::Interest(self.id, namespace)));
            }
        }
    }

    fn has_waiting(&mut self, namespace: NamespaceId) -> bool {
        while let Some(&id) = self.work.of(namespace).waiting.front() {
            if self.calls.is_parked(id) {
                return true;
            }
            self.work.of(namespace).waiting.pop_front();
        }
        false
    }

    /// Another core has workers waiting.
    pub(super) fn handle_interest(&mut self, _now: Nanos, core: CoreId, namespace: NamespaceId) {
        let seekers = self.work.of(namespace);
        if !seekers.interested.contains(&core) {
            seekers.interested.push(core);
        }
        self.work.note_change(namespace);
    }

    /// Another core has items left over: send as many of our waiting workers there.
    pub(super) fn handle_offer(
        &mut self,
        now: Nanos,
        namespace: NamespaceId,
        log: LogId,
        ready: u32,
    ) {
        let from = self.layout.core_of(log);
        self.work.of(namespace).told.retain(|&core| core != from);
        if !self.has_waiting(namespace) {
            // Other cores may have workers for it: without a word the offer would end here.
            self.messages.push_back((from, Message::Decline(namespace)));
            return;
        }
        let mut left = ready;
        while left > 0 && self.has_waiting(namespace) {
            let id = self
                .work
                .of(namespace)
                .waiting
                .pop_front()
                .expect("somebody waits");
            self.calls.unpark(id);
            let call = self.calls.get_mut(id).expect("it waits");
            let wish = call.lease.as_mut().expect("a lease call");
            wish.seek = Seek::Asked(log);
            left = left.saturating_sub(wish.take.max);
            let take = wish.take.clone();
            call.outstanding += 1;
            let ticket = Ticket {
                core: self.id,
                call: id,
            };
            self.dispatch(now, ticket, log, Part::Take(namespace, take));
        }
        self.tell_interest(namespace);
    }

    /// Gives what became ready in this turn to workers that wait: ours first, then others'.
    pub(super) fn serve_waiting(&mut self, now: Nanos) {
        while let Some(namespace) = self.work.changed.pop() {
            self.work.of(namespace).changed = false;
            while self.has_waiting(namespace) && self.has_local_head(now, namespace) {
                let id = self
                    .work
                    .of(namespace)
                    .waiting
                    .pop_front()
                    .expect("somebody waits");
                self.calls.unpark(id);
                self.seek(now, id);
            }
            self.serve_by_key(now, namespace);
            self.make_offers(now, namespace);
        }
    }

    fn has_local_head(&mut self, now: Nanos, namespace: NamespaceId) -> bool {
        (0..self.logs.len()).any(|log| {
            self.logs[log].can_grant() && self.log_head(now, namespace, log, None).is_some()
        })
    }

    /// A log that could hand out nothing may do so again.
    pub(super) fn note_open_again(&mut self) {
        for namespace in 0..self.layout.namespaces().len() {
            self.work.note_change(NamespaceId(
                u16::try_from(namespace).expect("fewer than 65,536 namespaces"),
            ));
        }
    }

    fn make_offers(&mut self, now: Nanos, namespace: NamespaceId) {
        for log in 0..self.logs.len() {
            if self.work.of(namespace).interested.is_empty() {
                return;
            }
            if !self.logs[log].can_grant() || self.log_head(now, namespace, log, None).is_none() {
                continue;
            }
            let ready = u32::try_from(self.log_stats(namespace, log).pending).unwrap_or(u32::MAX);
            let id = self.logs[log].id;
            // One item is offered once, so that one enqueue does not wake every core.
            let offers = usize::try_from(ready)
                .unwrap_or(usize::MAX)
                .min(self.work.of(namespace).interested.len());
            for core in self
                .work
                .of(namespace)
                .interested
                .drain(..offers)
                .collect::<Vec<_>>()
            {
                self.messages.push_back((
                    core,
                    Message::Offer {
                        namespace,
                        log: id,
                        ready,
                    },
                ));
            }
        }
    }
}

/// Which of some shards' heads is handed out first.
pub(super) fn best_head(heads: &[(usize, Head)]) -> Option<usize> {
    let better = |a: usize, b: usize| {
        if is_better(heads[b].1, heads[a].1) {
            b
        } else {
            a
        }
    };
    (0..heads.len()).reduce(better)
}

/// Order of handing out: highest effective priority, then longest wait.
pub(super) fn is_better(a: Head, b: Head) -> bool {
    (b.effective_priority, a.ready_since) < (a.effective_priority, b.ready_since)
}
