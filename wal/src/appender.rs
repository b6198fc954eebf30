//! The core's end of the log: places records, seals batches.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::allocator::Spare;
use crate::batch::{Batch, Buffers, Starts};
use crate::floor::{Floor, LOG_SHARD};
use crate::format::{
    BATCH_BYTES_MAX, BATCH_HEADER_BYTES, Position, RECORD_HEADER_BYTES, RecordHeader, SECTOR_BYTES,
    SEGMENT_HEADER_BYTES, batch_bytes,
};
use crate::options::SPARES_MAX;

/// Encodes records into batches and decides where they go. Pure: no IO, no
/// clock. What it decides is on disk only once the batch has been written and
/// [`Appender::handle_synced`] been told so.
#[derive(Debug)]
pub struct Appender {
    current: Option<Segment>,
    spares: VecDeque<Spare>,
    /// The batch that records go to; its place is `current`'s offset.
    open: Option<Open>,
    next_batch: u64,
    /// Oldest first, up to the current one.
    in_use: VecDeque<SegmentUse>,
    /// The size of their files, and of those from the floor on.
    used_bytes: u64,
    needed_bytes: u64,
    floor: Floor,
    /// Sealed, not yet handed out.
    sealed: VecDeque<Batch>,
    /// Sealed, not yet known to be synced; in order of batch and position.
    unsynced: VecDeque<Batch>,
    buffers: Buffers,
}

/// A segment that the log is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentUse {
    /// Its number.
    pub number: u32,
    /// The size of its file.
    pub bytes: u64,
    /// The number of its first batch.
    pub first_batch: u64,
}

/// The segment that batches go to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    /// Where the next batch starts.
    pub(crate) offset: u32,
    /// Where the last batch must end: a sector before the end of the file,
    /// which is kept for the marker of a clean end.
    end: u32,
    /// Until its first batch is sealed, the spare it was.
    starts: Option<Spare>,
}

#[derive(Debug)]
struct Open {
    buffer: Arc<Vec<u8>>,
    records: u32,
}

impl Segment {
    /// A segment that has batches up to `offset`.
    pub(crate) fn begun(number: u32, bytes: u32, offset: u32) -> Self {
        Self {
            number,
            offset,
            end: bytes - SECTOR_BYTES,
            starts: None,
        }
    }

    pub(crate) fn in_use(&self, first_batch: u64) -> SegmentUse {
        SegmentUse {
            number: self.number,
            bytes: u64::from(self.end + SECTOR_BYTES),
            first_batch,
        }
    }

    fn fresh(spare: Spare) -> Self {
        Self {
            number: spare.segment,
            offset: SEGMENT_HEADER_BYTES,
            end: spare.bytes - SECTOR_BYTES,
            starts: Some(spare),
        }
    }

    fn room(&self) -> usize {
        // A segment kept from before its marker's sector was reserved for it
        // may already be past the end.
        self.end.saturating_sub(self.offset) as usize
    }
}

impl Appender {
    pub(crate) fn new(
        current: Option<Segment>,
        spares: Vec<Spare>,
        next_batch: u64,
        in_use: Vec<SegmentUse>,
        floor: Floor,
    ) -> Self {
        assert_eq!(
            in_use.last().map(|last| last.number),
            current.map(|current| current.number),
            "the current segment is the newest in use"
        );
        let mut appender = Self {
            current,
            spares: spares.into(),
            open: None,
            next_batch,
            in_use: in_use.into(),
            used_bytes: 0,
            needed_bytes: 0,
            floor,
            sealed: VecDeque::new(),
            unsynced: VecDeque::new(),
            buffers: Buffers::default(),
        };
        appender.add_up();
        appender
    }

    /// The segments in use, or the floor, are others than before.
    fn add_up(&mut self) {
        self.used_bytes = self.segments().map(|used| used.bytes).sum();
        self.needed_bytes = self.needed().map(|used| used.bytes).sum();
    }

    /// Adds a record to the open batch and says where its body will be.
    /// `write_body` must append exactly `body_len` bytes to the vector.
    ///
    /// # Panics
    /// If the record does not [fit](Appender::fits), `write_body` appends
    /// another number of bytes, or its shard is [`LOG_SHARD`].
    pub fn append(
        &mut self,
        header: &RecordHeader,
        body_len: usize,
        write_body: impl FnOnce(&mut Vec<u8>),
    ) -> Position {
        assert_ne!(header.shard, LOG_SHARD, "the log's own records are its own");
        self.append_any(header, body_len, write_body)
    }

