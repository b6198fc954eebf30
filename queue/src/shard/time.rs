//! What happens by time alone.

use crate::ids::Nanos;
use crate::item::State;
use crate::record::{Event, Log};
use crate::slab::Slot;
use crate::wheel::Step;

use super::Shard;

impl Shard {
    /// Handles what is due: delays end, leases run out, items outlive their
    /// time. Takes at most `budget` steps of constant time, each of which
    /// appends at most one record, and returns how many it took; when that is
    /// `budget`, more may be due.
    ///
    /// Nothing is early. What is due is handled at the first whole millisecond
    /// that is not before its time.
    pub fn handle_time(&mut self, now: Nanos, log: &mut impl Log, budget: usize) -> usize {
        let until = self.clock.max(now);
        for taken in 0..budget {
            match self.wheel.step(&mut self.slab, until) {
                Step::Done => {
                    self.advance(until);
                    return taken;
                }
                Step::Moved => {}
                Step::Due(slot) => {
                    // What was due before `now` happens as of then, so that
                    // items become ready in the order in which they were due.
                    let at = self.advance(self.wheel.time());
                    self.due(slot, at, log);
                }
            }
        }
        budget
    }

    fn due(&mut self, slot: Slot, at: Nanos, log: &mut impl Log) {
        let item = &self.slab[slot];
        let event = match &item.state {
            State::Leased { lease, .. } => {
                let expires_at = lease.expires_at;
                assert!(expires_at <= at, "a lease would end early");
                Event::Expired {
                    lease: item.last_lease(),
                    dead: item.attempt >= item.max_attempts,
                }
            }
            State::Delayed if item.ttl_end().is_none_or(|end| end > at) => {
                self.end_delay(slot);
                return;
            }
            State::Waiting(_) | State::Blocked | State::Delayed => Event::ItemExpired {
                item: item.lsn,
                last: item.last_ended(),
            },
            state @ (State::Dead(_) | State::Vacant(_)) => {
                panic!("a timer was set for an item that waits for nothing: {state:?}")
            }
        };
        self.commit(event, log);
    }

    /// Without a record: that the delay is over follows from the time.
    fn end_delay(&mut self, slot: Slot) {
        self.stats.delayed -= 1;
        self.line_up(slot);
        self.stats.pending += 1;
        self.wheel.insert(&mut self.slab, slot);
    }
}
