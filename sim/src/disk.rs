//! A log's directory: the log's own fault disk, with the few words that a run needs, and with
//! reads that now and then would have to wait.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use omnirelay_wal::fault::{FaultCounts, FaultDisk, FaultFile, Faults};
use omnirelay_wal::{Disk, DiskFile, Mapping, SECTOR_BYTES};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

#[derive(Debug)]
struct Mood {
    rng: SmallRng,
    faults: Faults,
    /// Something is set up to fail, which counts operations and bytes.
    has_fault: bool,
    cold: bool,
    /// Share of reads that fail.
    read_errors: f64,
    /// Share of renames and removals that fail.
    name_errors: f64,
    counts: MoodCounts,
}

/// How often faults happened that are not the fault disk's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct MoodCounts {
    /// Reads that failed.
    pub reads_failed: u64,
    /// Renames and removals that failed.
    pub names_failed: u64,
}

/// What may always happen.
const USUAL: Faults = Faults {
    crash_at: None,
    fail_sync_at: None,
    fail_write_at: None,
    lie_about_syncs: false,
    tear_sectors: true,
    capacity_bytes: None,
    scribble_recycled: Some(0x5c21_bb1e),
};

const SECTOR: usize = SECTOR_BYTES as usize;

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// A bit that was flipped.
#[derive(Debug, Clone)]
pub struct Rot {
    /// In which file.
    pub name: String,
    start: usize,
    at: usize,
    bit: u8,
    rotten: Vec<u8>,
}

impl Rot {
    /// The number of its segment.
    pub fn segment(&self) -> Option<u32> {
        self.name.strip_suffix(".seg")?.parse().ok()
    }
}

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
            read_errors: 0.0,
            name_errors: 0.0,
            counts: MoodCounts::default(),
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

    /// Fails this share of reads, and of renames and removals.
    pub fn set_errors(&self, reads: f64, names: f64) {
        let mut mood = self.mood();
        (mood.read_errors, mood.name_errors) = (reads, names);
    }

    /// Syncs of files say that they are done, and are not.
    pub fn begin_lies(&self) {
        self.change(|faults| faults.lie_about_syncs = true);
    }

    /// How often it failed beyond that.
    pub fn mood_counts(&self) -> MoodCounts {
        self.mood().counts
    }

    /// Another disk with the same files, all of them durable.
    pub fn copy(&self, seed: u64) -> SimDisk {
        let copy = SimDisk::new(seed);
        for (name, contents) in self.files() {
            copy.disk.put(&name, &contents);
        }
        copy
    }

    /// All files with what reads see of them.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let names = self.disk.list().unwrap_or_default();
        let contents = |name: String| self.disk.contents(&name).map(|bytes| (name, bytes));
        names.into_iter().filter_map(contents).collect()
    }

    /// Flips one bit that was written to a segment; says where, if anything was.
    pub fn rot(&self) -> Option<Rot> {
        let mut mood = self.mood();
        let mut random = |below: usize| mood.rng.random_range(0..below);
        let files = self.files();
        let written: Vec<(&str, usize, &[u8])> = files
            .iter()
            .filter(|(name, _)| name.ends_with(".seg"))
            .flat_map(|(name, bytes)| {
                let sectors = bytes.chunks(SECTOR).enumerate();
                sectors.map(|(at, sector)| (name.as_str(), at * SECTOR, sector))
            })
            .filter(|(_, _, sector)| sector.iter().any(|&byte| byte != 0))
            .collect();
        if written.is_empty() {
            return None;
        }
        let (name, start, sector) = written[random(written.len())];
        let at = random(sector.len());
        let bit = u8::try_from(random(8)).expect("one of eight");
        let mut rotten = sector.to_vec();
        rotten[at] ^= 1 << bit;
        self.disk.flip_bit(name, start + at, bit);
        Some(Rot {
            name: name.to_owned(),
            start,
            at,
            bit,
            rotten,
        })
    }

    /// Flips the bit back, unless something else has been written there since, or the segment is
    /// gone.
    pub fn repair(&self, rot: &Rot) {
        let Some(bytes) = self.disk.contents(&rot.name) else {
            return;
        };
        let sector = bytes.get(rot.start..rot.start + rot.rotten.len());
        if sector == Some(&rot.rotten[..]) {
            self.disk.flip_bit(&rot.name, rot.start + rot.at, rot.bit);
        }
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
        self.set_errors(0.0, 0.0);
        self.change(|faults| *faults = USUAL);
    }

    fn name_fails(&self) -> io::Result<()> {
        let mut mood = self.mood();
        let share = mood.name_errors;
        if share == 0.0 || !mood.rng.random_bool(share) {
            return Ok(());
        }
        mood.counts.names_failed += 1;
        Err(io::Error::other("a simulated error of the directory"))
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
        self.name_fails()?;
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.name_fails()?;
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
        let mut mood = self.mood();
        let share = mood.read_errors;
        if share > 0.0 && mood.rng.random_bool(share) {
            mood.counts.reads_failed += 1;
            return Err(io::Error::other("a simulated read error"));
        }
        drop(mood);
        self.file.read_at(buffer, offset)
    }

    /// Zeros behind the end are the file made longer: the same to every reader, before and after
    /// a crash, and far less work than a sector at a time.
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let [only] = slices else {
            return self.file.write_at(slices, offset);
        };
        let limited = self.mood().has_fault;
        if limited || offset != self.file.len()? || ZEROS.get(..only.len()) != Some(&only[..]) {
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
