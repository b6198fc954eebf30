//! CPU time of this process and of the server, and pinning.

#![allow(unsafe_code, reason = "system calls; each block says why it is sound")]

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

/// The highest process id of Linux, 2^22.
const PID_MAX: i32 = 1 << 22;

/// Pins this thread, and the threads and processes that it starts from now on, to some CPUs.
///
/// # Errors
/// If there are none such.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let end = usize::try_from(libc::CPU_SETSIZE).expect("a small constant");
    if cpus.iter().any(|&cpu| cpu >= end) {
        return Err(io::Error::other("there is no such CPU"));
    }
    // SAFETY: a cpu_set_t is plain bits, for which zero is valid; each CPU is within its size.
    let result = unsafe {
        let mut set: libc::cpu_set_t = MaybeUninit::zeroed().assume_init();
        cpus.iter().for_each(|&cpu| libc::CPU_SET(cpu, &mut set));
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The CPU time of this process, user and system.
pub fn own_time() -> Duration {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage writes a whole rusage, and fails only for an unknown `who`.
    let usage = unsafe {
        let result = libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        assert_eq!(result, 0, "getrusage of oneself cannot fail");
        usage.assume_init()
    };
    [usage.ru_utime, usage.ru_stime]
        .into_iter()
        .map(|time| {
            let seconds = u64::try_from(time.tv_sec).expect("CPU time is not negative");
            let micros = u64::try_from(time.tv_usec).expect("CPU time is not negative");
            Duration::from_secs(seconds) + Duration::from_micros(micros)
        })
        .sum()
}

/// The clock of another process's CPU time.
#[derive(Debug, Clone, Copy)]
pub struct ProcessClock(libc::clockid_t);

impl ProcessClock {
    /// The clock of process `pid`.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of(pid: i32) -> io::Result<Self> {
        // Beyond these the clock's number would be that of something else.
        if !(1..=PID_MAX).contains(&pid) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let mut clock: libc::clockid_t = 0;
        // SAFETY: the call writes one clockid_t, which `clock` is.
        match unsafe { libc::clock_getcpuclockid(pid, &mut clock) } {
            0 => Ok(Self(clock)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// The CPU time so far; `None` once the process is gone.
    pub fn time(self) -> Option<Duration> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the call writes one timespec, which `time` is.
        if unsafe { libc::clock_gettime(self.0, &mut time) } != 0 {
            return None;
        }
        let seconds = u64::try_from(time.tv_sec).ok()?;
        let nanos = u64::try_from(time.tv_nsec).ok()?;
        Some(Duration::from_secs(seconds) + Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_clock_reads_like_the_own_usage() {
        let clock = ProcessClock::of(std::process::id().cast_signed()).unwrap();
        let before = own_time();
        let between = clock.time().unwrap();
        let difference = between.abs_diff(before);
        assert!(difference < Duration::from_millis(500), "{difference:?}");
    }

    #[test]
    fn there_is_no_clock_of_no_process() {
        assert!(ProcessClock::of(i32::MAX).is_err());
        assert!(ProcessClock::of(0).is_err());
    }
}
