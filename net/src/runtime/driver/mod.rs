//! What a core asks of the runtime below it: to run the core's loop, to wait for descriptors, to
//! carry TCP, and to wake it in time.
//!
//! Which one a core is on is chosen when it starts. In a build with one of them there is nothing to
//! choose between, and the enums here are what they hold.

#[cfg(feature = "glommio")]
mod glommio;
mod monoio;

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::rt::{Read, ReadBufCursor, Write};

use super::executor::with_this_core;

#[cfg(feature = "glommio")]
pub(super) use self::glommio::GlommioDriver;
pub(super) use self::monoio::{EpollDriver, IoUringDriver};

/// How a core talks to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DriverKind {
    /// io_uring.
    IoUring,
    /// epoll, where io_uring is missing or forbidden.
    Epoll,
    /// io_uring by way of glommio.
    #[cfg(feature = "glommio")]
    Glommio,
}

impl DriverKind {
    /// Its name in configuration, logs and reports.
    pub fn name(self) -> &'static str {
        match self {
            DriverKind::IoUring => "io_uring",
            DriverKind::Epoll => "epoll",
            #[cfg(feature = "glommio")]
            DriverKind::Glommio => "glommio",
        }
    }
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which driver a core should use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DriverChoice {
    /// io_uring where the kernel allows it, else epoll.
    #[default]
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// epoll.
    Epoll,
    /// glommio, or an error.
    #[cfg(feature = "glommio")]
    Glommio,
}

impl DriverChoice {
    /// Each driver that this build has and the kernel allows to this process.
    pub fn available() -> Vec<DriverChoice> {
        let mut choices = vec![DriverChoice::Epoll];
        if io_uring_available() {
            choices.push(DriverChoice::IoUring);
            #[cfg(feature = "glommio")]
            choices.push(DriverChoice::Glommio);
        }
        choices
    }
}

/// True if the kernel offers io_uring to this process with every operation the driver uses.
pub fn io_uring_available() -> bool {
    ::monoio::utils::detect_uring()
}

fn require_io_uring() -> io::Result<()> {
    if io_uring_available() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this kernel does not offer io_uring to this process",
    ))
}

/// A runtime that a core's loop runs on.
pub(super) trait Driver: Sized {
    const KIND: DriverKind;

    /// Makes one for this thread. [`io::ErrorKind::Unsupported`] if the kernel has not what it needs.
    fn build() -> io::Result<Self>;

    /// Runs `future` to its end, on this thread. What it opens must be gone before the driver is.
    fn block_on<F: Future>(&mut self, future: F) -> F::Output;
}

/// A descriptor that the driver watches.
pub(super) enum Watch {
    Monoio(monoio::Watch),
    #[cfg(feature = "glommio")]
    Glommio(glommio::Watch),
}

impl Watch {
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        match with_this_core(|core| core.driver()) {
            DriverKind::IoUring | DriverKind::Epoll => {
                monoio::Watch::new(descriptor).map(Watch::Monoio)
            }
            #[cfg(feature = "glommio")]
            DriverKind::Glommio => glommio::Watch::new(descriptor).map(Watch::Glommio),
        }
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        match self {
            Watch::Monoio(watch) => watch.readable().await,
            #[cfg(feature = "glommio")]
            Watch::Glommio(watch) => watch.readable().await,
        }
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        match self {
            Watch::Monoio(watch) => watch.writable().await,
            #[cfg(feature = "glommio")]
            Watch::Glommio(watch) => watch.writable().await,
        }
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Watch::Monoio(watch) => watch.descriptor(),
            #[cfg(feature = "glommio")]
            Watch::Glommio(watch) => watch.descriptor(),
        }
    }
}

/// A connected TCP socket that the driver reads and writes.
#[derive(Debug)]
pub(super) enum Stream {
    Monoio(monoio::Stream),
    #[cfg(feature = "glommio")]
    Glommio(glommio::Stream),
}

impl Stream {
    /// Takes over a connected socket that does not block.
    pub(super) fn new(stream: std::net::TcpStream) -> io::Result<Self> {
        match with_this_core(|core| core.driver()) {
            DriverKind::IoUring | DriverKind::Epoll => monoio::stream(stream).map(Stream::Monoio),
            #[cfg(feature = "glommio")]
            DriverKind::Glommio => Ok(Stream::Glommio(glommio::Stream::new(stream))),
        }
    }
}

/// Calls a method of hyper's traits on the stream there is.
macro_rules! on_stream {
    ($stream:expr, $io:ident => $call:expr) => {
        match $stream {
            Stream::Monoio($io) => $call,
            #[cfg(feature = "glommio")]
            Stream::Glommio($io) => $call,
        }
    };
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        on_stream!(self.get_mut(), io => Pin::new(io).poll_read(cx, buf))
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_stream!(self.get_mut(), io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self.get_mut(), io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_stream!(self.get_mut(), io => Pin::new(io).poll_shutdown(cx))
    }

    fn is_write_vectored(&self) -> bool {
        on_stream!(self, io => io.is_write_vectored())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_stream!(self.get_mut(), io => Pin::new(io).poll_write_vectored(cx, bufs))
    }
}

/// Wakes a core that sleeps in its driver.
pub(super) enum Alarm {
    Monoio(monoio::Alarm),
    #[cfg(feature = "glommio")]
    Glommio(glommio::Alarm),
}

impl Alarm {
    pub(super) fn new(kind: DriverKind, at: Instant) -> Self {
        match kind {
            DriverKind::IoUring | DriverKind::Epoll => Alarm::Monoio(monoio::alarm(at)),
            #[cfg(feature = "glommio")]
            DriverKind::Glommio => Alarm::Glommio(glommio::alarm(at)),
        }
    }

    pub(super) fn reset(&mut self, at: Instant) {
        match self {
            Alarm::Monoio(alarm) => alarm.as_mut().reset(at.into()),
            #[cfg(feature = "glommio")]
            Alarm::Glommio(alarm) => alarm.reset(at.saturating_duration_since(Instant::now())),
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Alarm::Monoio(alarm) => alarm.as_mut().poll(cx),
            #[cfg(feature = "glommio")]
            Alarm::Glommio(alarm) => Pin::new(alarm).poll(cx).map(drop),
        }
    }
}
