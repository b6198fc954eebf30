//! The seam to the disk: one directory of files.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::PathBuf;

use crate::map::Mapping;

/// One directory on a disk. Clones are the same directory.
///
/// A file that was created, renamed or removed may be as before after a crash
/// until [`Disk::sync_dir`] has returned.
pub trait Disk: Clone + Debug + Send + 'static {
    /// A file of the directory.
    type File: DiskFile;

    /// The names of the files there, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a file for reading and writing; refused if the name is taken.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Renames a file, replacing the one that had the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Who has it open or mapped keeps it.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes what was created, renamed and removed durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// The path to name in messages; the directory's own for an empty name.
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file. Written bytes may be lost in a crash, sector by sector, until
/// [`DiskFile::sync_data`] has returned.
pub trait DiskFile: Debug + Send + Sync + 'static {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends (by zeros) to a length.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space up to a length, which reads as zeros, without writing it; `Ok(false)` if
    /// this kind of disk cannot.
    fn reserve(&self, _len: u64) -> io::Result<bool> {
        Ok(false)
    }
    /// Fills `buffer` with the bytes at `offset`; an error if the file ends
    /// before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Says that bytes will be read soon, so that the disk can begin.
    fn will_read(&self, _offset: u64, _len: u64) {}
    /// The first offset from `offset` on at which the file may have other bytes
    /// than zeros; its end if there is none.
    fn data_from(&self, offset: u64) -> io::Result<u64> {
        Ok(offset)
    }
    /// Writes all slices, one behind the other, at `offset`.
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Makes contents and length durable.
    fn sync_data(&self) -> io::Result<()>;
    /// As [`DiskFile::read_at`], but `Ok(false)` instead of waiting for the
    /// disk.
    fn read_nowait(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool>;
    /// Maps the file for reading; `None` if this kind of disk has no mappings.
    fn map(&self) -> io::Result<Option<Mapping>>;
}
