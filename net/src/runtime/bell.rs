//! A core's bell: an eventfd that ends the core's driver poll.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};

use super::sleep_flag::SleepFlag;

/// Ends a core's driver poll, from any thread.
#[derive(Debug)]
pub(crate) struct Bell {
    eventfd: File,
    sleep: SleepFlag,
}

impl Bell {
    /// Opens the bell. Fails if the process is out of file descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            eventfd: File::from(fd),
            sleep: SleepFlag::new(),
        })
    }

    /// Another descriptor of the same bell, to wait on.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(OwnedFd::from(self.eventfd.try_clone()?))
    }

    pub(crate) fn sleep(&self) -> &SleepFlag {
        &self.sleep
    }

    /// Ends the core's current driver poll, or its next one.
    pub(crate) fn ring(&self) {
        // The only failure is a full counter, and then the bell rings already.
        let _ = (&self.eventfd).write(&1_u64.to_ne_bytes());
    }

    /// Rings if the core sleeps. Call after raising what it should look at.
    pub(crate) fn ring_if_asleep(&self) {
        if self.sleep.must_ring() {
            self.ring();
        }
    }

    /// Stops the ringing.
    pub(crate) fn silence(&self) {
        let mut count = [0; 8];
        // Fails only if the bell does not ring.
        let _ = (&self.eventfd).read(&mut count);
    }
}
