//! Goes through the segments of a log and hands out their records.

use std::path::PathBuf;
use std::sync::Arc;

use crate::appender::SegmentUse;
use crate::disk::Disk;
use crate::error::OpenError;
use crate::floor::{Floor, LOG_SHARD};
use crate::format::{
    BATCH_HEADER_BYTES, Position, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES,
    segment_name,
};
use crate::recover::{Recovery, TornTail};
use crate::scan::{Beyond, Kept, Window};
use crate::segment_file::UNSOUND;
use crate::survey::Begun;

/// The most unused bytes a segment keeps once nothing more is written to it.
/// Without a bound every crash would cost a whole segment of disk space.
const SLACK_BYTES_MAX: u64 = 64 << 10;

/// What [`open`](crate::open) gives each record to: its header, where its body
/// is, and the body. `Err` says why the record cannot be.
pub type OnRecord<'a> = &'a mut dyn FnMut(&RecordHeader, Position, &[u8]) -> Result<(), String>;

/// A batch that is whole, but not proven durable by one behind it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) number: u64,
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    /// Where it ends in its segment.
    pub(crate) end: u64,
    /// None in the marker of a clean end.
    pub(crate) records: u32,
    pub(crate) payload: Kept,
}

/// The way through the segments, one after the other.
pub(crate) struct Replay<'a, D> {
    disk: &'a D,
    on_record: OnRecord<'a>,
    /// The number of the batch that must come next.
    next_batch: u64,
    /// Where it must be, if segments before this one had any.
    end: Option<(u32, u64)>,
    /// The last batch found; its records are not handed out yet.
    pub(crate) held: Option<Held>,
    /// Segments with much unused space behind what they need to keep, and how
    /// many bytes that is.
    pub(crate) cuts: Vec<(u32, u64)>,
    /// Segments in which nothing counts any more.
    pub(crate) dead: Vec<u32>,
    pub(crate) recovery: Recovery,
}

impl<'a, D: Disk> Replay<'a, D> {
    /// Begins with a batch of this number.
    pub(crate) fn new(disk: &'a D, first_batch: u64, on_record: OnRecord<'a>) -> Self {
        Self {
            disk,
            on_record,
            next_batch: first_batch,
            end: None,
            held: None,
            cuts: Vec::new(),
            dead: Vec::new(),
            recovery: Recovery::default(),
        }
    }

    /// Goes through a segment, of which batches from `superseded` on do not
    /// count because a later one has them. `next` is the segment after it.
    pub(crate) fn segment(
        &mut self,
        begun: &Begun<D::File>,
        superseded: u64,
        next: Option<&Begun<D::File>>,
    ) -> Result<(), OpenError> {
        let next = next.map(|next| Arc::clone(&next.file));
        let mut window = Window::reading_ahead(Arc::clone(&begun.file), begun.bytes.into());
        window = window.followed_by(next);
        let io = OpenError::io("read", self.path(begun.number));
        let start = u64::from(SEGMENT_HEADER_BYTES);
        let Some(header) = begun.header else {
            // Its first batch was being written. Was it ever more than that?
            let beyond = window.beyond_unverified(self.next_batch).map_err(io)?;
            self.dead.push(begun.number);
            // If batches follow in other segments, the next one was here.
            self.end = Some((begun.number, 0));
            return self.tail(begun, 0, &beyond, "its header is unreadable");
        };
        let (seed, first) = (header.crc_seed(), header.first_batch);
        if first >= superseded {
            self.dead.push(begun.number);
            return Ok(());
        }
        if first > self.next_batch || (begun.first_valid && first < self.next_batch) {
            return Err(self.missing(begun, first));
        }
        if !begun.first_valid {
            let beyond = window.beyond(seed, start, first).map_err(io)?;
            self.dead.push(begun.number);
            self.end = Some((begun.number, start));
            return self.tail(begun, start, &beyond, "it is unreadable");
        }
        self.recovery.segments += 1;
        let mut offset = start;
        while self.next_batch < superseded {
            let io = OpenError::io("read", self.path(begun.number));
            let batch = window.batch(seed, offset, self.next_batch).map_err(io)?;
            let Some((header, payload)) = batch else {
                break;
            };
            // The batch before is durable, or this one would not be here.
            self.flush()?;
            let end = offset + header.batch_bytes();
            self.held = Some(Held {
                number: header.number,
                segment: begun.number,
                offset: u32::try_from(offset).expect("segments have 32-bit lengths"),
                end,
                records: header.records,
                payload,
            });
            if header.is_marker() {
                // The next batch has its number and takes its place.
                self.end = Some((begun.number, offset));
                let io = OpenError::io("read", self.path(begun.number));
                let beyond = window.beyond(seed, end, header.number).map_err(io)?;
                return self.tail(begun, end, &beyond, "the log ends cleanly there");
            }
            self.next_batch += 1;
            offset = end;
        }
        self.end = Some((begun.number, offset));
        let io = OpenError::io("read", self.path(begun.number));
        if self.next_batch >= superseded {
            // What was copied from here stays, as a second copy.
            let copied = window.batch(seed, offset, self.next_batch).map_err(io)?;
            let keep = offset + copied.map_or(0, |(header, _)| header.batch_bytes());
            self.cut(begun, keep);
            return Ok(());
        }
        let beyond = window.beyond(seed, offset, self.next_batch).map_err(io)?;
        self.tail(begun, offset, &beyond, "it is unreadable")
    }

