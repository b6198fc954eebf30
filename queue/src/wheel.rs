//! Timers: a hierarchical timing wheel through the items (Varghese and Lauck,
//! 1987), with a tick of 1 ms and seven levels of 64 buckets, 139 years from
//! the Unix epoch. Insertion and removal take constant time.
//!
//! A timer is in the level of the highest 6-bit digit in which its tick
//! differs from the wheel's. So in each level all timers are ahead of the
//! wheel's own digit, and every timer of a level is due before any of the
//! levels above it.

use crate::ids::Nanos;
use crate::item::{Links, NO_BUCKET};
use crate::slab::{NO_SLOT, Slab, Slot};

const LEVELS: usize = 7;
const BUCKETS: usize = 64;
const DIGIT_BITS: u32 = 6;

/// The last tick that there is; timers beyond it are due then.
const TICK_MAX: u64 = (1 << (DIGIT_BITS * LEVELS as u32)) - 1;

/// The latest time that a record may have, in the year 2109: the longest lease
/// from there still ends at a tick that there is, so that none ends early.
pub const TIME_MAX: Nanos = Nanos((TICK_MAX - u32::MAX as u64) * 1_000_000);

#[derive(Debug)]
pub(crate) struct Wheel {
    /// All timers that are due before this tick have been taken out.
    tick: u64,
    lists: Box<[(Slot, Slot); LEVELS * BUCKETS]>,
    /// For each level, a bit for each bucket that is not empty.
    occupied: [u64; LEVELS],
}

/// What one step of the wheel did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// This item's timer was due and has been taken out.
    Due(Slot),
    /// A timer was brought closer.
    Moved,
    /// Nothing is left that is due.
    Done,
}

impl Wheel {
    pub(crate) fn new() -> Wheel {
        Wheel {
            tick: 0,
            lists: Box::new([(NO_SLOT, NO_SLOT); LEVELS * BUCKETS]),
            occupied: [0; LEVELS],
        }
    }

    /// Empties the wheel and sets its time. The caller inserts every timer
    /// again; links of before are void.
    pub(crate) fn restart(&mut self, now: Nanos) {
        *self = Wheel::new();
        self.tick = now.millis_floor().min(TICK_MAX);
    }

    /// The wheel's time: that of the timer which was taken out last.
    pub(crate) fn time(&self) -> Nanos {
        Nanos::from_millis(self.tick)
    }

    /// Inserts the item's timer, if it has a deadline. It is due at the first
    /// tick that is not before the deadline.
    #[inline]
    pub(crate) fn insert(&mut self, slab: &mut Slab, slot: Slot) {
        if let Some(deadline) = slab[slot].deadline() {
            self.insert_at(slab, slot, deadline);
        }
    }

    fn insert_at(&mut self, slab: &mut Slab, slot: Slot, deadline: Nanos) {
        let item = &mut slab[slot];
        assert_eq!(item.bucket, NO_BUCKET, "a timer is set twice");
        let bucket = self.bucket(deadline);
        let (head, tail) = &mut self.lists[bucket];
        item.timer = Links {
            prev: *tail,
            next: NO_SLOT,
        };
        item.bucket = bucket as u16;
        match *tail {
            NO_SLOT => *head = slot,
            tail => slab[tail].timer.next = slot,
        }
        *tail = slot;
        self.occupied[bucket / BUCKETS] |= 1 << (bucket % BUCKETS);
    }

    /// Takes the item's timer out, if it is in.
    #[inline]
    pub(crate) fn remove(&mut self, slab: &mut Slab, slot: Slot) {
        if slab[slot].bucket != NO_BUCKET {
            self.unlink(slab, slot);
        }
    }

    fn unlink(&mut self, slab: &mut Slab, slot: Slot) {
        let item = &mut slab[slot];
        let Links { prev, next } = item.timer;
        let bucket = usize::from(std::mem::replace(&mut item.bucket, NO_BUCKET));
        let (head, tail) = &mut self.lists[bucket];
        match prev {
            NO_SLOT => *head = next,
            prev => slab[prev].timer.next = next,
        }
        match next {
            NO_SLOT => *tail = prev,
            next => slab[next].timer.prev = prev,
        }
        if *head == NO_SLOT {
            self.occupied[bucket / BUCKETS] &= !(1 << (bucket % BUCKETS));
        }
    }

    /// Takes out the next timer that is due at `now`, or brings one closer.
    /// The wheel's time is `now` when nothing is left.
    pub(crate) fn step(&mut self, slab: &mut Slab, now: Nanos) -> Step {
        let now = now.millis_floor().min(TICK_MAX);
        let Some((level, bucket, tick)) = self.next() else {
            self.tick = self.tick.max(now);
            return Step::Done;
        };
        if tick > now {
            self.tick = self.tick.max(now);
            return Step::Done;
        }
        self.tick = tick;
        let slot = self.lists[level * BUCKETS + bucket].0;
        self.remove(slab, slot);
        if level == 0 {
            return Step::Due(slot);
        }
        self.insert(slab, slot);
        Step::Moved
    }

