//! The open loop's clock: when each call is meant to begin.

#![allow(
    unsafe_code,
    reason = "timerfd has no face in std; each block says why it is sound"
)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Lets calls go at their times: gives `permits` one for each call that is due, until it is
/// closed. A timerfd, because tokio's own timers are a millisecond coarse and latencies here are
/// a tenth of that.
///
/// # Errors
/// If this machine has no such timer.
pub async fn pace(permits: &Semaphore, start: Instant, period: Duration) -> io::Result<()> {
    // SAFETY: a Timer owns its one descriptor and never gives it up before it is dropped.
    let timer = unsafe { AsyncFd::register_with_interest(Timer::new()?, Interest::READABLE)? };
    let mut released: u64 = 0;
    while !permits.is_closed() {
        let due = due(start.elapsed(), period);
        let newly = usize::try_from(due - released).unwrap_or(Semaphore::MAX_PERMITS);
        // More than the semaphore holds is beyond what any run catches up with.
        let room = Semaphore::MAX_PERMITS - permits.available_permits();
        permits.add_permits(newly.min(room));
        released = due;
        let next = intended(start, period, released);
        timer
            .get_ref()
            .set(next.saturating_duration_since(Instant::now()))?;
        let mut ready = timer.readable().await?;
        timer.get_ref().clear();
        ready.clear_ready();
    }
    Ok(())
}

/// When call number `call` is meant to begin.
pub fn intended(start: Instant, period: Duration, call: u64) -> Instant {
    start + Duration::from_nanos(nanos(period).saturating_mul(call))
}

/// How many calls are meant to have begun after `elapsed`: the first begins at once.
fn due(elapsed: Duration, period: Duration) -> u64 {
    nanos(elapsed) / nanos(period) + 1
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos())
        .unwrap_or(u64::MAX)
        .max(1)
}

/// A timer that makes a file descriptor readable.
struct Timer(OwnedFd);

impl Timer {
    fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers; a descriptor it returns is new and nobody else's.
        unsafe {
            let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
            match libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Self(OwnedFd::from_raw_fd(fd))),
            }
        }
    }

    /// Becomes readable once, `after` from now; none at all is as soon as possible.
    fn set(&self, after: Duration) -> io::Result<()> {
        let after = after.max(Duration::from_nanos(1));
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: after.subsec_nanos().into(),
        };
        let interval = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let spec = libc::itimerspec {
            it_interval: interval,
            it_value: value,
        };
        // SAFETY: `spec` outlives the call, the old value is not asked for.
        match unsafe { libc::timerfd_settime(self.0.as_raw_fd(), 0, &spec, std::ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Takes the expiry, so that the descriptor is not readable any more.
    fn clear(&self) {
        let mut expiries = 0_u64;
        // SAFETY: the buffer is the 8 bytes a timerfd gives. That it may have none is fine.
        let _ = unsafe {
            libc::read(
                self.0.as_raw_fd(),
                (&raw mut expiries).cast(),
                size_of::<u64>(),
            )
        };
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_due_at_their_intended_times() {
        let period = Duration::from_micros(50);
        let start = Instant::now();
        assert_eq!(due(Duration::ZERO, period), 1);
        assert_eq!(due(Duration::from_micros(49), period), 1);
        assert_eq!(due(Duration::from_micros(50), period), 2);
        assert_eq!(intended(start, period, 1) - start, period);
        assert_eq!(due(Duration::from_secs(1), period), 20_001);
    }
}
