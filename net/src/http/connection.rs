//! One connection: which HTTP it speaks, and when it has to end.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http_body::{Body, Frame, SizeHint};
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use rustls::ServerConfig;

use super::connections::{Stage, Ticket};
use super::limits::{HttpCounters, HttpLimits, count};
use super::serve::Service;
use super::socket::{Protocol, Socket, secure};
use crate::runtime::{CoreTimer, LocalExecutor, Sleep, TcpStream, sleep_until, turn_started};

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The least that hyper accepts as its HTTP/1 buffer, which bounds the head.
const HTTP1_BUFFER_BYTES_MIN: usize = 8 * 1024;

/// Serves one connection until it ends, by itself or because it is made to.
pub(super) async fn serve_connection<S: Service>(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    service: Rc<S>,
    limits: &HttpLimits,
    counters: &HttpCounters,
    ticket: &Ticket,
) {
    let peer = stream.peer_addr();
    let stream = match tls {
        None => Socket::Plain(stream),
        Some(config) => match secure(stream, config, limits, counters, ticket).await {
            Some(stream) => Socket::Tls(Box::new(stream)),
            None => return,
        },
    };
    let agreed = stream.agreed();
    let activity = Rc::new(Activity::new());
    let mut stream = Tracked::new(stream, Rc::clone(&activity));
    let sniffed = if let Some(protocol) = agreed {
        Some(Ok(protocol))
    } else {
        let mut sniffing = pin!(stream.sniff());
        let mut watch = Watch::new(&activity, limits);
        poll_fn(|cx| {
            if let Poll::Ready(sniffed) = sniffing.as_mut().poll(cx) {
                return Poll::Ready(Some(sniffed));
            }
            // Nothing has been asked yet, so nothing has to be finished.
            if ticket.poll_stage(cx) > Stage::Open {
                return Poll::Ready(None);
            }
            let late = watch.poll_late(cx);
            if late.is_ready() {
                count(&counters.timed_out);
            }
            late.map(|()| None)
        })
        .await
    };
    let Some(Ok(protocol)) = sniffed else { return };

    let requests = Rc::clone(&activity);
    let answer = service_fn(move |request| {
        let running = Running::begin(&requests);
        let reply = Rc::clone(&service).call(request, peer);
        async move {
            let reply = reply.await;
            let activity = Rc::clone(&running.0);
            drop(running);
            Ok::<_, Infallible>(reply.map(|body| Answer::new(body, activity)))
        }
    });
    let ended = match protocol {
        Protocol::Http1 => {
            count(&counters.http1);
            let connection = http1_builder(limits).serve_connection(stream, answer);
            let stop = http1::Connection::graceful_shutdown;
            supervise(pin!(connection), stop, &activity, limits, ticket).await
        }
        Protocol::Http2 => {
            count(&counters.http2);
            activity.heads_are_timed.set(false);
            activity.head_started.set(None);
            let connection = http2_builder(limits).serve_connection(stream, answer);
            let stop = http2::Connection::graceful_shutdown;
            supervise(pin!(connection), stop, &activity, limits, ticket).await
        }
    };
    match ended {
        Ended::Served(Ok(())) | Ended::Closed => {}
        Ended::Served(Err(error)) => {
            count(&counters.failed);
            tracing::debug!(%peer, %error, "connection failed");
        }
        Ended::Late => {
            count(&counters.timed_out);
            tracing::debug!(%peer, "connection timed out");
        }
    }
}

fn http1_builder(limits: &HttpLimits) -> http1::Builder {
    let buffer_bytes_max = (limits.header_bytes_max as usize).max(HTTP1_BUFFER_BYTES_MIN);
    let mut builder = http1::Builder::new();
    builder
        .timer(CoreTimer)
        // Ours to watch: hyper's would also end connections that are merely
        // idle, and allocate a timer for every request.
        .header_read_timeout(None)
        // Not `pipeline_flush`: with it hyper closes without sending the answer
        // to a head that is malformed or too large.
        .max_buf_size(buffer_bytes_max);
    builder
}

fn http2_builder(limits: &HttpLimits) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(CoreTimer)
        .max_header_list_size(limits.header_bytes_max)
        .max_concurrent_streams(limits.h2_streams_max)
        .initial_stream_window_size(limits.h2_stream_window_bytes)
        .initial_connection_window_size(limits.h2_connection_window_bytes)
        .max_send_buf_size(limits.h2_send_bytes_max);
    builder
}

/// How a connection came to its end.
enum Ended {
    /// By itself, or having finished what it had begun.
    Served(hyper::Result<()>),
    /// It was told to drop everything.
    Closed,
    /// It kept us waiting.
    Late,
}

/// Runs a connection, and ends it when it is late or the server ends.
async fn supervise<C>(
    mut connection: Pin<&mut C>,
    stop: impl Fn(Pin<&mut C>),
    activity: &Activity,
    limits: &HttpLimits,
    ticket: &Ticket,
) -> Ended
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut watch = Watch::new(activity, limits);
    let mut stopping = false;
    let mut late = false;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(if late {
                    Ended::Late
                } else {
                    Ended::Served(result)
                });
            }
            let stage = ticket.poll_stage(cx);
            if stage == Stage::Closed {
                return Poll::Ready(Ended::Closed);
            }
            let is_late = watch.poll_late(cx).is_ready();
            if is_late && (late || activity.head_started.get().is_some()) {
                return Poll::Ready(Ended::Late);
            }
            late |= is_late;
            if stopping || (stage == Stage::Open && !late) {
                // Late while stopping already: one more wait, then it is dropped.
                if !is_late {
                    return Poll::Pending;
                }
                continue;
            }
            // Ends an idle connection now, another after its requests; if it
            // still hangs after another wait it is dropped.
            stopping = true;
            stop(connection.as_mut());
        }
    })
    .await
}

