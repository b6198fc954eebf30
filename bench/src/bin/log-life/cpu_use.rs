//! How much of the server's CPUs others used.

use std::time::Duration;

use anyhow::{Context, anyhow};
use omnirelay_loadgen::cpu::ProcessClock;
use tokio::time::Instant;

use bench::server::Server;

/// The kernel counts CPU time in hundredths of a second, whatever its own tick is.
const TICK: Duration = Duration::from_millis(10);
/// In `/proc/stat`, behind a CPU's name: the times that are not spent busily.
const IDLE_FIELDS: [usize; 2] = [3, 4];
/// What follows is counted in others before it.
const FIELDS: usize = 8;

/// CPU use from a moment on.
#[derive(Debug)]
pub(crate) struct CpuUse {
    server: ProcessClock,
    cpus: Vec<usize>,
    since: Instant,
    busy: Duration,
    used: Duration,
}

impl CpuUse {
    pub(crate) fn from_now(server: &Server, cpus: Vec<usize>) -> anyhow::Result<Self> {
        let pid = i32::try_from(server.pid())?;
        let server = ProcessClock::of(pid).context("the server's CPU time")?;
        Ok(Self {
            server,
            since: Instant::now(),
            busy: busy(&cpus)?,
            used: server.time().context("the server is gone")?,
            cpus,
        })
    }

    /// The share of the CPUs that was used by anything but the server.
    pub(crate) fn others_share(&self) -> anyhow::Result<f64> {
        let there = self.since.elapsed() * u32::try_from(self.cpus.len())?;
        let busy = busy(&self.cpus)?.saturating_sub(self.busy);
        let used = self.server.time().context("the server is gone")? - self.used;
        Ok(busy.saturating_sub(used).as_secs_f64() / there.as_secs_f64())
    }
}

/// How long CPUs were busy since the machine started.
fn busy(cpus: &[usize]) -> anyhow::Result<Duration> {
    let told = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
    cpus.iter()
        .map(|cpu| {
            let name = format!("cpu{cpu} ");
            let line = told.lines().find_map(|line| line.strip_prefix(&name));
            let line = line.ok_or_else(|| anyhow!("/proc/stat has no CPU {cpu}"))?;
            let fields = line.split_ascii_whitespace().take(FIELDS).enumerate();
            let ticks: u32 = fields
                .filter(|(at, _)| !IDLE_FIELDS.contains(at))
                .filter_map(|(_, ticks)| ticks.parse::<u32>().ok())
                .sum();
            Ok(TICK * ticks)
        })
        .sum()
}
