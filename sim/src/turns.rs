//! Partition keys in turn: how often others were served while a key had to wait, as the records
//! say. Only items that surely waited count: one whose delay is over is ready when the shard's
//! timer says so, which leaves no record.

use std::collections::{BTreeMap, BTreeSet};

use crate::violation::{Violation, broken};

/// The keys of one shard.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    weights: BTreeMap<String, u32>,
    waiting: BTreeMap<String, BTreeSet<u64>>,
    /// By the key that waits and the one that was served: grants since the former had one, or
    /// began to wait.
    passed: BTreeMap<String, BTreeMap<String, u32>>,
}

impl Turns {
    /// Nobody waits. A key that is not named has the weight 1.
    pub fn new(weights: BTreeMap<String, u32>) -> Turns {
        Turns {
            weights,
            ..Turns::default()
        }
    }

    /// Whose turn it is does not outlive an epoch.
    pub fn begin(&mut self) {
        self.passed.clear();
    }

    /// An item of the key can be leased from now on.
    pub fn wait(&mut self, key: &str, item: u64) {
        self.waiting.entry(key.to_owned()).or_default().insert(item);
    }

    /// An item of the key waits no longer, and was not leased.
    pub fn leave(&mut self, key: &str, item: u64) {
        let Some(items) = self.waiting.get_mut(key) else {
            return;
        };
        items.remove(&item);
        if items.is_empty() {
            self.waiting.remove(key);
            self.passed.remove(key);
        }
    }

    /// An item of the key is leased.
    ///
    /// # Errors
    /// If another key has waited for too long.
    pub fn serve(&mut self, key: &str, item: u64) -> Result<(), Violation> {
        self.passed.remove(key);
        self.leave(key, item);
        let weight = self.weights.get(key).copied().unwrap_or(1);
        for waits in self.waiting.keys().filter(|waits| *waits != key) {
            let passed = self.passed.entry(waits.clone()).or_default();
            let times = passed.entry(key.to_owned()).or_default();
            *times += 1;
            broken(
                *times > weight,
                "a key waits for no more grants of another than that one's weight",
                || format!("{waits:?} waited while {key:?} of weight {weight} had {times}"),
            )?;
        }
        Ok(())
    }
}
