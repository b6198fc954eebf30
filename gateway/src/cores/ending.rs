//! How the cores of a node end together: a core that has nothing left to do itself may still be
//! needed for a call that another has accepted.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the cores that may still ask others for something.
#[derive(Debug)]
pub(super) struct Ending {
    busy: AtomicUsize,
}

impl Ending {
    /// Of a node with so many cores.
    pub(super) fn new(cores: u16) -> Ending {
        Ending {
            busy: AtomicUsize::new(usize::from(cores)),
        }
    }

    /// A core has answered its last call, or never took one. Each core says so once.
    pub(super) fn core_is_done(&self) {
        let before = self.busy.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "each core is done once");
    }

    /// Whether no core has calls left: what was sent on their account can be seen by then.
    pub(super) fn all_are_done(&self) -> bool {
        self.busy.load(Ordering::Acquire) == 0
    }
}
