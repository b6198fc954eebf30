//! What a run measured, and what several come to.

use std::time::{Duration, Instant};

use omnirelay_loadgen::{Latencies, cpu};
use serde::Serialize;

use super::cpu_time;

/// A client that takes more of its CPU than this may be what holds the rate down.
pub(crate) const CLIENT_SHARE_MAX: f64 = 0.9;

/// Runs while cycles are measured.
#[derive(Debug)]
pub(crate) struct Meter {
    server: u32,
    began: Instant,
    cycles: u64,
    client_cpu: Duration,
    server_cpu: Duration,
}

/// What it found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    pub(crate) cycles: u64,
    pub(crate) server_cpu_s: f64,
    pub(crate) client_cpu_s: f64,
}

/// One run of one side.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) measured: Measured,
    pub(crate) latencies: Latencies,
}

impl Meter {
    /// From now on, with so many cycles done before.
    pub(crate) fn start(server: u32, cycles: u64) -> Self {
        Self {
            server,
            server_cpu: cpu_time::of_tree(server),
            client_cpu: cpu::own_time(),
            cycles,
            began: Instant::now(),
        }
    }

    /// Until now, with so many done altogether.
    pub(crate) fn stop(&self, cycles: u64) -> Measured {
        let seconds = self.began.elapsed().as_secs_f64();
        let client_cpu = cpu::own_time().saturating_sub(self.client_cpu);
        let server_cpu = cpu_time::of_tree(self.server).saturating_sub(self.server_cpu);
        Measured {
            seconds,
            cycles: cycles - self.cycles,
            server_cpu_s: server_cpu.as_secs_f64(),
            client_cpu_s: client_cpu.as_secs_f64(),
        }
    }
}

impl Measured {
    pub(crate) fn with(self, latencies: Latencies) -> Figures {
        Figures {
            measured: self,
            latencies,
        }
    }

    pub(crate) fn cycles_per_s(&self) -> f64 {
        self.cycles as f64 / self.seconds
    }

    /// Server CPU seconds to a million cycles.
    pub(crate) fn server_cost(&self) -> f64 {
        self.server_cpu_s * 1e6 / self.cycles as f64
    }

    /// Client CPU seconds to a million cycles.
    pub(crate) fn client_cost(&self) -> f64 {
        self.client_cpu_s * 1e6 / self.cycles as f64
    }

    /// How much of its CPU the client took.
    pub(crate) fn client_share(&self) -> f64 {
        self.client_cpu_s / self.seconds
    }
}

/// Several runs' figure: the one in the middle, and the range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` of nothing. The median of an even number is between the two in the middle. What a
    /// run without a cycle would be divided by does not count.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values = values.into_iter();
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = values[values.len() / 2];
        let lower = values[(values.len() - 1) / 2];
        Some(Self {
            median: f64::midpoint(lower, upper),
            min,
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle_whatever_the_order() {
        let spread = Spread::of([5.0, 1.0, 9.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (5.0, 1.0, 9.0));
        assert_eq!(Spread::of([1.0, 2.0, 4.0, 9.0]).unwrap().median, 3.0);
        assert_eq!(Spread::of([2.0]).unwrap().max, 2.0);
        assert_eq!(Spread::of([]), None);
        assert_eq!(
            Spread::of([f64::NAN, f64::INFINITY, 3.0]),
            Spread::of([3.0])
        );
    }

    #[test]
    fn costs_are_to_a_million_cycles() {
        let measured = Measured {
            seconds: 2.0,
            cycles: 500_000,
            server_cpu_s: 1.5,
            client_cpu_s: 1.9,
        };
        assert_eq!(measured.cycles_per_s(), 250_000.0);
        assert_eq!(measured.server_cost(), 3.0);
        assert_eq!(measured.client_cost(), 3.8);
        assert!(measured.client_share() > CLIENT_SHARE_MAX);
    }
}