    /// The last batch has been copied to another segment: of this one, remains
    /// what came before, and the batch itself as a second copy.
    pub(crate) fn leave(&mut self, begun: &Begun<D::File>, last: &Held) {
        if begun
            .header
            .is_some_and(|header| header.first_batch == last.number)
        {
            self.dead.push(begun.number);
        } else {
            self.cut(begun, last.end);
        }
    }

    /// Notes that a segment which nothing more is written to needs only this
    /// many bytes.
    fn cut(&mut self, begun: &Begun<D::File>, keep: u64) {
        if u64::from(begun.bytes) > keep + SLACK_BYTES_MAX {
            self.cuts.push((begun.number, keep));
        }
    }

    /// The segments of which something counts, and what is left of them.
    pub(crate) fn kept(&self, begun: &[Begun<D::File>]) -> Vec<SegmentUse> {
        let kept = begun.iter().filter(|one| !self.dead.contains(&one.number));
        kept.map(|one| {
            let cut = self.cuts.iter().find(|&&(number, _)| number == one.number);
            SegmentUse {
                number: one.number,
                bytes: cut.map_or(one.bytes.into(), |&(_, keep)| keep),
                first_batch: one.header.expect("its batches count").first_batch,
            }
        })
        .collect()
    }

    /// Hands out the records of the batch that is held, from where it lies or
    /// was copied to.
    pub(crate) fn flush(&mut self) -> Result<(), OpenError> {
        let Some(held) = self.held.take() else {
            return Ok(());
        };
        let mut payload = held.payload.as_slice();
        let payload_bytes = payload.len();
        let mut records = 0;
        while records < held.records {
            let done = payload_bytes - payload.len();
            let offset = BATCH_HEADER_BYTES + done + RECORD_HEADER_BYTES;
            let Some((header, body)) = RecordHeader::split(&mut payload) else {
                return Err(self.unsound(&held));
            };
            let at = Position {
                segment: held.segment,
                offset: held.offset + u32::try_from(offset).expect("within a segment"),
            };
            self.hand_out(&header, at, body)
                .map_err(|reason| OpenError::Rejected {
                    file: self.path(at.segment),
                    offset: at.offset.into(),
                    reason,
                })?;
            self.recovery.last_at = self.recovery.last_at.max(header.at);
            records += 1;
        }
        if !payload.is_empty() {
            return Err(self.unsound(&held));
        }
        if records > 0 {
            self.recovery.records += u64::from(records);
            self.recovery.batches += 1;
            self.recovery.bytes += held.end - u64::from(held.offset);
        }
        Ok(())
    }

    fn hand_out(&mut self, header: &RecordHeader, at: Position, body: &[u8]) -> Result<(), String> {
        if header.shard != LOG_SHARD {
            return (self.on_record)(header, at, body);
        }
        // The survey has found the newest floor already.
        let known = Floor::decode(header, body).map(drop);
        known.ok_or_else(|| {
            format!(
                "this build knows no record of the log of kind {}",
                header.kind
            )
        })
    }

    /// What was found behind the last batch of a segment: nothing that counts,
    /// or proof that something is missing.
    fn tail(
        &mut self,
        begun: &Begun<D::File>,
        offset: u64,
        beyond: &Beyond,
        state: &str,
    ) -> Result<(), OpenError> {
        if let Some((later, number)) = beyond.later {
            return Err(OpenError::Corrupt {
                file: self.path(begun.number),
                offset,
                expected: self.next_batch,
                found: format!("{state}, while batch {number} follows at byte {later}"),
            });
        }
        let torn = beyond.torn_bytes(begun.header);
        if torn > 0 {
            self.recovery.torn = Some(TornTail {
                segment: begun.number,
                offset,
                bytes: torn,
            });
        }
        Ok(())
    }

    fn missing(&self, begun: &Begun<D::File>, first: u64) -> OpenError {
        let here = (begun.number, u64::from(SEGMENT_HEADER_BYTES));
        let (segment, offset) = self.end.unwrap_or(here);
        OpenError::Corrupt {
            file: self.path(segment),
            offset,
            expected: self.next_batch,
            found: format!(
                "it is unreadable or its segment is missing, while {} starts with batch {first}",
                segment_name(begun.number)
            ),
        }
    }

    fn unsound(&self, held: &Held) -> OpenError {
        OpenError::Corrupt {
            file: self.path(held.segment),
            offset: held.offset.into(),
            expected: held.number,
            found: UNSOUND.to_owned(),
        }
    }

    fn path(&self, segment: u32) -> PathBuf {
        self.disk.path(&segment_name(segment))
    }
}