/// What a connection is doing, for [`Watch`].
struct Activity {
    /// Requests that the service has not answered, or not to the end.
    running: Cell<u32>,
    /// When the first bytes came that may begin a request's head, and no
    /// request since; at first, when the connection came.
    head_started: Cell<Option<Instant>>,
    /// In HTTP/2 bytes between requests need not be a head.
    heads_are_timed: Cell<bool>,
    /// When bytes were last read or written.
    moved: Cell<Instant>,
}

impl Activity {
    fn new() -> Self {
        let now = turn_started();
        Self {
            running: Cell::new(0),
            head_started: Cell::new(Some(now)),
            heads_are_timed: Cell::new(true),
            moved: Cell::new(now),
        }
    }

    fn has_read(&self) {
        let now = turn_started();
        self.moved.set(now);
        let begins = self.heads_are_timed.get() && self.running.get() == 0;
        if begins && self.head_started.get().is_none() {
            self.head_started.set(Some(now));
        }
    }

    fn has_written(&self) {
        self.moved.set(turn_started());
    }

    /// When the connection is late if nothing happens before.
    fn late_at(&self, limits: &HttpLimits) -> Instant {
        if self.running.get() > 0 {
            // The service has its own deadlines: look again later.
            return turn_started() + limits.idle_timeout;
        }
        match self.head_started.get() {
            Some(started) => started + limits.header_timeout,
            None => self.moved.get() + limits.idle_timeout,
        }
    }
}

/// A request that the service keeps waiting.
struct Running(Rc<Activity>);

impl Running {
    fn begin(activity: &Rc<Activity>) -> Self {
        activity.running.set(activity.running.get() + 1);
        activity.head_started.set(None);
        Self(Rc::clone(activity))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        // What follows is measured from here.
        self.0.moved.set(turn_started());
    }
}

/// A body whose connection is not idle while the service has yet to say what comes next.
struct Answer<B> {
    body: B,
    activity: Rc<Activity>,
    /// There is while the service keeps the client waiting, and not while it is the other way.
    waited_for: Option<Running>,
}

impl<B> Answer<B> {
    fn new(body: B, activity: Rc<Activity>) -> Self {
        Self {
            body,
            activity,
            waited_for: None,
        }
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if frame.is_ready() {
            this.waited_for = None;
        } else if this.waited_for.is_none() {
            this.waited_for = Some(Running::begin(&this.activity));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Watches the clock over a connection with one timer that is seldom set: it
/// looks at what has happened when it fires, rather than being moved whenever
/// something does.
struct Watch<'a> {
    activity: &'a Activity,
    limits: &'a HttpLimits,
    timer: Sleep,
    /// Does `timer` know whom to wake?
    armed: bool,
}

impl<'a> Watch<'a> {
    fn new(activity: &'a Activity, limits: &'a HttpLimits) -> Self {
        Self {
            activity,
            limits,
            timer: sleep_until(activity.late_at(limits)),
            armed: false,
        }
    }

    /// Ready when the connection is late; then again after as long once more.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let late_at = self.activity.late_at(self.limits);
        if late_at < self.timer.deadline() {
            self.timer.reset(late_at);
            self.armed = false;
        }
        while !self.armed || self.timer.deadline() <= turn_started() {
            if Pin::new(&mut self.timer).poll(cx).is_pending() {
                self.armed = true;
                break;
            }
            self.armed = false;
            let late_at = self.activity.late_at(self.limits);
            let now = Instant::now();
            if late_at <= now {
                self.activity.moved.set(now);
                self.timer
                    .reset(now + self.limits.header_timeout.min(self.limits.idle_timeout));
                cx.waker().wake_by_ref();
                return Poll::Ready(());
            }
            self.timer.reset(late_at);
        }
        Poll::Pending
    }
}

/// A connection's stream, which tells [`Activity`] what it does and gives back
/// the bytes that were read to learn the protocol.
struct Tracked {
    stream: Socket,
    activity: Rc<Activity>,
    sniffed: [u8; PREFACE.len()],
    /// The part of `sniffed` that hyper has yet to read.
    unread: std::ops::Range<usize>,
}

impl Tracked {
    fn new(stream: Socket, activity: Rc<Activity>) -> Self {
        Self {
            stream,
            activity,
            sniffed: [0; PREFACE.len()],
            unread: 0..0,
        }
    }

    /// Reads just enough to tell HTTP/2 from HTTP/1.
    async fn sniff(&mut self) -> io::Result<Protocol> {
        loop {
            let known = self.unread.end;
            if self.sniffed[..known] != PREFACE[..known] {
                return Ok(Protocol::Http1);
            }
            if known == PREFACE.len() {
                return Ok(Protocol::Http2);
            }
            let mut buffer = ReadBuf::new(&mut self.sniffed[known..]);
            poll_fn(|cx| Pin::new(&mut self.stream).poll_read(cx, buffer.unfilled())).await?;
            let read = buffer.filled().len();
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.unread.end += read;
        }
    }
}

impl Read for Tracked {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.unread.is_empty() {
            let bytes = this.unread.len().min(buf.remaining());
            let start = this.unread.start;
            buf.put_slice(&this.sniffed[start..start + bytes]);
            this.unread.start += bytes;
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = read {
            this.activity.has_read();
        }
        read
    }
}

impl Write for Tracked {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(_)) = written {
            this.activity.has_written();
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(_)) = written {
            this.activity.has_written();
        }
        written
    }
}
