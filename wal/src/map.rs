//! Read-only mappings of segments, lent out as [`Bytes`].
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};

/// A file mapped for reading, at the length it had.
#[derive(Debug)]
pub struct Mapping {
    // Raw, because other parts of the file are written to while this exists: a
    // slice may only ever cover bytes that are not.
    map: MmapRaw,
}

impl Mapping {
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let map = MmapOptions::new().map_raw_read_only(file)?;
        Ok(Self { map })
    }

    /// Its length.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Bytes that were written before the call and are never written again;
    /// `None` beyond the end of the mapping.
    pub(crate) fn bytes(self: &Arc<Self>, offset: usize, len: usize) -> Option<Bytes> {
        if offset.checked_add(len)? > self.map.len() {
            return None;
        }
        let map = Arc::clone(self);
        Some(Bytes::from_owner(View { map, offset, len }))
    }
}

/// The mappings there are, of all readers of a log: bytes of a segment that is
/// mapped may be lent out, so it is not written to again.
#[derive(Debug, Default)]
pub(crate) struct Mappings {
    live: Mutex<Live>,
    /// Segments up to this one have been given up. Raised under the lock.
    retired: AtomicU32,
}

type Live = Vec<(u32, Weak<Mapping>)>;

impl Mappings {
    /// Maps a segment, unless it has been given up. The lock is taken once a
    /// segment and reader.
    pub(crate) fn map(
        &self,
        segment: u32,
        map: impl FnOnce() -> io::Result<Option<Mapping>>,
    ) -> Option<Arc<Mapping>> {
        let mut live = self.live();
        if self.is_retired(segment) {
            return None;
        }
        let map = Arc::new(map().ok()??);
        live.retain(|(_, live)| live.strong_count() > 0);
        live.push((segment, Arc::downgrade(&map)));
        Some(map)
    }

    /// Has a segment mapped by nobody any more, and says whether it still is.
    pub(crate) fn retire(&self, segment: u32) -> bool {
        let live = self.live();
        self.retired.fetch_max(segment, Ordering::Relaxed);
        is_live(&live, segment)
    }

    /// Whether the segment has been given up.
    pub(crate) fn is_retired(&self, segment: u32) -> bool {
        segment <= self.retired.load(Ordering::Relaxed)
    }

    pub(crate) fn is_mapped(&self, segment: u32) -> bool {
        is_live(&self.live(), segment)
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().expect("no holder panics")
    }
}

fn is_live(live: &Live, segment: u32) -> bool {
    let mut live = live.iter();
    live.any(|(number, map)| *number == segment && map.strong_count() > 0)
}

/// A range of a mapping, within its bounds.
struct View {
    map: Arc<Mapping>,
    offset: usize,
    len: usize,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the range lies in the mapping (checked by `Mapping::bytes`,
        // the only maker of a `View`), which lives as long as `self`. Nothing
        // writes to it: `Reader` asks only for ranges behind the watermark
        // that `Writer` publishes after the write, and for all of a segment
        // that is full; these are written again only when the segment is used
        // again, which
        // `Allocator::retire` leaves alone while a mapping of it lives
        // (`Mappings`). The file is never cut below it while mapped: only
        // recovery cuts or extends segments, before the first reader exists,
        // and the directory's lock keeps other processes out; removing a file
        // leaves its mappings whole.
        unsafe { std::slice::from_raw_parts(self.map.map.as_ptr().add(self.offset), self.len) }
    }
}
