//! Keeping a log short, in two steps that go on side by side.
//!
//! What a restart would read is made shorter once it is much longer than what lives in it: what
//! still lives in the oldest segment that is needed is written again at the log's end, a little in
//! each turn. In order: every shard's memories are written behind the segment (a checkpoint); the
//! segment is read off the core, and each record that an item is still rooted in is carried; the
//! log's floor is raised. When all of that is on disk, the segment is history: only readers of the
//! stream want it.
//!
//! The oldest segment of the history is given up once the whole log is longer than it may be, and
//! no read of the segment is under way. A crash at any point leaves the segment, or proof that
//! nothing needs it.

use std::collections::VecDeque;

use bytes::Bytes;
use omnirelay_queue::{Carried, Checkpoint, Place, Shard, kind};
use omnirelay_wal::{Cursor, Disk, Position, RecordHeader, Reuse, Scanned, Spare};

use super::core::{Core, LogTask, ReadRequest};
use super::layout::LogId;
use super::owned_log::{OwnedLog, place, position};

/// Bytes written again in one turn, and so added to one commit.
const CARRY_BYTES_PER_TURN: usize = 256 << 10;
/// Records looked at in one turn: most are of items that are gone.
const RECORDS_PER_TURN: usize = 4_096;
/// Bytes of the segment read at a time.
const SCAN_BYTES: usize = 1 << 20;
/// Bytes of one step of a checkpoint.
const CHECKPOINT_BYTES: usize = 64 << 10;
/// What is needed of the log, and the log, are made shorter when they are longer than their share of
/// history and this many times what lives in them. Each segment that something is carried out of
/// then holds on average no more than half of live bytes, so that carrying never costs more than
/// about one byte for each byte of new records.
const LIVE_FACTOR: u64 = 2;
/// Of the bytes of history, one in this many may be needed still: a restart reads them, and what
/// ends before they are full is never carried.
const NEEDED_PART: u64 = 16;
/// Of so many turns, one looks whether anything lives in the oldest segment at all.
const TURNS_PER_LOOK: u8 = 64;

/// What is to be read from a segment that is given up.
#[derive(Debug, Clone, Copy)]
pub struct ScanRequest {
    /// The segment.
    pub segment: u32,
    /// Where to go on.
    pub from: Cursor,
    /// About how many bytes of records to bring.
    pub bytes_max: usize,
}

impl ScanRequest {
    /// Kinds of record that an item can be rooted in.
    pub fn is_wanted(record: u8) -> bool {
        matches!(
            record,
            kind::ENQUEUED | kind::DRAIN_SNAPSHOT | kind::RESTORE_SNAPSHOT | kind::CARRY
        )
    }
}

/// How far it is that nothing needs the oldest segment any more.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Idle,
    /// Shards whose memories are not written behind the segment are doing that, one by one.
    Checkpoints(Option<Running>),
    /// A chunk of the segment is being read.
    Scanning,
    /// What lives in a chunk is being written again.
    Carrying(Chunk),
    /// The error of the chunk's first item is being read.
    ReadingError(Chunk, u64),
    /// The floor is in this batch.
    Floor(u64),
}

#[derive(Debug)]
struct Running {
    slot: usize,
    began_in: u32,
    checkpoint: Checkpoint,
}

#[derive(Debug)]
struct Chunk {
    records: VecDeque<(RecordHeader, Position, Bytes)>,
    next: Option<Cursor>,
    /// The last error of the first record's item, once it has been read.
    error: Option<Bytes>,
}

/// A log's trimming.
#[derive(Debug, Default)]
pub(super) struct Trim {
    stage: Stage,
    /// The segment that is carried out of.
    segment: u32,
    /// The first segment that is needed, as is known on disk: those before it are history.
    floor: u32,
    /// A segment is becoming a spare, or is being removed.
    is_retiring: bool,
    /// By shard: the segment in which its last complete checkpoint began; 0 for none yet.
    checkpoints: Vec<u32>,
    /// Why no segment can be given up until the node is started again.
    blocked: Option<String>,
    /// Segments given up.
    retired: u64,
    /// Turns since the last look at the oldest segment.
    turns: u8,
    /// The last turn came forward, and the next can without anything that has to come first.
    pub(super) can_go_on: bool,
}

