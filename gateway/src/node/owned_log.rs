//! One log as its core holds it: the shards in it, the batch that is being filled, and the
//! results that wait for a batch to be committed.

use std::collections::VecDeque;

use omnirelay_queue::{Candidate, Nanos, Place, Record, Shard, ShardId, Stats};
use omnirelay_wal::{
    Appender, BATCH_BYTES_MAX, BATCH_HEADER_BYTES, Fill, Position, RECORD_HEADER_BYTES,
    RecordHeader, SECTOR_BYTES, SPARES_MAX,
};

use super::explain::Explained;
use super::layout::{LogId, NamespaceId};
use super::listing::ListedItem;
use super::part::{Granted, ItemResult, Ticket};
use super::totals::Totals;
use super::trim::Trim;

/// Frames a shard's records into the log's open batch.
pub(super) struct ShardLog<'a> {
    pub(super) appender: &'a mut Appender,
    pub(super) shard: ShardId,
}

impl omnirelay_queue::Log for ShardLog<'_> {
    fn append(&mut self, record: &Record<'_>) -> Place {
        let header = RecordHeader {
            shard: self.shard.0,
            epoch: record.epoch.0,
            lsn: record.lsn.0,
            at: record.at.0,
            kind: record.event.kind(),
        };
        let event = &record.event;
        let at = self
            .appender
            .append(&header, event.encoded_len(), |out| event.encode(out));
        place(at)
    }
}

/// The log's word for where bytes lie, in the queue's.
pub(super) fn place(at: Position) -> Place {
    Place {
        segment: at.segment,
        offset: at.offset,
    }
}

/// The queue's word for where bytes lie, in the log's.
pub(super) fn position(place: Place) -> Position {
    Position {
        segment: place.segment,
        offset: place.offset,
    }
}

/// A shard, and what the node notes beside it.
pub(super) struct OwnedShard {
    pub(super) shard: Shard,
    pub(super) namespace: NamespaceId,
    /// The batch that holds the shard's newest record.
    pub(super) last_batch: u64,
    /// When the shard next has something to do by itself.
    pub(super) due: Option<Nanos>,
    /// Its counts as they are in [`OwnedLog::totals`].
    pub(super) counted: Stats,
    /// Its live bytes as they are in [`OwnedLog::live_bytes`].
    pub(super) counted_bytes: u64,
    /// It is among [`OwnedLog::changed`].
    pub(super) is_changed: bool,
}

impl OwnedShard {
    fn decide<T>(
        &mut self,
        appender: &mut Appender,
        decide: impl FnOnce(&mut Shard, &mut ShardLog<'_>) -> T,
    ) -> T {
        let before = self.shard.last_lsn();
        let shard = self.shard.spec().shard;
        let outcome = decide(&mut self.shard, &mut ShardLog { appender, shard });
        if self.shard.last_lsn() != before {
            self.last_batch = newest_batch(appender);
        }
        outcome
    }
}

/// Results that leave once a batch is committed.
pub(super) struct Held {
    pub(super) batch: u64,
    pub(super) ticket: Ticket,
    pub(super) results: Vec<(u32, HeldResult)>,
}

/// A result as it waits for its commit: a grant's payload is read from the log afterwards.
pub(super) enum HeldResult {
    Ready(ItemResult),
    Granted(Box<Granted>),
    Listed(Box<ListedItem>),
    Explained(Box<Explained>),
    /// An item of a bundle that was given out before.
    Bundled {
        shard: ShardId,
        place: Place,
        len: u32,
    },
    /// An item that is taken out once it has been read.
    Candidate(Box<Candidate>),
}

/// Whether something may be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Now.
    Go,
    /// Once the disk has caught up or a spare segment is there.
    Wait,
    /// Not before the disk has room.
    DiskFull,
    /// Not before there is less work in the log: no more space is ever reserved for it.
    LogFull,
}

/// How much of the log's pre-allocated space may be used for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admit {
    /// New work.
    Enqueue,
    /// Handing out work that is there.
    Grant,
    /// Ending work that was handed out.
    Settle,
}

/// Bytes kept for each live item, so that it can be handed out when the disk gives no more: a
/// grant record with an owner's name of usual length, and a completion.
const RESERVED_BYTES_PER_ITEM: u64 = 192;
/// Bytes kept for each leased item, so that it can always be settled: a batch of its own, which
/// takes whole sectors, and a failure's reason.
const RESERVED_BYTES_PER_LEASE: u64 = 1_024;
/// Bytes kept beyond those: one large failure, and what falls due meanwhile.
const SETTLE_RESERVE_BYTES: u64 = 1 << 20;
/// Spare segments kept beside what live items reserve, so that filling one never waits for the
/// next to be allocated.
pub const SPARES_MIN: usize = 2;

