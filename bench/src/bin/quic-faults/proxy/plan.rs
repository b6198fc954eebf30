//! What becomes of each datagram. Time and randomness come in, decisions go out.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// How a network is. The default one is perfect.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Path {
    /// The share of datagrams that are lost.
    pub(crate) loss: f64,
    /// The share that arrive twice, the second time up to [`COPY_AFTER_MAX`] later.
    pub(crate) duplication: f64,
    /// The share that are held back for up to `held_back`, so that others overtake them.
    pub(crate) reordering: f64,
    /// See `reordering`.
    pub(crate) held_back: Duration,
    /// What every datagram takes, in each direction.
    pub(crate) delay: Duration,
    /// How often the client appears to have another address.
    pub(crate) rebind_every: Option<Duration>,
    /// When nothing gets through.
    pub(crate) blackhole: Option<Blackhole>,
    /// The longest datagram that gets through.
    pub(crate) bytes_max: Option<usize>,
}

/// Times in which nothing gets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blackhole {
    /// When the first one begins.
    pub(crate) first: Duration,
    /// How long each is.
    pub(crate) length: Duration,
    /// From one beginning to the next; there is only one without it.
    pub(crate) every: Option<Duration>,
}

/// The longest time between a datagram and its copy.
pub(crate) const COPY_AFTER_MAX: Duration = Duration::from_millis(20);

/// What becomes of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    /// It arrives after so long, and perhaps once more.
    Arrives {
        after: Duration,
        again_after: Option<Duration>,
    },
}

/// Decides for one direction of one network.
#[derive(Debug)]
pub(crate) struct Plan {
    path: Path,
    random: SmallRng,
}

impl Plan {
    pub(crate) fn new(path: Path, seed: u64) -> Plan {
        let random = SmallRng::seed_from_u64(seed);
        Plan { path, random }
    }

    /// Decides about a datagram of so many bytes, `now` after the network came up.
    pub(crate) fn decide(&mut self, now: Duration, bytes: usize) -> Fate {
        let path = &self.path;
        // Each datagram takes as many random numbers, so that one decision does not shift others.
        let [lost, doubled, late]: [f64; 3] = self.random.random();
        let [late_by, copy_after]: [f64; 2] = self.random.random();
        let is_dark = path.blackhole.is_some_and(|hole| hole.covers(now));
        if is_dark || lost < path.loss || path.bytes_max.is_some_and(|max| bytes > max) {
            return Fate::Lost;
        }
        let mut after = path.delay;
        if late < path.reordering {
            after += path.held_back.mul_f64(late_by);
        }
        let is_doubled = doubled < path.duplication;
        Fate::Arrives {
            after,
            again_after: is_doubled.then(|| after + COPY_AFTER_MAX.mul_f64(copy_after)),
        }
    }
}

impl Path {
    /// Which of the client's addresses is in use by now.
    pub(crate) fn binding(&self, now: Duration) -> u128 {
        match self.rebind_every {
            Some(every) => now.as_nanos() / every.as_nanos().max(1),
            None => 0,
        }
    }
}

impl Blackhole {
    fn covers(self, now: Duration) -> bool {
        let Some(since) = now.checked_sub(self.first) else {
            return false;
        };
        let into = match self.every {
            Some(every) => since.as_nanos() % every.as_nanos().max(1),
            None => since.as_nanos(),
        };
        into < self.length.as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn fates(path: Path, seed: u64) -> Vec<Fate> {
        let mut plan = Plan::new(path, seed);
        (0..10_000).map(|n| plan.decide(MS * n, 1_200)).collect()
    }

    #[test]
    fn the_same_seed_decides_the_same() {
        let path = Path {
            loss: 0.1,
            duplication: 0.05,
            reordering: 0.2,
            held_back: MS * 20,
            ..Path::default()
        };
        assert_eq!(fates(path, 7), fates(path, 7));
        assert_ne!(fates(path, 7), fates(path, 8));
    }

    #[test]
    fn shares_are_what_they_are_said_to_be() {
        let path = Path {
            loss: 0.1,
            duplication: 0.05,
            reordering: 0.2,
            held_back: MS * 20,
            delay: MS * 50,
            ..Path::default()
        };
        let (mut lost, mut doubled, mut late) = (0, 0, 0);
        for fate in fates(path, 1) {
            match fate {
                Fate::Lost => lost += 1,
                Fate::Arrives { after, again_after } => {
                    assert!((MS * 50..=MS * 70).contains(&after));
                    late += u32::from(after > MS * 50);
                    let again = again_after.inspect(|again| {
                        assert!((after..=after + COPY_AFTER_MAX).contains(again));
                    });
                    doubled += u32::from(again.is_some());
                }
            }
        }
        assert!((900..1_100).contains(&lost), "{lost}");
        assert!((380..520).contains(&doubled), "{doubled}");
        assert!((1_650..1_950).contains(&late), "{late}");
    }

    #[test]
    fn a_perfect_path_changes_nothing() {
        let through = Fate::Arrives {
            after: Duration::ZERO,
            again_after: None,
        };
        assert!(fates(Path::default(), 1).iter().all(|f| *f == through));
    }

    #[test]
    fn nothing_gets_through_a_blackhole_or_beyond_the_longest() {
        let mut path = Path {
            blackhole: Some(Blackhole {
                first: MS * 100,
                length: MS * 10,
                every: None,
            }),
            bytes_max: Some(1_199),
            ..Path::default()
        };
        let mut plan = Plan::new(path, 1);
        let mut gets_through = |ms, bytes| plan.decide(MS * ms, bytes) != Fate::Lost;
        assert!(gets_through(99, 1_199) && gets_through(110, 1));
        assert!(!gets_through(100, 1) && !gets_through(109, 1));
        assert!(!gets_through(0, 1_200));
        assert!(gets_through(1_000, 1));
        path.blackhole.as_mut().unwrap().every = Some(MS * 50);
        let mut plan = Plan::new(path, 1);
        assert_eq!(plan.decide(MS * 155, 1), Fate::Lost);
        assert_ne!(plan.decide(MS * 161, 1), Fate::Lost);
    }

    #[test]
    fn addresses_change_on_time() {
        let path = Path {
            rebind_every: Some(MS * 1_000),
            ..Path::default()
        };
        assert_eq!(
            [0, 999, 1_000, 5_500].map(|ms| path.binding(MS * ms)),
            [0, 0, 1, 5]
        );
        assert_eq!(Path::default().binding(MS * 5_000), 0);
    }
}
