//! The bytes on disk: segment header, batch header, record header.
//!
//! All integers are little endian. A segment file is a header page of
//! [`SEGMENT_HEADER_BYTES`], then batches, each at a multiple of
//! [`SECTOR_BYTES`], then zeros. The segment header is one sector, kept twice
//! in its page so that one bad sector does not take a whole segment with it.
//!
//! | Segment header | bytes | | Batch header | bytes | | Record | bytes |
//! |---|---|---|---|---|---|---|---|
//! | magic `ORSEGMNT` | 8 | | magic `ORBT` | 4 | | body length | 4 |
//! | format version | 4 | | payload length | 4 | | kind | 1 |
//! | log | 2 | | number | 8 | | shard | 4 |
//! | flags | 2 | | records | 4 | | epoch | 4 |
//! | segment number | 4 | | CRC32C of the payload | 4 | | LSN | 8 |
//! | floor: segment | 4 | | CRC32C of the 24 bytes above | 4 | | time | 8 |
//! | generation | 8 | | zero | 4 | | body | |
//! | first batch | 8 | | | | | | |
//! | floor: its first batch | 8 | | | | | | |
//! | CRC32C of the above | 4 | | | | | | |
//!
//! Flag 1 says that the file may hold bytes of an earlier use behind its last
//! batch, where there would be zeros otherwise. The floor is the log's newest
//! as of the segment's first batch, and counts if that batch is there.
//!
//! Both checksums of a batch start from the segment's generation and number.
//! The header has one of its own so that looking for batches behind a hole
//! costs a few bytes a sector, whatever lengths the bytes there pretend to.

use crate::floor::Floor;

/// The version of the format this build writes, and the only one it reads:
/// version 1 was never released.
pub const FORMAT_VERSION: u32 = 2;

/// Batches start at multiples of this: what a disk writes whole or not at all.
pub const SECTOR_BYTES: u32 = 512;

/// Bytes at the start of a segment file that hold its header.
pub const SEGMENT_HEADER_BYTES: u32 = 4096;

/// Bytes of a batch before its first record.
pub const BATCH_HEADER_BYTES: usize = 32;

/// Bytes of a record before its body.
pub const RECORD_HEADER_BYTES: usize = 29;

/// A batch with this many bytes of records takes no more. One record that is
/// larger is a batch of its own. Bounds how long one write and sync takes.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

const SEGMENT_MAGIC: &[u8; 8] = b"ORSEGMNT";
const BATCH_MAGIC: &[u8; 4] = b"ORBT";
/// Where the second copy of the segment header starts.
const SEGMENT_HEADER_COPY: usize = 2048;
const SEGMENT_CRC_AT: usize = 48;
/// Where version 1 had its checksum.
const SEGMENT_CRC_AT_V1: usize = 40;
const FLAG_RECYCLED: u16 = 1;

const _: () = assert!(SEGMENT_HEADER_BYTES.is_multiple_of(SECTOR_BYTES));
const _: () = assert!(SEGMENT_HEADER_COPY + SECTOR_BYTES as usize <= SEGMENT_HEADER_BYTES as usize);

/// What the log knows of a record. The body is opaque to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The shard the record belongs to.
    pub shard: u32,
    /// The shard's epoch in which it was written.
    pub epoch: u32,
    /// Its log sequence number, gap-free within a shard.
    pub lsn: u64,
    /// The shard's time at which it was written.
    pub at: u64,
    /// What it is; the log gives kinds no meaning.
    pub kind: u8,
}

/// Where a record's body starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The segment's number.
    pub segment: u32,
    /// Bytes from the start of the segment file.
    pub offset: u32,
}

/// The largest body, in bytes, that a fresh segment of this size holds.
pub const fn body_bytes_max(segment_bytes: u32) -> usize {
    // The last sector is kept for the marker of a clean end.
    (segment_bytes - SEGMENT_HEADER_BYTES - SECTOR_BYTES) as usize
        - BATCH_HEADER_BYTES
        - RECORD_HEADER_BYTES
}