    /// When [`step`](Wheel::step) next has something to do: not after the next
    /// deadline's tick, and before it only to bring timers closer.
    pub(crate) fn next_deadline(&self) -> Option<Nanos> {
        self.next().map(|(_, _, tick)| Nanos::from_millis(tick))
    }

    fn bucket(&self, deadline: Nanos) -> usize {
        let tick = deadline.millis_ceil().clamp(self.tick, TICK_MAX);
        let differs = (tick ^ self.tick) | 1;
        let level = (63 - differs.leading_zeros()) / DIGIT_BITS;
        level as usize * BUCKETS + digit(tick, level)
    }

    /// The next bucket with timers: its level, its number there, and its first
    /// tick.
    fn next(&self) -> Option<(usize, usize, u64)> {
        // A bucket whose time has come but which is not empty yet goes first:
        // what is still in it may be due before what was brought closer.
        let pending = (1..LEVELS).rev().find_map(|level| {
            let bucket = digit(self.tick, level as u32);
            let there = self.occupied[level] & (1 << bucket) != 0;
            there.then_some((level, bucket, self.tick))
        });
        pending.or_else(|| {
            let level = self.occupied.iter().position(|bits| *bits != 0)?;
            let bucket = self.occupied[level].trailing_zeros() as usize;
            let shift = DIGIT_BITS * level as u32;
            let above = self.tick >> (shift + DIGIT_BITS) << (shift + DIGIT_BITS);
            Some((level, bucket, above | ((bucket as u64) << shift)))
        })
    }
}

fn digit(tick: u64, level: u32) -> usize {
    (tick >> (DIGIT_BITS * level)) as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::item::State;
    use crate::slab::test_item;

    const START_MS: u64 = 1_790_000_000_000;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u64),
        Remove(usize),
        Advance(u64),
        AdvanceByHalf(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let nanos = prop_oneof![
            0..200_000_000_u64,
            0..100_000_000_000_u64,
            0..10_000_000_000_000_000_u64,
        ];
        prop_oneof![
            4 => nanos.clone().prop_map(Op::Insert),
            1 => any::<usize>().prop_map(Op::Remove),
            1 => nanos.clone().prop_map(Op::Advance),
            1 => nanos.prop_map(Op::AdvanceByHalf),
        ]
    }

    fn insert(wheel: &mut Wheel, slab: &mut Slab, deadline: Nanos) -> Slot {
        let slot = slab.insert(test_item(State::Delayed, deadline));
        wheel.insert(slab, slot);
        slot
    }

    proptest! {
        #[test]
        fn timers_are_due_in_order_and_never_early(ops in prop::collection::vec(op(), 1..200)) {
            let (mut wheel, mut slab) = (Wheel::new(), Slab::new());
            let mut now = Nanos::from_millis(START_MS);
            wheel.restart(now);
            let mut model = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Insert(after) => {
                        let deadline = Nanos(now.0 + after);
                        let slot = insert(&mut wheel, &mut slab, deadline);
                        model.insert(slot, deadline);
                    }
                    Op::Remove(nth) => {
                        let slot = model.keys().nth(nth % (model.len() + 1)).copied();
                        if let Some(slot) = slot {
                            wheel.remove(&mut slab, slot);
                            slab.remove(slot);
                            model.remove(&slot);
                        }
                    }
                    Op::Advance(by) | Op::AdvanceByHalf(by) => {
                        now.0 += by;
                        let mut steps = if matches!(op, Op::Advance(_)) { usize::MAX } else { 3 };
                        let mut last = 0;
                        while steps > 0 {
                            steps -= 1;
                            match wheel.step(&mut slab, now) {
                                Step::Done => {
                                    let left = model.values().map(|d| d.millis_ceil()).min();
                                    prop_assert!(left.is_none_or(|ms| ms > now.millis_floor()));
                                    break;
                                }
                                Step::Moved => {}
                                Step::Due(slot) => {
                                    let deadline = model.remove(&slot).expect("it was set");
                                    prop_assert!(deadline <= now);
                                    prop_assert!(deadline.millis_ceil() >= last);
                                    last = deadline.millis_ceil();
                                    slab.remove(slot);
                                }
                            }
                        }
                    }
                }
                let first = model.values().map(|d| d.millis_ceil()).min();
                match (wheel.next_deadline(), first) {
                    (None, None) => {}
                    (Some(next), Some(first)) => prop_assert!(next.millis_ceil() <= first),
                    (next, first) => prop_assert!(false, "{next:?} {first:?}"),
                }
            }
        }
    }

    #[test]
    fn a_timer_beyond_the_last_tick_is_kept() {
        let (mut wheel, mut slab) = (Wheel::new(), Slab::new());
        wheel.restart(Nanos::from_millis(START_MS));
        let slot = insert(&mut wheel, &mut slab, Nanos(u64::MAX));
        assert_eq!(
            wheel.step(&mut slab, Nanos::from_millis(START_MS + 1)),
            Step::Done
        );
        wheel.remove(&mut slab, slot);
        assert_eq!(wheel.next_deadline(), None);
    }
}
