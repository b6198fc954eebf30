//! Windows are counted from the records, which may be older than the replies about them.

use std::collections::BTreeMap;

use omnirelay_net::messages::{PendingItem, Timestamp};
use omnirelay_net::rpc::origin_text;

use crate::violation::Violation;

use super::{Checker, EnqueueReply, Moment, Space};

const WINDOW: u64 = 600;
const ORIGIN: [u8; 16] = [1; 16];

fn checker() -> Checker {
    checker_of(true)
}

fn checker_of(durable: bool) -> Checker {
    Checker::new(vec![Space {
        first_shard: 0,
        shards: 1,
        durable,
        dedupe_ns: WINDOW,
        restore_ns: WINDOW,
        origin: ORIGIN,
        ordered: false,
        weights: None::<BTreeMap<String, u32>>,
    }])
}

fn at(life: u32, now: u64) -> Moment {
    Moment {
        life,
        now,
        booted_at: 0,
    }
}

/// The answer at `now` to an enqueue of `asked_at`, always under the same request id.
fn enqueued(checker: &mut Checker, asked_at: u64, now: u64, lsn: u64) -> Result<(), Violation> {
    checker.enqueued(
        at(1, now),
        EnqueueReply {
            asked_at,
            space: 0,
            shard: 0,
            lsn,
            sequence_id: lsn,
            duplicate: false,
            job: "job".to_owned(),
            request_id: Some("once".to_owned()),
            durability: "disk".to_owned(),
        },
    )
}

/// The answer to a drain, always of the same request.
fn drained(checker: &mut Checker, now: Moment, ids: &[u64]) -> Result<(), Violation> {
    checker.drained(now, 0, Some("bundle"), &items(ids), 1)
}

/// The answer to a restore, which added so many.
fn restored(checker: &mut Checker, ids: &[u64], added: u32) -> Result<(), Violation> {
    checker.restored(at(1, 200), 0, &items(ids), added)
}

fn items(ids: &[u64]) -> Vec<PendingItem> {
    let item = |id: &u64| PendingItem {
        sequence_id: *id,
        origin: origin_text(ORIGIN),
        enqueued_at: Some(Timestamp::default()),
        ..PendingItem::default()
    };
    ids.iter().map(item).collect()
}

fn rule(result: Result<(), Violation>) -> Option<&'static str> {
    result.err().map(|violation| violation.rule)
}

#[test]
fn a_request_id_may_make_another_item_once_the_window_of_the_first_record_is_over() {
    let mut checker = checker();
    // The record may be as old as the call.
    enqueued(&mut checker, 100, 190, 1).unwrap();
    enqueued(&mut checker, 705, 710, 2).unwrap();
}

#[test]
fn a_request_id_makes_no_other_item_within_the_window() {
    let mut checker = checker();
    enqueued(&mut checker, 100, 190, 1).unwrap();
    let again = enqueued(&mut checker, 690, 699, 2);
    assert_eq!(
        rule(again),
        Some("a request id gives one sequence id within the window")
    );
}

#[test]
fn the_first_item_of_a_request_id_may_be_heard_of_last() {
    let mut checker = checker();
    enqueued(&mut checker, 702, 710, 2).unwrap();
    enqueued(&mut checker, 100, 711, 1).unwrap();
}

#[test]
fn a_bundle_may_change_once_the_window_of_a_call_that_was_not_answered_is_over() {
    let mut checker = checker();
    checker.draining(at(1, 100), 0, "bundle");
    // That call took the items out, and the node died.
    checker.draining(at(2, 650), 0, "bundle");
    drained(&mut checker, at(2, 660), &[1]).unwrap();
    checker.draining(at(2, 700), 0, "bundle");
    drained(&mut checker, at(2, 710), &[2]).unwrap();
}

#[test]
fn a_bundle_stays_as_it_is_to_the_end_of_the_window() {
    let mut checker = checker();
    checker.draining(at(1, 100), 0, "bundle");
    drained(&mut checker, at(1, 110), &[1]).unwrap();
    checker.draining(at(2, 690), 0, "bundle");
    let again = drained(&mut checker, at(2, 699), &[2]);
    assert_eq!(rule(again), Some("the same request gets the same bundle"));
}

#[test]
fn the_window_of_a_bundle_begins_with_the_earliest_time_it_was_asked_for() {
    let mut checker = checker();
    checker.draining(at(1, 500), 0, "bundle");
    // Of that nothing was written down, and the wall clock was set back.
    checker.draining(at(2, 100), 0, "bundle");
    drained(&mut checker, at(2, 110), &[1]).unwrap();
    drained(&mut checker, at(2, 700), &[2]).unwrap();
}

#[test]
fn a_bundle_is_no_longer_than_asked_within_its_window() {
    let mut checker = checker();
    checker.draining(at(1, 100), 0, "bundle");
    let longer = drained(&mut checker, at(1, 110), &[1, 2]);
    assert_eq!(rule(longer), Some("a bundle is no longer than asked"));
    // Later one shard may still remember what another has forgotten.
    drained(&mut checker, at(1, 700), &[1, 2]).unwrap();
}

#[test]
fn what_came_in_does_not_come_in_again() {
    for durable in [true, false] {
        let mut checker = checker_of(durable);
        restored(&mut checker, &[1, 2], 2).unwrap();
        restored(&mut checker, &[1, 2], 0).unwrap();
        let again = restored(&mut checker, &[1, 2], 1);
        assert_eq!(rule(again), Some("an item is restored once"), "{durable}");
    }
}

#[test]
fn what_never_left_may_come_in_later_where_a_crash_brings_it_back() {
    let mut checker = checker_of(false);
    restored(&mut checker, &[1], 0).unwrap();
    restored(&mut checker, &[1], 1).unwrap();
}
