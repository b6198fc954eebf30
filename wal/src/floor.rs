//! From where on a log is needed: what was before has been given up.

use crate::format::RecordHeader;

/// The shard of the log's own records; no shard of the log's user has it.
pub const LOG_SHARD: u32 = u32::MAX;

/// The kind of the record that raises the floor.
const FLOOR_KIND: u8 = 1;

/// Bytes of that record's body: the segment's number and its first batch.
pub const FLOOR_BODY_BYTES: usize = 12;

/// The first segment that is needed, and the batch it starts with. Whatever is
/// below may be damaged, half removed or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    pub(crate) segment: u32,
    pub(crate) first_batch: u64,
}

impl Floor {
    /// Of a log that nothing was given up of: its first batch is batch 1.
    pub(crate) const NONE: Self = Self {
        segment: 0,
        first_batch: 1,
    };

    /// The header of the record that says so.
    pub(crate) const RECORD: RecordHeader = RecordHeader {
        shard: LOG_SHARD,
        epoch: 0,
        lsn: 0,
        at: 0,
        kind: FLOOR_KIND,
    };

    pub(crate) fn encode(self) -> [u8; FLOOR_BODY_BYTES] {
        let mut body = [0; FLOOR_BODY_BYTES];
        body[..4].copy_from_slice(&self.segment.to_le_bytes());
        body[4..].copy_from_slice(&self.first_batch.to_le_bytes());
        body
    }

    /// Reads one of the log's own records; `None` if this build knows of none
    /// like it.
    pub(crate) fn decode(header: &RecordHeader, body: &[u8]) -> Option<Self> {
        if header.kind != FLOOR_KIND || body.len() != FLOOR_BODY_BYTES {
            return None;
        }
        let (segment, first_batch) = body.split_at(4);
        Some(Self {
            segment: u32::from_le_bytes(segment.try_into().expect("four bytes")),
            first_batch: u64::from_le_bytes(first_batch.try_into().expect("eight bytes")),
        })
    }
}
