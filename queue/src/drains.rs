//! What was given to drain requests, so that a request that is repeated gets
//! the same bundle. Kept for the dedupe window after the last item.

use std::time::Duration;

use crate::carry::DrainPart;
use crate::ids::{Lsn, Nanos, Place, RequestKey};

/// Most requests that are remembered.
pub(crate) const DRAINS_MAX: usize = 256;

/// Most items that one request gets from a shard: more than a call can carry.
const DRAIN_ITEMS_MAX: usize = 4096;

#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) request: RequestKey,
    /// When the shard last did something for it.
    pub(crate) at: Nanos,
    /// Whether the request has got all that it will.
    pub(crate) complete: bool,
    /// The LSN of the latest record.
    pub(crate) last_lsn: Lsn,
    /// LSNs of the drains, ascending.
    drains: Vec<Lsn>,
    /// For each, where the item's snapshot lies, and its length in bytes.
    pub(crate) items: Vec<(Place, u32)>,
}

/// Why a bundle gets no further item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    Full,
    Complete,
}

#[derive(Debug)]
pub(crate) struct Drains {
    bundles: Vec<Bundle>,
    window: Duration,
    /// Bytes of the log that the items take.
    bytes: u64,
}

impl Drains {
    pub(crate) fn new(window: Duration) -> Drains {
        Drains {
            bundles: Vec::new(),
            window,
            bytes: 0,
        }
    }

    /// Bytes of the log that the bundles take.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many requests are remembered.
    pub(crate) fn len(&self) -> usize {
        self.bundles.len()
    }

    /// What a request got, within the window before `now`.
    pub(crate) fn get(&self, request: RequestKey, now: Nanos) -> Option<&Bundle> {
        let mut bundles = self.live(now);
        bundles.find(|bundle| bundle.request == request)
    }

    /// The bundles of the window before `now`.
    pub(crate) fn live(&self, now: Nanos) -> impl Iterator<Item = &Bundle> {
        let is_live = move |bundle: &&Bundle| !is_over(bundle.at, self.window, now);
        self.bundles.iter().filter(is_live)
    }

    /// Whether a request may get one item more. Forgets what is older than the
    /// window, and nothing else.
    pub(crate) fn make_room(&mut self, request: RequestKey, now: Nanos) -> Result<(), NoRoom> {
        self.sweep(now);
        match self.get(request, now) {
            Some(bundle) if bundle.complete => Err(NoRoom::Complete),
            Some(bundle) if bundle.items.len() >= DRAIN_ITEMS_MAX => Err(NoRoom::Full),
            Some(_) => Ok(()),
            None if self.bundles.len() >= DRAINS_MAX => Err(NoRoom::Full),
            None => Ok(()),
        }
    }

    /// Remembers that the record `lsn` took an item out, or where that is
    /// written now.
    pub(crate) fn insert(&mut self, request: RequestKey, lsn: Lsn, at: Nanos, item: (Place, u32)) {
        let bundle = self.bundle(request, at);
        bundle.last_lsn = bundle.last_lsn.max(lsn);
        match bundle.drains.binary_search(&lsn) {
            Ok(nth) => bundle.items[nth] = item,
            Err(nth) => {
                bundle.drains.insert(nth, lsn);
                bundle.items.insert(nth, item);
                self.bytes += u64::from(item.1);
            }
        }
    }

    /// Remembers that the request has got all that it will.
    pub(crate) fn complete(&mut self, request: RequestKey, lsn: Lsn, at: Nanos) {
        let bundle = self.bundle(request, at);
        bundle.complete = true;
        bundle.last_lsn = bundle.last_lsn.max(lsn);
    }

    /// Remembers what a trimmed log carries.
    pub(crate) fn carried(&mut self, row: &DrainPart) {
        let bundle = self.bundle(row.request, row.at);
        bundle.complete |= row.complete;
        bundle.last_lsn = bundle.last_lsn.max(row.last_lsn);
    }

    fn bundle(&mut self, request: RequestKey, at: Nanos) -> &mut Bundle {
        let is_it = |bundle: &Bundle| bundle.request == request;
        let nth = match self.bundles.iter().position(is_it) {
            // What it was asked for before the window is another bundle.
            Some(nth) if is_over(self.bundles[nth].at, self.window, at) => {
                self.forget(nth);
                None
            }
            nth => nth,
        };
        let nth = nth.unwrap_or_else(|| {
            self.bundles.push(Bundle {
                request,
                at,
                complete: false,
                last_lsn: Lsn(0),
                drains: Vec::new(),
                items: Vec::new(),
            });
            self.bundles.len() - 1
        });
        let bundle = &mut self.bundles[nth];
        bundle.at = bundle.at.max(at);
        bundle
    }

    /// Forgets what is older than the window.
    pub(crate) fn sweep(&mut self, now: Nanos) {
        let mut nth = 0;
        while nth < self.bundles.len() {
            match is_over(self.bundles[nth].at, self.window, now) {
                true => self.forget(nth),
                false => nth += 1,
            }
        }
    }

    fn forget(&mut self, nth: usize) {
        let bundle = self.bundles.swap_remove(nth);
        let bytes: u64 = bundle.items.iter().map(|(_, len)| u64::from(*len)).sum();
        self.bytes -= bytes;
    }
}

impl Bundle {
    /// The item that the record `lsn` took out.
    pub(crate) fn item(&self, lsn: Lsn) -> Option<(Place, u32)> {
        let nth = self.drains.binary_search(&lsn).ok()?;
        Some(self.items[nth])
    }

    pub(crate) fn part(&self) -> DrainPart {
        DrainPart {
            request: self.request,
            at: self.at,
            last_lsn: self.last_lsn,
            complete: self.complete,
        }
    }
}

fn is_over(at: Nanos, window: Duration, now: Nanos) -> bool {
    at.saturating_add(window) <= now
}
