//! What was given to drain requests, so that a request that is repeated gets
//! the same bundle. Kept for the dedupe window after the last item.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use crate::carry::DrainPart;
use crate::ids::{Lsn, Nanos, Place, RequestKey};
use crate::roots::Roots;

/// Most requests that are remembered: who takes out all of ten million items
/// makes ten thousand.
const DRAINS_MAX: usize = 16_384;

/// Most items of all bundles together: 20 MiB.
const ITEMS_MAX: usize = 1 << 20;

/// Most items that one request gets from a shard: more than a call can carry.
const DRAIN_ITEMS_MAX: usize = 4096;

/// Bundles that may be forgotten at a time: some tens of microseconds each
/// when they are full.
const SWEEP_MAX: usize = 4;

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

/// Trees, because no other structure of so many large entries grows without a
/// pause and can be walked while it changes.
#[derive(Debug)]
pub(crate) struct Drains {
    bundles: BTreeMap<RequestKey, Bundle>,
    /// Each bundle by when the shard last did something for it.
    by_time: BTreeSet<(Nanos, RequestKey)>,
    window: Duration,
    /// Items of all bundles.
    items: usize,
    /// Bytes of the log that the items take.
    bytes: u64,
    /// Where they lie.
    roots: Roots,
}

impl Drains {
    pub(crate) fn new(window: Duration) -> Drains {
        Drains {
            bundles: BTreeMap::new(),
            by_time: BTreeSet::new(),
            window,
            items: 0,
            bytes: 0,
            roots: Roots::new(),
        }
    }

    /// Bytes of the log that the bundles take.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where in the log the bundles' items lie.
    pub(crate) fn roots(&self) -> &Roots {
        &self.roots
    }

    /// How many requests are remembered.
    pub(crate) fn len(&self) -> usize {
        self.bundles.len()
    }

    /// What a request got, within the window before `now`.
    pub(crate) fn get(&self, request: RequestKey, now: Nanos) -> Option<&Bundle> {
        let bundle = self.bundles.get(&request);
        bundle.filter(|bundle| !self.is_over(bundle, now))
    }

    /// The bundles of the window before `now`.
    pub(crate) fn live(&self, now: Nanos) -> impl Iterator<Item = &Bundle> {
        let bundles = self.bundles.values();
        bundles.filter(move |bundle| !self.is_over(bundle, now))
    }

    /// All bundles that come after one, or all, in an order that stays as it is
    /// while others come and go.
    pub(crate) fn after(&self, request: Option<RequestKey>) -> impl Iterator<Item = &Bundle> {
        let from = request.map_or(Bound::Unbounded, Bound::Excluded);
        let bundles = self.bundles.range((from, Bound::Unbounded));
        bundles.map(|(_, bundle)| bundle)
    }

    /// Whether the window of a bundle is over.
    pub(crate) fn is_over(&self, bundle: &Bundle, now: Nanos) -> bool {
        self.is_past(bundle.at, now)
    }

    /// Whether a request may get one item more. Forgets some of what is older
    /// than the window when not, and nothing else.
    pub(crate) fn make_room(&mut self, request: RequestKey, now: Nanos) -> Result<(), NoRoom> {
        self.make_room_for(1, request, now)
    }

    /// Whether a request may be noted to be complete, likewise. One that has
    /// got all that it can may.
    pub(crate) fn make_room_to_complete(
        &mut self,
        request: RequestKey,
        now: Nanos,
    ) -> Result<(), NoRoom> {
        self.make_room_for(0, request, now)
    }

    fn make_room_for(
        &mut self,
        items: usize,
        request: RequestKey,
        now: Nanos,
    ) -> Result<(), NoRoom> {
        self.sweep(now);
        let (bundles, in_bundle) = match self.bundles.get(&request) {
            // It is going to be another bundle, in the place of this one.
            Some(bundle) if self.is_over(bundle, now) => (0, 0),
            Some(bundle) if bundle.complete => return Err(NoRoom::Complete),
            Some(bundle) => (0, bundle.items.len()),
            None => (1, 0),
        };
        let has_room = self.bundles.len() + bundles <= DRAINS_MAX
            && self.items + items <= ITEMS_MAX
            && in_bundle + items <= DRAIN_ITEMS_MAX;
        if has_room { Ok(()) } else { Err(NoRoom::Full) }
    }