/// Bytes that a batch with this much payload takes up in its segment.
pub(crate) const fn batch_bytes(payload: usize) -> usize {
    (BATCH_HEADER_BYTES + payload).next_multiple_of(SECTOR_BYTES as usize)
}

/// The file name of a segment.
pub(crate) fn segment_name(number: u32) -> String {
    format!("{number:08}.seg")
}

/// The number of the segment that has this file name, if it is one's.
pub(crate) fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    let number = digits.parse().ok().filter(|&number| number > 0)?;
    (segment_name(number) == name).then_some(number)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The header of a segment that has been written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) log: u16,
    pub(crate) segment: u32,
    pub(crate) generation: u64,
    pub(crate) first_batch: u64,
    /// Whether what lies behind the last batch may be bytes of an earlier use.
    pub(crate) recycled: bool,
    /// The log's floor as of the first batch.
    pub(crate) floor: Floor,
}

/// What the header page of a segment file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderPage {
    /// All zeros: a spare that nothing was ever written to.
    Unused,
    Valid(SegmentHeader),
    /// Written in a version that this build does not read.
    Other(u32),
    /// Neither copy is whole.
    Broken,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut page = [0; SEGMENT_HEADER_BYTES as usize];
        page[..8].copy_from_slice(SEGMENT_MAGIC);
        page[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        page[12..14].copy_from_slice(&self.log.to_le_bytes());
        let flags = if self.recycled { FLAG_RECYCLED } else { 0 };
        page[14..16].copy_from_slice(&flags.to_le_bytes());
        page[16..20].copy_from_slice(&self.segment.to_le_bytes());
        page[20..24].copy_from_slice(&self.floor.segment.to_le_bytes());
        page[24..32].copy_from_slice(&self.generation.to_le_bytes());
        page[32..40].copy_from_slice(&self.first_batch.to_le_bytes());
        page[40..48].copy_from_slice(&self.floor.first_batch.to_le_bytes());
        let crc = crc32c::crc32c(&page[..SEGMENT_CRC_AT]);
        page[SEGMENT_CRC_AT..SEGMENT_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        page.copy_within(..SECTOR_BYTES as usize, SEGMENT_HEADER_COPY);
        page
    }

    /// The start of every checksum in the segment.
    pub(crate) fn crc_seed(&self) -> u32 {
        crc_seed(self.generation, self.segment)
    }
}

impl HeaderPage {
    /// Reads a header page; a short one counts as if zeros followed.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let mut page = [0; SEGMENT_HEADER_BYTES as usize];
        let len = bytes.len().min(page.len());
        page[..len].copy_from_slice(&bytes[..len]);
        if page.iter().all(|&byte| byte == 0) {
            return Self::Unused;
        }
        let mut other = None;
        for copy in [&page[..], &page[SEGMENT_HEADER_COPY..]] {
            if &copy[..8] != SEGMENT_MAGIC {
                continue;
            }
            let version = u32_at(copy, 8);
            if crc32c::crc32c(&copy[..SEGMENT_CRC_AT]) == u32_at(copy, SEGMENT_CRC_AT)
                && version == FORMAT_VERSION
            {
                return Self::Valid(SegmentHeader {
                    log: u16_at(copy, 12),
                    segment: u32_at(copy, 16),
                    generation: u64_at(copy, 24),
                    first_batch: u64_at(copy, 32),
                    recycled: u16_at(copy, 14) & FLAG_RECYCLED != 0,
                    floor: Floor {
                        segment: u32_at(copy, 20),
                        first_batch: u64_at(copy, 40),
                    },
                });
            }
            // A newer format may keep its checksum elsewhere, so the magic is
            // all that can be asked of it.
            let v1_crc = || crc32c::crc32c(&copy[..SEGMENT_CRC_AT_V1]);
            if version > FORMAT_VERSION
                || (version == 1 && v1_crc() == u32_at(copy, SEGMENT_CRC_AT_V1))
            {
                other = Some(version);
            }
        }
        other.map_or(Self::Broken, Self::Other)
    }
}

