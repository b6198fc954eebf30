//! Makes spare segments, off the hot path.

use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::format::{SEGMENT_HEADER_BYTES, segment_name};
use crate::map::Mappings;

/// How much is zero-filled, and synced, at a time: no batch waits behind more
/// of it than that.
const FILL_BYTES: usize = 1 << 20;

static ZEROS: [u8; FILL_BYTES] = [0; FILL_BYTES];

/// A segment file that is ready to be written to: on disk, synced, its header
/// zeroed, and behind that zeros or bytes of an earlier use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spare {
    pub(crate) segment: u32,
    pub(crate) bytes: u32,
    pub(crate) generation: u64,
    /// Whether it may hold bytes of an earlier use.
    pub(crate) recycled: bool,
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

/// What becomes of a segment that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// It becomes a spare, if it has the usual size and none of its bytes are
    /// [lent out](crate::Reader::is_mapped_out); else it is removed. Its blocks
    /// are written to already, so it is as good as zero-filled, and costs two
    /// syncs.
    Yes,
    /// It is removed. Who has it open or mapped keeps its bytes.
    No,
}

/// Makes spare segments, out of nothing or out of old ones. Every call blocks on
/// the disk, so it has a thread of its own.
#[derive(Debug)]
pub struct Allocator<D> {
    disk: D,
    segment_bytes: u32,
    next_segment: u32,
    seed: u64,
    mappings: Arc<Mappings>,
}

impl<D: Disk> Allocator<D> {
    pub(crate) fn new(disk: D, segment_bytes: u32, next_segment: u32, seed: u64) -> Self {
        Self {
            disk,
            segment_bytes,
            next_segment,
            seed,
            mappings: Arc::default(),
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
        self.spend_number();
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
            recycled: false,
        })
    }

    /// The mappings that keep segments from being used again.
    pub(crate) fn mappings(&self) -> Arc<Mappings> {
        Arc::clone(&self.mappings)
    }

    /// Gives up a segment, which the log's durable
    /// [floor](crate::Appender::append_floor) must have passed; oldest first,
    /// and the next only when this one is done. No read of it may be under way.
    /// A [`Reader`](crate::Reader) that has not
    /// [forgotten](crate::Reader::forget) it keeps it from being used again, if
    /// it is mapped, and its space from being free.
    ///
    /// The caller has room for the spare that comes of [`Reuse::Yes`]: an
    /// appender takes no more than [`SPARES_MAX`](crate::SPARES_MAX).
    ///
    /// # Errors
    /// What the disk said. It can be tried again, with the same result as if it
    /// had succeeded at once; what stays behind is removed by the next open.
    pub fn retire(&mut self, segment: u32, reuse: Reuse) -> io::Result<Option<Spare>> {
        let name = segment_name(segment);
        if self.mappings.retire(segment) || reuse == Reuse::No {
            return self.remove(&name);
        }
        let file = match self.disk.open(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.remove(&name),
            file => file?,
        };
        if file.len()? != u64::from(self.segment_bytes) {
            drop(file);
            return self.remove(&name);
        }
        // Without its header nothing in the file counts. That must be durable
        // before the file has its new name, under which it would be refused.
        let header = &ZEROS[..SEGMENT_HEADER_BYTES as usize];
        file.write_at(&[IoSlice::new(header)], 0)?;
        file.sync_data()?;
        let segment = self.next_segment;
        self.disk.rename(&name, &segment_name(segment))?;
        self.spend_number();
        if let Err(error) = self.disk.sync_dir() {
            // Its name is uncertain, so it is no spare; and nothing of it is
            // left under the old name to be tried again.
            drop(file);
            let _ = self.disk.remove(&segment_name(segment));
            return Err(error);
        }
        Ok(Some(Spare {
            segment,
            bytes: self.segment_bytes,
            generation: generation(self.seed, segment),
            recycled: true,
        }))
    }

    fn remove(&self, name: &str) -> io::Result<Option<Spare>> {
        match self.disk.remove(name) {
            // An earlier try got this far.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
        self.disk.sync_dir()?;
        Ok(None)
    }

    /// A number is spent even if what follows fails: should the removal fail
    /// too, the next try must not run into the leftover file.
    fn spend_number(&mut self) {
        let next = self.next_segment.checked_add(1);
        self.next_segment = next.expect("segment numbers run out");
    }
}

fn make(file: &impl DiskFile, bytes: u32, fill: Fill) -> io::Result<()> {
    let reserved = file.reserve(u64::from(bytes))?;
    if fill == Fill::Reserved && reserved {
        return file.sync_data();
    }
    for offset in (0..bytes as usize).step_by(FILL_BYTES) {
        let len = FILL_BYTES.min(bytes as usize - offset);
        file.write_at(&[IoSlice::new(&ZEROS[..len])], offset as u64)?;
        file.sync_data()?;
    }
    Ok(())
}

/// The generation of a segment: as random as the seed, which is drawn at every
/// open, and different for each segment (SplitMix64, Steele et al. 2014).
pub(crate) fn generation(seed: u64, segment: u32) -> u64 {
    let mut mixed = seed.wrapping_add(u64::from(segment).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultDisk;

    #[test]
    fn zeros_are_synced_as_they_are_written() {
        let operations = |fills: u32| {
            let disk = FaultDisk::new();
            let mut allocator = Allocator::new(disk.clone(), fills * FILL_BYTES as u32, 1, 1);
            allocator.allocate(Fill::Zeros).expect("there is room");
            disk.operations()
        };
        // A write and a sync each.
        assert_eq!(operations(5) - operations(1), 4 * 2);
    }
}
