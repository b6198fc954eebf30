//! What the measured part of a run took.

use std::time::{Duration, Instant};

use omnirelay_loadgen::cpu::own_time;

use super::Server;
use crate::report::Figure;

/// Runs while something is measured.
pub(super) struct Meter {
    server: Option<Server>,
    start: Instant,
    client_before: Duration,
    server_before: Option<Duration>,
}

/// What was measured.
pub(super) struct Measured {
    pub(super) elapsed: Duration,
    client_cpu: Duration,
    server_cpu: Option<Duration>,
}

/// Names of what was done so often.
pub(super) struct CpuKeys {
    pub(super) client: (&'static str, &'static str),
    pub(super) server: (&'static str, &'static str),
}

/// For lease cycles.
pub(super) const CYCLES: CpuKeys = CpuKeys {
    client: ("client_cpu_s_per_m_cycles", "client CPU s / million cycles"),
    server: ("server_cpu_s_per_m_cycles", "server CPU s / million cycles"),
};

/// For calls.
pub(super) const CALLS: CpuKeys = CpuKeys {
    client: ("client_cpu_s_per_m_calls", "client CPU s / million calls"),
    server: ("server_cpu_s_per_m_calls", "server CPU s / million calls"),
};

/// For items.
pub(super) const ITEMS: CpuKeys = CpuKeys {
    client: ("client_cpu_s_per_m_items", "client CPU s / million items"),
    server: ("server_cpu_s_per_m_items", "server CPU s / million items"),
};

impl Meter {
    pub(super) fn start(server: Option<Server>) -> Self {
        Self {
            server,
            client_before: own_time(),
            server_before: server.and_then(|server| server.clock.time()),
            start: Instant::now(),
        }
    }

    pub(super) fn stop(&self) -> Measured {
        let server_after = self.server.and_then(|server| server.clock.time());
        Measured {
            elapsed: self.start.elapsed(),
            client_cpu: own_time().saturating_sub(self.client_before),
            server_cpu: server_after
                .zip(self.server_before)
                .map(|(after, before)| after.saturating_sub(before)),
        }
    }
}

impl Measured {
    pub(super) fn per_s(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64()
    }

    /// The CPU that a million of something took on either side.
    pub(super) fn cpu(&self, count: u64, keys: &CpuKeys) -> Vec<Figure> {
        let figure = |(key, label), time| Figure::real(key, label, per_million(time, count), 2);
        let mut figures = vec![figure(keys.client, self.client_cpu)];
        figures.extend(self.server_cpu.map(|time| figure(keys.server, time)));
        figures
    }
}

/// Seconds to a million; 0 where there were none.
fn per_million(time: Duration, count: u64) -> f64 {
    match count {
        0 => 0.0,
        count => time.as_secs_f64() * 1e6 / count as f64,
    }
}