/// The start of every checksum in the segment of this generation and number.
pub(crate) fn crc_seed(generation: u64, segment: u32) -> u32 {
    let seed = crc32c::crc32c(&generation.to_le_bytes());
    crc32c::crc32c_append(seed, &segment.to_le_bytes())
}

/// The header of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) number: u64,
    pub(crate) payload_bytes: u32,
    pub(crate) records: u32,
    pub(crate) payload_crc: u32,
}

impl BatchHeader {
    /// The header of a batch with this payload.
    pub(crate) fn of(seed: u32, number: u64, records: u32, payload: &[u8]) -> Self {
        Self {
            number,
            payload_bytes: u32::try_from(payload.len()).expect("a batch fits a segment"),
            records,
            payload_crc: crc32c::crc32c_append(seed, payload),
        }
    }

    pub(crate) fn encode(&self, seed: u32) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        bytes[..4].copy_from_slice(BATCH_MAGIC);
        bytes[4..8].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.records.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &bytes[..24]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, if it is whole and of this segment.
    pub(crate) fn decode(seed: u32, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES)?;
        if &bytes[..4] != BATCH_MAGIC
            || crc32c::crc32c_append(seed, &bytes[..24]) != u32_at(bytes, 24)
        {
            return None;
        }
        Some(Self {
            payload_bytes: u32_at(bytes, 4),
            number: u64_at(bytes, 8),
            records: u32_at(bytes, 16),
            payload_crc: u32_at(bytes, 20),
        })
    }

    /// The number in what looks like a batch header of an unknown segment.
    pub(crate) fn unverified_number(bytes: &[u8]) -> Option<u64> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES)?;
        (&bytes[..4] == BATCH_MAGIC).then(|| u64_at(bytes, 8))
    }

    /// Whether the batch is the empty one that a clean end leaves.
    pub(crate) fn is_marker(&self) -> bool {
        self.records == 0
    }

    /// Bytes the batch takes up in its segment.
    pub(crate) fn batch_bytes(&self) -> u64 {
        (BATCH_HEADER_BYTES as u64 + u64::from(self.payload_bytes))
            .next_multiple_of(u64::from(SECTOR_BYTES))
    }
}

impl RecordHeader {
    /// Appends the header of a record whose body has this length.
    pub(crate) fn encode(&self, body_len: u32, into: &mut Vec<u8>) {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[..4].copy_from_slice(&body_len.to_le_bytes());
        bytes[4] = self.kind;
        bytes[5..9].copy_from_slice(&self.shard.to_le_bytes());
        bytes[9..13].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[13..21].copy_from_slice(&self.lsn.to_le_bytes());
        bytes[21..29].copy_from_slice(&self.at.to_le_bytes());
        into.extend_from_slice(&bytes);
    }

