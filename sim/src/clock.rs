//! The clocks: true time, which only the simulation knows; a wall clock that is set to and fro
//! between a node's lives; and a node's own clock, which within a life only goes forward.

use omnirelay_queue::Nanos;

/// The wall clock at true time zero.
const WALL_START: u64 = 1_700_000_000_000_000_000;

/// A wall clock that somebody may set.
#[derive(Debug, Default)]
pub struct WallClock {
    offset_ns: i64,
}

impl WallClock {
    /// What it shows at a true time.
    pub fn at(&self, true_ns: u64) -> Nanos {
        Nanos((WALL_START + true_ns).saturating_add_signed(self.offset_ns))
    }

    /// Sets it forward or back.
    pub fn jump(&mut self, by_ns: i64) {
        self.offset_ns += by_ns;
    }
}

/// A node's clock in one life, as the product makes it: wall time at the start, but not before
/// the last record's time, then the monotonic clock, which may drift.
#[derive(Debug, Clone, Copy)]
pub struct NodeClock {
    base: Nanos,
    booted_ns: u64,
    drift_ppm: i64,
    stutter_ns: u64,
}

/// Of each stutter, the part at its end in which the clock makes up for its rest.
const LEAP_SHARE: u64 = 5;

const PPM: i128 = 1_000_000;

impl NodeClock {
    /// Starts at wall time, or at `not_before` if that is later.
    pub fn start(wall: Nanos, not_before: Nanos, booted_ns: u64, drift_ppm: i64) -> NodeClock {
        NodeClock {
            base: wall.max(not_before),
            booted_ns,
            drift_ppm,
            stutter_ns: 0,
        }
    }

    /// Stands still for the better part of every `stutter_ns`, then leaps. 0: it does not.
    pub fn with_stutter(self, stutter_ns: u64) -> NodeClock {
        NodeClock { stutter_ns, ..self }
    }

    /// How far it may be behind itself.
    pub fn stutter_ns(&self) -> u64 {
        self.stutter_ns
    }

    /// What of an elapsed time it has noticed.
    fn noticed(&self, elapsed: u64) -> u64 {
        if self.stutter_ns == 0 {
            return elapsed;
        }
        let (begun, within) = (
            elapsed - elapsed % self.stutter_ns,
            elapsed % self.stutter_ns,
        );
        let leap_ns = self.stutter_ns / LEAP_SHARE;
        let leapt = within.saturating_sub(self.stutter_ns - leap_ns);
        begun + leapt * LEAP_SHARE
    }

    /// What it shows at a true time.
    pub fn at(&self, true_ns: u64) -> Nanos {
        let elapsed = i128::from(self.noticed(true_ns - self.booted_ns));
        let shown = elapsed + elapsed * i128::from(self.drift_ppm) / PPM;
        Nanos(self.base.0 + u64::try_from(shown).expect("drift is far below the rate"))
    }

    /// A true time at which it shows at least `node`.
    pub fn true_time(&self, node: Nanos) -> u64 {
        let shown = i128::from(node.0.saturating_sub(self.base.0));
        let elapsed = shown * PPM / (PPM + i128::from(self.drift_ppm)) + 2;
        // It shows no less when it has leapt.
        self.booted_ns
            .saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
            .saturating_add(self.stutter_ns)
    }

    /// What it showed at the start.
    pub fn booted_at(&self) -> Nanos {
        self.base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_never_starts_before_its_last_record() {
        let mut wall = WallClock::default();
        let last = wall.at(5_000);
        wall.jump(-3_600_000_000_000);
        let clock = NodeClock::start(wall.at(6_000), last, 6_000, 300);
        assert_eq!(clock.at(6_000), last);
        assert!(clock.at(7_000) > last);
    }

    #[test]
    fn a_clock_that_stutters_never_goes_back() {
        let clock = NodeClock::start(Nanos(0), Nanos(0), 0, -300).with_stutter(1_000);
        let shown: Vec<Nanos> = (0..10_000).map(|at| clock.at(at)).collect();
        assert!(shown.is_sorted());
        assert!(shown.windows(2).any(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn waiting_for_a_node_time_reaches_it() {
        for (drift, stutter_ns) in [(-500, 0), (0, 0), (500, 0), (300, 700), (-300, 2_000_000)] {
            let clock = NodeClock::start(Nanos(10_000_000_000), Nanos(0), 77, drift);
            let clock = clock.with_stutter(stutter_ns);
            for wait in [0, 1, 999, 1_000_000, 123_456_789_012] {
                let node = Nanos(10_000_000_000 + wait);
                assert!(
                    clock.at(clock.true_time(node)) >= node,
                    "drift {drift}, wait {wait}"
                );
            }
        }
    }
}
