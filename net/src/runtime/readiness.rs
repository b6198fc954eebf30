//! Waiting until a file descriptor can be read or written.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::driver::Watch;

/// A descriptor that the core's driver watches: a socket, an eventfd, a pipe.
///
/// Belongs to the core it was made on. Closes its descriptor when dropped; to
/// keep using a socket that is watched, give this a duplicate.
pub struct Readiness {
    watch: Watch,
}

impl Readiness {
    /// Watches `descriptor`.
    ///
    /// # Errors
    ///
    /// The driver cannot watch it (a regular file), or is out of resources.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub fn new(descriptor: impl Into<OwnedFd>) -> io::Result<Self> {
        let watch = Watch::new(descriptor.into())?;
        Ok(Self { watch })
    }

    /// Waits until reading would not block: data, end of stream, or an error to collect.
    ///
    /// # Errors
    ///
    /// The driver could not wait.
    pub async fn readable(&self) -> io::Result<()> {
        self.watch.readable().await
    }

    /// Waits until writing would not block: room, or an error to collect.
    ///
    /// # Errors
    ///
    /// The driver could not wait.
    pub async fn writable(&self) -> io::Result<()> {
        self.watch.writable().await
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.descriptor()
    }
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Readiness").field(&self.as_fd()).finish()
    }
}