/// What a record that is written again may need beside the bytes it holds.
const CARRY_OVERHEAD_BYTES: usize = 1_024;
/// The largest record of a grant.
const GRANT_BYTES_MAX: usize = super::OWNER_BYTES_MAX + 256;
/// What a shard's due timers may append in a turn: each at most one small record.
const TIMER_BYTES_MAX: usize = super::core::TIMERS_PER_TURN * 64;
/// A log that fills a segment in less than this is busy.
const SEGMENT_TIME_BUSY: Nanos = Nanos(60_000_000_000);
/// Sealed batches that may wait for the disk.
const UNSYNCED_BATCHES_MAX: usize = 6;
/// No record is smaller: its header, and an item's LSN.
const RECORD_BYTES_MIN: u64 = RECORD_HEADER_BYTES as u64 + 8;

// Numbers that a `memory` namespace has given out and that are not on disk are fewer than those
// it leaves out at the next open: those of full batches, the open one, and one part beyond.
const _: () = assert!(
    (UNSYNCED_BATCHES_MAX as u64 + 2) * BATCH_BYTES_MAX as u64 / RECORD_BYTES_MIN
        < super::MEMORY_LSN_SKIP
);

/// One log on its core.
pub(super) struct OwnedLog {
    pub(super) id: LogId,
    pub(super) appender: Appender,
    /// In the order of their ids: shard `s` stands at `s / logs`.
    pub(super) shards: Vec<OwnedShard>,
    /// Shards of which the newest decisions are not noted yet.
    pub(super) changed: Vec<usize>,
    /// Counts of all its shards.
    pub(super) totals: Totals,
    /// Bytes of records that the items of all its shards need.
    pub(super) live_bytes: u64,
    /// Bytes of log that are kept beyond what lives in them.
    pub(super) history_bytes: u64,
    /// How many logs the node has.
    pub(super) logs: u16,
    pub(super) trim: Trim,
    pub(super) held: VecDeque<Held>,
    /// The last batch known to be on disk.
    pub(super) synced: u64,
    /// A batch is with the log thread.
    pub(super) in_flight: bool,
    /// Why the log takes nothing more, for ever.
    pub(super) failed: Option<String>,
    /// The disk had no room for another segment when last asked.
    pub(super) disk_full: bool,
    pub(super) segment_bytes: u64,
    /// Spare segments asked for and not yet delivered.
    pub(super) spares_asked: usize,
    /// When the last one was asked for.
    pub(super) last_asked: Option<Nanos>,
    /// The most bytes that a stalled part needs; 0 when none is stalled for lack of space.
    pub(super) short_of: u64,
    /// Parts that wait for the next spare segment, or for the disk to catch up.
    pub(super) stalled: VecDeque<(Ticket, super::part::Part)>,
}

