//! Items leave a shard and come into another as they were, once.

use std::time::Duration;

use crate::segments::{ORIGIN, START, Segments, Travelling, drain, payload, shard};
use omnirelay_queue::{
    Attributes, CHECKPOINT_RECORD_BYTES_MAX, Carried, Decision, DrainCursor, DrainRefused, Event,
    Failure, ItemSnapshot, LeaseWish, Log, Lsn, Nanos, NewItem, Options, Place, Record, RequestKey,
    RestoreRefused, Restored, Shard, Token, kind,
};
use proptest::prelude::*;

const MINUTE: u64 = 60_000_000_000;
const WISH: LeaseWish<'_> = LeaseWish {
    owner: "ann",
    lease: None,
    partition_key: None,
};

fn open(options: Options) -> (Shard, Segments) {
    let (mut shard, mut log) = (shard(options), Segments::new(1 << 20));
    let _ = shard.handle_open(START, 0, &mut log);
    (shard, log)
}

fn item<'a>(resource: &'a str, request: Option<&'a str>) -> NewItem<'a> {
    NewItem {
        payload: payload(resource, request),
        delay: Duration::ZERO,
        priority: 0,
        max_attempts: None,
        ttl: None,
        enqueued_by: "test",
    }
}

fn enqueue(shard: &mut Shard, new: &NewItem<'_>, log: &mut Segments) -> Lsn {
    let enqueued = shard.handle_enqueue(START, new, log);
    enqueued.outcome.expect("there is room").lsn
}

fn lease(shard: &mut Shard, log: &mut Segments) -> Token {
    let granted = shard.handle_lease(START, &WISH, log);
    granted.expect("an item waits").outcome.token
}

fn fail(shard: &mut Shard, token: &Token, requeue: bool, log: &mut Segments) {
    let failure = Failure {
        reason: Some("no luck"),
        code: Some("E1"),
        requeue,
        delay: None,
        metadata: Attributes::Pairs(&[("host", "a")]),
    };
    let failed = shard.handle_fail(START, token, &failure, log);
    failed.outcome.expect("the lease is live");
}

fn restore(
    shard: &mut Shard,
    item: &Travelling,
    log: &mut Segments,
) -> Result<Restored, RestoreRefused> {
    shard.handle_restore(START, &item.restored(), log).outcome
}

fn request(shard: &Shard, id: &str) -> RequestKey {
    shard.spec().secret.drain_key(id)
}

/// What others can tell of an item wherever it is.
fn told(item: &Travelling) -> (Travelling, String) {
    let snapshot = item.snapshot();
    let enqueued = snapshot.enqueued().expect("it was enqueued").payload;
    let failed = snapshot.failed().expect("it was written");
    let failed = failed.map(|failed| (failed.reason, failed.code, failed.metadata));
    let mut item = item.clone();
    item.drained.place = Place::default();
    item.drained.len = 0;
    item.drained.sequence_id = omnirelay_queue::SequenceId(0);
    item.drained.last_token = None;
    item.snapshot.clear();
    let attributes: Vec<_> = enqueued.attributes.iter().collect();
    let rest = format!(
        "{:?} {:?} {:?} {:?} {:?} {attributes:?} {:?}",
        enqueued.resource_type,
        enqueued.resource_id,
        enqueued.partition_key,
        enqueued.body,
        enqueued.request_id,
        failed.map(|(reason, code, metadata)| {
            let metadata: Vec<_> = metadata
                .iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect();
            (reason.map(str::to_owned), code.map(str::to_owned), metadata)
        }),
    );
    (item, rest)
}

#[derive(Clone, Debug)]
struct Fate {
    delay_ms: u64,
    priority: u8,
    ttl_ms: Option<u64>,
    max_attempts: Option<u16>,
    request: bool,
    /// Failures, and whether the item is given up on then.
    failures: u8,
    gives_up: bool,
}

