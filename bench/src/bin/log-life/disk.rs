//! The data directory's files as the file system and the device have them.

#![allow(unsafe_code, reason = "system calls; each block says why it is sound")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;

/// What O_DIRECT needs memory, offsets and lengths to be multiples of, on any device of today.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// One read when the device is measured: as much as any device likes at once.
const READ_BYTES: usize = 4 << 20;
/// A spare segment's header is zeros.
const HEADER_BYTES: usize = 4096;

/// Bytes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OnDisk {
    /// Of all segment files, by allocated blocks or length, whichever is more.
    pub(crate) bytes: u64,
    /// Of those, the ones that are ready and hold nothing yet, or are being given up.
    pub(crate) spare_bytes: u64,
}

/// The segment files of each log.
pub(crate) fn logs(data_dir: &Path) -> anyhow::Result<Vec<Vec<PathBuf>>> {
    let mut logs = Vec::new();
    for entry in std::fs::read_dir(data_dir).context("the data directory")? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with("log-") {
            continue;
        }
        let files = std::fs::read_dir(entry.path())?;
        let mut files: Vec<PathBuf> = files
            .map(|file| file.map(|file| file.path()))
            .collect::<io::Result<_>>()?;
        files.sort();
        logs.push(files);
    }
    Ok(logs)
}

/// What the logs take. A file that is removed or renamed meanwhile counts if it was met.
pub(crate) fn on_disk(data_dir: &Path) -> anyhow::Result<OnDisk> {
    let mut sum = OnDisk::default();
    for file in logs(data_dir)?.iter().flatten() {
        let file = match File::open(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let metadata = file.metadata()?;
        let bytes = metadata.len().max(metadata.blocks() * 512);
        sum.bytes += bytes;
        let mut header = [0; HEADER_BYTES];
        let is_spare = match file.read_exact_at(&mut header, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => true,
            read => read.map(|()| header.iter().all(|&byte| byte == 0))?,
        };
        sum.spare_bytes += if is_spare { bytes } else { 0 };
    }
    Ok(sum)
}

/// Drops the logs from the page cache; how.
pub(crate) fn forget(data_dir: &Path) -> anyhow::Result<&'static str> {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::sync() };
    if std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok() {
        return Ok("drop_caches");
    }
    for file in logs(data_dir)?.iter().flatten() {
        let file = File::open(file)?;
        // SAFETY: takes numbers only; the descriptor is open.
        let error =
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error)).context("posix_fadvise");
        }
    }
    Ok("posix_fadvise")
}

/// How fast the device gives the logs' files, each log's read from front to end beside the others
/// as a server would, at most `bytes_max` of each: bytes a second.
pub(crate) fn read_speed(data_dir: &Path, bytes_max: u64) -> anyhow::Result<f64> {
    let logs = logs(data_dir)?;
    let began = Instant::now();
    let read: u64 = std::thread::scope(|scope| {
        let readers: Vec<_> = logs
            .iter()
            .map(|files| scope.spawn(move || read_direct(files, bytes_max)))
            .collect();
        let mut sum = 0;
        for reader in readers {
            sum += reader.join().expect("a reader does not panic")?;
        }
        io::Result::Ok(sum)
    })
    .context("the log cannot be read past the page cache")?;
    Ok(read as f64 / began.elapsed().as_secs_f64())
}

fn read_direct(files: &[PathBuf], bytes_max: u64) -> io::Result<u64> {
    let mut buffer = Aligned::new(READ_BYTES);
    let mut sum = 0;
    for file in files {
        let file = open_direct(file)?;
        let mut at = 0;
        while sum < bytes_max {
            let read = file.read_at(buffer.bytes(), at)?;
            at += read as u64;
            sum += read as u64;
            if read < READ_BYTES {
                break;
            }
        }
    }
    Ok(sum)
}

/// Opens a file to be read past the page cache, and without a note of when it was read.
pub(crate) fn open_direct(file: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let flags = libc::O_DIRECT | libc::O_NOATIME;
    options.read(true).custom_flags(flags).open(file)
}

/// Zeroed memory that O_DIRECT can use.
#[derive(Debug)]
pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    pub(crate) fn new(bytes: usize) -> Self {
        // A vector that does not grow does not move.
        let memory = vec![0; bytes + BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        Self { memory, start }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        let end = self.memory.len() - BLOCK_BYTES + self.start;
        &mut self.memory[self.start..end]
    }
}
