//! A disk in memory that loses power, fails and fills up on demand.
//!
//! It keeps for every file what reads see (the page cache) apart from what is
//! durable. A write is pending, sector by sector, until a sync; losing power
//! keeps any subset of what is pending. The same goes for file lengths, and for
//! names until [`Disk::sync_dir`].
//!
//! Every call that changes something is one operation, counted from 1, so a
//! test can run a workload once to learn how many there are and then again,
//! failing at each.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{Disk, DiskFile};
use crate::format::{SECTOR_BYTES, SEGMENT_HEADER_BYTES, segment_number};
use crate::map::Mapping;

const SECTOR: usize = SECTOR_BYTES as usize;

const ZEROS: Sector = [0; SECTOR];

type Sector = [u8; SECTOR];

/// What to do wrong. The default is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The process dies in this operation: it and all later ones fail, until
    /// [`FaultDisk::restart`] or [`FaultDisk::lose_power`].
    pub crash_at: Option<u64>,
    /// If this operation is a sync of a file, it fails once; what was pending
    /// is dropped but still looks written, as on Linux.
    pub fail_sync_at: Option<u64>,
    /// If this operation is a write, it fails once, part of it done.
    pub fail_write_at: Option<u64>,
    /// Syncs of files return without making anything durable.
    pub lie_about_syncs: bool,
    /// A loss of power may also tear a sector, keeping a part of it.
    pub tear_sectors: bool,
    /// The most bytes all files may have together.
    pub capacity_bytes: Option<u64>,
    /// A segment that is used again holds whatever bytes there are behind its
    /// header page: its own, random ones, those of other segments. This seeds
    /// them.
    pub scribble_recycled: Option<u64>,
}

/// How often each fault really happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Operations in which the process died.
    pub crashes: u64,
    /// Losses of power.
    pub power_losses: u64,
    /// Pending sectors that a loss of power dropped.
    pub sectors_lost: u64,
    /// Sectors that a loss of power tore.
    pub sectors_torn: u64,
    /// Changes of names that a loss of power undid.
    pub names_lost: u64,
    /// Syncs that failed.
    pub syncs_failed: u64,
    /// Syncs that lied, with something pending.
    pub syncs_lied: u64,
    /// Writes that failed.
    pub writes_failed: u64,
    /// Writes refused because the disk was full.
    pub disk_full: u64,
    /// Bits flipped.
    pub bits_flipped: u64,
    /// Segments scribbled on when they were used again.
    pub segments_scribbled: u64,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct FaultDisk {
    state: Arc<Mutex<State>>,
}

/// A file of a [`FaultDisk`].
#[derive(Debug)]
pub struct FaultFile {
    state: Arc<Mutex<State>>,
    inode: usize,
    /// A file that was open when the process died stays dead.
    boot: u64,
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    faults: Faults,
    counts: FaultCounts,
    operations: u64,
    bytes_written: u64,
    boot: u64,
    dead: bool,
}

#[derive(Debug, Default)]
struct Inode {
    /// What reads see.
    cache: Vec<u8>,
    durable: Vec<u8>,
    /// For each sector, what was written to it since the last sync.
    pending: BTreeMap<usize, Vec<Sector>>,
    pending_lens: Vec<usize>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(String, usize),
    Rename(String, String),
    Unlink(String),
}

