//! One log's directory on a disk that loses power, fills up and fails to sync. Only what it holds
//! is kept: pages of zeros take no memory, so that a run costs what it writes.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use omnirelay_wal::{Disk, DiskFile, Mapping};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SECTOR: usize = 512;
const PAGE: usize = 4096;
/// Of how many half-written sectors one is torn, not lost or whole.
const TORN_OF: u32 = 8;

/// What the disk did to the node.
#[derive(Debug, Clone, Copy, Default)]
pub struct Damage {
    /// Sectors that a loss of power undid.
    pub lost: u64,
    /// Sectors of which half was written.
    pub torn: u64,
    /// Syncs that failed.
    pub syncs_failed: u64,
    /// Writes refused for lack of space.
    pub refused: u64,
    /// Reads that would have waited.
    pub waits: u64,
}

#[derive(Debug, Clone, Default)]
struct Inode {
    pages: Vec<Option<Box<[u8; PAGE]>>>,
    len: u64,
    durable_len: u64,
    /// What unsynced sectors hold on the platter.
    platter: BTreeMap<u64, [u8; SECTOR]>,
    /// As `platter`, for sectors that a failed sync has given up: they look clean.
    given_up: BTreeMap<u64, [u8; SECTOR]>,
}

#[derive(Debug)]
struct State {
    rng: SmallRng,
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Handles of an earlier life are dead.
    life: u32,
    dead: bool,
    fuse: Option<u64>,
    sync_fuse: Option<u64>,
    full: bool,
    cold: bool,
    damage: Damage,
}

/// A directory, as one life of the node has it.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    life: u32,
}

/// An open file of a [`SimDisk`].
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl SimDisk {
    /// An empty directory.
    pub fn new(seed: u64) -> SimDisk {
        let state = State {
            rng: SmallRng::seed_from_u64(seed),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            life: 0,
            dead: false,
            fuse: None,
            sync_fuse: None,
            full: false,
            cold: false,
            damage: Damage::default(),
        };
        SimDisk { state: Arc::new(Mutex::new(state)), life: 0 }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if state.dead || state.life != self.life {
            return Err(io::Error::other("the power is gone"));
        }
        match state.fuse.as_mut() {
            Some(0) => {
                state.dead = true;
                Err(io::Error::other("the power is gone"))
            }
            Some(left) => {
                *left -= 1;
                Ok(state)
            }
            None => Ok(state),
        }
    }

    /// Loses power after so many more operations.
    pub fn burn_fuse(&self, operations: u64) {
        self.state().fuse = Some(operations);
    }

    /// Whether it has lost power.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Fails the sync after so many more.
    pub fn burn_sync_fuse(&self, syncs: u64) {
        self.state().sync_fuse = Some(syncs);
    }

    /// Has no room for further bytes, or has room again.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Has nothing in memory: reads that may not wait fail.
    pub fn set_cold(&self, cold: bool) {
        self.state().cold = cold;
    }

    /// What it did so far.
    pub fn damage(&self) -> Damage {
        self.state().damage
    }

    /// The power is gone: any of what was not synced is lost.
    pub fn lose_power(&self) {
        let mut state = self.state();
        let state = &mut *state;
        for inode in &mut state.inodes {
            inode.lose_power(&mut state.rng, &mut state.damage);
        }
        let all: Vec<String> = state.names.keys().chain(state.durable_names.keys()).cloned().collect();
        for name in all {
            let durable = state.durable_names.get(&name).copied();
            if state.names.get(&name).copied() != durable && state.rng.random_bool(0.5) {
                match durable {
                    Some(inode) => drop(state.names.insert(name, inode)),
                    None => drop(state.names.remove(&name)),
                }
            }
        }
        state.durable_names = state.names.clone();
        state.dead = true;
    }

    /// The directory for the node's next life. Without a loss of power before, nothing is lost,
    /// but what was not synced is not safe either.
    pub fn next_life(&self) -> SimDisk {
        let mut state = self.state();
        state.life += 1;
        (state.dead, state.fuse, state.sync_fuse) = (false, None, None);
        SimDisk { state: Arc::clone(&self.state), life: state.life }
    }

    /// A disk of its own with what is readable on this one.
    pub fn copy(&self) -> SimDisk {
        let state = self.state();
        let copy = SimDisk::new(0);
        {
            let mut other = copy.state();
            other.inodes = state.inodes.clone();
            other.names = state.names.clone();
            other.durable_names = state.names.clone();
        }
        copy
    }
}

