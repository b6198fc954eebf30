//! Why an item is not being worked on.

use crate::ids::{Nanos, SequenceId};
use crate::outcome::Explanation;

use super::Shard;

impl Shard {
    /// Why an item is not being worked on.
    pub fn explain(&self, now: Nanos, id: SequenceId) -> Explanation {
        let _ = (now, id);
        todo!()
    }
}
