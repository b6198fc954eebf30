//! How partition keys share the workers, one rule at a time.

mod tape;

use omnirelay_queue::{
    Explanation, Fairness, LeaseWish, Log, Nanos, NewItem, Options, PayloadRef, Place, Record,
    SequenceId, Shard,
};
use tape::{START, Tape, WISH, item, open, replay, shard};

fn fair(weights: &[(&str, u32)]) -> Options {
    let weights = weights.iter();
    Options {
        fairness: Fairness::PartitionKey,
        weights: weights.map(|(key, w)| ((*key).to_owned(), *w)).collect(),
        ..Options::default()
    }
}

fn of_key(key: &str) -> NewItem<'_> {
    let item = item(None);
    NewItem {
        payload: PayloadRef {
            partition_key: Some(key),
            ..item.payload
        },
        ..item
    }
}

fn enqueue(shard: &mut Shard, key: &str, log: &mut impl Log) -> SequenceId {
    let decision = shard.handle_enqueue(START, &of_key(key), log);
    decision.outcome.expect("there is room").sequence_id
}

fn lease(shard: &mut Shard, key: Option<&str>, log: &mut impl Log) -> Option<SequenceId> {
    let wish = LeaseWish {
        partition_key: key,
        ..WISH
    };
    let granted = shard.handle_lease(START, &wish, log)?;
    Some(granted.outcome.sequence_id)
}

/// Leases an item of a key, and takes the grant back as one that reached nobody.
fn lease_and_take_back(shard: &mut Shard, key: &str, log: &mut impl Log) {
    let wish = LeaseWish {
        partition_key: Some(key),
        ..WISH
    };
    let grant = shard.handle_lease(START, &wish, log).expect("one waits");
    let released = shard.handle_release(START, &grant.outcome.token, None, log);
    assert!(released.outcome);
}

