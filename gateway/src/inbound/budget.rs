//! How much memory requests may take on a core before further ones are refused.

use std::cell::Cell;
use std::rc::Rc;

/// Bytes of large bodies, and over QUIC of pages that are made or wait to be taken, that a core
/// holds at once. One call may have
/// [`REQUEST_BYTES_MAX`](omnirelay_net::rpc::REQUEST_BYTES_MAX), so some 40 of the largest.
pub(super) const LARGE_BODIES_BYTES_MAX: usize = 1 << 30;

/// A body up to this size is not counted, so that senders of large ones, stalled or hostile, do
/// not keep small calls out.
pub(super) const SMALL_BODY_BYTES: usize = 64 << 10;

/// Calls that a core holds unanswered at once, workers that wait included.
pub(super) const OPEN_CALLS_MAX: usize = 1 << 18;

/// What a core's large bodies take up.
#[derive(Debug, Clone, Default)]
pub(super) struct BodyBudget(Rc<Cell<usize>>);

/// A body's share of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct BodyShare {
    budget: BodyBudget,
    bytes: usize,
}

impl BodyBudget {
    /// Takes a share for a body of so many bytes; `None` if the budget is used up.
    pub(super) fn take(&self, bytes: usize) -> Option<BodyShare> {
        let bytes = if bytes <= SMALL_BODY_BYTES { 0 } else { bytes };
        let used = self.0.get() + bytes;
        if used > LARGE_BODIES_BYTES_MAX {
            return None;
        }
        self.0.set(used);
        Some(BodyShare {
            budget: self.clone(),
            bytes,
        })
    }
}

impl BodyShare {
    /// The body turned out to be smaller than its share.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let bytes = if bytes <= SMALL_BODY_BYTES { 0 } else { bytes };
        if bytes < self.bytes {
            let used = &self.budget.0;
            used.set(used.get() - (self.bytes - bytes));
            self.bytes = bytes;
        }
    }
}

impl Drop for BodyShare {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bodies_are_bounded_and_small_ones_pass() {
        let budget = BodyBudget::default();
        let mut first = budget
            .take(LARGE_BODIES_BYTES_MAX)
            .expect("nothing is taken yet");
        assert!(budget.take(SMALL_BODY_BYTES + 1).is_none());
        assert!(budget.take(SMALL_BODY_BYTES).is_some());
        first.shrink(LARGE_BODIES_BYTES_MAX / 2);
        let second = budget
            .take(LARGE_BODIES_BYTES_MAX / 2)
            .expect("half is free");
        drop((first, second));
        assert!(
            budget.take(LARGE_BODIES_BYTES_MAX).is_some(),
            "all was given back"
        );
    }
}
