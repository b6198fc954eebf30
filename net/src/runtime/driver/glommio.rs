//! glommio below a core: its io_uring, its TCP streams, its timers. Its scheduler has one task, the
//! core's loop.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use glommio::timer::Timer;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use hyper::rt::{Read, ReadBufCursor, Write};

use super::{Driver, DriverKind, require_io_uring};

/// Bytes that glommio sets aside for files' buffers, the least it takes: a core does no file IO.
const IO_MEMORY: usize = 64 << 10;

/// The most bytes one read takes. What hyper offers is not initialised, glommio wants it to be, and
/// clearing more than is likely to come is waste.
const READ_BYTES_MAX: usize = 16 << 10;

pub(in crate::runtime) struct GlommioDriver(LocalExecutor);

impl Driver for GlommioDriver {
    const KIND: DriverKind = DriverKind::Glommio;

    fn build() -> io::Result<Self> {
        // It panics where there is none.
        require_io_uring()?;
        let executor = LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(IO_MEMORY)
            .make()?;
        Ok(Self(executor))
    }

    fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.0.run(future)
    }
}

/// glommio waits only for sockets of its own kinds, and only until they can be read. So what it
/// waits for here is always an epoll instance that has one descriptor in it: that is readable when
/// there is the event that is asked for, and nothing can be taken from it by reading.
pub(in crate::runtime) struct Watch {
    descriptor: OwnedFd,
    readable: OwnedFd,
    writable: OwnedFd,
}

impl Watch {
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            readable: epoll_of(descriptor.as_fd(), libc::EPOLLIN)?,
            writable: epoll_of(descriptor.as_fd(), libc::EPOLLOUT)?,
            descriptor,
        })
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        happens(&self.readable).await
    }

    pub(super) async fn writable(&self) -> io::Result<()> {
        happens(&self.writable).await
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// An epoll instance that is readable while `descriptor` has one of `events`, an error or a hang-up.
fn epoll_of(descriptor: BorrowedFd<'_>, events: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: epoll_create1 takes no pointers.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if epoll < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and nobody else owns it.
    let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
    let mut event = libc::epoll_event {
        events: events.cast_unsigned(),
        u64: 0,
    };
    // SAFETY: both descriptors are open, and the kernel only reads the event.
    let added = unsafe {
        libc::epoll_ctl(
            epoll.as_raw_fd(),
            libc::EPOLL_CTL_ADD,
            descriptor.as_raw_fd(),
            &raw mut event,
        )
    };
    match added {
        0 => Ok(epoll),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until an epoll instance has an event.
///
/// glommio begins to poll a stream's descriptor as soon as it is given one, and says nothing until
/// that poll has ended. Then it tries to receive, which no epoll instance allows; by that time it is
/// known what was asked. It would not poll the same stream again, so each wait has its own.
async fn happens(epoll: &OwnedFd) -> io::Result<()> {
    let mut carrier = carry(epoll.try_clone()?);
    poll_fn(|cx| Pin::new(&mut carrier).poll_read(cx, &mut []).map(drop)).await;
    Ok(())
}

fn carry(descriptor: OwnedFd) -> TcpStream {
    // SAFETY: the stream becomes the descriptor's only owner.
    unsafe { TcpStream::from_raw_fd(descriptor.into_raw_fd()) }
}

/// A TCP stream of glommio's, for hyper.
#[derive(Debug)]
pub(in crate::runtime) struct Stream(TcpStream);

impl Stream {
    pub(super) fn new(stream: std::net::TcpStream) -> Self {
        Self(carry(stream.into()))
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: nothing in the buffer is ever uninitialised again.
        let room = unsafe { buf.as_mut() };
        let length = room.len().min(READ_BYTES_MAX);
        let room = &mut room[..length];
        room.fill(MaybeUninit::new(0));
        // SAFETY: all of it was just written.
        let room = unsafe { &mut *(&raw mut *room as *mut [u8]) };
        Pin::new(&mut self.get_mut().0)
            .poll_read(cx, room)
            .map_ok(|bytes| {
                // SAFETY: so many bytes were read, and all of them are initialised.
                unsafe { buf.advance(bytes) };
            })
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_close(cx)
    }
}

pub(in crate::runtime) type Alarm = Timer;

pub(super) fn alarm(at: Instant) -> Alarm {
    Timer::new(at.saturating_duration_since(Instant::now()))
}
