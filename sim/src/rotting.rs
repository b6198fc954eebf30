//! Disks that deceive: bits that flip, at rest and under a running node, and syncs that lie.

use std::path::Path;

use omnirelay::data_dir::{LogSettings, open_log};
use omnirelay::node::LogId;
use omnirelay_wal::OpenError;
use rand::Rng;

use crate::hits::Fault;
use crate::node::SEGMENT_BYTES;
use crate::readback::{newest_segment, read_log};
use crate::violation::{Violation, broken};
use crate::world::World;

/// Where simulated logs say that they are.
const DIRECTORY: &str = "/simulated";

impl World {
    /// Whether in this life no read fails and no bit has flipped.
    pub(crate) fn disks_are_sound(&self) -> bool {
        self.rotten.is_none() && self.life().read_errors == 0.0
    }

    /// From now on no sync keeps anything, though all say so.
    pub(crate) fn begin_lies(&mut self) {
        self.trace(|| "syncs lie from here on".into());
        let synced = |tape: &crate::tape::SharedTape| tape.borrow().last_synced();
        self.trusted = Some(self.tapes.iter().map(synced).collect());
        self.disks.iter().for_each(crate::disk::SimDisk::begin_lies);
    }

    /// A log that lost what it was told is kept may refuse to open, if it says which one it is.
    /// Only a copy of the log could help then: the run is over.
    pub(crate) fn refused_after_lies(&mut self, error: &OpenError) -> Result<(), Violation> {
        let text = error.to_string();
        broken(
            !text.contains(DIRECTORY),
            "an error names what it is about",
            || text.clone(),
        )?;
        self.trace(|| format!("refused after lying syncs: {text}"));
        self.hits.hit(Fault::LieFound);
        self.done = true;
        Ok(())
    }

    /// What a log had for certain was given up on the word of a lie, and nothing that was written
    /// since has reached the disk: nothing there says that it was ever more than a new log. The
    /// run is over, as after a refusal.
    pub(crate) fn emptied_by_lies(&mut self, log: u16) -> Result<(), Violation> {
        let left = newest_segment(log, &self.disks[usize::from(log)]);
        broken(
            !matches!(left, Ok(None)),
            "what was durable stays as it was",
            || format!("log {log} opens as new, but has {left:?}"),
        )?;
        self.trace(|| format!("log {log} is as new after lying syncs"));
        self.hits.hit(Fault::LieLost);
        self.done = true;
        Ok(())
    }

    /// A bit flips in a log that is in use, until this life is over.
    pub(crate) fn rot_running(&mut self) {
        let log = self.rng.random_range(0..self.disks.len());
        if let Some(rot) = self.disks[log].rot() {
            self.trace(|| format!("log {log}: {rot:?}"));
            self.hits.hit(Fault::RotRunning);
            self.rotten = Some((log, rot));
        }
    }

    /// The bit that has flipped in this life is as it was.
    pub(crate) fn repair(&mut self) {
        if let Some((log, rot)) = self.rotten.take() {
            self.disks[log].repair(&rot);
        }
    }

    /// Flips a bit in a copy of each log: either the copy is refused by name, and left as it is,
    /// or nothing is missing that is needed.
    pub(crate) fn rot_at_rest(&mut self) -> Result<(), Violation> {
        if !self.life().rots_after || !self.is_proven || self.done {
            return Ok(());
        }
        for log in 0..self.disks.len() {
            let copy = self.disks[log].copy(self.rng.random());
            let Some(rot) = copy.rot() else {
                continue;
            };
            self.trace(|| format!("a copy of log {log}: {rot:?}"));
            let before = copy.files();
            let number = u16::try_from(log).expect("few logs");
            let newest = newest_segment(number, &self.disks[log]).map_err(|error| {
                Violation::new("a log opens after every crash", error.to_string())
            })?;
            let found = read_log(number, &copy);
            let layout = self.plan.layout(1);
            let settings = LogSettings {
                segment_bytes: SEGMENT_BYTES,
                history_bytes: 0,
            };
            let path = Path::new(DIRECTORY);
            let mut entropy = || 7;
            let id = LogId(number);
            let opened = open_log(copy.clone(), path, settings, &layout, id, &mut entropy);
            match (opened, found) {
                (Err(error), _) => {
                    let text = error.to_string();
                    // If it has hit what says that older segments are gone, these are missed.
                    let is_newest = newest == rot.segment();
                    broken(
                        !text.contains(if is_newest { DIRECTORY } else { &rot.name }),
                        "an error names what it is about",
                        || format!("{text}; the bit is in {}", rot.name),
                    )?;
                    broken(
                        copy.files() != before,
                        "a log that is refused is left as it is",
                        || text.clone(),
                    )?;
                    self.hits.hit(Fault::RotFound);
                }
                (Ok(_), Ok(found)) => {
                    // Damage in the last batch looks like a write that was not finished.
                    let least = self.known[log].saturating_sub(1);
                    self.tapes[log].borrow().check(&found, least)?;
                    self.hits.hit(Fault::RotHarmless);
                }
                (Ok(_), Err(error)) => {
                    return Err(Violation::new("a log opens or does not", error.to_string()));
                }
            }
        }
        Ok(())
    }
}