/// The keys of the next grants, given the items of each key.
fn next_keys(
    shard: &mut Shard,
    tape: &mut Tape,
    items: &[(&'static str, Vec<SequenceId>)],
    count: usize,
) -> String {
    let mut keys = String::new();
    for _ in 0..count {
        let id = lease(shard, None, tape).expect("an item waits");
        let found = items.iter().find(|(_, ids)| ids.contains(&id));
        keys.push_str(found.expect("it was enqueued").0);
    }
    keys
}

fn fill(
    shard: &mut Shard,
    tape: &mut Tape,
    key: &'static str,
    count: usize,
) -> (&'static str, Vec<SequenceId>) {
    let ids = (0..count).map(|_| enqueue(shard, key, tape)).collect();
    (key, ids)
}

#[test]
fn keys_take_turns_by_their_weights() {
    let (mut shard, mut tape) = open(fair(&[("b", 3)]));
    let items = ["a", "b", "c"].map(|key| fill(&mut shard, &mut tape, key, 20));
    let keys = next_keys(&mut shard, &mut tape, &items, 15);
    assert_eq!(keys, "abbbcabbbcabbbc");
}

#[test]
fn a_key_that_comes_later_does_not_go_before_those_that_wait() {
    let (mut shard, mut tape) = open(fair(&[("b", 2)]));
    let mut items = vec![
        fill(&mut shard, &mut tape, "a", 5),
        fill(&mut shard, &mut tape, "b", 5),
    ];
    let mut keys = next_keys(&mut shard, &mut tape, &items, 2);
    items.push(fill(&mut shard, &mut tape, "c", 5));
    keys += &next_keys(&mut shard, &mut tape, &items, 6);
    assert_eq!(keys, "abbacbba");
}

#[test]
fn a_key_that_runs_out_and_comes_back_goes_behind() {
    let (mut shard, mut tape) = open(fair(&[("a", 9)]));
    let mut items = vec![
        fill(&mut shard, &mut tape, "a", 1),
        fill(&mut shard, &mut tape, "b", 5),
    ];
    let mut keys = next_keys(&mut shard, &mut tape, &items, 1);
    items.push(fill(&mut shard, &mut tape, "a", 3));
    keys += &next_keys(&mut shard, &mut tape, &items, 5);
    assert_eq!(keys, "abaaab", "one turn, not the rest of the one before");
}

#[test]
fn leases_out_of_turn_count_against_the_key() {
    let (mut shard, mut tape) = open(fair(&[("a", 2)]));
    let items = ["a", "b"].map(|key| fill(&mut shard, &mut tape, key, 20));
    for _ in 0..2 {
        let id = lease(&mut shard, Some("a"), &mut tape).expect("one waits");
        assert!(items[0].1.contains(&id));
    }
    let keys = next_keys(&mut shard, &mut tape, &items, 6);
    assert_eq!(keys, "baabaa", "a has had its turn");
}

#[test]
fn an_epoch_begins_with_the_key_that_waits_longest() {
    let (mut shard, mut tape) = open(fair(&[("a", 3)]));
    let items = ["a", "b", "c"].map(|key| fill(&mut shard, &mut tape, key, 5));
    let keys = next_keys(&mut shard, &mut tape, &items, 4);
    assert_eq!(keys, "aaab");
    let mut copy = replay(fair(&[("a", 3)]), &tape, tape.entries.len());
    assert_eq!(copy.digest(START), shard.digest(START));
    let _ = copy.handle_open(START, 0, &mut tape);
    let keys = next_keys(&mut copy, &mut tape, &items, 6);
    assert_eq!(keys, "aabcbc");
}

#[test]
fn within_a_key_priority_goes_before_age() {
    let (mut shard, mut tape) = open(fair(&[("a", 3)]));
    let old = enqueue(&mut shard, "a", &mut tape);
    let other = enqueue(&mut shard, "b", &mut tape);
    let urgent = NewItem {
        priority: 200,
        ..of_key("a")
    };
    let decision = shard.handle_enqueue(START, &urgent, &mut tape);
    let urgent = decision.outcome.expect("there is room").sequence_id;
    let got = [(); 3].map(|()| lease(&mut shard, None, &mut tape));
    assert_eq!(got, [Some(urgent), Some(old), Some(other)]);
}

#[test]
fn items_without_a_key_share_one() {
    let (mut shard, mut tape) = open(fair(&[]));
    let mut none = Vec::new();
    for _ in 0..2 {
        let decision = shard.handle_enqueue(START, &item(None), &mut tape);
        none.push(decision.outcome.expect("there is room").sequence_id);
    }
    let named = enqueue(&mut shard, "a", &mut tape);
    let got = [(); 2].map(|()| lease(&mut shard, None, &mut tape));
    assert_eq!(got, [Some(none[0]), Some(named)]);
    assert_eq!(lease(&mut shard, Some(""), &mut tape), Some(none[1]));
}

#[test]
fn a_worker_may_ask_for_a_key_where_keys_take_no_turns() {
    let (mut shard, mut tape) = open(Options::default());
    let first = enqueue(&mut shard, "a", &mut tape);
    let second = enqueue(&mut shard, "b", &mut tape);
    let _ = shard.handle_enqueue(START, &item(None), &mut tape);
    assert_eq!(lease(&mut shard, Some("c"), &mut tape), None);
    assert_eq!(lease(&mut shard, Some("b"), &mut tape), Some(second));
    assert_eq!(lease(&mut shard, Some("b"), &mut tape), None);
    assert!(shard.head(START, Some("a")).is_some());
    assert_eq!(lease(&mut shard, None, &mut tape), Some(first));
    assert!(shard.head(START, Some("a")).is_none());
}

#[test]
fn a_grant_for_a_key_that_is_taken_back_goes_where_it_was() {
    let (mut shard, mut tape) = open(Options::default());
    let (_, others) = fill(&mut shard, &mut tape, "a", 3);
    let wanted = enqueue(&mut shard, "b", &mut tape);
    let (_, later) = fill(&mut shard, &mut tape, "a", 1);
    lease_and_take_back(&mut shard, "b", &mut tape);
    let got: Vec<_> = (0..5)
        .filter_map(|_| lease(&mut shard, None, &mut tape))
        .collect();
    assert_eq!(got, [&others[..], &[wanted], &later].concat());
}

#[test]
fn a_grant_that_goes_back_far_from_both_ends_waits_the_same_after_replay() {
    let (mut shard, mut tape) = open(Options::default());
    fill(&mut shard, &mut tape, "a", 200);
    let wanted = enqueue(&mut shard, "b", &mut tape);
    fill(&mut shard, &mut tape, "a", 200);
    lease_and_take_back(&mut shard, "b", &mut tape);
    let replayed = replay(Options::default(), &tape, tape.entries.len());
    assert_eq!(replayed.digest(START), shard.digest(START));
    assert_eq!(lease(&mut shard, None, &mut tape), Some(wanted));
}

#[test]
fn an_explanation_says_where_the_key_stands() {
    let (mut shard, mut tape) = open(fair(&[("b", 7)]));
    let items = ["a", "b"].map(|key| fill(&mut shard, &mut tape, key, 3));
    let Explanation::Waiting { ahead, share, .. } = shard.explain(START, items[1].1[2]) else {
        panic!("it waits");
    };
    let share = share.expect("keys take turns");
    assert_eq!(ahead, 2);
    assert_eq!((&*share.key, share.weight), ("b", 7));
    assert_eq!((share.keys_waiting, share.position), (2, 1));
}

/// A log that keeps nothing.
struct Void;

impl Log for Void {
    fn append(&mut self, _: &Record<'_>) -> Place {
        Place::default()
    }
}

#[test]
fn a_key_with_a_million_items_does_not_hold_up_a_light_one() {
    const HEAVY: u64 = 1_000_000;
    let mut shard = shard(fair(&[("heavy", 5), ("light", 1)]));
    let _ = shard.handle_open(START, 0, &mut Void);
    for _ in 0..HEAVY {
        enqueue(&mut shard, "heavy", &mut Void);
    }
    for round in 0..200 {
        // It comes when the heavy key is anywhere in its turn.
        for _ in 0..round % 7 {
            assert!(lease(&mut shard, None, &mut Void).is_some());
        }
        let light = enqueue(&mut shard, "light", &mut Void);
        let before = (0..).find(|_| lease(&mut shard, None, &mut Void) == Some(light));
        let before = before.expect("it has its turn");
        assert!(before <= 5, "{before} of the heavy key went before it");
    }
    assert!(shard.stats().pending > HEAVY - 4_000);
}

#[test]
fn shards_of_a_fair_namespace_take_turns() {
    let (mut shard, mut tape) = open(fair(&[]));
    enqueue(&mut shard, "a", &mut tape);
    let urgent = NewItem {
        priority: 255,
        ..of_key("b")
    };
    let _ = shard.handle_enqueue(START, &urgent, &mut tape);
    let head = shard.head(START, None).expect("two wait");
    assert_eq!((head.effective_priority, head.ready_since), (0, START));
    let later = Nanos(START.0 + 5);
    assert!(shard.handle_lease(later, &WISH, &mut tape).is_some());
    let head = shard.head(later, None).expect("one waits");
    assert_eq!((head.effective_priority, head.ready_since), (0, later));
    let head = shard.head(later, Some("b")).expect("it waits");
    assert_eq!((head.effective_priority, head.ready_since), (255, START));
}
