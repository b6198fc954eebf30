//! Makes spare segments, off the hot path.

use std::io::{self, IoSlice};

use crate::disk::{Disk, DiskFile};
use crate::format::segment_name;

/// How much is zero-filled by one write.
const FILL_BYTES: usize = 1 << 20;

static ZEROS: [u8; FILL_BYTES] = [0; FILL_BYTES];

/// A segment file that is ready to be written to: on disk, zero-filled, synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spare {
    pub(crate) segment: u32,
    pub(crate) bytes: u32,
    pub(crate) generation: u64,
}

impl Spare {
    /// The segment's number.
    pub fn segment(&self) -> u32 {
        self.segment
    }

    /// The size of its file.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }
}

/// How a new segment's space is made.
///
/// Zeros cost the device each byte twice, once now and once with its record,
/// and make the syncs of batches about 40 % shorter. So they suit a log that
/// fills its segments slowly; one that is written as fast as it goes spares
/// itself the second write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Written.
    Zeros,
    /// Reserved.
    Reserved,
}

/// Makes spare segments. Every call blocks on the disk, so it has a thread of
/// its own.
#[derive(Debug)]
pub struct Allocator<D> {
    disk: D,
    segment_bytes: u32,
    next_segment: u32,
    seed: u64,
}

impl<D: Disk> Allocator<D> {
    pub(crate) fn new(disk: D, segment_bytes: u32, next_segment: u32, seed: u64) -> Self {
        Self {
            disk,
            segment_bytes,
            next_segment,
            seed,
        }
    }

    /// Makes the next segment. With [`Fill::Zeros`] every byte of it is written
    /// now, so that no sync of a batch has to change metadata; with
    /// [`Fill::Reserved`] its space is only reserved, where the disk can.
    ///
    /// # Errors
    /// What the disk said. The half-made file is gone, and it can be tried
    /// again, for instance when there is space again.
    pub fn allocate(&mut self, fill: Fill) -> io::Result<Spare> {
        self.allocate_of(self.segment_bytes, fill)
    }

    pub(crate) fn allocate_of(&mut self, bytes: u32, fill: Fill) -> io::Result<Spare> {
        let segment = self.next_segment;
        let name = segment_name(segment);
        let file = self.disk.create(&name)?;
        // The number is spent even if what follows fails: should the removal
        // fail too, the next try must not run into the leftover file.
        self.next_segment = segment.checked_add(1).expect("segment numbers run out");
        if let Err(error) = make(&file, bytes, fill).and_then(|()| self.disk.sync_dir()) {
            drop(file);
            // The first error is the one to report. A file that stays is an
            // unused spare, which the next open sorts out.
            let _ = self.disk.remove(&name);
            return Err(error);
        }
        Ok(Spare {
            segment,
            bytes,
            generation: generation(self.seed, segment),
        })
    }
}

fn make(file: &impl DiskFile, bytes: u32, fill: Fill) -> io::Result<()> {
    if fill == Fill::Reserved && file.reserve(u64::from(bytes))? {
        return file.sync_data();
    }
    let mut offset = 0;
    while offset < bytes as usize {
        let len = FILL_BYTES.min(bytes as usize - offset);
        file.write_at(&[IoSlice::new(&ZEROS[..len])], offset as u64)?;
        offset += len;
    }
    file.sync_data()
}

/// The generation of a segment: as random as the seed, which is drawn at every
/// open, and different for each segment (SplitMix64, Steele et al. 2014).
pub(crate) fn generation(seed: u64, segment: u32) -> u64 {
    let mut mixed = seed.wrapping_add(u64::from(segment).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
