//! Waiting until a file descriptor can be read or written.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A descriptor that the core's driver watches: a socket, an eventfd, a pipe.
///
/// Belongs to the core it was made on. Closes its descriptor when dropped; to
/// keep using a socket that is watched, give this a duplicate.
pub struct Readiness {
    /// monoio offers readiness of a bare descriptor only through this type; no
    /// datagram is ever sent or received through it.
    watched: monoio::net::udp::UdpSocket,
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
        let carrier = UdpSocket::from(descriptor.into());
        let watched = monoio::net::udp::UdpSocket::from_std(carrier)?;
        Ok(Self { watched })
    }

    /// Waits until reading would not block: data, end of stream, or an error to collect.
    ///
    /// # Errors
    ///
    /// The driver could not wait.
    pub async fn readable(&self) -> io::Result<()> {
        self.watched.readable(false).await
    }

    /// Waits until writing would not block: room, or an error to collect.
    ///
    /// # Errors
    ///
    /// The driver could not wait.
    pub async fn writable(&self) -> io::Result<()> {
        self.watched.writable(false).await
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor stays open as long as `watched`, which the
        // returned borrow keeps alive.
        unsafe { BorrowedFd::borrow_raw(self.watched.as_raw_fd()) }
    }
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Readiness").field(&self.as_fd()).finish()
    }
}
