//! The protocol by which producers on other threads wake a sleeping core
//! without a system call when it is awake.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Work announced by producers and taken by one consumer.
///
/// Announcing is cheap while an earlier announcement is still unseen.
#[derive(Debug)]
pub(crate) struct Raised(AtomicBool);

impl Raised {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Producer: announces what it published before this call.
    ///
    /// True if the consumer may not know yet, so its [`SleepFlag`] must be
    /// looked at. False if an earlier announcement still stands: whoever made
    /// it has seen to the wake-up, and taking that one shows this work too.
    #[must_use]
    pub(crate) fn raise(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// Consumer: is anything announced?
    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Consumer: takes the announcement. Look for the work after this, never before.
    pub(crate) fn take(&self) -> bool {
        self.is_raised() && self.0.swap(false, Ordering::AcqRel)
    }
}

/// Whether a core is, or is about to be, asleep in its driver.
///
/// A producer raises, then asks [`SleepFlag::must_ring`]; a core calls
/// [`SleepFlag::prepare`], then looks at everything that can be raised, and
/// sleeps only if nothing is. The two fences order these store-then-load pairs
/// against each other, so at least one side sees the other.
#[derive(Debug)]
pub(crate) struct SleepFlag(AtomicBool);

impl SleepFlag {
    /// A core that is awake.
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    // Both sides change the flag by swaps only, though the core does nothing
    // with the answer: swaps have one order, and no producer's swap of an
    // earlier sleep can hide a later one of the core's. (A plain store would do
    // by the language's rules; the model checker does not know that one.)

    /// Core: announces that it is about to sleep.
    pub(crate) fn prepare(&self) {
        self.0.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Core: it is awake again, or found work after [`SleepFlag::prepare`].
    pub(crate) fn awake(&self) {
        // Only the core sets the flag, so a busy one just looks.
        if self.0.load(Ordering::Relaxed) {
            self.0.swap(false, Ordering::Relaxed);
        }
    }

    /// Producer, after raising: must this caller ring the core's bell?
    ///
    /// Of many producers one is told yes per sleep.
    #[must_use]
    pub(crate) fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}
