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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultDisk;
    use crate::format::{BatchHeader, SegmentHeader, batch_bytes, segment_name};
    use crate::{LogOptions, OpenError, open};

    /// A log of one segment with one batch: a record and a floor.
    fn disk(header_floor: u32, recorded_floor: u32) -> FaultDisk {
        let floor = |segment| Floor {
            segment,
            first_batch: 1,
        };
        let header = SegmentHeader {
            log: 0,
            segment: 1,
            generation: 9,
            first_batch: 1,
            recycled: false,
            floor: floor(header_floor),
        };
        let mut payload = Vec::new();
        let record = RecordHeader {
            shard: 3,
            ..Floor::RECORD
        };
        record.encode(4, &mut payload);
        payload.extend_from_slice(b"kept");
        Floor::RECORD.encode(FLOOR_BODY_BYTES as u32, &mut payload);
        payload.extend_from_slice(&floor(recorded_floor).encode());
        let seed = header.crc_seed();
        let mut file = header.encode().to_vec();
        let batch = BatchHeader::of(seed, 1, 2, &payload).encode(seed);
        file.extend_from_slice(&batch);
        file.extend_from_slice(&payload);
        file.resize(header.encode().len() + batch_bytes(payload.len()), 0);
        let disk = FaultDisk::new();
        disk.put(&segment_name(1), &file);
        disk
    }

    fn open_all(disk: &FaultDisk) -> Result<u32, OpenError> {
        let mut records = 0;
        let opened = open(
            disk.clone(),
            LogOptions::default(),
            &mut || 1,
            &mut |_, _, _| {
                records += 1;
                Ok(())
            },
        );
        opened.map(|_| records)
    }

    #[test]
    fn a_floor_above_its_own_segment_gives_up_nothing() {
        assert_eq!(open_all(&disk(1, 1)).unwrap(), 1);
        for (header, record) in [(2, 2), (u32::MAX, u32::MAX), (0, 2), (0, u32::MAX)] {
            let disk = disk(header, record);
            let before = disk.contents(&segment_name(1));
            let refused = open_all(&disk).unwrap_err();
            assert!(matches!(refused, OpenError::Foreign { .. }), "{refused}");
            assert_eq!(disk.contents(&segment_name(1)), before);
        }
    }
}