impl FaultDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what to do wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// How often each fault happened.
    pub fn counts(&self) -> FaultCounts {
        self.state().counts
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How many bytes were handed to writes.
    pub fn bytes_written(&self) -> u64 {
        self.state().bytes_written
    }

    /// How many bytes all files have together.
    pub fn bytes_used(&self) -> u64 {
        self.state().bytes_used()
    }

    /// The process is gone and a new one starts; what it wrote is in the page
    /// cache. Ends a crash and clears all faults.
    pub fn restart(&self) {
        let mut state = self.state();
        state.boot += 1;
        state.dead = false;
        state.faults = Faults::default();
    }

    /// The machine loses power: of what is pending, any part is kept, as
    /// `entropy` decides. Then as [`FaultDisk::restart`].
    pub fn lose_power(&self, entropy: &mut dyn FnMut() -> u64) {
        let mut state = self.state();
        state.lose_power(entropy);
        drop(state);
        self.restart();
    }

    /// What reads of a file see, if it exists.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let inode = *state.names.get(name)?;
        Some(state.inodes[inode].cache.clone())
    }

    /// Puts a file there, durably.
    pub fn put(&self, name: &str, contents: &[u8]) {
        let mut state = self.state();
        let inode = state.inodes.len();
        state.inodes.push(Inode {
            cache: contents.to_vec(),
            durable: contents.to_vec(),
            ..Inode::default()
        });
        state.names.insert(name.to_owned(), inode);
        state.durable_names.insert(name.to_owned(), inode);
    }

    /// Flips a bit of a file, on the disk and in the cache.
    ///
    /// # Panics
    /// If the file does not exist or is shorter.
    pub fn flip_bit(&self, name: &str, offset: usize, bit: u8) {
        let mut state = self.state();
        let inode = state.names[name];
        let inode = &mut state.inodes[inode];
        inode.cache[offset] ^= 1 << bit;
        if let Some(byte) = inode.durable.get_mut(offset) {
            *byte ^= 1 << bit;
        }
        state.counts.bits_flipped += 1;
    }

    /// Flips one of the bits that segments durably have, where there are not
    /// only zeros, and says where; `None` if there are none.
    pub fn flip_random_bit(&self, entropy: &mut dyn FnMut() -> u64) -> Option<(String, usize)> {
        let mut below = |len: usize| usize::try_from(entropy() % len as u64).expect("below it");
        let state = self.state();
        let mut sectors = Vec::new();
        for (name, &inode) in &state.names {
            if segment_number(name).is_none() {
                continue;
            }
            let inode = &state.inodes[inode];
            let len = inode.durable.len().min(inode.cache.len());
            let durable = inode.durable[..len].chunks(SECTOR).enumerate();
            let written = durable.filter(|(_, bytes)| **bytes != ZEROS[..bytes.len()]);
            sectors.extend(written.map(|(at, bytes)| (name.clone(), at * SECTOR, bytes.len())));
        }
        drop(state);
        if sectors.is_empty() {
            return None;
        }
        let (name, start, len) = sectors.swap_remove(below(sectors.len()));
        let offset = start + below(len);
        self.flip_bit(&name, offset, u8::try_from(below(8)).expect("one of eight"));
        Some((name, offset))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn change_name(&self, change: NameChange) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        apply_name(&mut state.names, &change)?;
        if let NameChange::Rename(from, to) = &change
            && segment_number(from).is_some()
        {
            state.scribble(to);
        }
        state.pending_names.push(change);
        if state.dies() { Err(crashed()) } else { Ok(()) }
    }

    fn file(&self, inode: usize, boot: u64) -> FaultFile {
        FaultFile {
            state: Arc::clone(&self.state),
            inode,
            boot,
        }
    }
}

fn apply_name(names: &mut BTreeMap<String, usize>, change: &NameChange) -> io::Result<()> {
    match change {
        NameChange::Link(name, inode) => {
            if names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            names.insert(name.clone(), *inode);
        }
        NameChange::Rename(from, to) => {
            let inode = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            names.insert(to.clone(), inode);
        }
        NameChange::Unlink(name) => {
            names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        }
    }
    Ok(())
}

fn crashed() -> io::Error {
    io::Error::other("the simulated process has crashed")
}

impl State {
    /// Counts an operation; fails it if the process dies in it.
    fn begin(&mut self) -> io::Result<u64> {
        self.alive()?;
        self.operations += 1;
        Ok(self.operations)
    }

