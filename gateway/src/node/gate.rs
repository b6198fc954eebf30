//! A namespace's gate, and what became of it: open while the namespace takes new work, closed while
//! enqueues wait.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use omnirelay_queue::Nanos;

use super::backpressure::Watermarks;

/// Transitions that are kept of each gate, for those who look.
pub const TRANSITIONS_KEPT: usize = 32;

/// A namespace's gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gate {
    /// Enqueues wait.
    pub closed: bool,
    /// When it last moved, in ms since the Unix epoch; 0 for never.
    pub since_ms: u64,
}

impl Gate {
    /// The gate after a look at how many items are live.
    pub(super) fn next(self, live: u64, now: Nanos, marks: &Watermarks) -> Gate {
        match self.moves_at(live, marks) {
            Some(at) if at <= now => Gate {
                closed: !self.closed,
                since_ms: now.millis_floor(),
            },
            _ => self,
        }
    }

    /// From when on so many live items move the gate, if they do.
    pub(super) fn moves_at(self, live: u64, marks: &Watermarks) -> Option<Nanos> {
        let moves = match self.closed {
            false => live >= marks.high,
            true => live <= marks.low,
        };
        let cooldown_ms = u64::try_from(marks.cooldown.as_millis()).unwrap_or(u64::MAX);
        let cooled_ms = match self.since_ms {
            0 => 0,
            since_ms => since_ms.saturating_add(cooldown_ms),
        };
        moves.then(|| Nanos(cooled_ms.saturating_mul(1_000_000)))
    }
}

/// A gate that moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// Counts from 1 in the life of a process.
    pub number: u64,
    /// The gate from then on.
    pub gate: Gate,
    /// Waiting, delayed and leased items that moved it.
    pub live: u64,
}

/// A gate that all cores see, and its newest transitions.
#[derive(Debug, Default)]
pub(super) struct GateCell {
    /// When it last moved in ms, times two, plus one when it is closed.
    state: AtomicU64,
    transitions: AtomicU64,
    newest: [Slot; TRANSITIONS_KEPT],
}

/// A transition, written by the core that moved the gate.
#[derive(Debug, Default)]
struct Slot {
    /// Written last, 0 while the rest is not whole.
    number: AtomicU64,
    state: AtomicU64,
    live: AtomicU64,
}

fn pack(gate: Gate) -> u64 {
    (gate.since_ms << 1) | u64::from(gate.closed)
}

fn unpack(state: u64) -> Gate {
    Gate {
        closed: state & 1 == 1,
        since_ms: state >> 1,
    }
}

impl GateCell {
    pub(super) fn gate(&self) -> Gate {
        unpack(self.state.load(Relaxed))
    }

    /// How often it has moved.
    pub(super) fn transitions(&self) -> u64 {
        self.transitions.load(Relaxed)
    }

    /// Moves the gate, unless another core has moved it meanwhile.
    pub(super) fn step(&self, from: Gate, to: Gate, live: u64) {
        let moved = self
            .state
            .compare_exchange(pack(from), pack(to), Relaxed, Relaxed);
        if moved.is_err() {
            return;
        }
        let number = self.transitions.fetch_add(1, Relaxed) + 1;
        let slot = &self.newest[place_of(number)];
        slot.number.store(0, Release);
        slot.state.store(pack(to), Release);
        slot.live.store(live, Release);
        slot.number.store(number, Release);
    }

    /// The transitions behind number `seen` that are still kept, in order. One that is being
    /// written ends the list: it comes with the next look.
    pub(super) fn transitions_after(&self, seen: u64) -> Vec<Transition> {
        let last = self.transitions();
        let kept = last.saturating_sub(TRANSITIONS_KEPT as u64);
        (seen.max(kept) + 1..=last)
            .map_while(|number| self.newest[place_of(number)].read(number))
            .collect()
    }
}

fn place_of(number: u64) -> usize {
    (number % TRANSITIONS_KEPT as u64) as usize
}

impl Slot {
    fn read(&self, number: u64) -> Option<Transition> {
        let is_whole = || self.number.load(Acquire) == number;
        if !is_whole() {
            return None;
        }
        // Loads that acquire keep their order, so the number is seen again after the rest.
        let (state, live) = (self.state.load(Acquire), self.live.load(Acquire));
        is_whole().then(|| Transition {
            number,
            gate: unpack(state),
            live,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MARKS: Watermarks = Watermarks {
        capacity: 100,
        high: 80,
        low: 60,
        cooldown: Duration::from_secs(1),
    };

    fn at(ms: u64) -> Nanos {
        Nanos::from_millis(1_000_000 + ms)
    }

    #[test]
    fn a_gate_closes_at_the_high_mark_and_opens_at_the_low_one() {
        let open = Gate::default();
        assert_eq!(open.next(79, at(0), &MARKS), open);
        let closed = open.next(80, at(0), &MARKS);
        assert!(closed.closed);
        assert!(closed.next(61, at(5_000), &MARKS).closed);
        assert!(!closed.next(60, at(5_000), &MARKS).closed);
    }

    #[test]
    fn transitions_are_a_cooldown_apart() {
        let closed = Gate::default().next(90, at(0), &MARKS);
        assert!(closed.next(0, at(999), &MARKS).closed);
        let open = closed.next(0, at(1_000), &MARKS);
        assert!(!open.closed);
        assert!(!open.next(95, at(1_999), &MARKS).closed);
        assert!(open.next(95, at(2_000), &MARKS).closed);
    }

    #[test]
    fn what_became_of_a_gate_is_kept_in_order() {
        let cell = GateCell::default();
        assert_eq!(cell.transitions_after(0), []);
        let mut gate = cell.gate();
        for step in 1..=40 {
            let next = Gate {
                closed: !gate.closed,
                since_ms: step * 10,
            };
            cell.step(gate, next, step);
            gate = next;
        }
        assert_eq!((cell.gate(), cell.transitions()), (gate, 40));
        let numbers = |seen| {
            let transitions = cell.transitions_after(seen);
            transitions.iter().map(|t| t.number).collect::<Vec<_>>()
        };
        assert_eq!(numbers(0), (9..=40).collect::<Vec<_>>());
        assert_eq!(numbers(38), [39, 40]);
        assert_eq!(numbers(40), [0; 0]);
        let last = cell.transitions_after(39)[0];
        assert_eq!((last.gate, last.live), (gate, 40));
    }

    #[test]
    fn only_one_core_moves_a_gate() {
        let cell = GateCell::default();
        let (open, closed) = (cell.gate(), Gate::default().next(90, at(0), &MARKS));
        cell.step(open, closed, 90);
        cell.step(open, closed, 91);
        assert_eq!(cell.transitions(), 1);
        assert_eq!(cell.transitions_after(0)[0].live, 90);
    }
}