impl OwnedLog {
    /// Hands a shard and the log it appends to to `decide`, then notes what changed.
    pub(super) fn with_shard<T>(
        &mut self,
        slot: usize,
        decide: impl FnOnce(&mut Shard, &mut ShardLog<'_>) -> T,
    ) -> T {
        let outcome = self.shards[slot].decide(&mut self.appender, decide);
        self.note(slot);
        outcome
    }

    /// As [`OwnedLog::with_shard`], for one of many decisions in a row:
    /// [`OwnedLog::note_changed`] must follow them before anything else is done with the log.
    pub(super) fn with_shard_of_many<T>(
        &mut self,
        slot: usize,
        decide: impl FnOnce(&mut Shard, &mut ShardLog<'_>) -> T,
    ) -> T {
        let owned = &mut self.shards[slot];
        let outcome = owned.decide(&mut self.appender, decide);
        if !std::mem::replace(&mut owned.is_changed, true) {
            self.changed.push(slot);
        }
        outcome
    }

    /// Notes what changed in the shards that were decided about one by one.
    pub(super) fn note_changed(&mut self) {
        while let Some(slot) = self.changed.pop() {
            self.shards[slot].is_changed = false;
            self.note(slot);
        }
    }

    fn note(&mut self, slot: usize) {
        let owned = &mut self.shards[slot];
        owned.due = owned.shard.next_deadline();
        let stats = owned.shard.stats();
        self.totals.change(owned.namespace, &owned.counted, &stats);
        owned.counted = stats;
        let live_bytes = owned.shard.live_bytes();
        self.live_bytes = self.live_bytes - owned.counted_bytes + live_bytes;
        owned.counted_bytes = live_bytes;
    }

    /// Bytes that must stay free for work that was admitted.
    fn reserved(&self, admit: Admit) -> u64 {
        match admit {
            Admit::Enqueue => {
                self.reserved(Admit::Grant) + (self.totals.live() + 1) * RESERVED_BYTES_PER_ITEM
            }
            Admit::Grant => {
                SETTLE_RESERVE_BYTES + (self.totals.active() + 1) * RESERVED_BYTES_PER_LEASE
            }
            Admit::Settle => 0,
        }
    }

    /// Bytes of the log that records of `sum` bytes in all may use up, the largest of `largest`:
    /// a record never spans segments, so each segment may end unused by up to one of them.
    fn needed(&self, admit: Admit, sum: usize, largest: usize) -> u64 {
        let segments = sum as u64 / self.segment_bytes + 2;
        let batch = BATCH_HEADER_BYTES as u64 + u64::from(SECTOR_BYTES);
        self.reserved(admit) + sum as u64 + segments * (largest as u64 + batch)
    }

    /// Whether records may be appended for this purpose: `sum` bytes of bodies in all, the
    /// largest of `largest`. What must wait makes the log ask for more space.
    pub(super) fn admit(&mut self, admit: Admit, sum: usize, largest: usize) -> Verdict {
        let needed = self.needed(admit, sum, largest);
        if self.appender.fits(largest) && self.appender.room() >= needed {
            return if self.is_behind() {
                Verdict::Wait
            } else {
                Verdict::Go
            };
        }
        if self.disk_full {
            return Verdict::DiskFull;
        }
        if self.appender.spares() >= SPARES_MAX {
            return Verdict::LogFull;
        }
        self.short_of = self.short_of.max(needed);
        Verdict::Wait
    }

    fn has_room(&self, admit: Admit, len: usize) -> bool {
        self.appender.fits(len)
            && !self.is_behind()
            && self.appender.room() >= self.needed(admit, len, len)
    }

    /// Whether work in this log can be handed out.
    pub(super) fn can_grant(&self) -> bool {
        self.failed.is_none() && self.has_room(Admit::Grant, GRANT_BYTES_MAX)
    }

    /// Whether what falls due, or a grant that goes back, may be written: if not, it waits for
    /// space or for the disk.
    pub(super) fn can_write_small(&self) -> bool {
        self.failed.is_none() && self.has_room(Admit::Settle, TIMER_BYTES_MAX)
    }

    /// Whether a record of this size may be written again: never into the room that handing out
    /// and settling what is there needs, for only that makes the log's work less.
    pub(super) fn can_carry(&mut self, len: usize) -> bool {
        self.has_room_for(Admit::Enqueue, len)
    }

    /// Whether an item of this size may be taken out, or the log's floor be raised.
    pub(super) fn can_take_out(&mut self, len: usize) -> bool {
        self.has_room_for(Admit::Grant, len)
    }

    fn has_room_for(&mut self, admit: Admit, len: usize) -> bool {
        let len = len + CARRY_OVERHEAD_BYTES;
        if self.failed.is_some() {
            return false;
        }
        if self.has_room(admit, len) {
            return true;
        }
        self.short_of = self.short_of.max(self.needed(admit, len, len));
        false
    }

    /// The segment that the next record goes to, or the one before it.
    pub(super) fn newest_segment(&self) -> u32 {
        let newest = self.appender.segments().last();
        newest.expect("a log with records has a segment").number
    }

    /// True while so much waits to be written that nothing more is taken on: what a `memory`
    /// namespace acknowledges must not run away from the disk.
    pub(super) fn is_behind(&self) -> bool {
        self.appender.unsynced() >= UNSYNCED_BATCHES_MAX
    }

    /// How the next spare segment is to be made: writing it with zeros first pays only for a log
    /// that takes its time to fill one.
    pub(super) fn choose_fill(&mut self, now: Nanos) -> Fill {
        let before = self.last_asked.replace(now);
        match before {
            Some(before) if now.0 - before.0 < SEGMENT_TIME_BUSY.0 => Fill::Reserved,
            _ => Fill::Zeros,
        }
    }

    /// How many more spare segments are to be allocated.
    pub(super) fn spares_wanted(&self) -> usize {
        let have = self.appender.spares() + self.spares_asked;
        // A segment that is being given up will be one of them, if that does not take too long.
        let under_way = usize::from(self.is_giving_up());
        let coming = under_way * usize::from(have > 0);
        let wanted = self.spares_target().saturating_sub(have + coming);
        // Even if it does take long, it must find a place.
        wanted.min(SPARES_MAX.saturating_sub(have + under_way))
    }

    /// Whether a segment that is given up is of use as a spare.
    pub(super) fn wants_spare(&self) -> bool {
        self.appender.spares() + self.spares_asked < self.spares_target()
    }

    /// How many spare segments the log should have.
    pub(super) fn spares_target(&self) -> usize {
        let reserve = self.reserved(Admit::Enqueue).max(self.short_of);
        let want = SPARES_MIN + usize::try_from(reserve / self.segment_bytes).unwrap_or(usize::MAX);
        want.min(SPARES_MAX)
    }
}

/// The batch that holds the newest record. A batch that was full has been sealed, and the open
/// one, still empty, then comes after it.
fn newest_batch(appender: &Appender) -> u64 {
    if appender.open_bytes() > 0 {
        appender.open_batch()
    } else {
        appender.open_batch() - 1
    }
}
