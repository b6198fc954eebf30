//! Finding work for calls that want items of one partition key.
//!
//! The board does not say which keys wait where. Such a call asks its own core's logs by key, and
//! every other log that has anything waiting; every few takes another log is asked first, so that
//! a local backlog of a key does not hide what waits for it elsewhere. With nothing there it waits until its own core has
//! an item for it, and asks the other logs again from time to time, the less often the longer it
//! waits. An item on another core is found within [`LOOK_AFTER_MAX`].

use std::collections::BTreeSet;

use omnirelay_queue::{Head, Nanos};
use omnirelay_wal::Disk;

use super::calls::CallId;
use super::core::Core;
use super::layout::{LogId, NamespaceId};
use super::work::{LOOK_AROUND_EVERY, is_better};

/// How soon other cores' logs are asked again at first, and at the latest.
const LOOK_AFTER_MIN: Nanos = Nanos(5_000_000);
const LOOK_AFTER_MAX: Nanos = Nanos(100_000_000);
/// Waiting calls that are looked at when something has changed; the others' turn comes with the
/// next change, or with their own look.
const LOOKS_PER_TURN: usize = 256;

/// Calls that wait for items of one key, in the order that they came.
#[derive(Default)]
pub(super) struct KeyedSeekers {
    waiting: BTreeSet<(u64, CallId)>,
    next_turn: u64,
    takes: u32,
    /// Where the last look ended.
    looked_to: u64,
}

impl<D: Disk> Core<D> {
    /// A log that may have an item of this key: the best of our own, else another's with anything
    /// waiting.
    pub(super) fn choose_log_by_key(
        &mut self,
        now: Nanos,
        namespace: NamespaceId,
        key: &str,
        tried: &[LogId],
    ) -> Option<LogId> {
        let mut own: Option<(LogId, Head)> = None;
        for log in 0..self.logs.len() {
            let id = self.logs[log].id;
            if !tried.contains(&id)
                && self.logs[log].can_grant()
                && let Some(head) = self.log_head(now, namespace, log, Some(key))
                && own.is_none_or(|(_, best)| is_better(head, best))
            {
                own = Some((id, head));
            }
        }
        let own = own.map(|(log, _)| log);
        let seekers = &mut self.work.of(namespace).by_key;
        seekers.takes = seekers.takes.wrapping_add(1);
        if own.is_some()
            && seekers.takes.is_multiple_of(LOOK_AROUND_EVERY)
            && let Some(log) = self.next_elsewhere(now, namespace, tried, 0)
        {
            return Some(log);
        }
        own.or_else(|| {
            (0..self.layout.logs()).map(LogId).find(|&log| {
                self.layout.core_of(log) != self.id
                    && !tried.contains(&log)
                    && self.board.head(namespace, log).is_some()
            })
        })
    }

    pub(super) fn park_by_key(&mut self, now: Nanos, id: CallId, namespace: NamespaceId) {
        let is_alone = self.layout.cores() == 1;
        let seekers = &mut self.work.of(namespace).by_key;
        // A change here finds whoever waits for it, unless there are too many to look at.
        let is_found = is_alone && seekers.waiting.len() < LOOKS_PER_TURN;
        let call = self.calls.get_mut(id).expect("only an open call parks");
        let wish = call.lease.as_mut().expect("only lease calls park");
        if wish.turn == 0 {
            seekers.next_turn += 1;
            wish.turn = seekers.next_turn;
        }
        let look_after = Nanos(wish.look_after.0 * 2).clamp(LOOK_AFTER_MIN, LOOK_AFTER_MAX);
        wish.look_after = look_after;
        let look_at = Nanos(now.0.saturating_add(look_after.0));
        let wake_at = if is_found {
            wish.wait_until
        } else {
            wish.wait_until.min(look_at)
        };
        seekers.waiting.insert((wish.turn, id));
        self.calls.park(id, wake_at);
    }

    /// A waiting call's time to ask other logs again has come.
    pub(super) fn look_again(&mut self, now: Nanos, id: CallId) {
        self.forget_seeker(id);
        self.calls.unpark(id);
        self.seek(now, id);
    }

    /// Gives what became ready here to calls that wait for its key.
    pub(super) fn serve_by_key(&mut self, now: Nanos, namespace: NamespaceId) {
        let seekers = &mut self.work.of(namespace).by_key;
        if seekers.waiting.is_empty() {
            return;
        }
        let from = seekers.looked_to;
        let behind = seekers.waiting.range((from, CallId::FIRST)..);
        let before = seekers.waiting.range(..(from, CallId::FIRST));
        let looks: Vec<(u64, CallId)> =
            behind.chain(before).take(LOOKS_PER_TURN).copied().collect();
        if looks.len() == LOOKS_PER_TURN {
            seekers.looked_to = looks.last().expect("just counted").0 + 1;
        }
        for (turn, id) in looks {
            if !self.calls.is_parked(id) {
                self.work.of(namespace).by_key.waiting.remove(&(turn, id));
                continue;
            }
            let call = self.calls.get_mut(id).expect("it is parked");
            let key = call.lease.as_ref().and_then(|wish| wish.take.key.clone());
            let key = key.expect("it waits for a key");
            let is_there = (0..self.logs.len()).any(|log| {
                self.logs[log].can_grant()
                    && self.log_head(now, namespace, log, Some(&key)).is_some()
            });
            if is_there {
                self.forget_seeker(id);
                self.calls.unpark(id);
                self.seek(now, id);
            }
        }
    }

    /// The call does not wait for a key any more, if it ever did.
    pub(super) fn forget_seeker(&mut self, id: CallId) {
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        let namespace = call.namespace;
        let turn = call.lease.as_ref().map_or(0, |wish| wish.turn);
        if turn == 0 {
            return;
        }
        self.work.of(namespace).by_key.waiting.remove(&(turn, id));
    }
}
