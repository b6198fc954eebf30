//! TLS over a stream of hyper's kind.

use std::io::{self, BufRead, IoSlice, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use rustls::{ServerConfig, ServerConnection};

/// Plain bytes that are encrypted ahead of what the socket takes.
///
/// On the way in rustls holds no more than a record, as nothing is read from the socket before
/// what was read has been taken.
pub const SEND_BYTES_MAX: usize = 64 * 1024;

/// The server's end of a TLS connection over `S`.
#[derive(Debug)]
pub struct TlsStream<S> {
    socket: S,
    tls: ServerConnection,
    /// The first byte that came.
    first: Option<u8>,
    is_closing: bool,
}

impl<S: Read + Write + Unpin> TlsStream<S> {
    /// Begins a connection; [`TlsStream::poll_handshake`] comes first.
    ///
    /// # Errors
    /// If the configuration cannot be used.
    pub fn new(socket: S, config: Arc<ServerConfig>) -> Result<TlsStream<S>, rustls::Error> {
        let mut tls = ServerConnection::new(config)?;
        tls.set_buffer_limit(Some(SEND_BYTES_MAX));
        Ok(TlsStream {
            socket,
            tls,
            first: None,
            is_closing: false,
        })
    }

    /// Ready when both sides agree, and all that has to be said about it has been sent.
    ///
    /// # Errors
    /// What the client did wrong, after it has been told as far as the socket takes it at once;
    /// [`io::ErrorKind::UnexpectedEof`] if it went away.
    pub fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(cx))?;
            if !self.tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_receive(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The protocol that was agreed on, if any.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tls.alpn_protocol()
    }

    /// The first byte that came, whatever it was: a client that speaks no TLS is told by it.
    pub fn first_byte(&self) -> Option<u8> {
        self.first
    }

    /// What is below.
    pub fn into_socket(self) -> S {
        self.socket
    }

    /// Takes one piece of what has come; 0 if there will be no more.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut source = Blocking {
            socket: &mut self.socket,
            cx,
            first: &mut self.first,
        };
        let bytes = match self.tls.read_tls(&mut source) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            read => read?,
        };
        if let Err(error) = self.tls.process_new_packets() {
            // Says why, if it can be said at once; the error counts, not whether it was heard.
            if self.first == Some(HANDSHAKE) {
                let _ = self.poll_send(cx);
            }
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
        }
        // An answer of TLS's own, as to a change of keys. What the socket does not take now goes
        // before whatever is written next.
        if self.tls.wants_write()
            && let Poll::Ready(Err(error)) = self.poll_send(cx)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes))
    }

    /// Sends all that is encrypted.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            let mut sink = Blocking {
                socket: &mut self.socket,
                cx,
                first: &mut self.first,
            };
            match self.tls.write_tls(&mut sink) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Encrypts what `write` gives and sends what the socket takes of it. Pending only while
    /// [`SEND_BYTES_MAX`] wait for the socket.
    fn poll_encrypt(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&mut rustls::Writer<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let taken = write(&mut self.tls.writer())?;
            let sent = self.poll_send(cx)?;
            if taken > 0 {
                return Poll::Ready(Ok(taken));
            }
            ready!(sent);
        }
    }
}

/// A record's first byte while a connection begins.
const HANDSHAKE: u8 = 22;

impl<S: Read + Write + Unpin> Read for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let mut reader = this.tls.reader();
            match reader.fill_buf() {
                Ok(plain) => {
                    let bytes = plain.len().min(buf.remaining());
                    buf.put_slice(&plain[..bytes]);
                    reader.consume(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The end, unannounced. Many clients just go; a request that is cut short shows
                // by its own framing.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
            ready!(this.poll_receive(cx))?;
        }
    }
}

impl<S: Read + Write + Unpin> Write for TlsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let this = self.get_mut();
        this.poll_encrypt(cx, |writer| writer.write(buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_closing {
            this.is_closing = true;
            this.tls.send_close_notify();
        }
        let closed = match ready!(this.poll_send(cx)) {
            Ok(()) => ready!(Pin::new(&mut this.socket).poll_shutdown(cx)),
            Err(error) => Err(error),
        };
        Poll::Ready(match closed {
            // Whoever has gone need not be told of the end.
            Err(error) if is_gone(&error) => Ok(()),
            closed => closed,
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let this = self.get_mut();
        this.poll_encrypt(cx, |writer| writer.write_vectored(bufs))
    }
}

/// Has the other side closed, so that what is sent meets nobody?
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    [BrokenPipe, ConnectionReset, NotConnected].contains(&error.kind())
}

/// A socket as rustls wants it, which says that it would block where the socket is pending.
struct Blocking<'a, 'cx, S> {
    socket: &'a mut S,
    cx: &'a mut Context<'cx>,
    first: &'a mut Option<u8>,
}

impl<S> Blocking<'_, '_, S> {
    fn ready<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
        match poll {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S: Read + Unpin> io::Read for Blocking<'_, '_, S> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(into);
        Self::ready(Pin::new(&mut *self.socket).poll_read(self.cx, buf.unfilled()))?;
        let read = buf.filled();
        if self.first.is_none() {
            *self.first = read.first().copied();
        }
        Ok(read.len())
    }
}

impl<S: Write + Unpin> io::Write for Blocking<'_, '_, S> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        Self::ready(Pin::new(&mut *self.socket).poll_write(self.cx, from))
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        Self::ready(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, from))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
