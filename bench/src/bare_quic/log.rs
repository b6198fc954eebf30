//! Bytes on the device, and nothing more: what a log costs at least.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of the file. They are written beforehand and again and again, so that no write has the
/// file system change anything but them.
const FILE_BYTES: usize = 64 << 20;
/// What is written at a time at most.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// A batch begins at a multiple of it, as the node's do.
pub(super) const SECTOR_BYTES: usize = 512;

const _: () = assert!(FILE_BYTES.is_multiple_of(WRITE_BYTES_MAX));
const _: () = assert!(WRITE_BYTES_MAX.is_multiple_of(SECTOR_BYTES));

#[derive(Debug)]
pub(super) struct Log {
    file: File,
    bytes: Vec<u8>,
    at: usize,
}

impl Log {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).open(path)?;
        let bytes = vec![0x5a; WRITE_BYTES_MAX];
        for at in (0..FILE_BYTES).step_by(bytes.len()) {
            file.write_all_at(&bytes, at as u64)?;
        }
        file.sync_all()?;
        Ok(Self { file, bytes, at: 0 })
    }

    /// Writes so many bytes and waits until they are on the device.
    ///
    /// # Errors
    /// If they are not.
    pub(super) fn append(&mut self, bytes: usize) -> io::Result<()> {
        let mut left = bytes.next_multiple_of(SECTOR_BYTES);
        while left > 0 {
            let now = left.min(WRITE_BYTES_MAX).min(FILE_BYTES - self.at);
            self.file.write_all_at(&self.bytes[..now], self.at as u64)?;
            self.at = (self.at + now) % FILE_BYTES;
            left -= now;
        }
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_begins_again_at_its_front_and_stays_as_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::create(&path).unwrap();
        log.append(FILE_BYTES - SECTOR_BYTES).unwrap();
        log.append(SECTOR_BYTES + 1).unwrap();
        assert_eq!(log.at, SECTOR_BYTES);
        assert_eq!(path.metadata().unwrap().len(), FILE_BYTES as u64);
    }
}
