//! Resources in order: which items of a resource hold back which, as the records say.

use std::collections::{BTreeMap, BTreeSet};

use crate::violation::{Violation, broken};

/// The items of one shard that are still to be worked on, by resource.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    standing: BTreeMap<String, BTreeSet<u64>>,
    leased: BTreeMap<String, u64>,
}

impl Lines {
    /// An item waits, delayed or not.
    pub fn stand(&mut self, resource: &str, item: u64) {
        self.leave(resource, item);
        self.standing
            .entry(resource.to_owned())
            .or_default()
            .insert(item);
    }

    /// An item is leased.
    ///
    /// # Errors
    /// If another one was to come before, or is leased already.
    pub fn lease(&mut self, resource: &str, item: u64) -> Result<(), Violation> {
        let beside = self.leased.get(resource);
        broken(
            beside.is_some(),
            "a resource has at most one active lease",
            || format!("{resource}: {item} beside {beside:?}"),
        )?;
        let first = self.standing.get(resource).and_then(BTreeSet::first);
        broken(
            first != Some(&item),
            "a resource's items are leased in the order of their enqueues",
            || format!("{resource}: {item} before {first:?}"),
        )?;
        self.leased.insert(resource.to_owned(), item);
        Ok(())
    }

    /// An item is not to be worked on any more.
    pub fn leave(&mut self, resource: &str, item: u64) {
        if self.leased.get(resource) == Some(&item) {
            self.leased.remove(resource);
        }
        if let Some(items) = self.standing.get_mut(resource) {
            items.remove(&item);
        }
    }
}