/// A log's size, as it is told to operators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogSize {
    /// Bytes of the segments in use.
    pub used_bytes: u64,
    /// Of those, bytes that a restart reads; the others are history.
    pub needed_bytes: u64,
    /// Bytes of records that waiting, leased and dead items need, and of what is remembered of
    /// those that are gone.
    pub live_bytes: u64,
    /// Segments in use.
    pub segments: u64,
    /// Spare segments.
    pub spares: u64,
    /// Segments given up since the start.
    pub retired: u64,
    /// Why none can be given up any more.
    pub trim_blocked: Option<String>,
}

impl Trim {
    /// Of a log with so many shards, of which this segment is the first that is needed.
    pub(super) fn new(shards: usize, floor: u32) -> Trim {
        Trim {
            checkpoints: vec![0; shards],
            floor,
            ..Trim::default()
        }
    }
}

impl OwnedLog {
    pub(super) fn size(&self) -> LogSize {
        LogSize {
            used_bytes: self.appender.used_bytes(),
            needed_bytes: self.appender.needed_bytes(),
            live_bytes: self.live_bytes,
            segments: self.appender.segments().count() as u64,
            spares: self.appender.spares() as u64,
            retired: self.trim.retired,
            trim_blocked: self.trim.blocked.clone(),
        }
    }

    /// Bytes to be kept beyond what lives in the log.
    fn history(&self) -> u64 {
        if self.disk_full {
            // Room for new work is worth more than old records.
            return 0;
        }
        self.history_bytes
    }

    /// The oldest segment that is needed, if too many are. The newest always is.
    fn next_to_carry(&mut self) -> Option<u32> {
        let history = self.history() / NEEDED_PART;
        let bytes = self.appender.needed_bytes();
        let is_long = bytes > history + LIVE_FACTOR * self.live_bytes;
        if self.trim.blocked.is_some() || !is_long && !self.is_free_to_go(bytes, history) {
            return None;
        }
        let mut needed = self.appender.needed();
        let oldest = needed.next()?.number;
        let is_closed = needed.next().is_some() && self.is_synced_beyond(oldest);
        is_closed.then_some(oldest)
    }

    /// Whether nothing of the oldest segment would have to be carried: then it can go early, at
    /// the price of a checkpoint. That is not written more often than the log grows by as much.
    fn is_free_to_go(&mut self, bytes: u64, history: u64) -> bool {
        self.trim.turns = (self.trim.turns + 1) % TURNS_PER_LOOK;
        if self.trim.turns > 0 || bytes <= history + self.live_bytes {
            return false;
        }
        let shards = || self.shards.iter().map(|owned| &owned.shard);
        let memories: u64 = shards().map(Shard::checkpoint_bytes).sum();
        let oldest = self.appender.needed().next();
        let is_rooted = |oldest: u32| shards().any(|shard| shard.is_rooted_in(oldest));
        bytes > history + self.live_bytes + memories
            && oldest.is_some_and(|oldest| !is_rooted(oldest.number))
    }

    /// Whether the log, with the spares that it should have, takes more of the disk than it should:
    /// so each segment that is begun has another given up, which becomes the spare in its place.
    fn is_long(&self) -> bool {
        let spares = self.appender.spares().max(self.spares_target());
        let bytes = self.appender.used_bytes() + spares as u64 * self.segment_bytes;
        bytes > self.history() + LIVE_FACTOR * self.live_bytes && self.trim.blocked.is_none()
    }

    /// The oldest segment, if it is history and the log longer than it should be.
    fn next_to_retire(&self) -> Option<u32> {
        let oldest = self.appender.segments().next()?.number;
        (oldest < self.trim.floor && self.is_long()).then_some(oldest)
    }

    /// True while a segment is on its way to become a spare.
    pub(super) fn is_giving_up(&self) -> bool {
        let is_any_older = self.appender.segments().nth(1).is_some();
        self.trim.is_retiring || is_any_older && self.is_long()
    }

    /// Whether all batches of a segment are on disk.
    fn is_synced_beyond(&self, segment: u32) -> bool {
        self.appender
            .first_unsynced_segment()
            .is_none_or(|first| first > segment)
    }
}

