//! The items of a shard as a replica of it is copied from them.

use crate::ids::Lsn;
use crate::item::State;
use crate::snapshot::ItemSnapshot;

use super::Shard;

impl Shard {
    /// The items that are there, by the LSNs of their enqueues, in order.
    pub fn items(&self) -> Vec<Lsn> {
        let slots = (0..self.slab.slots()).map(|slot| &self.slab[slot]);
        let items = slots.filter(|item| !matches!(item.state, State::Vacant(_)));
        let mut items: Vec<Lsn> = items.map(|item| item.lsn).collect();
        items.sort_unstable();
        items
    }

    /// An item as it is, if it is there. `body` and `error` are what lies at
    /// the places that its [`view`](Shard::view) names.
    pub fn item_snapshot<'a>(
        &'a self,
        lsn: Lsn,
        error: &'a [u8],
        body: &'a [u8],
    ) -> Option<ItemSnapshot<'a>> {
        let slot = self.index.get(&self.slab, lsn)?;
        let owner = match &self.slab[slot].state {
            State::Leased { owner, .. } => self.owners.name(*owner),
            _ => "",
        };
        Some(self.snapshot(slot, owner, error, body))
    }
}
