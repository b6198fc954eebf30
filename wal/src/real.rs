//! The disk of the machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile};
use crate::map::Mapping;
use crate::sys;

/// Who may read the log: the bodies of jobs may be secrets.
const FILE_MODE: u32 = 0o600;

/// A directory of the machine's file system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    path: PathBuf,
    /// Kept open to be synced.
    dir: Arc<File>,
    read_only: bool,
}

/// A file of a [`RealDisk`].
#[derive(Debug)]
pub struct RealFile {
    file: File,
}

impl RealDisk {
    /// Opens a directory; makes it, durably, if only its last part is missing.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        match fs::create_dir(&path) {
            Ok(()) => {
                let parent = path
                    .parent()
                    .filter(|parent| !parent.as_os_str().is_empty());
                File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
            }
            // What is there may be a file; opening it as a directory tells.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Self::existing(path, false)
    }

    /// Opens a directory that is there, only to read it: files cannot be made,
    /// changed or removed through it.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn open_read_only(path: impl Into<PathBuf>) -> io::Result<Self> {
        Self::existing(path.into(), true)
    }

    fn existing(path: PathBuf, read_only: bool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_DIRECTORY);
        let dir = Arc::new(options.open(&path)?);
        Ok(Self {
            path,
            dir,
            read_only,
        })
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }

    fn file(&self, name: &str, create: bool) -> io::Result<RealFile> {
        if create {
            self.check_writable()?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(!self.read_only).create_new(create);
        let file = options.mode(FILE_MODE).open(self.path.join(name))?;
        Ok(RealFile { file })
    }
}

impl Disk for RealDisk {
    type File = RealFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is none of the log's.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<RealFile> {
        self.file(name, true)
    }

    fn open(&self, name: &str) -> io::Result<RealFile> {
        self.file(name, false)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() {
            return self.path.clone();
        }
        self.path.join(name)
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn reserve(&self, len: u64) -> io::Result<bool> {
        match sys::fallocate(&self.file, len) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn will_read(&self, offset: u64, len: u64) {
        sys::will_read(&self.file, offset, len);
    }

    fn data_from(&self, offset: u64) -> io::Result<u64> {
        sys::data_from(&self.file, offset)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let wrote = loop {
            match sys::pwritev(&self.file, slices, offset) {
                // Nothing was written when a signal came first.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        // A short write is rare (a signal, the last free blocks); its rest is
        // written slice by slice.
        let mut skip = wrote;
        let mut at = offset + wrote as u64;
        for slice in slices {
            let rest = &slice[skip.min(slice.len())..];
            skip -= skip.min(slice.len());
            self.file.write_all_at(rest, at)?;
            at += rest.len() as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn read_nowait(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        match sys::pread_nowait(&self.file, buffer, offset) {
            // Less than all: the rest is not cached, or the file ends here,
            // which the blocking read reports.
            Ok(read) => Ok(read == buffer.len()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::Unsupported
                        | io::ErrorKind::Interrupted
                ) || error.raw_os_error() == Some(libc::EOPNOTSUPP) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn map(&self) -> io::Result<Option<Mapping>> {
        Mapping::of(&self.file).map(Some)
    }
}