impl<D: Disk> Core<D> {
    /// Goes on making a log shorter, as far as that is good in one turn.
    pub(super) fn trim(&mut self, log: usize) {
        let owned = &mut self.logs[log];
        owned.trim.can_go_on = false;
        // Nobody waits for it, least of all those who wait for the node to be ready.
        if !self.has_opened || self.draining || owned.failed.is_some() || owned.in_flight {
            return;
        }
        self.retire(log);
        let owned = &mut self.logs[log];
        if let Stage::Idle = owned.trim.stage {
            let Some(segment) = owned.next_to_carry() else {
                return;
            };
            owned.trim.segment = segment;
            owned.trim.stage = Stage::Checkpoints(None);
        }
        match std::mem::take(&mut owned.trim.stage) {
            Stage::Checkpoints(running) => self.write_checkpoints(log, running),
            Stage::Carrying(chunk) => self.carry(log, chunk),
            Stage::Floor(batch) if owned.synced >= batch => {
                let floor = owned.appender.needed().next();
                owned.trim.floor = floor.expect("the newest is needed").number;
                owned.trim.can_go_on = true;
            }
            // Waits for something that has not come yet.
            stage => owned.trim.stage = stage,
        }
    }

    /// A chunk of the segment has been read.
    pub fn handle_scanned(&mut self, log: LogId, scanned: Result<Scanned, String>) {
        let index = self.local_log(log).expect("a log reports to its own core");
        let trim = &mut self.logs[index].trim;
        match scanned {
            Ok(scanned) => {
                trim.stage = Stage::Carrying(Chunk {
                    records: scanned.records.into(),
                    next: scanned.next,
                    error: None,
                });
            }
            Err(why) => self.logs[index].block_trim(why),
        }
    }

    /// The last error of an item that is being carried has been read.
    pub(super) fn handle_error_read(
        &mut self,
        log: usize,
        read: u64,
        bytes: Result<Bytes, String>,
    ) {
        let owned = &mut self.logs[log];
        match (std::mem::take(&mut owned.trim.stage), bytes) {
            (Stage::ReadingError(mut chunk, expected), Ok(bytes)) if expected == read => {
                chunk.error = Some(bytes);
                owned.trim.stage = Stage::Carrying(chunk);
            }
            (Stage::ReadingError(..), Err(why)) => owned.block_trim(why),
            (stage, _) => owned.trim.stage = stage,
        }
    }

    /// The segment has been retired, and perhaps become a spare.
    pub fn handle_retired(
        &mut self,
        now: omnirelay_queue::Nanos,
        log: LogId,
        segment: u32,
        retired: Result<Option<Spare>, String>,
    ) {
        let index = self.local_log(log).expect("a log reports to its own core");
        let owned = &mut self.logs[index];
        owned.trim.is_retiring = false;
        match retired {
            Ok(spare) => {
                owned.trim.retired += 1;
                owned.appender.handle_retired(segment);
                if let Some(spare) = spare {
                    owned.appender.handle_spare(spare);
                    self.note_open_again();
                    self.retry_stalled(now, index);
                }
            }
            Err(why) => owned.trim.blocked = Some(why),
        }
    }

    /// Writes the memories of shards that have none behind the segment; then has it read.
    fn write_checkpoints(&mut self, log: usize, running: Option<Running>) {
        let owned = &mut self.logs[log];
        let segment = owned.trim.segment;
        let running = running.or_else(|| {
            let behind = &owned.trim.checkpoints;
            let slot = behind.iter().position(|&began_in| began_in <= segment)?;
            Some(Running {
                slot,
                began_in: owned.newest_segment(),
                checkpoint: owned.shards[slot].shard.checkpoint(),
            })
        });
        let Some(mut running) = running else {
            let mut shards = owned.shards.iter();
            return match shards.any(|owned| owned.shard.is_rooted_in(segment)) {
                true => self.scan(log, Cursor::default()),
                // There is nothing to be read that would be carried.
                false => self.raise_floor(log),
            };
        };
        if !owned.can_carry(CHECKPOINT_BYTES) {
            owned.trim.stage = Stage::Checkpoints(Some(running));
            return;
        }
        let is_complete = owned.with_shard(running.slot, |shard, out| {
            shard.handle_checkpoint(&mut running.checkpoint, CHECKPOINT_BYTES, out)
        });
        owned.trim.stage = if is_complete {
            owned.trim.checkpoints[running.slot] = running.began_in;
            Stage::Checkpoints(None)
        } else {
            Stage::Checkpoints(Some(running))
        };
        owned.trim.can_go_on = true;
    }

    fn scan(&mut self, log: usize, from: Cursor) {
        let owned = &mut self.logs[log];
        let request = ScanRequest {
            segment: owned.trim.segment,
            from,
            bytes_max: SCAN_BYTES,
        };
        owned.trim.stage = Stage::Scanning;
        self.tasks.push_back(LogTask::Scan(owned.id, request));
    }

