//! Taking items out, to be put back here or elsewhere.
//!
//! An item leaves in two steps, because its payload is read off the core:
//! [`drain_candidates`](Shard::drain_candidates) says which items are next and
//! where their bytes lie; [`handle_drain`](Shard::handle_drain) gets the bytes
//! and takes the item out, unless it changed meanwhile.

use crate::codec::DecodeError;
use crate::ids::{Lsn, Nanos, Place, RequestKey, SequenceId};
use crate::outcome::Decision;
use crate::record::Log;
use crate::snapshot::ItemSnapshot;
use crate::token::Token;

use super::Shard;

/// An item that could be taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The LSN of its enqueue.
    pub lsn: Lsn,
    /// What it looked like.
    stamp: Stamp,
    /// The body of its enqueue, which holds its payload.
    pub body: Place,
    /// Length of that body in bytes.
    pub body_len: u32,
    /// The body of its last failure, and its length in bytes.
    pub error: Option<(Place, u32)>,
}

/// What changes when an item gets another error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    attempt: u16,
    grant: u16,
}

/// Where a walk over the items to be drained goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainCursor(u32);

/// Some of the items that could be taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    /// In the order in which they should go.
    pub found: Vec<Candidate>,
    /// Where the walk goes on when these have gone; `None` when there are no
    /// others now. There may be a next without any found: looking takes time,
    /// and each call takes only so much of it.
    pub next: Option<DrainCursor>,
}

/// An item that was taken out, as whoever takes it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Where its [`ItemSnapshot`] lies in the log.
    pub place: Place,
    /// Length of the snapshot in bytes.
    pub len: u32,
    /// The item.
    pub sequence_id: SequenceId,
    /// Attempts that counted.
    pub attempt: u16,
    /// Attempts until it would have become a dead letter.
    pub max_attempts: u16,
    /// Higher first.
    pub priority: u8,
    /// When it was enqueued.
    pub enqueued_at: Nanos,
    /// Since when it waited, or when its delay would have ended.
    pub ready_at: Nanos,
    /// When it would have outlived its time.
    pub ttl_end: Option<Nanos>,
    /// Whether it had been given up on.
    pub dead: bool,
    /// The token of its last lease, unless that was taken back.
    pub last_token: Option<Token>,
}

/// Why an item was not taken out. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrainRefused {
    /// It is gone, is leased, or failed again since it was looked at.
    #[error("the item changed while it was read")]
    Changed,
    /// Its bytes are not those that were written.
    #[error("the item cannot be read back: {0}")]
    Unreadable(#[from] DecodeError),
    /// The shard remembers as many bundles, or this one is as large, as may be.
    #[error("the shard remembers as many drained items as it may; try again later")]
    Full,
    /// The shard's part of the request is complete.
    #[error("the request's bundle is complete")]
    Complete,
}

/// What a shard gave to a drain request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainedPart<'a> {
    /// Whether that was all.
    pub complete: bool,
    /// Where the [`ItemSnapshot`]s lie in the log, and their lengths in bytes,
    /// in the order in which the items went.
    pub items: &'a [(Place, u32)],
    /// The LSN that must be committed before anyone may learn of it.
    pub rests_on: Lsn,
}

impl Shard {
    /// At most `max` items that could be taken out: those that wait, best
    /// first as far as priorities go, then those that are held back, then dead
    /// letters. Items that went since do not come again; those that did not
    /// go, because they could not be read, do, before the others.
    pub fn drain_candidates(&self, cursor: DrainCursor, max: usize) -> Candidates {
        todo!()
    }

    /// Takes an item out. `body` and `error` are what lies at the candidate's
    /// places; `error` is empty when it never failed.
    pub fn handle_drain(
        &mut self,
        now: Nanos,
        candidate: &Candidate,
        body: &[u8],
        error: &[u8],
        request: Option<RequestKey>,
        log: &mut impl Log,
    ) -> Result<Decision<Drained>, DrainRefused> {
        todo!()
    }

    /// Notes that the shard's part of a request is complete: from now on the
    /// request gets what it got.
    pub fn handle_drain_complete(
        &mut self,
        now: Nanos,
        request: RequestKey,
        log: &mut impl Log,
    ) -> Result<Decision<()>, DrainRefused> {
        todo!()
    }

    /// What this shard gave to a request within the dedupe window.
    pub fn drained(&self, request: RequestKey, now: Nanos) -> Option<DrainedPart<'_>> {
        todo!()
    }

    /// What whoever takes the item is told, from its snapshot as it is read
    /// back from the log.
    pub fn drained_item(&self, snapshot: &ItemSnapshot<'_>, place: Place, len: u32) -> Drained {
        todo!()
    }
}