    fn append_any(
        &mut self,
        header: &RecordHeader,
        body_len: usize,
        write_body: impl FnOnce(&mut Vec<u8>),
    ) -> Position {
        let record = RECORD_HEADER_BYTES + body_len;
        self.place(record);
        let segment = self.current.as_ref().expect("the open batch has a segment");
        let open = self.open.as_mut().expect("a batch was just opened");
        let buffer = Arc::get_mut(&mut open.buffer).expect("the open batch is nobody else's");
        let start = buffer.len();
        let len = u32::try_from(body_len).expect("a record fits a segment");
        header.encode(len, buffer);
        write_body(buffer);
        assert_eq!(
            buffer.len(),
            start + record,
            "the body must have the length that was said"
        );
        open.records += 1;
        let offset = BATCH_HEADER_BYTES + start + RECORD_HEADER_BYTES;
        Position {
            segment: segment.number,
            offset: segment.offset + u32::try_from(offset).expect("a batch fits a segment"),
        }
    }

    /// Whether a record with a body of this length can be appended now. False
    /// for ever if it is larger than [`body_bytes_max`](crate::body_bytes_max),
    /// else until the next [spare](Appender::handle_spare).
    pub fn fits(&self, body_len: usize) -> bool {
        let Some(record) = body_len.checked_add(RECORD_HEADER_BYTES) else {
            return false;
        };
        if record > u32::MAX as usize {
            return false;
        }
        if self.joins(record) {
            return true;
        }
        let current = self.current.as_ref().map_or(0, Segment::room);
        let free = current - self.open_batch_bytes();
        if batch_bytes(record) <= free {
            return true;
        }
        self.spares
            .front()
            .is_some_and(|&spare| batch_bytes(record) <= Segment::fresh(spare).room())
    }

    /// Bytes left in the current segment, behind the open batch, and in the
    /// spares. A record takes [`RECORD_HEADER_BYTES`] and its body, a batch at
    /// most [`BATCH_HEADER_BYTES`] + [`SECTOR_BYTES`] more; and what is left of
    /// a segment is given up when a record does not fit there, so of this,
    /// less than one record for each segment may turn out not to be usable.
    pub fn room(&self) -> u64 {
        let current = self.current.as_ref().map_or(0, Segment::room) - self.open_batch_bytes();
        let spares = self.spares.iter();
        let spares: usize = spares.map(|&spare| Segment::fresh(spare).room()).sum();
        (current + spares) as u64
    }

    /// The number of the batch that the next record goes to, unless that
    /// record does not fit it, which seals it.
    pub fn open_batch(&self) -> u64 {
        self.next_batch
    }

