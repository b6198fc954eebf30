//! Calls that go from shard to shard: a few steps each turn, so that a long walk holds up nobody.

use omnirelay_queue::Nanos;
use omnirelay_wal::Disk;

use super::calls::{CallId, Walk};
use super::core::Core;

/// Steps of all walks in one turn.
const STEPS_PER_TURN: usize = 16;

impl<D: Disk> Core<D> {
    /// Notes that a call goes on in the next turn. Until then a step of it is outstanding.
    pub(super) fn walk_later(&mut self, id: CallId, walk: Walk) {
        let call = self.calls.get_mut(id).expect("only open calls walk");
        call.walk = Some(Box::new(walk));
        call.outstanding = 1;
        self.walks.push_back(id);
    }

    /// Takes the next step of calls that walk.
    pub(super) fn serve_walks(&mut self, now: Nanos) {
        for _ in 0..STEPS_PER_TURN {
            let Some(id) = self.walks.pop_front() else {
                return;
            };
            let call = self.calls.get_mut(id).expect("a step is outstanding");
            call.outstanding = 0;
            let (namespace, walk) = (call.namespace, call.walk.take());
            if call.abandoned {
                self.calls.remove(id);
                self.undo_walk(now, namespace, walk, Vec::new());
                continue;
            }
            match *walk.expect("it walks") {
                Walk::List(walk) => self.list_on(now, id, walk),
                Walk::Drain(walk) => self.drain_on(now, id, walk),
            }
        }
    }
}
