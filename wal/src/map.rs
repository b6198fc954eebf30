//! Read-only mappings of segments, lent out as [`Bytes`].
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::Arc;

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
        // that `Writer` publishes after the write, and bytes behind it are
        // never written again. The file is never cut below it while mapped:
        // only recovery cuts or extends segments, before the first reader
        // exists, and the directory's lock keeps other processes out; removing
        // a file leaves its mappings whole.
        unsafe { std::slice::from_raw_parts(self.map.map.as_ptr().add(self.offset), self.len) }
    }
}
