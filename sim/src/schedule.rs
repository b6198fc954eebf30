//! What happens next: events by true time; of two at one time, the one that was planned first.

use std::collections::BTreeMap;

/// Planned events.
#[derive(Debug)]
pub struct Schedule<E> {
    now: u64,
    planned: u64,
    events: BTreeMap<(u64, u64), E>,
}

impl<E> Schedule<E> {
    /// Nothing is planned at time zero.
    pub fn new() -> Schedule<E> {
        Schedule {
            now: 0,
            planned: 0,
            events: BTreeMap::new(),
        }
    }

    /// True time in nanoseconds.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Plans an event `delay` ns from now.
    pub fn after(&mut self, delay: u64, event: E) {
        self.at(self.now + delay, event);
    }

    /// Plans an event at a time; at once if that is past.
    pub fn at(&mut self, at: u64, event: E) {
        self.planned += 1;
        self.events.insert((at.max(self.now), self.planned), event);
    }

    /// Goes on to the next event.
    pub fn pop(&mut self) -> Option<E> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some(event)
    }
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Schedule::new()
    }
}
