//! Showing items to people, a page at a time.

use crate::ids::SequenceId;
use crate::outcome::{Cursor, ItemView, Listed, Listing};

use super::Shard;

impl Shard {
    /// At most `max` items, after a cursor or from the beginning. Looks at no
    /// more than `budget` items, so a page may end early.
    pub fn list(&self, which: Listing, after: Option<Cursor>, max: usize, budget: usize) -> Listed {
        let _ = (which, after, max, budget);
        todo!()
    }

    /// An item as it is now; `None` when it is not there.
    pub fn view(&self, id: SequenceId) -> Option<ItemView> {
        let _ = id;
        todo!()
    }
}