    /// Whether the operation that was begun is the one to die in. What it does
    /// is done all the same: whether any of it lasts is for the crash to say.
    fn dies(&mut self) -> bool {
        let dies = self.faults.crash_at == Some(self.operations);
        if dies {
            self.dead = true;
            self.counts.crashes += 1;
        }
        dies
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(crashed()) } else { Ok(()) }
    }

    /// Puts other bytes behind the header page of a segment that is used again,
    /// in the cache and on the disk.
    fn scribble(&mut self, name: &str) {
        let Some(seed) = self.faults.scribble_recycled else {
            return;
        };
        self.counts.segments_scribbled += 1;
        let mut random = Xorshift::new(seed ^ self.operations);
        let inodes: Vec<usize> = self.names.values().copied().collect();
        let inode = self.names[name];
        let mut bytes = self.inodes[inode].cache.clone();
        let mut at = SEGMENT_HEADER_BYTES as usize;
        while at < bytes.len() {
            let end = bytes.len().min(at + SECTOR * (1 + random.below(64)));
            match random.below(4) {
                0 => {}
                1 => bytes[at..end].fill_with(|| random.byte()),
                _ => {
                    // Whole batches of others, where such a batch could be.
                    let other = &self.inodes[inodes[random.below(inodes.len())]].cache;
                    let end = end.min(other.len());
                    if at < end {
                        bytes[at..end].copy_from_slice(&other[at..end]);
                    }
                }
            }
            at = end;
        }
        let inode = &mut self.inodes[inode];
        let durable = inode.durable.len().min(bytes.len());
        let header = durable.min(SEGMENT_HEADER_BYTES as usize);
        inode.durable[header..durable].copy_from_slice(&bytes[header..durable]);
        inode.cache = bytes;
    }

    fn bytes_used(&self) -> u64 {
        let inodes = self.names.values();
        inodes.map(|&at| self.inodes[at].cache.len() as u64).sum()
    }

    fn lose_power(&mut self, entropy: &mut dyn FnMut() -> u64) {
        self.counts.power_losses += 1;
        let mut names = std::mem::take(&mut self.durable_names);
        for change in std::mem::take(&mut self.pending_names) {
            // A change that rests on one that was lost is lost with it.
            if entropy().is_multiple_of(2) || apply_name(&mut names, &change).is_err() {
                self.counts.names_lost += 1;
            }
        }
        let tear = self.faults.tear_sectors;
        for (at, inode) in self.inodes.iter_mut().enumerate() {
            if !names.values().any(|&named| named == at) {
                *inode = Inode::default();
                continue;
            }
            inode.lose_power(tear, &mut self.counts, entropy);
        }
        self.durable_names = names.clone();
        self.names = names;
    }
}

/// A small generator (xorshift64, Marsaglia 2003): this crate draws no random
/// numbers of its own.
struct Xorshift(u64);

impl Xorshift {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, len: usize) -> usize {
        usize::try_from(self.next() % len as u64).expect("below it")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if end > self.cache.len() {
            resize(&mut self.cache, end);
            self.pending_lens.push(end);
        }
        let mut at = offset;
        while at < end {
            let sector = at / SECTOR;
            let until = end.min((sector + 1) * SECTOR);
            let new = &bytes[at - offset..until - offset];
            // Zeros where nothing durable is yet are what is there anyway.
            let durable = match self.durable.get(at..until) {
                Some(durable) => durable == new,
                None => new == &ZEROS[..new.len()],
            };
            if !durable || self.cache[at..until] != *new || self.pending.contains_key(&sector) {
                self.cache[at..until].copy_from_slice(new);
                let version = sector_of(&self.cache, sector);
                self.pending.entry(sector).or_default().push(version);
            }
            at = until;
        }
    }

    fn set_len(&mut self, len: usize) {
        resize(&mut self.cache, len);
        self.pending_lens.push(len);
        self.pending.retain(|&sector, _| sector * SECTOR < len);
    }

    fn sync(&mut self) {
        resize(&mut self.durable, self.cache.len());
        for &sector in self.pending.keys() {
            let start = sector * SECTOR;
            let end = self.cache.len().min(start + SECTOR);
            self.durable[start..end].copy_from_slice(&self.cache[start..end]);
        }
        self.drop_pending();
    }

    fn drop_pending(&mut self) {
        self.pending.clear();
        self.pending_lens.clear();
    }

    fn lose_power(
        &mut self,
        tear: bool,
        counts: &mut FaultCounts,
        entropy: &mut dyn FnMut() -> u64,
    ) {
        let lens = self.pending_lens.len() as u64 + 1;
        let len = match usize::try_from(entropy() % lens).expect("a small number") {
            0 => self.durable.len(),
            at => self.pending_lens[at - 1],
        };
        resize(&mut self.durable, len);
        for (&sector, versions) in &self.pending {
            let start = sector * SECTOR;
            let end = len.min(start + SECTOR);
            let choice = entropy() % (versions.len() as u64 + 1);
            let choice = usize::try_from(choice).expect("a small number");
            if start >= end || choice == 0 {
                counts.sectors_lost += 1;
                continue;
            }
            let mut from = 0;
            let mut until = end - start;
            if tear && entropy().is_multiple_of(8) {
                let cut = usize::try_from(entropy()).unwrap_or(0) % until;
                if entropy().is_multiple_of(2) {
                    from = cut;
                } else {
                    until = cut;
                }
                counts.sectors_torn += 1;
            }
            self.durable[start + from..start + until]
                .copy_from_slice(&versions[choice - 1][from..until]);
        }
        self.drop_pending();
        self.cache.clone_from(&self.durable);
    }
}

