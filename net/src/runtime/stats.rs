//! What a core's loop counts, and what the kernel counts of its thread.

use std::time::Duration;

use super::executor::with_this_core;

/// A turn that lasted this long is counted as long: everything else on the core waited for it.
pub const LONG_TURN: Duration = Duration::from_millis(10);

/// What a core's loop has done since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreStats {
    /// Turns.
    pub turns: u64,
    /// Times that it went to sleep.
    pub sleeps: u64,
    /// Time that it was not asleep, the time it could not run because its CPU was taken included.
    pub awake: Duration,
    /// Of that, time spent looking for work that had not come yet.
    pub spun: Duration,
    /// Turns of [`LONG_TURN`] or more.
    pub long_turns: u64,
    /// Tasks that have not ended.
    pub tasks: usize,
    /// CPU time of its thread.
    pub cpu: Duration,
}

/// What this core has done so far.
///
/// # Panics
///
/// Outside a core.
pub fn core_stats() -> CoreStats {
    with_this_core(|core| CoreStats {
        cpu: thread_cpu(),
        ..core.stats()
    })
}

/// CPU time of this thread.
fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(status, 0, "a thread has a CPU clock");
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// How often the kernel has taken the CPU from this thread for another.
pub(super) fn cpu_taken() -> u64 {
    // SAFETY: an all-zero rusage is a valid one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one rusage.
    let status = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    assert_eq!(status, 0, "a thread has a usage");
    u64::try_from(usage.ru_nivcsw).unwrap_or(0)
}