    /// Writes again what lives in a chunk of the segment.
    fn carry(&mut self, log: usize, mut chunk: Chunk) {
        let mut carried_bytes = 0;
        for looked_at in 0..RECORDS_PER_TURN {
            let owned = &mut self.logs[log];
            let Some((header, at, body)) = chunk.records.front() else {
                break;
            };
            let bytes = body.len() + chunk.error.as_ref().map_or(0, Bytes::len);
            if carried_bytes > 0 && carried_bytes + bytes > CARRY_BYTES_PER_TURN
                || !owned.can_carry(bytes)
            {
                owned.trim.stage = Stage::Carrying(chunk);
                owned.trim.can_go_on = looked_at > 0;
                return;
            }
            match owned.carry(header, *at, body, chunk.error.as_deref()) {
                Ok(Carried::NotRooted) => {}
                Ok(Carried::Done) => carried_bytes += bytes,
                // An error lies elsewhere: it has to be carried with its item.
                Ok(Carried::NeedsError(place, len)) => {
                    chunk.error = self.recent_bytes(log, place, len);
                    if chunk.error.is_none() {
                        return self.read_error(log, chunk, place, len);
                    }
                    continue;
                }
                Err(why) => return owned.block_trim(why),
            }
            chunk.error = None;
            chunk.records.pop_front();
        }
        match (chunk.records.is_empty(), chunk.next) {
            (false, _) => {
                let trim = &mut self.logs[log].trim;
                trim.stage = Stage::Carrying(chunk);
                trim.can_go_on = true;
            }
            (true, Some(next)) => self.scan(log, next),
            (true, None) => self.raise_floor(log),
        }
    }

    fn recent_bytes(&self, log: usize, place: Place, len: u32) -> Option<Bytes> {
        let (at, len) = (position(place), len as usize);
        let unwritten = self.logs[log].appender.unwritten(at, len);
        unwritten.or_else(|| self.readers[log].recent(at, len))
    }

    fn read_error(&mut self, log: usize, chunk: Chunk, place: Place, len: u32) {
        let (at, len) = (position(place), len as usize);
        let owned = &mut self.logs[log];
        let id = self.reads.next_id();
        self.reads.expect_error(id, (owned.id, at.segment), log);
        owned.trim.stage = Stage::ReadingError(chunk, id);
        self.tasks
            .push_back(LogTask::Read(owned.id, ReadRequest { id, at, len }));
    }

    /// All that lives in the segment is behind it: says so in the log.
    fn raise_floor(&mut self, log: usize) {
        let owned = &mut self.logs[log];
        if !owned.can_take_out(0) {
            // Carries nothing more, and tries again.
            owned.trim.stage = Stage::Carrying(Chunk {
                records: VecDeque::new(),
                next: None,
                error: None,
            });
            return;
        }
        let first_needed = owned.appender.needed().nth(1);
        let first_needed = first_needed.expect("the newest segment is always needed");
        let batch = owned.appender.append_floor(first_needed.number);
        owned.trim.stage = Stage::Floor(batch);
    }

    /// Gives up the oldest segment of the history, if it is to go. Reads that were asked for while
    /// it was needed are waited for.
    fn retire(&mut self, log: usize) {
        let owned = &mut self.logs[log];
        let Some(segment) = owned.next_to_retire().filter(|_| !owned.trim.is_retiring) else {
            return;
        };
        if self.reads.is_any_in(owned.id, segment) {
            return;
        }
        self.readers[log].forget(segment);
        let is_seen = self.readers[log].is_mapped_out(segment);
        let reuse = if owned.wants_spare() && !is_seen {
            Reuse::Yes
        } else {
            Reuse::No
        };
        owned.trim.is_retiring = true;
        self.tasks
            .push_back(LogTask::Retire(owned.id, segment, reuse));
    }
}

impl OwnedLog {
    fn carry(
        &mut self,
        header: &RecordHeader,
        at: Position,
        body: &[u8],
        error: Option<&[u8]>,
    ) -> Result<Carried, String> {
        let slot = (header.shard / u32::from(self.logs)) as usize;
        let (kind, lsn) = (header.kind, omnirelay_queue::Lsn(header.lsn));
        self.with_shard(slot, |shard, out| {
            shard.carry(kind, lsn, place(at), body, error, out)
        })
        .map_err(|error| error.to_string())
    }

    /// Nothing is lost by that but disk space, so the node goes on.
    fn block_trim(&mut self, why: String) {
        self.trim.stage = Stage::Idle;
        self.trim.blocked = Some(why);
    }
}