    /// Takes the first record off `payload`: its header and its body.
    pub(crate) fn split<'a>(payload: &mut &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = payload.split_at_checked(RECORD_HEADER_BYTES)?;
        let (body, rest) = rest.split_at_checked(u32_at(head, 0) as usize)?;
        *payload = rest;
        let header = Self {
            kind: head[4],
            shard: u32_at(head, 5),
            epoch: u32_at(head, 9),
            lsn: u64_at(head, 13),
            at: u64_at(head, 21),
        };
        Some((header, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader {
        log: 3,
        segment: 7,
        generation: 0x0123_4567_89ab_cdef,
        first_batch: 42,
        recycled: true,
        floor: Floor {
            segment: 6,
            first_batch: 33,
        },
    };

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_segment_header_survives_the_loss_of_either_copy() {
        let page = HEADER.encode();
        assert_eq!(HeaderPage::decode(&page), HeaderPage::Valid(HEADER));
        for copy in [0, SEGMENT_HEADER_COPY] {
            let mut damaged = page;
            damaged[copy + 26] ^= 4;
            assert_eq!(HeaderPage::decode(&damaged), HeaderPage::Valid(HEADER));
        }
        let mut damaged = page;
        damaged[26] ^= 4;
        damaged[SEGMENT_HEADER_COPY + 9] ^= 4;
        assert_eq!(
            HeaderPage::decode(&damaged),
            HeaderPage::Other(2 + (4 << 8))
        );
        damaged[SEGMENT_HEADER_COPY + 9] ^= 4;
        damaged[SEGMENT_HEADER_COPY + 30] ^= 4;
        assert_eq!(HeaderPage::decode(&damaged), HeaderPage::Broken);
    }

    #[test]
    fn a_batch_decodes_only_under_its_own_generation_and_segment() {
        let header = BatchHeader::of(HEADER.crc_seed(), 9, 1, b"payload");
        let bytes = header.encode(HEADER.crc_seed());
        assert_eq!(BatchHeader::decode(HEADER.crc_seed(), &bytes), Some(header));
        for other in [
            SegmentHeader {
                generation: 1,
                ..HEADER
            },
            SegmentHeader {
                segment: 8,
                ..HEADER
            },
        ] {
            assert_eq!(BatchHeader::decode(other.crc_seed(), &bytes), None);
        }
        assert_eq!(BatchHeader::decode(HEADER.crc_seed(), &[0; 32]), None);
    }

    #[test]
    fn records_come_back_as_they_were_encoded_and_no_cut_of_them_does() {
        let header = RecordHeader {
            shard: 5,
            epoch: 6,
            lsn: 1 << 40,
            at: u64::MAX,
            kind: 255,
        };
        let mut payload = Vec::new();
        header.encode(4, &mut payload);
        payload.extend_from_slice(b"body");
        for cut in 0..payload.len() {
            assert_eq!(RecordHeader::split(&mut &payload[..cut]), None);
        }
        let mut rest = &payload[..];
        assert_eq!(RecordHeader::split(&mut rest), Some((header, &b"body"[..])));
        assert!(rest.is_empty());
    }

    #[test]
    fn only_the_names_that_segments_are_given_are_segments() {
        for number in [1, 99_999_999, 100_000_000, u32::MAX] {
            assert_eq!(segment_number(&segment_name(number)), Some(number));
        }
        for name in [
            "0.seg",
            "00000000.seg",
            "1.seg",
            "+0000001.seg",
            "lock",
            "00000001.sex",
        ] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }

    /// Changing any of these bytes makes data directories unreadable: raise
    /// [`FORMAT_VERSION`] and keep a reader of this one.
    #[test]
    fn format_version_2_is_these_bytes() {
        assert_eq!(FORMAT_VERSION, 2);
        let page = HEADER.encode();
        assert_eq!(
            hex(&page[..52]),
            "4f525345474d4e5401000000030000000700000000000000efcdab89674523012a000000000000001153bf66"
        );
        assert!(page[52..SEGMENT_HEADER_COPY].iter().all(|&byte| byte == 0));
        assert_eq!(page[..512], page[SEGMENT_HEADER_COPY..][..512]);

        let mut payload = Vec::new();
        let record = RecordHeader {
            shard: 0x0102_0304,
            epoch: 9,
            lsn: 0x1112_1314_1516_1718,
            at: 0x2122_2324_2526_2728,
            kind: 0xab,
        };
        record.encode(2, &mut payload);
        payload.extend_from_slice(b"hi");
        assert_eq!(
            hex(&payload),
            "02000000ab0403020109000000181716151413121128272625242322216869"
        );
        let seed = HEADER.crc_seed();
        let batch = BatchHeader::of(seed, 42, 1, &payload).encode(seed);
        assert_eq!(
            hex(&batch),
            "4f5242541f0000002a0000000000000001000000737868b6b99c126700000000"
        );
    }
}