    /// Remembers that the record `lsn` took an item out, or where that is
    /// written now.
    pub(crate) fn insert(&mut self, request: RequestKey, lsn: Lsn, at: Nanos, item: (Place, u32)) {
        let (place, len) = item;
        self.roots.add(place.segment);
        match self.bundle(request, at).insert(lsn, item) {
            Some((before, before_len)) => {
                self.roots.remove(before.segment);
                self.bytes = self.bytes - u64::from(before_len) + u64::from(len);
            }
            None => {
                self.items += 1;
                self.bytes += u64::from(len);
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

    /// Forgets some of what is older than the window, the oldest first.
    pub(crate) fn sweep(&mut self, now: Nanos) {
        for _ in 0..SWEEP_MAX {
            match self.by_time.first() {
                Some(&(at, request)) if self.is_past(at, now) => self.forget(request),
                _ => return,
            }
        }
    }

    /// A request's bundle, for which something is done at this time.
    fn bundle(&mut self, request: RequestKey, at: Nanos) -> &mut Bundle {
        let known = self.bundles.get(&request);
        // What it was asked for before the window is another bundle.
        if known.is_some_and(|bundle| self.is_over(bundle, at)) {
            self.forget(request);
        }
        let by_time = &mut self.by_time;
        let bundle = self.bundles.entry(request).or_insert_with(|| {
            by_time.insert((at, request));
            Bundle {
                request,
                at,
                complete: false,
                last_lsn: Lsn(0),
                drains: Vec::new(),
                items: Vec::new(),
            }
        });
        if bundle.at < at {
            by_time.remove(&(bundle.at, request));
            by_time.insert((at, request));
            bundle.at = at;
        }
        bundle
    }

    fn forget(&mut self, request: RequestKey) {
        let bundle = self.bundles.remove(&request).expect("it is remembered");
        let was_in_line = self.by_time.remove(&(bundle.at, request));
        assert!(was_in_line, "a bundle was not in line to be forgotten");
        self.items -= bundle.items.len();
        for (place, len) in &bundle.items {
            self.bytes -= u64::from(*len);
            self.roots.remove(place.segment);
        }
    }

    fn is_past(&self, at: Nanos, now: Nanos) -> bool {
        at.saturating_add(self.window) <= now
    }
}

impl Bundle {
    /// The item that the record `lsn` took out.
    pub(crate) fn item(&self, lsn: Lsn) -> Option<(Place, u32)> {
        let nth = self.drains.binary_search(&lsn).ok()?;
        Some(self.items[nth])
    }

    /// Adds an item; returns where that was before, if it was there.
    fn insert(&mut self, lsn: Lsn, item: (Place, u32)) -> Option<(Place, u32)> {
        self.last_lsn = self.last_lsn.max(lsn);
        match self.drains.binary_search(&lsn) {
            Ok(nth) => Some(std::mem::replace(&mut self.items[nth], item)),
            Err(nth) => {
                self.drains.insert(nth, lsn);
                self.items.insert(nth, item);
                None
            }
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: u64 = 100;

    #[derive(Clone, Debug)]
    enum Op {
        Insert { lsn: u64, segment: u32, len: u32 },
        Complete(u64),
        Sweep,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (1..40_u64, 0..5_u32, 1..9_u32)
                .prop_map(|(lsn, segment, len)| Op::Insert { lsn, segment, len }),
            1 => (1..40_u64).prop_map(Op::Complete),
            1 => Just(Op::Sweep),
        ]
    }

    /// A bundle in the simplest form.
    #[derive(Clone, Debug, Default)]
    struct Naive {
        at: u64,
        complete: bool,
        last_lsn: u64,
        items: BTreeMap<u64, (u32, u32)>,
    }

    fn place(segment: u32) -> Place {
        Place { segment, offset: 0 }
    }

    fn drains() -> Drains {
        Drains::new(Duration::from_nanos(WINDOW))
    }

    proptest! {
        #[test]
        fn bundles_are_what_was_put_in_within_the_window(
            ops in prop::collection::vec((op(), 0..6_u64, 0..30_u64), 1..200),
        ) {
            let mut drains = drains();
            let mut model: BTreeMap<u64, Naive> = BTreeMap::new();
            let mut now = 0;
            for (op, request, wait) in ops {
                now += wait;
                let (key, at) = ([request, 7], Nanos(now));
                model.retain(|_, naive| naive.at + WINDOW > now);
                match op {
                    Op::Insert { lsn, segment, len } => {
                        let naive = model.entry(request).or_default();
                        // An item that is written again is as long as it was.
                        let len = naive.items.get(&lsn).map_or(len, |(_, len)| *len);
                        drains.insert(key, Lsn(lsn), at, (place(segment), len));
                        naive.items.insert(lsn, (segment, len));
                        (naive.at, naive.last_lsn) = (now, naive.last_lsn.max(lsn));
                    }
                    Op::Complete(lsn) => {
                        drains.complete(key, Lsn(lsn), at);
                        let naive = model.entry(request).or_default();
                        naive.complete = true;
                        (naive.at, naive.last_lsn) = (now, naive.last_lsn.max(lsn));
                    }
                    Op::Sweep => (0..2).for_each(|_| drains.sweep(at)),
                }
                let theirs = drains.live(at).map(|bundle| {
                    let items = bundle.items.iter().map(|(place, len)| (place.segment, *len));
                    let items: Vec<_> = items.collect();
                    (bundle.request[0], bundle.at.0, bundle.complete, bundle.last_lsn.0, items)
                });
                let ours = model.iter().map(|(request, naive)| {
                    let items: Vec<_> = naive.items.values().copied().collect();
                    (*request, naive.at, naive.complete, naive.last_lsn, items)
                });
                prop_assert_eq!(theirs.collect::<Vec<_>>(), ours.collect::<Vec<_>>());
                for (request, naive) in &model {
                    let bundle = drains.get([*request, 7], at).expect("it is remembered");
                    for (lsn, (segment, len)) in &naive.items {
                        prop_assert_eq!(bundle.item(Lsn(*lsn)), Some((place(*segment), *len)));
                    }
                }
                let walk: Vec<_> = drains.after(None).map(|bundle| bundle.request).collect();
                for (nth, request) in walk.iter().enumerate() {
                    let rest = drains.after(Some(*request)).map(|bundle| bundle.request);
                    prop_assert_eq!(rest.collect::<Vec<_>>(), &walk[nth + 1..]);
                }
                // What is not forgotten yet counts.
                let items = || drains.bundles.values().flat_map(|bundle| &bundle.items);
                prop_assert_eq!(drains.items, items().count());
                prop_assert_eq!(drains.bytes, items().map(|(_, len)| u64::from(*len)).sum::<u64>());
                for segment in 0..5 {
                    let is_in = items().any(|(place, _)| place.segment == segment);
                    prop_assert_eq!(drains.roots().is_in(segment), is_in);
                }
                prop_assert_eq!(drains.by_time.len(), drains.bundles.len());
            }
        }
    }

    #[test]
    fn no_more_requests_are_remembered_than_may_be_and_none_is_forgotten_early() {
        let mut drains = drains();
        for request in 0..DRAINS_MAX as u64 {
            let key = [request, 7];
            assert_eq!(drains.make_room(key, Nanos(50)), Ok(()));
            drains.insert(key, Lsn(request + 1), Nanos(50), (place(1), 10));
        }
        let another = [DRAINS_MAX as u64, 7];
        let last = Nanos(50 + WINDOW - 1);
        assert_eq!(drains.make_room(another, last), Err(NoRoom::Full));
        assert_eq!(
            drains.make_room_to_complete(another, last),
            Err(NoRoom::Full)
        );
        assert_eq!(drains.make_room([3, 7], last), Ok(()));
        assert_eq!(drains.live(last).count(), DRAINS_MAX);
        assert_eq!(drains.make_room(another, Nanos(50 + WINDOW)), Ok(()));
    }

    #[test]
    fn no_more_items_are_remembered_than_may_be() {
        let mut drains = drains();
        let mut lsn = 0;
        let requests = (ITEMS_MAX / DRAIN_ITEMS_MAX) as u64;
        for key in (0..requests).map(|request| [request, 7]) {
            for _ in 0..DRAIN_ITEMS_MAX {
                assert_eq!(drains.make_room(key, Nanos(50)), Ok(()));
                lsn += 1;
                drains.insert(key, Lsn(lsn), Nanos(50), (place(1), 10));
            }
            assert_eq!(drains.make_room(key, Nanos(50)), Err(NoRoom::Full));
        }
        let another = [requests, 7];
        assert_eq!(drains.make_room(another, Nanos(50)), Err(NoRoom::Full));
        // There is nothing to remember of a request that got nothing but that.
        for key in [another, [0, 7]] {
            assert_eq!(drains.make_room_to_complete(key, Nanos(50)), Ok(()));
        }
        assert_eq!(drains.make_room(another, Nanos(50 + WINDOW)), Ok(()));
        assert_eq!(drains.items, ITEMS_MAX - SWEEP_MAX * DRAIN_ITEMS_MAX);
    }

    #[test]
    fn bytes_are_those_of_the_items_as_they_lie_now() {
        let mut drains = Drains::new(Duration::from_nanos(10));
        let place = Place::default();
        drains.insert([1, 2], Lsn(5), Nanos(0), (place, 100));
        drains.insert([1, 2], Lsn(5), Nanos(0), (place, 130));
        assert_eq!(drains.bytes(), 130);
        let room = drains.make_room([3, 4], Nanos(20));
        assert_eq!((room, drains.bytes()), (Ok(()), 0));
    }
}
