//! A disk that is never waited for: files of the machine without syncs, whose writes are counted.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use omnirelay_wal::{Disk, DiskFile, Mapping, RealDisk, RealFile};

/// The directory. Files can be mapped, as a node's real ones are.
#[derive(Clone, Debug)]
pub struct UnsyncedDisk {
    disk: RealDisk,
    counts: Arc<Counts>,
}

/// A file of it.
#[derive(Debug)]
pub struct UnsyncedFile {
    file: RealFile,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    writes: AtomicU64,
    bytes: AtomicU64,
    syncs: AtomicU64,
}

/// What was asked of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Calls that wrote.
    pub writes: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Calls that would have synced.
    pub syncs: u64,
}

impl std::ops::Sub for Written {
    type Output = Written;

    fn sub(self, before: Written) -> Written {
        Written {
            writes: self.writes - before.writes,
            bytes: self.bytes - before.bytes,
            syncs: self.syncs - before.syncs,
        }
    }
}

impl UnsyncedDisk {
    /// Opens a directory.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<UnsyncedDisk> {
        Ok(UnsyncedDisk {
            disk: RealDisk::open(path)?,
            counts: Arc::default(),
        })
    }

    /// What was asked of its files so far.
    pub fn written(&self) -> Written {
        Written {
            writes: self.counts.writes.load(Relaxed),
            bytes: self.counts.bytes.load(Relaxed),
            syncs: self.counts.syncs.load(Relaxed),
        }
    }

    fn counted(&self, file: io::Result<RealFile>) -> io::Result<UnsyncedFile> {
        Ok(UnsyncedFile {
            file: file?,
            counts: Arc::clone(&self.counts),
        })
    }
}

impl Disk for UnsyncedDisk {
    type File = UnsyncedFile;

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<UnsyncedFile> {
        self.counted(self.disk.create(name))
    }

    fn open(&self, name: &str) -> io::Result<UnsyncedFile> {
        self.counted(self.disk.open(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

impl DiskFile for UnsyncedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<bool> {
        self.file.reserve(len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    fn data_from(&self, offset: u64) -> io::Result<u64> {
        self.file.data_from(offset)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        self.counts.writes.fetch_add(1, Relaxed);
        self.counts.bytes.fetch_add(bytes as u64, Relaxed);
        self.file.write_at(slices, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.counts.syncs.fetch_add(1, Relaxed);
        Ok(())
    }

    fn read_nowait(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.file.read_nowait(buffer, offset)
    }

    fn map(&self) -> io::Result<Option<Mapping>> {
        self.file.map()
    }
}
