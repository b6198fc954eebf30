//! Opens a log: finds what is durable, replays it, continues behind it.

use std::io;
use std::sync::Arc;

use crate::allocator::{Allocator, Fill, Spare, generation};
use crate::appender::{Appender, Segment};
use crate::batch::{Batch, Starts};
use crate::cleaner::Cleaner;
use crate::disk::{Disk, DiskFile};
use crate::error::OpenError;
use crate::floor::Floor;
use crate::format::{
    BATCH_HEADER_BYTES, Position, SECTOR_BYTES, SEGMENT_HEADER_BYTES, batch_bytes, segment_name,
};
use crate::options::LogOptions;
use crate::reader::Reader;
use crate::replay::{Held, OnRecord, Replay};
use crate::scan::Kept;
use crate::survey::Survey;
use crate::writer::{Tail, Writer, Written};

/// An open log.
#[derive(Debug)]
pub struct Opened<D: Disk> {
    /// For the core.
    pub appender: Appender,
    /// For the log thread.
    pub writer: Writer<D>,
    /// For a thread of its own.
    pub allocator: Allocator<D>,
    /// For core and log thread; clone it.
    pub reader: Reader<D>,
    /// For the thread that reads.
    pub cleaner: Cleaner<D>,
    /// What was found.
    pub recovery: Recovery,
}

/// What recovery found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records replayed.
    pub records: u64,
    /// Batches that held them.
    pub batches: u64,
    /// Segments that held those.
    pub segments: u64,
    /// Bytes of those batches.
    pub bytes: u64,
    /// What was written but never made durable, and is not part of the log.
    pub torn: Option<TornTail>,
    /// Segments before those: not needed, and kept to be read.
    pub history: u64,
    /// Segments that had been given up and were still there; they are removed.
    pub leftovers: u64,
    /// Whether the log was empty.
    pub fresh: bool,
    /// Whether the log was closed cleanly.
    pub clean: bool,
    /// The latest time in a record; 0 without records.
    pub last_at: u64,
}

/// The torn end of a log: a write that power or process did not outlive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub segment: u32,
    /// Where it starts in the segment file.
    pub offset: u64,
    /// How many bytes of it there are.
    pub bytes: u64,
}

/// Opens the log in a directory.
///
/// `entropy` gives random numbers; `on_record` is given every durable record,
/// in order, with where its body is, and may refuse one. Blocks on the disk.
/// Afterwards there is a segment to append to, though it may be nearly full.
///
/// After anything but a clean end, the last batch found is unproven: the sync
/// behind it may have failed, and its pages only look as if they were on disk.
/// So it is copied to a new segment and synced before its records count.
///
/// # Errors
/// See [`OpenError`]. The log is never worse than before: files are removed or
/// cut only when nothing in them counts any more.
pub fn open<D: Disk>(
    disk: D,
    options: LogOptions,
    entropy: &mut dyn FnMut() -> u64,
    on_record: OnRecord<'_>,
) -> Result<Opened<D>, OpenError> {
    if let Some(fault) = options.fault() {
        return Err(OpenError::Options(fault));
    }
    let survey = Survey::of(&disk, &options)?;
    let mut replay = Replay::new(&disk, survey.floor.first_batch, on_record);
    replay.recovery.history = survey.history.len() as u64;
    replay.recovery.leftovers = survey.leftovers.len() as u64;
    for (at, begun) in survey.begun.iter().enumerate() {
        let next = survey.begun.get(at + 1);
        replay.segment(begun, survey.superseded_from(at), next)?;
    }
    let seed = entropy();
    let next_segment = survey.next_segment(&disk)?;
    let mut stock = Stock {
        disk: &disk,
        allocator: Allocator::new(disk.clone(), options.segment_bytes, next_segment, seed),
        segment_bytes: options.segment_bytes,
        spares: Vec::new(),
        garbage: [&survey.leftovers[..], &survey.useless].concat(),
        floor: survey.floor,
    };
    stock.take_in(&survey.spares, seed)?;
    let start = match replay.held.take() {
        None => {
            replay.recovery.fresh = true;
            stock.start_fresh(&options)?
        }
        Some(marker) if marker.records == 0 => {
            replay.recovery.clean = true;
            stock.start_in_place(&options, &survey, &marker)?
        }
        Some(last) => {
            let (start, moved) = stock.start_behind_copy(&options, &last)?;
            replay.leave(survey.segment(last.segment), &last);
            let copy = moved.segment;
            replay.held = Some(moved);
            if let Err(refused) = replay.flush() {
                // Or every start that is refused would leave one more. The
                // refusal matters more than an error here.
                let _ = stock.on(copy, "remove", |disk, name| disk.remove(name));
                return Err(refused);
            }
            start
        }
    };
    let mut in_use = survey.history.clone();
    in_use.extend(replay.kept(&survey.begun));
    if let Some(segment) = &start.segment
        && in_use
            .last()
            .is_none_or(|last| last.number < segment.number)
    {
        in_use.push(segment.in_use(start.next_batch - 1));
    }
    stock.garbage.append(&mut replay.dead);
    stock.sweep(&replay.cuts)?;
    let (spares, floor) = (stock.spares, survey.floor);
    Ok(Opened {
        appender: Appender::new(start.segment, spares, start.next_batch, in_use, floor),
        writer: start.writer,
        reader: Reader::new(disk.clone(), start.written, stock.allocator.mappings()),
        cleaner: Cleaner::new(disk.clone(), options.log),
        recovery: replay.recovery,
        allocator: stock.allocator,
    })
}

