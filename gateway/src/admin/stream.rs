//! Answers that go on: events as they are committed, or all items of a snapshot.
//!
//! A reader has at most a few chunks of events in memory. One that takes nothing for a while is
//! told so, dropped, and its connection ended: it can come back to where it was.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame;
use omnirelay_wal::{Position, RealDisk};
use serde_json::json;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

use super::replication::{Refusal, advance, wait_for_growth};
use super::status::NodeStatus;
use crate::replication::{CommittedLog, Event, Feed, Place};

/// A chunk takes no further event once it has this many bytes of payload.
const CHUNK_BYTES: usize = 256 << 10;
/// The most events in a chunk.
const CHUNK_EVENTS: usize = 512;
/// Chunks that wait for the reader, beside the one that tells it why it ends.
const CHUNKS_MAX: usize = 2;
/// How long a reader may take nothing.
const STALL_TIME_MAX: Duration = Duration::from_secs(10);
/// A comment is sent when nothing was for so long, so that whoever is between keeps the
/// connection, and a reader that has gone is noticed.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);

/// How events are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// As server-sent events, without end.
    Sse,
    /// As the page that a poller gets, which ends with the snapshot.
    Page,
}

/// What a connection and the stream on it know of each other.
#[derive(Debug, Default)]
pub(super) struct StreamLife {
    is_open: AtomicBool,
    closed: Notify,
    given_up: Notify,
}

impl StreamLife {
    /// Waits until no stream is open.
    pub(super) async fn closed(&self) {
        loop {
            let closed = self.closed.notified();
            if !self.is_open.load(Ordering::Acquire) {
                return;
            }
            closed.await;
        }
    }

    /// Waits until a stream was given up because its reader took nothing.
    pub(super) async fn given_up(&self) {
        self.given_up.notified().await;
    }
}

/// Closes the stream whatever ends it.
struct OpenStream(Arc<StreamLife>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.is_open.store(false, Ordering::Release);
        self.0.closed.notify_waiters();
    }
}

/// The answer, and behind it a task that fills it.
pub(super) fn respond(
    status: Arc<NodeStatus>,
    life: Arc<StreamLife>,
    feed: Feed<RealDisk>,
    place: Place,
    framing: Framing,
) -> Response {
    let (chunks, body) = mpsc::channel(CHUNKS_MAX + 1);
    life.is_open.store(true, Ordering::Release);
    let pump = Pump {
        open: OpenStream(life),
        status,
        place,
        framing,
        chunks,
    };
    tokio::spawn(pump.run(feed));
    let content_type = match framing {
        Framing::Sse => "text/event-stream",
        Framing::Page => "application/json",
    };
    let headers = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Body::new(ChunkBody(body))).into_response()
}

type Chunk = Result<Bytes, std::io::Error>;

/// Why a stream ends.
enum End {
    /// The page is complete.
    Complete,
    /// The reader has gone.
    Gone,
    /// The reader took nothing for too long.
    Slow,
    Draining,
    Refused(Refusal),
}

struct Pump {
    open: OpenStream,
    status: Arc<NodeStatus>,
    place: Place,
    framing: Framing,
    chunks: mpsc::Sender<Chunk>,
}

impl Pump {
    async fn run(self, feed: Feed<RealDisk>) {
        // Kept free, so that a reader with a full queue can be told why it ends.
        let farewell = self.chunks.clone().reserve_owned().await;
        let Err(end) = self.fill(feed).await;
        let Ok(farewell) = farewell else { return };
        let last = match (self.framing, &end) {
            (_, End::Complete | End::Gone) => return,
            (Framing::Sse, _) => Ok(end.to_sse()),
            (Framing::Page, _) => Err(std::io::Error::other("the page ends early")),
        };
        farewell.send(last);
        if matches!(end, End::Slow) {
            if let Some(replication) = self.status.replication() {
                replication.places().drop_one();
            }
            self.open.0.given_up.notify_one();
        }
    }

    async fn fill(&self, mut feed: Feed<RealDisk>) -> Result<std::convert::Infallible, End> {
        let mut out = match self.framing {
            Framing::Sse => b"retry: 1000\n\n".to_vec(),
            Framing::Page => br#"{"events":["#.to_vec(),
        };
        let mut is_first = true;
        let log = feed.log();
        loop {
            let end = log.end();
            let chunk;
            (feed, chunk) = advance(feed, CHUNK_EVENTS, CHUNK_BYTES)
                .await
                .map_err(End::Refused)?;
            for event in &chunk.events {
                self.put(&mut out, event, is_first);
                is_first = false;
            }
            self.place.at(feed.position());
            if self.framing == Framing::Page && !feed.is_snapshot() {
                out.extend_from_slice(format!("],\"next\":{}}}\n", feed.position()).as_bytes());
                self.send(&mut out).await?;
                feed.leave();
                return Err(End::Complete);
            }
            self.send(&mut out).await?;
            if !self.status.is_serving() {
                feed.leave();
                return Err(End::Draining);
            }
            if chunk.at_end {
                // Whoever comes back after this one has gone finds it here.
                feed.leave();
                self.wait(&log, end).await?;
            }
        }
    }

    /// Waits until there may be more, and keeps the connection alive meanwhile.
    async fn wait(&self, log: &CommittedLog<RealDisk>, end: Position) -> Result<(), End> {
        while log.end() == end && self.status.is_serving() {
            let until = Instant::now() + KEEP_ALIVE_EVERY;
            tokio::select! {
                () = wait_for_growth(&self.status, log, end, until) => {}
                () = self.chunks.closed() => return Err(End::Gone),
            }
            if Instant::now() >= until {
                self.send(&mut b": nothing new\n\n".to_vec()).await?;
            }
        }
        Ok(())
    }

    async fn send(&self, out: &mut Vec<u8>) -> Result<(), End> {
        if out.is_empty() {
            return Ok(());
        }
        let chunk = Ok(Bytes::from(std::mem::take(out)));
        match timeout(STALL_TIME_MAX, self.chunks.send(chunk)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Slow),
        }
    }

    fn put(&self, out: &mut Vec<u8>, event: &Event, is_first: bool) {
        match self.framing {
            Framing::Sse => {
                if event.can_resume() {
                    let id = format!("id: {}\n", event.sequence_number);
                    out.extend_from_slice(id.as_bytes());
                }
                let head = format!("event: {}\ndata: ", event.event_type.name());
                out.extend_from_slice(head.as_bytes());
            }
            Framing::Page if is_first => {}
            Framing::Page => out.push(b','),
        }
        // JSON text has no line breaks of its own.
        serde_json::to_writer(&mut *out, event).expect("events have a JSON form");
        if self.framing == Framing::Sse {
            out.extend_from_slice(b"\n\n");
        }
    }
}

impl End {
    fn to_sse(&self) -> Bytes {
        let why = match self {
            End::Complete | End::Gone => unreachable!("nobody is told"),
            End::Slow => json!({
                "message": "the reader took nothing for too long; come back with Last-Event-ID",
                "status": "ABORTED",
                "code": "replication.slow_reader",
            }),
            End::Draining => json!({
                "message": "the node ends; come back with Last-Event-ID",
                "status": "UNAVAILABLE",
                "code": "replication.not_serving",
            }),
            End::Refused(refusal) => refusal.to_json(),
        };
        Bytes::from(format!("event: end\ndata: {why}\n\n"))
    }
}

/// What the pump sends, as a response's body.
struct ChunkBody(mpsc::Receiver<Chunk>);

impl http_body::Body for ChunkBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let chunk = self.0.poll_recv(context);
        chunk.map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}