    /// Bytes of records in the open batch.
    pub fn open_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.buffer.len())
    }

    /// Ends the open batch, if it has records.
    pub fn seal(&mut self) {
        let Some(mut open) = self.open.take() else {
            return;
        };
        let segment = self.current.as_mut().expect("the open batch has a segment");
        let buffer = Arc::get_mut(&mut open.buffer).expect("the open batch is nobody else's");
        let payload_bytes = buffer.len();
        buffer.resize(batch_bytes(payload_bytes) - BATCH_HEADER_BYTES, 0);
        let batch = Batch {
            number: self.next_batch,
            segment: segment.number,
            offset: segment.offset,
            starts: segment.starts.take().map(|spare| Starts {
                generation: spare.generation,
                recycled: spare.recycled,
                floor: self.floor,
            }),
            records: open.records,
            payload_bytes,
            buffer: open.buffer,
        };
        segment.offset += u32::try_from(batch.disk_bytes()).expect("a batch fits a segment");
        self.next_batch += 1;
        self.unsynced.push_back(batch.clone());
        self.sealed.push_back(batch);
    }

    /// The next sealed batch, in order, for the writer.
    pub fn poll_batch(&mut self) -> Option<Batch> {
        self.sealed.pop_front()
    }

    /// The writer has synced all batches up to this number.
    ///
    /// # Panics
    /// If that batch was never handed out.
    pub fn handle_synced(&mut self, batch: u64) {
        let out = self
            .sealed
            .front()
            .map_or(self.next_batch, |next| next.number);
        assert!(
            batch < out,
            "batch {batch} was synced before it was written"
        );
        while self
            .unsynced
            .front()
            .is_some_and(|first| first.number <= batch)
        {
            let synced = self.unsynced.pop_front().expect("looked at just now");
            self.buffers.give_back(synced.buffer);
        }
    }

    /// A spare segment is ready.
    ///
    /// # Panics
    /// If spares come out of order, or more than [`SPARES_MAX`] are kept.
    pub fn handle_spare(&mut self, spare: Spare) {
        let last = self.spares.back().map(|last| last.segment);
        let last = last.or(self.current.as_ref().map(|segment| segment.number));
        assert!(Some(spare.segment) > last, "spares come in order");
        assert!(self.spares.len() < SPARES_MAX, "too many spares");
        self.spares.push_back(spare);
    }

    /// How many spare segments are ready.
    pub fn spares(&self) -> usize {
        self.spares.len()
    }

    /// How many sealed batches are not yet known to be synced.
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// The segment of the first sealed batch that is not yet known to be synced.
    pub fn first_unsynced_segment(&self) -> Option<u32> {
        self.unsynced.front().map(|batch| batch.segment)
    }

    /// The `len` bytes at a position, if they are in a batch that is not yet
    /// known to be synced. Copied out of the open batch, shared with a sealed
    /// one.
    ///
    /// # Panics
    /// If the position is in such a batch and the bytes go beyond its records.
    pub fn unwritten(&self, at: Position, len: usize) -> Option<Bytes> {
        if let (Some(open), Some(segment)) = (&self.open, &self.current)
            && at.segment == segment.number
            && at.offset >= segment.offset
        {
            let start = (at.offset - segment.offset) as usize - BATCH_HEADER_BYTES;
            return Some(Bytes::copy_from_slice(&open.buffer[start..start + len]));
        }
        let place = |batch: &Batch| (batch.segment, batch.offset);
        let behind = self
            .unsynced
            .partition_point(|batch| place(batch) <= (at.segment, at.offset));
        let batch = self.unsynced.get(behind.checked_sub(1)?)?;
        let start = (at.offset - batch.offset) as usize;
        if batch.segment != at.segment || start >= batch.disk_bytes() {
            return None;
        }
        let start = start - BATCH_HEADER_BYTES;
        assert!(
            start + len <= batch.payload_bytes,
            "a body lies in one batch"
        );
        let buffer = Shared(Arc::clone(&batch.buffer));
        Some(Bytes::from_owner(buffer).slice(start..start + len))
    }

    /// The segments in use, oldest first, the one being filled last. Spares are
    /// not among them.
    pub fn segments(&self) -> impl Iterator<Item = SegmentUse> + '_ {
        self.in_use.iter().copied()
    }

    /// The size of their files.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// The size of the files of those that are needed.
    pub fn needed_bytes(&self) -> u64 {
        self.needed_bytes
    }

    /// Those of them that are needed: the next open reads them.
    pub fn needed(&self) -> impl Iterator<Item = SegmentUse> + '_ {
        let floor = self.floor.segment;
        self.segments().skip_while(move |used| used.number < floor)
    }

    /// Records that nothing before this segment is needed any more: all that
    /// still counts was appended again before. When the batch whose number this
    /// returns is synced, the segments before may be
    /// [retired](crate::Allocator::retire). Until then they are kept as history:
    /// the next open does not read them, a [`LogView`](crate::LogView) can.
    ///
    /// # Panics
    /// If a body of [`FLOOR_BODY_BYTES`](crate::FLOOR_BODY_BYTES) does not
    /// [fit](Appender::fits), or the segment is not in use or before an earlier
    /// floor.
    pub fn append_floor(&mut self, first_needed: u32) -> u64 {
        let needed = self.segments().find(|used| used.number == first_needed);
        let needed = needed.expect("the first needed segment is in use");
        assert!(needed.number >= self.floor.segment, "a floor only rises");
        let floor = Floor {
            segment: needed.number,
            first_batch: needed.first_batch,
        };
        let body = floor.encode();
        self.append_any(&Floor::RECORD, body.len(), |into| {
            into.extend_from_slice(&body);
        });
        self.floor = floor;
        self.add_up();
        self.open_batch()
    }

    /// The oldest segment in use has been retired.
    ///
    /// # Panics
    /// If it is not the oldest, or still needed.
    pub fn handle_retired(&mut self, segment: u32) {
        let oldest = self.in_use.pop_front().map(|oldest| oldest.number);
        assert_eq!(oldest, Some(segment), "segments are retired in order");
        assert!(segment < self.floor.segment, "the segment is still needed");
        self.add_up();
    }

    /// Whether a record of this size may join the open batch.
    fn joins(&self, record: usize) -> bool {
        let (Some(open), Some(segment)) = (&self.open, &self.current) else {
            return false;
        };
        let payload = open.buffer.len() + record;
        payload <= BATCH_BYTES_MAX && batch_bytes(payload) <= segment.room()
    }

    /// Makes the open batch one that takes a record of this size.
    fn place(&mut self, record: usize) {
        if self.joins(record) {
            return;
        }
        self.seal();
        let room = self.current.as_ref().map_or(0, Segment::room);
        if batch_bytes(record) > room {
            let spare = self.spares.pop_front();
            let fresh = Segment::fresh(spare.expect("append only what fits"));
            assert!(batch_bytes(record) <= fresh.room(), "append only what fits");
            self.current = Some(fresh);
            self.in_use.push_back(fresh.in_use(self.next_batch));
            self.add_up();
        }
        self.open = Some(Open {
            buffer: self.buffers.take(),
            records: 0,
        });
    }

    fn open_batch_bytes(&self) -> usize {
        let open = self.open.as_ref();
        open.map_or(0, |open| batch_bytes(open.buffer.len()))
    }
}

/// A sealed batch's buffer, lent out.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
