//! The bytes of an answer that goes on for as long as its reader takes them.
//!
//! A reader has at most a few chunks in memory. One that takes nothing for a while is told so,
//! dropped, and its connection ended.

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
use serde_json::json;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;

/// The content type of server-sent events.
pub(super) const SSE: &str = "text/event-stream";
/// Chunks that wait for the reader, beside the one that tells it why it ends.
const CHUNKS_MAX: usize = 2;
/// How long a reader may take nothing.
pub(super) const STALL_TIME_MAX: Duration = Duration::from_secs(10);
/// A comment is sent when nothing was for so long, so that whoever is between keeps the
/// connection, and a reader that has gone is noticed.
pub(super) const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);

/// What a connection and the stream on it know of each other.
#[derive(Debug)]
pub(super) struct StreamLife {
    is_open: AtomicBool,
    closed: Notify,
    given_up: Notify,
    server_ends: watch::Receiver<bool>,
}

impl StreamLife {
    /// Of a connection to a server that ends when `server_ends` says so.
    pub(super) fn new(server_ends: watch::Receiver<bool>) -> StreamLife {
        StreamLife {
            is_open: AtomicBool::new(false),
            closed: Notify::new(),
            given_up: Notify::new(),
            server_ends,
        }
    }

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
#[derive(Debug)]
struct OpenStream(Arc<StreamLife>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.is_open.store(false, Ordering::Release);
        self.0.closed.notify_waiters();
    }
}

type Chunk = Result<Bytes, std::io::Error>;

/// Why bytes did not reach the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// It has gone.
    Gone,
    /// It took nothing for too long.
    Slow,
}

/// Where an answer's bytes go. The answer ends when this is dropped.
#[derive(Debug)]
pub(super) struct Outgoing {
    open: OpenStream,
    chunks: mpsc::Sender<Chunk>,
    /// Kept free, so that a reader with a full queue can be told why it ends.
    farewell: mpsc::OwnedPermit<Chunk>,
}

/// An answer, and where its bytes go.
pub(super) fn respond(life: Arc<StreamLife>, content_type: &'static str) -> (Outgoing, Response) {
    let (chunks, body) = mpsc::channel(CHUNKS_MAX + 1);
    let farewell = chunks.clone().try_reserve_owned();
    life.is_open.store(true, Ordering::Release);
    let outgoing = Outgoing {
        open: OpenStream(life),
        chunks,
        farewell: farewell.expect("the queue is new and has room"),
    };
    let headers = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let response = (headers, Body::new(ChunkBody(body))).into_response();
    (outgoing, response)
}

/// The last server-sent event of a stream: why it ends.
pub(super) fn farewell(message: &str, status: &str, code: &str) -> Bytes {
    let why = json!({"message": message, "status": status, "code": code});
    format!("event: end\ndata: {why}\n\n").into()
}

impl Outgoing {
    /// Sends what is in `out`, and leaves it empty.
    ///
    /// # Errors
    /// If the reader is not there to take it.
    pub(super) async fn send(&self, out: &mut Vec<u8>) -> Result<(), NotTaken> {
        if out.is_empty() {
            return Ok(());
        }
        self.send_bytes(std::mem::take(out).into()).await
    }

    /// Sends bytes that others may be sent, too.
    ///
    /// # Errors
    /// As [`Outgoing::send`].
    pub(super) async fn send_bytes(&self, bytes: Bytes) -> Result<(), NotTaken> {
        match timeout(STALL_TIME_MAX, self.chunks.send(Ok(bytes))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(NotTaken::Gone),
            Err(_) => Err(NotTaken::Slow),
        }
    }

    /// Sends a comment to a reader of server-sent events.
    ///
    /// # Errors
    /// As [`Outgoing::send`].
    pub(super) async fn keep_alive(&self) -> Result<(), NotTaken> {
        self.send(&mut b": nothing new\n\n".to_vec()).await
    }

    /// Waits until the reader has gone.
    pub(super) async fn gone(&self) {
        self.chunks.closed().await;
    }

    /// Waits until the server ends: what is open then has its grace to end.
    pub(super) async fn server_ends(&self) {
        // Its sender lives as long as the server.
        let mut ends = self.open.0.server_ends.clone();
        let _ = ends.wait_for(|ends| *ends).await;
    }

    /// Ends with last words, and its connection too if the reader is slow.
    pub(super) fn end(self, last: Bytes, is_slow: bool) {
        self.finish(Ok(last), is_slow);
    }

    /// Ends so that the reader sees that there should have been more.
    pub(super) fn cut_off(self, is_slow: bool) {
        let early = std::io::Error::other("the answer ends early");
        self.finish(Err(early), is_slow);
    }

    fn finish(self, last: Chunk, is_slow: bool) {
        self.farewell.send(last);
        if is_slow {
            self.open.0.given_up.notify_one();
        }
    }
}

/// What is sent, as a response's body.
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