/// Where the log goes on.
struct Start<D: Disk> {
    segment: Option<Segment>,
    next_batch: u64,
    writer: Writer<D>,
    written: Arc<Written>,
}

/// The segments there are to go on in.
struct Stock<'a, D> {
    disk: &'a D,
    allocator: Allocator<D>,
    segment_bytes: u32,
    spares: Vec<Spare>,
    /// Segments to remove in the end.
    garbage: Vec<u32>,
    floor: Floor,
}

impl<D: Disk> Stock<'_, D> {
    /// Takes the spares of an earlier process, once they are surely durable.
    fn take_in(&mut self, found: &[u32], seed: u64) -> Result<(), OpenError> {
        for &segment in found {
            self.on(segment, "sync", |disk, name| disk.open(name)?.sync_data())?;
            self.spares.push(Spare {
                segment,
                bytes: self.segment_bytes,
                generation: generation(seed, segment),
                recycled: true,
            });
        }
        if found.is_empty() {
            return Ok(());
        }
        let synced = self.disk.sync_dir();
        synced.map_err(OpenError::io("sync", self.disk.path("")))
    }

    fn start_fresh(&mut self, options: &LogOptions) -> Result<Start<D>, OpenError> {
        if self.spares.is_empty() {
            let spare = self.allocate(self.segment_bytes)?;
            self.spares.push(spare);
        }
        let nowhere = Position {
            segment: 0,
            offset: 0,
        };
        let written = Arc::new(Written::new(self.spares[0].segment(), nowhere));
        Ok(self.start(options, None, None, 1, written))
    }

    /// The log was closed: the next batch takes the place of the marker.
    fn start_in_place(
        &mut self,
        options: &LogOptions,
        survey: &Survey<D::File>,
        marker: &Held,
    ) -> Result<Start<D>, OpenError> {
        let Held {
            segment, offset, ..
        } = *marker;
        let begun = survey.segment(segment);
        let tail = Tail {
            file: self.on(segment, "open", |disk, name| disk.open(name))?,
            segment,
            generation: begun.header.expect("it has batches").generation,
            offset,
            marked: true,
        };
        let written = Arc::new(Written::new(segment, Position { segment, offset }));
        let place = Segment::begun(segment, begun.bytes, offset);
        Ok(self.start(options, Some(place), Some(tail), marker.number, written))
    }

    /// The log was not closed: makes its last batch the first of a new segment
    /// and says where it is now.
    fn start_behind_copy(
        &mut self,
        options: &LogOptions,
        last: &Held,
    ) -> Result<(Start<D>, Held), OpenError> {
        let payload = last.payload.as_slice();
        let payload_bytes = payload.len();
        let needs = SEGMENT_HEADER_BYTES as usize + batch_bytes(payload_bytes);
        let needs = (needs + SECTOR_BYTES as usize).next_multiple_of(4096);
        let needs = u32::try_from(needs).expect("segments are far from 4 GiB");
        let spare = if needs > self.segment_bytes {
            // It dates from when segments were larger. Segments are filled in
            // order, so the spares that come before this one are lost.
            let passed = self.spares.drain(..).map(|spare| spare.segment);
            self.garbage.extend(passed);
            self.allocate(needs)?
        } else if self.spares.is_empty() {
            self.allocate(self.segment_bytes)?
        } else {
            self.spares.remove(0)
        };
        let mut buffer = payload.to_vec();
        buffer.resize(batch_bytes(payload_bytes) - BATCH_HEADER_BYTES, 0);
        let batch = Batch {
            number: last.number,
            segment: spare.segment,
            offset: SEGMENT_HEADER_BYTES,
            starts: Some(Starts {
                generation: spare.generation,
                recycled: spare.recycled,
                floor: self.floor,
            }),
            records: last.records,
            payload_bytes,
            buffer: Arc::new(buffer),
        };
        let nowhere = Position {
            segment: 0,
            offset: 0,
        };
        let written = Arc::new(Written::new(spare.segment, nowhere));
        let mut start = self.start(options, None, None, batch.number, written);
        let copied = start.writer.write(&batch);
        copied.map_err(|poisoned| OpenError::Io {
            doing: poisoned.doing,
            path: poisoned.path,
            source: io::Error::new(poisoned.source.kind(), poisoned.source),
        })?;
        let end = start.written.end().offset;
        start.segment = Some(Segment::begun(spare.segment, spare.bytes, end));
        start.next_batch = batch.number + 1;

        let moved = Held {
            segment: spare.segment,
            offset: SEGMENT_HEADER_BYTES,
            end: end.into(),
            payload: Kept::of(batch.buffer, payload_bytes),
            ..*last
        };
        Ok((start, moved))
    }

    fn start(
        &self,
        options: &LogOptions,
        segment: Option<Segment>,
        tail: Option<Tail<D::File>>,
        next_batch: u64,
        written: Arc<Written>,
    ) -> Start<D> {
        let disk = self.disk.clone();
        let shared = Arc::clone(&written);
        Start {
            segment,
            next_batch,
            writer: Writer::new(disk, options.log, tail, next_batch, shared),
            written,
        }
    }

    fn allocate(&mut self, bytes: u32) -> Result<Spare, OpenError> {
        let made = self.allocator.allocate_of(bytes, Fill::Zeros);
        made.map_err(OpenError::io("make a segment in", self.disk.path("")))
    }

    /// Removes what no longer counts, so that restarts do not fill the disk.
    fn sweep(&mut self, cuts: &[(u32, u64)]) -> Result<(), OpenError> {
        for &(segment, keep) in cuts {
            self.on(segment, "cut", |disk, name| {
                let file = disk.open(name)?;
                file.set_len(keep)?;
                file.sync_data()
            })?;
        }
        // Oldest first, and each durably before the next: what is left when this is cut short must
        // not look like history without a gap.
        let mut garbage = std::mem::take(&mut self.garbage);
        garbage.sort_unstable();
        for segment in garbage {
            self.on(segment, "remove", |disk, name| disk.remove(name))?;
            self.sync_names()?;
        }
        self.sync_names()
    }

    fn sync_names(&self) -> Result<(), OpenError> {
        let synced = self.disk.sync_dir();
        synced.map_err(OpenError::io("sync", self.disk.path("")))
    }

    fn on<T>(
        &self,
        segment: u32,
        doing: &'static str,
        act: impl FnOnce(&D, &str) -> io::Result<T>,
    ) -> Result<T, OpenError> {
        let name = segment_name(segment);
        act(self.disk, &name).map_err(OpenError::io(doing, self.disk.path(&name)))
    }
}
