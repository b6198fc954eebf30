//! TCP on a core.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};

use super::driver::Stream;
use super::executor::{driver_turn, wake_next_turn};
use super::readiness::Readiness;

/// Reads of one stream between two driver polls.
///
/// A protocol's connection task reads until there is nothing more. A peer that
/// always has more must not keep it there.
pub const READS_PER_TURN_MAX: u32 = 16;

/// Accepts connections on a core.
#[derive(Debug)]
pub struct TcpListener {
    listener: std::net::TcpListener,
    readiness: Readiness,
}

impl TcpListener {
    /// Takes over a listening socket.
    ///
    /// # Errors
    ///
    /// The driver is out of resources.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let readiness = Readiness::new(OwnedFd::from(listener.try_clone()?))?;
        Ok(Self {
            listener,
            readiness,
        })
    }

    /// The address listened on.
    ///
    /// # Errors
    ///
    /// As the kernel's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Waits for a connection. Dropping the future loses none.
    ///
    /// # Errors
    ///
    /// The kernel's: the connection ended before it was accepted, or the process
    /// is out of descriptors or memory. The listener goes on.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, peer) = self.accept_socket().await?;
        TcpStream::connected(stream, peer)
    }

    /// As [`TcpListener::accept`], before the core takes the connection over.
    ///
    /// # Errors
    ///
    /// As [`TcpListener::accept`].
    pub async fn accept_socket(&self) -> io::Result<(std::net::TcpStream, SocketAddr)> {
        loop {
            match self.listener.accept() {
                Ok(connection) => return Ok(connection),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readiness.readable().await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A TCP connection on a core, for hyper.
///
/// Reads at most [`READS_PER_TURN_MAX`] times between two driver polls.
#[derive(Debug)]
pub struct TcpStream {
    io: Stream,
    peer: SocketAddr,
    /// The turn that `reads` counts.
    turn: u64,
    reads: u32,
}

impl TcpStream {
    /// Takes over a connected socket. Turns on `TCP_NODELAY`.
    ///
    /// # Errors
    ///
    /// The socket is not connected, or the driver is out of resources.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        let peer = stream.peer_addr()?;
        Self::connected(stream, peer)
    }

    fn connected(stream: std::net::TcpStream, peer: SocketAddr) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            io: Stream::new(stream)?,
            peer,
            turn: 0,
            reads: 0,
        })
    }

    /// The other end's address.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Counts a read; false if this turn's are used up.
    fn may_read(&mut self) -> bool {
        let turn = driver_turn();
        if self.turn != turn {
            self.turn = turn;
            self.reads = 0;
        }
        self.reads += 1;
        self.reads <= READS_PER_TURN_MAX
    }
}

impl Read for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.may_read() {
            wake_next_turn(cx.waker());
            return Poll::Pending;
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl Write for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }
}
