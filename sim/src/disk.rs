//! A log's directory: the log's own fault disk, with the few words that a run needs, and with
//! reads that now and then would have to wait.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use omnirelay_wal::fault::{FaultCounts, FaultDisk, FaultFile, Faults};
use omnirelay_wal::{Disk, DiskFile, Mapping};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

#[derive(Debug)]
struct Mood {
    rng: SmallRng,
    faults: Faults,
    /// Something is set up to fail, which counts operations and bytes.
    has_fault: bool,
    cold: bool,
}

/// What may always happen.
const USUAL: Faults = Faults {
    crash_at: None,
    fail_sync_at: None,
    fail_write_at: None,
    lie_about_syncs: false,
    tear_sectors: true,
    capacity_bytes: None,
    scribble_recycled: None,
};

/// A directory.
#[derive(Debug, Clone)]
pub struct SimDisk {
    disk: FaultDisk,
    mood: Arc<Mutex<Mood>>,
}

/// An open file of a [`SimDisk`].
#[derive(Debug)]
pub struct SimFile {
    file: FaultFile,
    mood: Arc<Mutex<Mood>>,
}

impl SimDisk {
    /// An empty directory.
    pub fn new(seed: u64) -> SimDisk {
        let mood = Mood {
            rng: SmallRng::seed_from_u64(seed),
            faults: USUAL,
            has_fault: false,
            cold: false,
        };
        let disk = FaultDisk::new();
        disk.set_faults(USUAL);
        SimDisk {
            disk,
            mood: Arc::new(Mutex::new(mood)),
        }
    }

    fn mood(&self) -> MutexGuard<'_, Mood> {
        self.mood.lock().expect("no holder panics")
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        let mut mood = self.mood();
        change(&mut mood.faults);
        let faults = &mood.faults;
        mood.has_fault = [faults.crash_at, faults.fail_write_at, faults.capacity_bytes]
            .iter()
            .any(Option::is_some);
        self.disk.set_faults(mood.faults);
    }

    /// Loses power after so many more operations.
    pub fn burn_fuse(&self, operations: u64) {
        let at = self.disk.operations() + 1 + operations;
        self.change(|faults| faults.crash_at = Some(at));
    }

    /// Fails the write or the sync that comes after so many more operations.
    pub fn fail_after(&self, operations: u64) {
        let at = self.disk.operations() + 1 + operations;
        self.change(|faults| (faults.fail_sync_at, faults.fail_write_at) = (Some(at), Some(at)));
    }

    /// Whether it has lost power.
    pub fn is_dead(&self) -> bool {
        self.disk.list().is_err()
    }

    /// Has no room for further bytes, or has room again.
    pub fn set_full(&self, full: bool) {
        let used = self.disk.bytes_used();
        self.change(|faults| faults.capacity_bytes = full.then_some(used));
    }

    /// Has not everything in memory: some reads that may not wait fail.
    pub fn set_cold(&self, cold: bool) {
        self.mood().cold = cold;
    }

    /// What it did so far.
    pub fn counts(&self) -> FaultCounts {
        self.disk.counts()
    }

    /// The power is gone: any part of what was not synced is lost.
    pub fn lose_power(&self) {
        self.change(|faults| *faults = USUAL);
        let mut mood = self.mood();
        self.disk.lose_power(&mut || mood.rng.random());
    }

    /// A new process has it: files that the one before had open are closed, faults are over. What
    /// was not synced is neither lost nor safe.
    pub fn begin_life(&self) {
        self.disk.restart();
        self.change(|faults| *faults = USUAL);
    }

    fn file(&self, file: FaultFile) -> SimFile {
        SimFile {
            file,
            mood: Arc::clone(&self.mood),
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        self.disk.create(name).map(|file| self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        self.disk.open(name).map(|file| self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

impl SimFile {
    fn mood(&self) -> MutexGuard<'_, Mood> {
        self.mood.lock().expect("no holder panics")
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }

    /// Zeros behind the end are the file made longer: the same to every reader, before and after
    /// a crash, and far less work than a sector at a time.
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let [only] = slices else {
            return self.file.write_at(slices, offset);
        };
        let limited = self.mood().has_fault;
        if limited || offset != self.file.len()? || only.iter().any(|&byte| byte != 0) {
            return self.file.write_at(slices, offset);
        }
        self.file.set_len(offset + only.len() as u64)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn read_nowait(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        let mut mood = self.mood();
        if mood.cold && mood.rng.random_bool(0.5) {
            return Ok(false);
        }
        self.file.read_nowait(buffer, offset)
    }

    fn map(&self) -> io::Result<Option<Mapping>> {
        self.file.map()
    }
}
