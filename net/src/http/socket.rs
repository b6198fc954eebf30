//! What a connection's bytes go through: TCP, or TLS on top of it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use rustls::ServerConfig;

use super::connections::{Stage, Ticket};
use super::limits::{HttpCounters, HttpLimits, count};
use crate::runtime::{TcpStream, sleep};
use crate::tls::TlsStream;

/// What a client is told that speaks HTTP where only TLS is spoken.
pub const TLS_ONLY: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: 40\r\n\r\nthis port speaks TLS only: use https://\n";

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// One or the other, decided when the connection comes.
#[derive(Debug)]
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// What both sides have agreed to speak, where they have.
    pub(super) fn agreed(&self) -> Option<Protocol> {
        match self {
            Socket::Plain(_) => None,
            Socket::Tls(stream) => match stream.alpn()? {
                b"h2" => Some(Protocol::Http2),
                _ => Some(Protocol::Http1),
            },
        }
    }
}

/// Makes the handshake; nothing if there was none in time.
pub(super) async fn secure(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    limits: &HttpLimits,
    counters: &HttpCounters,
    ticket: &Ticket,
) -> Option<TlsStream<TcpStream>> {
    let peer = stream.peer_addr();
    let mut stream = match TlsStream::new(stream, config) {
        Ok(stream) => stream,
        Err(error) => {
            count(&counters.handshakes_failed);
            tracing::error!(%error, "TLS is configured in a way that serves nobody");
            return None;
        }
    };
    let mut late = pin!(sleep(limits.handshake_timeout));
    let done = poll_fn(|cx| {
        if let Poll::Ready(done) = stream.poll_handshake(cx) {
            return Poll::Ready(Some(done));
        }
        // Nothing has been asked yet, so nothing has to be finished.
        if ticket.poll_stage(cx) > Stage::Open {
            return Poll::Ready(None);
        }
        if late.as_mut().poll(cx).is_ready() {
            count(&counters.handshakes_late);
            tracing::debug!(%peer, "TLS handshake timed out");
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await?;
    let Err(error) = done else {
        count(&counters.handshakes);
        return Some(stream);
    };
    match stream.first_byte() {
        // Whoever only looks whether the port is open.
        None => {}
        // A method's first letter.
        Some(first) if first.is_ascii_alphabetic() => {
            count(&counters.plain_text);
            tracing::debug!(%peer, "no TLS where only TLS is spoken");
            refuse(stream.into_socket()).await;
        }
        Some(_) => {
            count(&counters.handshakes_failed);
            tracing::debug!(%peer, %error, "TLS handshake failed");
        }
    }
    None
}

/// Says in the client's own words what is wrong, as far as the socket takes it at once.
async fn refuse(mut stream: TcpStream) {
    poll_fn(|cx| {
        let _ = Pin::new(&mut stream).poll_write(cx, TLS_ONLY);
        let _ = Pin::new(&mut stream).poll_shutdown(cx);
        Poll::Ready(())
    })
    .await;
}

impl Read for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl Write for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Socket::Plain(stream) => stream.is_write_vectored(),
            Socket::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Socket::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }
}
