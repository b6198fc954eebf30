//! Answers that go on: events as they are committed, or all items of a snapshot. A reader that is
//! dropped can come back to where it was.

use std::sync::Arc;

use axum::response::Response;
use omnirelay_wal::{Position, RealDisk};
use tokio::time::Instant;

use super::outgoing::{self, KEEP_ALIVE_EVERY, NotTaken, Outgoing, SSE, StreamLife};
use super::replication::{advance, to_json, wait_for_growth};
use super::status::NodeStatus;
use crate::replication::{CommittedLog, Event, Feed, Place, Refusal};

/// A chunk takes no further event once it has this many bytes of payload.
const CHUNK_BYTES: usize = 256 << 10;
/// The most events in a chunk.
const CHUNK_EVENTS: usize = 512;

/// How events are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// As server-sent events, without end.
    Sse,
    /// As the page that a poller gets, which ends with the snapshot.
    Page,
}

/// The answer, and behind it a task that fills it.
pub(super) fn respond(
    status: Arc<NodeStatus>,
    life: Arc<StreamLife>,
    feed: Feed<RealDisk>,
    place: Place,
    framing: Framing,
) -> Response {
    let content_type = match framing {
        Framing::Sse => SSE,
        Framing::Page => "application/json",
    };
    let (out, response) = outgoing::respond(life, content_type);
    let pump = Pump {
        out,
        status,
        place,
        framing,
    };
    tokio::spawn(pump.run(feed));
    response
}

/// Why a stream ends.
enum End {
    /// The page is complete.
    Complete,
    /// The reader has gone.
    Gone,
    Refused(Refusal),
}

impl From<NotTaken> for End {
    fn from(why: NotTaken) -> End {
        match why {
            NotTaken::Gone => End::Gone,
            NotTaken::Slow => End::Refused(Refusal::Slow),
        }
    }
}

struct Pump {
    out: Outgoing,
    status: Arc<NodeStatus>,
    place: Place,
    framing: Framing,
}

impl Pump {
    async fn run(self, feed: Feed<RealDisk>) {
        let Err(end) = self.fill(feed).await;
        let End::Refused(refusal) = end else {
            return;
        };
        let is_slow = matches!(refusal, Refusal::Slow);
        if is_slow && let Some(replication) = self.status.replication() {
            replication.places().drop_one();
        }
        match self.framing {
            Framing::Sse => {
                let last = format!("event: end\ndata: {}\n\n", to_json(&refusal));
                self.out.end(last.into(), is_slow);
            }
            Framing::Page => self.out.cut_off(is_slow),
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
            let reach = chunk.reach();
            for event in &chunk.events {
                self.put(&mut out, event, is_first);
                is_first = false;
            }
            self.place.has_read(reach);
            if self.framing == Framing::Page && !feed.is_snapshot() {
                out.extend_from_slice(format!("],\"next\":{}}}\n", feed.position()).as_bytes());
                self.out.send(&mut out).await?;
                feed.leave();
                return Err(End::Complete);
            }
            self.out.send(&mut out).await?;
            self.place.has_taken(reach, feed.position());
            if !self.status.is_serving() {
                feed.leave();
                return Err(End::Refused(Refusal::Ending));
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
                () = wait_for_growth(&self.status, log, end, Some(until)) => {}
                () = self.out.gone() => return Err(End::Gone),
            }
            if Instant::now() >= until {
                self.out.keep_alive().await?;
            }
        }
        Ok(())
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