fn fate() -> impl Strategy<Value = Fate> {
    let times = (
        prop_oneof![Just(0), 1..100_000_u64],
        prop::option::of(1..1_000_000_u64),
    );
    let rest = (
        any::<u8>(),
        prop::option::of(1..5_u16),
        any::<bool>(),
        0..3_u8,
        any::<bool>(),
    );
    (times, rest).prop_map(|((delay_ms, ttl_ms), rest)| {
        let (priority, max_attempts, request, failures, gives_up) = rest;
        Fate {
            delay_ms,
            priority,
            ttl_ms,
            max_attempts,
            request,
            failures,
            gives_up,
        }
    })
}

proptest! {
    #[test]
    fn a_restored_item_is_told_as_the_drained_one_was(
        fates in prop::collection::vec(fate(), 1..12),
    ) {
        let options = Options { requeue_delay: Duration::ZERO, ..Options::default() };
        let (mut here, mut log) = open(options.clone());
        for (nth, fate) in fates.iter().enumerate() {
            let (resource, id) = (format!("r{nth}"), format!("request {nth}"));
            let new = NewItem {
                delay: Duration::from_millis(fate.delay_ms),
                priority: fate.priority,
                ttl: fate.ttl_ms.map(Duration::from_millis),
                max_attempts: fate.max_attempts,
                ..item(&resource, fate.request.then_some(&*id))
            };
            enqueue(&mut here, &new, &mut log);
            for _ in 0..fate.failures {
                if let Some(granted) = here.handle_lease(START, &WISH, &mut log) {
                    fail(&mut here, &granted.outcome.token, !fate.gives_up, &mut log);
                }
            }
        }
        let mut given = drain(&mut here, START, 100, None, &mut log);
        prop_assert_eq!(given.len(), fates.len());
        prop_assert_eq!(here.digest(START).items, Vec::new());
        prop_assert_eq!(here.digest(START).live_bytes, 0);

        let (mut there, mut their_log) = open(options);
        for item in &mut given {
            item.origin = *b"another cluster!";
            let restored = restore(&mut there, item, &mut their_log);
            prop_assert!(!restored.expect("there is room").duplicate);
        }
        let stats = there.stats();
        prop_assert_eq!(stats.live() + stats.dead, given.len() as u64);
        let mut back = drain(&mut there, START, 100, None, &mut their_log);
        let key = |item: &Travelling| item.payload().resource_id.to_owned();
        for item in &mut back {
            item.origin = *b"another cluster!";
        }
        given.sort_by_key(key);
        back.sort_by_key(key);
        for (given, back) in given.iter().zip(&back) {
            prop_assert_eq!(told(given), told(back));
        }
    }

    #[test]
    fn snapshots_survive_encoding_and_no_flipped_bit_goes_unseen(
        resource in ".{0,20}",
        leased in any::<bool>(),
        failures in 0..2_usize,
        flip in any::<prop::sample::Index>(),
    ) {
        let (mut shard, mut log) = open(Options::default());
        enqueue(&mut shard, &item(&resource, Some("r")), &mut log);
        for _ in 0..failures {
            let token = lease(&mut shard, &mut log);
            fail(&mut shard, &token, false, &mut log);
        }
        if leased && failures == 0 {
            lease(&mut shard, &mut log);
        }
        log.roll();
        log.carry_oldest(&mut shard);
        let carried = log.entries().last().expect("it was carried");
        prop_assert_eq!(carried.kind, kind::CARRY);
        let body = log.read(carried.place, carried.len()).expect("it is there").to_vec();
        let event = Event::decode(kind::CARRY, &body).expect("it was written");
        let mut again = Vec::new();
        event.encode(&mut again);
        prop_assert_eq!(&again, &body);
        let snapshot = &body[body.len() - event.snapshot().expect("an item").encoded_len()..];
        prop_assert_eq!(ItemSnapshot::decode_verified(snapshot), Ok(*event.snapshot().expect("an item")));
        let mut damaged = snapshot.to_vec();
        let bit = flip.index(damaged.len() * 8);
        damaged[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(ItemSnapshot::decode_verified(&damaged).is_err());
        for len in 0..snapshot.len() {
            prop_assert!(ItemSnapshot::decode_verified(&snapshot[..len]).is_err());
        }
    }
}

#[test]
fn restoring_an_item_again_adds_nothing() {
    let (mut here, mut log) = open(Options::default());
    enqueue(&mut here, &item("r", Some("once")), &mut log);
    let given = drain(&mut here, START, 1, None, &mut log);
    let first = restore(&mut here, &given[0], &mut log).expect("there is room");
    assert!(!first.duplicate);
    let again = restore(&mut here, &given[0], &mut log).expect("it is known");
    assert_eq!((again.lsn, again.duplicate), (first.lsn, true));
    assert_eq!(here.stats().pending, 1);
    // The request id still leads to the first enqueue, of which this is a copy.
    let enqueued = here.handle_enqueue(START, &item("r", Some("once")), &mut log);
    assert!(enqueued.outcome.expect("it is known").duplicate);

    let later = Nanos(START.0 + 31 * 24 * 60 * MINUTE);
    let forgotten = here.handle_restore(later, &given[0].restored(), &mut log);
    assert!(!forgotten.outcome.expect("there is room").duplicate);
}

#[test]
fn items_that_waited_since_the_beginning_of_time_go_back_to_their_places() {
    let (mut here, mut log) = open(Options::default());
    enqueue(&mut here, &item("r", None), &mut log);
    let given = drain(&mut here, START, 1, None, &mut log);
    let mut ancient = given[0].restored();
    (ancient.enqueued_at, ancient.ready_at) = (Nanos(0), Some(Nanos(0)));
    for nth in 1..=500 {
        ancient.sequence_id = omnirelay_queue::SequenceId(nth);
        ancient.origin = *b"another cluster!";
        let restored = here.handle_restore(START, &ancient, &mut log);
        restored.outcome.expect("there is room");
    }
    // Leased from the front, they go back in the same order: each belongs behind
    // those that are back already, further than a place is looked for.
    let tokens: Vec<Token> = (0..400).map(|_| lease(&mut here, &mut log)).collect();
    for token in &tokens {
        let released = here.handle_release(START, token, None, &mut log);
        assert!(released.outcome, "the lease is live");
    }
    assert_eq!(here.stats().pending, 500);
    let mut again: Vec<_> = (0..500)
        .map(|_| lease(&mut here, &mut log).sequence_id)
        .collect();
    again.sort_unstable();
    again.dedup();
    assert_eq!(again.len(), 500);
}

#[test]
fn an_item_that_never_left_is_not_restored_beside_itself() {
    let (mut here, mut log) = open(Options::default());
    let lsn = enqueue(&mut here, &item("r", None), &mut log);
    let (mut there, mut their_log) = open(Options::default());
    enqueue(&mut there, &item("r", None), &mut their_log);
    // The same number in the same namespace, as if a bundle was not committed.
    let given = drain(&mut there, START, 1, None, &mut their_log);
    assert_eq!(given[0].origin, ORIGIN);
    let restored = restore(&mut here, &given[0], &mut log).expect("it is here");
    assert_eq!((restored.lsn, restored.duplicate), (lsn, true));
    assert_eq!(here.stats().pending, 1);
}

#[test]
fn an_item_without_attempts_left_comes_in_as_a_dead_letter() {
    let (mut here, mut log) = open(Options::default());
    enqueue(&mut here, &item("r", None), &mut log);
    let given = drain(&mut here, START, 1, None, &mut log);
    let mut spent = given[0].restored();
    (spent.attempt, spent.max_attempts) = (3, Some(3));
    let restored = here.handle_restore(START, &spent, &mut log);
    restored.outcome.expect("there is room");
    assert_eq!(here.stats().dead, 1);
}

#[test]
fn a_full_shard_restores_nothing_and_forgets_nothing() {
    let options = Options {
        capacity: 2,
        dedupe_entries_max: 3,
        ..Options::default()
    };
    let (mut here, mut log) = open(options.clone());
    let mut given = Vec::new();
    for nth in 0..4 {
        enqueue(&mut here, &item(&nth.to_string(), None), &mut log);
        given.extend(drain(&mut here, START, 1, None, &mut log));
    }
    let (mut there, mut their_log) = open(options);
    for item in &given[..2] {
        restore(&mut there, item, &mut their_log).expect("there is room");
    }
    let refused = restore(&mut there, &given[2], &mut their_log);
    assert_eq!(refused, Err(RestoreRefused::CapacityReached));
    drain(&mut there, START, 2, None, &mut their_log);
    restore(&mut there, &given[2], &mut their_log).expect("there is room");
    let refused = restore(&mut there, &given[3], &mut their_log);
    assert_eq!(refused, Err(RestoreRefused::RestoresFull));
    let known = restore(&mut there, &given[0], &mut their_log).expect("it is known");
    assert!(known.duplicate);
}

#[test]
fn a_request_gets_the_same_bundle_within_the_window() {
    let (mut here, mut log) = open(Options::default());
    for resource in ["a", "b", "c"] {
        enqueue(&mut here, &item(resource, None), &mut log);
    }
    let key = request(&here, "drain 1");
    assert_eq!(here.drained(key, START), None);
    let given = drain(&mut here, START, 2, Some(key), &mut log);
    let done = here.handle_drain_complete(START, key, &mut log);
    let done = done.expect("there is room");
    let part = here.drained(key, START).expect("it is remembered");
    assert!(part.complete);
    assert_eq!(Some(part.rests_on), done.rests_on);
    let read = part.items.iter().map(|(place, len)| log.read(*place, *len));
    let read: Vec<&[u8]> = read.map(|bytes| bytes.expect("it is there")).collect();
    let expected: Vec<&[u8]> = given.iter().map(|item| &*item.snapshot).collect();
    assert_eq!(read, expected);

    let candidates = here.drain_candidates(DrainCursor::default(), 1).found;
    let body = log.read(candidates[0].body, candidates[0].body_len);
    let body = body.expect("it is there").to_vec();
    let refused = here.handle_drain(START, &candidates[0], &body, &[], Some(key), &mut log);
    assert_eq!(refused, Err(DrainRefused::Complete));
    let again = here.handle_drain_complete(START, key, &mut log);
    assert_eq!(again, Err(DrainRefused::Complete));
    let later = Nanos(START.0 + 10 * MINUTE);
    assert_eq!(here.drained(key, later), None);
}

#[test]
fn what_changed_while_it_was_read_is_not_taken_out() {
    let (mut here, mut log) = open(Options::default());
    enqueue(&mut here, &item("r", None), &mut log);
    let looked = here.drain_candidates(DrainCursor::default(), 1).found[0];
    let body = log
        .read(looked.body, looked.body_len)
        .expect("it is there")
        .to_vec();
    let take = |shard: &mut Shard, body: &[u8], log: &mut Segments| {
        let taken = shard.handle_drain(START, &looked, body, &[], None, log);
        taken.map(|Decision { outcome, .. }| outcome.sequence_id)
    };
    let mut damaged = body.clone();
    damaged[20] ^= 1;
    let refused = take(&mut here, &damaged, &mut log);
    assert!(
        matches!(refused, Err(DrainRefused::Unreadable(_))),
        "{refused:?}"
    );
    let token = lease(&mut here, &mut log);
    assert_eq!(take(&mut here, &body, &mut log), Err(DrainRefused::Changed));
    fail(&mut here, &token, true, &mut log);
    assert_eq!(take(&mut here, &body, &mut log), Err(DrainRefused::Changed));
    let _ = here.handle_cancel(START, token.sequence_id, &mut log);
    assert_eq!(take(&mut here, &body, &mut log), Err(DrainRefused::Changed));
}

#[test]
fn a_drained_items_token_is_fenced_and_is_told_with_it() {
    let (mut here, mut log) = open(Options::default());
    enqueue(&mut here, &item("r", None), &mut log);
    let token = lease(&mut here, &mut log);
    fail(&mut here, &token, false, &mut log);
    let before = here.handle_complete(START, &token, &mut log).outcome;
    let given = drain(&mut here, START, 1, None, &mut log);
    assert_eq!(given[0].drained.last_token, Some(token));
    assert!(given[0].drained.dead);
    assert_eq!(
        here.handle_complete(START, &token, &mut log).outcome,
        before
    );
}

#[test]
fn all_that_waits_is_found_in_order_and_within_a_bound() {
    let (mut here, mut log) = open(Options {
        capacity: 100_000,
        ..Options::default()
    });
    let delayed = |resource, delay| NewItem {
        delay: Duration::from_millis(delay),
        ..item(resource, None)
    };
    let dead = enqueue(&mut here, &item("dead", None), &mut log);
    let token = lease(&mut here, &mut log);
    fail(&mut here, &token, false, &mut log);
    // Leased items are looked at, and passed over.
    for _ in 0..20_000 {
        enqueue(&mut here, &item("leased", None), &mut log);
        lease(&mut here, &mut log);
    }
    let held_back = enqueue(&mut here, &delayed("held back", 5_000), &mut log);
    let low = enqueue(&mut here, &item("low", None), &mut log);
    let high = NewItem {
        priority: 9,
        ..item("high", None)
    };
    let high = enqueue(&mut here, &high, &mut log);

    let mut cursor = Some(DrainCursor::default());
    let (mut order, mut steps) = (Vec::new(), 0);
    while let Some(at) = cursor {
        let candidates = here.drain_candidates(at, 1);
        cursor = candidates.next;
        steps += 1;
        for candidate in candidates.found {
            order.push(candidate.lsn);
            let body = log
                .read(candidate.body, candidate.body_len)
                .expect("it is there")
                .to_vec();
            let error = candidate.error.map(|(place, len)| log.read(place, len));
            let error = error.flatten().unwrap_or_default().to_vec();
            let taken = here.handle_drain(START, &candidate, &body, &error, None, &mut log);
            let _ = taken.expect("nothing changed");
        }
    }
    assert_eq!(order, [high, low, held_back, dead]);
    assert!(steps < 10, "{steps}");
    assert_eq!((here.stats().active, here.stats().live()), (20_000, 20_000));
}

#[test]
fn an_error_that_is_no_longer_the_items_is_not_carried() {
    let options = Options {
        requeue_delay: Duration::ZERO,
        ..Options::default()
    };
    let (mut here, mut log) = open(options);
    let lsn = enqueue(&mut here, &item("r", None), &mut log);
    let token = lease(&mut here, &mut log);
    fail(&mut here, &token, true, &mut log);
    let enqueued = log.entries().find(|entry| entry.kind == kind::ENQUEUED);
    let place = enqueued.expect("it was enqueued").place;
    let len = enqueued.expect("it was enqueued").len();
    let body = log.read(place, len).expect("it is there").to_vec();
    let offer = |shard: &mut Shard, error: Option<&[u8]>, log: &mut Segments| {
        let offered = shard.carry(kind::ENQUEUED, lsn, place, &body, error, log);
        offered.expect("it can be read")
    };
    let Carried::NeedsError(at, len) = offer(&mut here, None, &mut log) else {
        panic!("it failed");
    };
    let old = log.read(at, len).expect("it is there").to_vec();
    let token = lease(&mut here, &mut log);
    fail(&mut here, &token, true, &mut log);
    let Carried::NeedsError(at, len) = offer(&mut here, Some(&old), &mut log) else {
        panic!("it failed again, with an error of the same length");
    };
    let new = log.read(at, len).expect("it is there").to_vec();
    assert_ne!(old, new);
    assert_eq!(offer(&mut here, Some(&new), &mut log), Carried::Done);
}

/// Counts, and keeps nothing.
#[derive(Default)]
struct Sizes {
    offset: u32,
    bodies: Vec<usize>,
}

impl Log for Sizes {
    fn append(&mut self, record: &Record<'_>) -> Place {
        self.offset += 1;
        self.bodies.push(record.event.encoded_len());
        Place {
            segment: 1,
            offset: self.offset,
        }
    }
}

#[test]
fn a_checkpoint_is_taken_in_steps_within_their_budget() {
    let (mut here, mut log) = (shard(Options::default()), Sizes::default());
    let _ = here.handle_open(START, 0, &mut log);
    for nth in 0..5_000 {
        let request = nth.to_string();
        let enqueued = here.handle_enqueue(START, &item("r", Some(&request)), &mut log);
        enqueued.outcome.expect("there is room");
        let granted = here.handle_lease(START, &WISH, &mut log).expect("it waits");
        let token = granted.outcome.token;
        let _ = here.handle_complete(START, &token, &mut log);
    }
    let last_lsn = here.last_lsn();
    let mut checkpoint = here.checkpoint();
    let (mut steps, mut bytes) = (0, 0);
    let budget = 40_000;
    loop {
        log.bodies.clear();
        let done = here.handle_checkpoint(&mut checkpoint, budget, &mut log);
        steps += 1;
        bytes += log.bodies.iter().sum::<usize>();
        assert!(
            log.bodies
                .iter()
                .all(|body| *body <= CHECKPOINT_RECORD_BYTES_MAX)
        );
        assert!(log.bodies.iter().sum::<usize>() <= budget);
        if done {
            break;
        }
    }
    assert!((5..20).contains(&steps), "{steps}");
    assert!(
        (5_000 * 32..5_000 * 32 + 20_000).contains(&bytes),
        "{bytes}"
    );
    assert_eq!(
        here.last_lsn(),
        last_lsn,
        "carries have no LSN of their own"
    );
}

/// Takes a whole checkpoint: the lengths of its records' bodies.
fn checkpoint(shard: &mut Shard) -> Vec<usize> {
    let mut log = Sizes::default();
    let mut checkpoint = shard.checkpoint();
    while !shard.handle_checkpoint(&mut checkpoint, 40_000, &mut log) {}
    log.bodies
}

#[test]
fn live_bytes_are_what_trimming_leaves() {
    let (mut here, mut log) = open(Options::default());
    for nth in 0..1_500 {
        enqueue(&mut here, &item("r", Some(&nth.to_string())), &mut log);
        let token = lease(&mut here, &mut log);
        // Every third goes with its second lease, which has an entry of its own.
        let token = match nth % 3 {
            0 => {
                let _ = here.handle_release(START, &token, None, &mut log);
                lease(&mut here, &mut log)
            }
            _ => token,
        };
        let _ = here.handle_complete(START, &token, &mut log);
        if nth % 100 == 0 {
            let _ = here.handle_open(START, 100_000, &mut log);
        }
    }
    let key = request(&here, "drain");
    for nth in 0..50 {
        enqueue(&mut here, &item(&nth.to_string(), None), &mut log);
        let mut given = drain(&mut here, START, 1, Some(key), &mut log);
        given[0].origin = *b"another cluster!";
        restore(&mut here, &given[0], &mut log).expect("there is room");
        if nth % 2 == 0 {
            drain(&mut here, START, 1, None, &mut log);
        }
    }
    let records = checkpoint(&mut here);
    let bytes: usize = records.iter().sum();
    let rest = here.live_bytes() - here.digest(START).live_bytes;
    let rest = usize::try_from(rest).expect("a short log");
    // A byte of each record says what its rows are.
    assert!(
        (rest..=rest + records.len()).contains(&bytes),
        "{rest} of {bytes}"
    );
}

#[test]
fn a_bundle_whose_window_is_over_stops_counting_at_a_checkpoint() {
    let (mut here, mut log) = open(Options::default());
    enqueue(&mut here, &item("r", None), &mut log);
    let before = here.live_bytes() - here.digest(START).live_bytes;
    let key = request(&here, "drain");
    drain(&mut here, START, 1, Some(key), &mut log);
    assert!(here.live_bytes() > before);
    let later = Nanos(START.0 + 10 * MINUTE);
    here.handle_time(later, &mut log, 100);
    checkpoint(&mut here);
    assert_eq!(here.live_bytes(), before);
}
