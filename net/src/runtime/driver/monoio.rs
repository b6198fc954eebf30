//! monoio below a core: io_uring or epoll.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::time::Instant;

use monoio::net::tcp::stream_poll::TcpStreamPoll;
use monoio::time::{Sleep, TimeDriver};
use monoio::{LegacyDriver, Runtime, RuntimeBuilder};
use monoio_compat::hyper::MonoioIo;

use super::{Driver, DriverKind, require_io_uring};

pub(in crate::runtime) type IoUringDriver = Runtime<TimeDriver<monoio::IoUringDriver>>;
pub(in crate::runtime) type EpollDriver = Runtime<TimeDriver<LegacyDriver>>;

impl Driver for IoUringDriver {
    const KIND: DriverKind = DriverKind::IoUring;

    fn build() -> io::Result<Self> {
        require_io_uring()?;
        RuntimeBuilder::<monoio::IoUringDriver>::new()
            .enable_timer()
            .build()
    }

    fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        Runtime::block_on(self, future)
    }
}

impl Driver for EpollDriver {
    const KIND: DriverKind = DriverKind::Epoll;

    fn build() -> io::Result<Self> {
        RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()
    }

    fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        Runtime::block_on(self, future)
    }
}

pub(in crate::runtime) struct Watch {
    /// monoio offers readiness of a bare descriptor only through this type; no
    /// datagram is ever sent or received through it.
    carrier: monoio::net::udp::UdpSocket,
}

impl Watch {
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let carrier = UdpSocket::from(descriptor);
        let carrier = monoio::net::udp::UdpSocket::from_std(carrier)?;
        Ok(Self { carrier })
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        self.carrier.readable(false).await
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        self.carrier.writable(false).await
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor stays open as long as `carrier`, which the
        // returned borrow keeps alive.
        unsafe { BorrowedFd::borrow_raw(self.carrier.as_raw_fd()) }
    }
}

pub(in crate::runtime) type Stream = MonoioIo<TcpStreamPoll>;

pub(super) fn stream(stream: std::net::TcpStream) -> io::Result<Stream> {
    let stream = monoio::net::TcpStream::from_std(stream)?;
    let stream = stream.try_into_poll_io().map_err(|(error, _)| error)?;
    Ok(MonoioIo::new(stream))
}

pub(in crate::runtime) type Alarm = Pin<Box<Sleep>>;

pub(super) fn alarm(at: Instant) -> Alarm {
    Box::pin(monoio::time::sleep_until(at.into()))
}