/// As [`Vec::resize`] with zeros, which costs a call a byte in debug builds.
fn resize(bytes: &mut Vec<u8>, len: usize) {
    bytes.truncate(len);
    bytes.extend_from_slice(&vec![0; len - bytes.len()]);
}

fn sector_of(bytes: &[u8], sector: usize) -> Sector {
    let start = sector * SECTOR;
    let end = bytes.len().min(start + SECTOR);
    let mut whole = [0; SECTOR];
    whole[..end - start].copy_from_slice(&bytes[start..end]);
    whole
}

impl Disk for FaultDisk {
    type File = FaultFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<FaultFile> {
        let mut state = self.state();
        state.begin()?;
        let inode = state.inodes.len();
        let change = NameChange::Link(name.to_owned(), inode);
        apply_name(&mut state.names, &change)?;
        state.inodes.push(Inode::default());
        state.pending_names.push(change);
        if state.dies() {
            return Err(crashed());
        }
        Ok(self.file(inode, state.boot))
    }

    fn open(&self, name: &str) -> io::Result<FaultFile> {
        let state = self.state();
        state.alive()?;
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(inode, state.boot))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change_name(NameChange::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change_name(NameChange::Unlink(name.to_owned()))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.begin()?;
        if state.dies() {
            return Err(crashed());
        }
        state.durable_names = state.names.clone();
        state.pending_names.clear();
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/simulated").join(name)
    }
}

impl FaultFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state.lock().expect("no holder panics");
        state.alive()?;
        if state.boot == self.boot {
            Ok(state)
        } else {
            Err(crashed())
        }
    }
}

impl DiskFile for FaultFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state()?.inodes[self.inode].cache.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.begin()?;
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        state.inodes[self.inode].set_len(len);
        if state.dies() { Err(crashed()) } else { Ok(()) }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.state()?;
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let bytes = state.inodes[self.inode].cache.get(offset..);
        let bytes = bytes.and_then(|bytes| bytes.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let operation = state.begin()?;
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut bytes = Vec::new();
        for slice in slices {
            bytes.extend_from_slice(slice);
        }
        let grows = (offset + bytes.len()).saturating_sub(state.inodes[self.inode].cache.len());
        let used = state.bytes_used() + grows as u64;
        if grows > 0 && state.faults.capacity_bytes.is_some_and(|most| used > most) {
            state.counts.disk_full += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let fails = state.faults.fail_write_at == Some(operation);
        if fails {
            bytes.truncate(bytes.len() / 2);
        }
        state.bytes_written += bytes.len() as u64;
        state.inodes[self.inode].write(&bytes, offset);
        if state.dies() {
            return Err(crashed());
        }
        if fails {
            state.counts.writes_failed += 1;
            return Err(io::Error::other("a simulated write error"));
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        let operation = state.begin()?;
        if state.dies() {
            return Err(crashed());
        }
        if state.faults.fail_sync_at == Some(operation) {
            state.inodes[self.inode].drop_pending();
            state.counts.syncs_failed += 1;
            return Err(io::Error::other("a simulated sync error"));
        }
        let lie = state.faults.lie_about_syncs;
        let inode = &mut state.inodes[self.inode];
        if !lie {
            inode.sync();
        } else if !inode.pending.is_empty() {
            state.counts.syncs_lied += 1;
        }
        Ok(())
    }

    fn read_nowait(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        self.read_at(buffer, offset).map(|()| true)
    }

    fn map(&self) -> io::Result<Option<Mapping>> {
        Ok(None)
    }
}