impl Inode {
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if offset + buffer.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < buffer.len() {
            let at = offset as usize + done;
            let take = (PAGE - at % PAGE).min(buffer.len() - done);
            let into = &mut buffer[done..done + take];
            match self.pages.get(at / PAGE).and_then(Option::as_ref) {
                Some(page) => into.copy_from_slice(&page[at % PAGE..at % PAGE + take]),
                None => into.fill(0),
            }
            done += take;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], offset: u64) {
        let end = offset as usize + bytes.len();
        self.len = self.len.max(end as u64);
        if self.pages.len() < end.div_ceil(PAGE) {
            self.pages.resize(end.div_ceil(PAGE), None);
        }
        let mut done = 0;
        while done < bytes.len() {
            let at = offset as usize + done;
            let take = (SECTOR - at % SECTOR).min(bytes.len() - done);
            self.write_sector(&bytes[done..done + take], at);
            done += take;
        }
    }

    /// Writes bytes that lie in one sector.
    fn write_sector(&mut self, bytes: &[u8], at: usize) {
        let slot = &mut self.pages[at / PAGE];
        if slot.is_none() && bytes.iter().all(|&byte| byte == 0) {
            return;
        }
        let page = slot.get_or_insert_with(|| Box::new([0; PAGE]));
        let sector = at % PAGE / SECTOR * SECTOR;
        let number = (at / SECTOR) as u64;
        let before: [u8; SECTOR] = page[sector..sector + SECTOR].try_into().expect("a sector");
        // A sector given up is dirty again once it is written to.
        let platter = self.given_up.remove(&number).unwrap_or(before);
        self.platter.entry(number).or_insert(platter);
        page[at % PAGE..at % PAGE + bytes.len()].copy_from_slice(bytes);
    }

    fn sync(&mut self) {
        self.platter.clear();
        self.durable_len = self.len;
    }

    fn lose_power(&mut self, rng: &mut SmallRng, damage: &mut Damage) {
        // All, none or any of what was on its way.
        let share = [0.0, 1.0, 0.5][rng.random_range(0..3)];
        for (sector, old) in std::mem::take(&mut self.platter) {
            if rng.random_bool(share) {
                continue;
            }
            let torn = rng.random_ratio(1, TORN_OF);
            damage.torn += u64::from(torn);
            damage.lost += u64::from(!torn);
            self.revert(sector, &old[..if torn { SECTOR / 2 } else { SECTOR }]);
        }
        for (sector, old) in std::mem::take(&mut self.given_up) {
            damage.lost += 1;
            self.revert(sector, &old);
        }
        if self.durable_len != self.len && rng.random_bool(0.5) {
            self.set_len(self.durable_len);
        }
        self.sync();
    }

    fn revert(&mut self, sector: u64, old: &[u8]) {
        let at = sector as usize * SECTOR;
        if let Some(Some(page)) = self.pages.get_mut(at / PAGE) {
            page[at % PAGE..at % PAGE + old.len()].copy_from_slice(old);
        }
    }

    fn set_len(&mut self, len: u64) {
        self.len = len;
        let pages = (len as usize).div_ceil(PAGE);
        self.pages.resize(pages, None);
        let rest = len as usize % PAGE;
        if let (Some(Some(page)), true) = (self.pages.last_mut(), rest > 0) {
            page[rest..].fill(0);
        }
        self.platter.retain(|&sector, _| sector * (SECTOR as u64) < len);
        self.given_up.retain(|&sector, _| sector * (SECTOR as u64) < len);
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.alive()?.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.alive()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.full {
            state.damage.refused += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.names.insert(name.to_owned(), inode);
        Ok(SimFile { disk: self.clone(), inode })
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let state = self.alive()?;
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(SimFile { disk: self.clone(), inode })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.alive()?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.alive()?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.alive()?;
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/simulated").join(name)
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.alive()?.inodes[self.inode].len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.alive()?.inodes[self.inode].set_len(len);
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.alive()?.inodes[self.inode].read(buffer, offset)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.disk.alive()?;
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        if state.full && offset + bytes as u64 > state.inodes[self.inode].len {
            state.damage.refused += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut at = offset;
        for slice in slices {
            state.inodes[self.inode].write(slice, at);
            at += slice.len() as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.alive()?;
        match state.sync_fuse {
            Some(0) => {
                state.sync_fuse = None;
                state.damage.syncs_failed += 1;
                let inode = &mut state.inodes[self.inode];
                let platter = std::mem::take(&mut inode.platter);
                for (sector, old) in platter {
                    inode.given_up.entry(sector).or_insert(old);
                }
                return Err(io::Error::other("the device did not take it"));
            }
            Some(left) => state.sync_fuse = Some(left - 1),
            None => {}
        }
        state.inodes[self.inode].sync();
        Ok(())
    }

    fn read_nowait(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        let mut state = self.disk.alive()?;
        if state.cold && state.rng.random_bool(0.5) {
            state.damage.waits += 1;
            return Ok(false);
        }
        state.inodes[self.inode].read(buffer, offset).map(|()| true)
    }

    fn map(&self) -> io::Result<Option<Mapping>> {
        Ok(None)
    }
}
