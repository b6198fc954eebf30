//! How much of what is still needed lies in each segment of the log.
//!
//! What comes in lies in the newest segment, what goes mostly in the newest or
//! the oldest: counting is nearly always a look at either end.

use std::collections::VecDeque;

/// Bodies that are needed, counted by the segment that they lie in.
#[derive(Debug)]
pub(crate) struct Roots {
    /// The newest segment that anything lay in, and how much does.
    newest: u32,
    in_newest: u64,
    /// The older ones, ascending. Counts may be zero, but not the first.
    older: VecDeque<(u32, u64)>,
}

impl Roots {
    pub(crate) fn new() -> Roots {
        Roots {
            newest: 0,
            in_newest: 0,
            older: VecDeque::new(),
        }
    }

    /// Whether anything lies in the segment.
    pub(crate) fn is_in(&self, segment: u32) -> bool {
        if segment == self.newest {
            return self.in_newest > 0;
        }
        let nth = self.find(segment);
        nth.is_ok_and(|nth| self.older[nth].1 > 0)
    }

    /// Counts a body in the segment.
    #[inline]
    pub(crate) fn add(&mut self, segment: u32) {
        if segment == self.newest {
            self.in_newest += 1;
        } else {
            self.add_elsewhere(segment);
        }
    }

    /// Counts a body in the segment no more.
    ///
    /// # Panics
    /// When none was counted there.
    #[inline]
    pub(crate) fn remove(&mut self, segment: u32) {
        if segment == self.newest && self.in_newest > 0 {
            self.in_newest -= 1;
        } else {
            self.remove_from_older(segment);
        }
    }

    fn add_elsewhere(&mut self, segment: u32) {
        if segment > self.newest {
            let newest = std::mem::replace(&mut self.newest, segment);
            match std::mem::replace(&mut self.in_newest, 1) {
                0 => {}
                count => self.older.push_back((newest, count)),
            }
            return;
        }
        match self.find(segment) {
            Ok(nth) => self.older[nth].1 += 1,
            Err(nth) => self.older.insert(nth, (segment, 1)),
        }
    }

    fn remove_from_older(&mut self, segment: u32) {
        let nth = match self.older.front() {
            Some((first, _)) if *first == segment => Ok(0),
            _ => self.find(segment),
        };
        let count = nth.ok().map(|nth| &mut self.older[nth].1);
        let count = count.filter(|count| **count > 0);
        *count.expect("nothing was counted in the segment") -= 1;
        while self.older.front().is_some_and(|(_, count)| *count == 0) {
            self.older.pop_front();
        }
    }

    fn find(&self, segment: u32) -> Result<usize, usize> {
        self.older.binary_search_by_key(&segment, |(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn roots_count_what_a_map_counts(
            ops in prop::collection::vec((any::<bool>(), 0..4_u32, 0..12_u32), 1..400),
        ) {
            let (mut roots, mut model) = (Roots::new(), BTreeMap::<u32, u64>::new());
            let mut newest = 0;
            for (adds, ahead, segment) in ops {
                let count = model.get(&segment).copied().unwrap_or(0);
                if adds {
                    newest += u32::from(ahead == 0);
                    // Mostly the newest, sometimes any.
                    let segment = if ahead < 3 { newest } else { segment };
                    roots.add(segment);
                    *model.entry(segment).or_default() += 1;
                } else if count > 0 {
                    roots.remove(segment);
                    model.insert(segment, count - 1);
                }
                for segment in 0..newest + 12 {
                    let is_in = model.get(&segment).is_some_and(|count| *count > 0);
                    prop_assert_eq!(roots.is_in(segment), is_in);
                }
                let used = model.values().filter(|count| **count > 0).count();
                prop_assert!(used > 0 || roots.older.is_empty());
            }
        }
    }

    #[test]
    fn the_segments_behind_the_oldest_that_is_needed_are_forgotten() {
        let mut roots = Roots::new();
        for segment in 1..=1000 {
            roots.add(segment);
            roots.add(segment);
            if segment > 2 {
                roots.remove(segment - 2);
                roots.remove(segment - 2);
            }
            assert!(roots.older.len() <= 2);
        }
    }

    #[test]
    #[should_panic(expected = "nothing was counted in the segment")]
    fn removing_what_was_not_counted_is_a_broken_invariant() {
        let mut roots = Roots::new();
        roots.add(7);
        roots.remove(7);
        roots.remove(7);
    }
}
