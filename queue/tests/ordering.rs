//! Items of one resource, one at a time; items that people take away, revive
//! and ask about.

mod tape;

use std::time::Duration;

use omnirelay_queue::{
    Attributes, Explanation, Failure, FenceReason, Grant, ItemRefused, ItemState, Nanos, NewItem,
    Options, Ordering, PayloadRef, SequenceId, Shard, TokenRefused,
};
use tape::{SECOND, START, Tape, WISH, item, open, replay};

const FAILURE: Failure<'_> = Failure {
    reason: None,
    code: None,
    requeue: true,
    delay: Some(Duration::from_secs(1)),
    metadata: Attributes::NONE,
};

fn in_order() -> Options {
    Options {
        ordering: Ordering::PerResource,
        ..Options::default()
    }
}

fn after(seconds: u64) -> Nanos {
    Nanos(START.0 + seconds * SECOND)
}

fn about(resource_id: &str) -> NewItem<'_> {
    let item = item(None);
    NewItem {
        payload: PayloadRef {
            resource_id,
            ..item.payload
        },
        ..item
    }
}

fn enqueue(shard: &mut Shard, new: &NewItem<'_>, tape: &mut Tape) -> SequenceId {
    let decision = shard.handle_enqueue(START, new, tape);
    decision.outcome.expect("there is room").sequence_id
}

fn lease(shard: &mut Shard, now: Nanos, tape: &mut Tape) -> Option<Grant> {
    let granted = shard.handle_lease(now, &WISH, tape)?;
    Some(granted.outcome)
}

fn state(shard: &Shard, id: SequenceId) -> ItemState {
    shard.view(id).expect("it is there").state
}

#[test]
fn a_resource_has_one_lease_at_a_time_and_in_order() {
    let (mut shard, mut tape) = open(in_order());
    let ids = ["a", "a", "b", "a"].map(|id| enqueue(&mut shard, &about(id), &mut tape));
    let first = lease(&mut shard, START, &mut tape).expect("a is free");
    let other = lease(&mut shard, START, &mut tape).expect("b is free");
    assert_eq!((first.sequence_id, other.sequence_id), (ids[0], ids[2]));
    assert_eq!(lease(&mut shard, START, &mut tape), None);
    assert_eq!(shard.stats().pending, 2, "those held back are pending");
    let blocked = Explanation::Blocked {
        behind: ids[0],
        state: ItemState::Leased,
    };
    assert_eq!(shard.explain(START, ids[3]), blocked);
    let _ = shard.handle_complete(after(1), &first.token, &mut tape);
    let next = lease(&mut shard, after(1), &mut tape).expect("a is free again");
    assert_eq!(next.sequence_id, ids[1]);
    assert_eq!(lease(&mut shard, after(1), &mut tape), None);
}

#[test]
fn a_failed_item_holds_back_those_behind_it_until_it_is_done_or_dead() {
    let (mut shard, mut tape) = open(in_order());
    let ids = [(); 2].map(|()| enqueue(&mut shard, &about("a"), &mut tape));
    let grant = lease(&mut shard, START, &mut tape).expect("a is free");
    let _ = shard.handle_fail(START, &grant.token, &FAILURE, &mut tape);
    assert_eq!(lease(&mut shard, START, &mut tape), None);
    let blocked = Explanation::Blocked {
        behind: ids[0],
        state: ItemState::Delayed,
    };
    assert_eq!(shard.explain(START, ids[1]), blocked);
    shard.handle_time(after(2), &mut tape, 100);
    let grant = lease(&mut shard, after(2), &mut tape).expect("its delay is over");
    assert_eq!(grant.sequence_id, ids[0]);
    let given_up = Failure {
        requeue: false,
        ..FAILURE
    };
    let _ = shard.handle_fail(after(2), &grant.token, &given_up, &mut tape);
    let grant = lease(&mut shard, after(2), &mut tape).expect("the first is dead");
    assert_eq!(grant.sequence_id, ids[1]);
}

#[test]
fn a_held_back_item_still_outlives_its_time() {
    let (mut shard, mut tape) = open(in_order());
    enqueue(&mut shard, &about("a"), &mut tape);
    let short = NewItem {
        ttl: Some(Duration::from_secs(5)),
        ..about("a")
    };
    let held_back = enqueue(&mut shard, &short, &mut tape);
    lease(&mut shard, START, &mut tape).expect("a is free");
    shard.handle_time(after(6), &mut tape, 100);
    assert_eq!(shard.view(held_back), None);
    assert_eq!((shard.stats().pending, shard.stats().active), (0, 1));
}

#[test]
fn a_redriven_item_goes_first_but_never_beside_a_lease() {
    let (mut shard, mut tape) = open(in_order());
    let ids = [(); 3].map(|()| enqueue(&mut shard, &about("a"), &mut tape));
    let given_up = Failure {
        requeue: false,
        ..FAILURE
    };
    for _ in 0..2 {
        let grant = lease(&mut shard, START, &mut tape).expect("a is free");
        let _ = shard.handle_fail(START, &grant.token, &given_up, &mut tape);
    }
    // The third stands in line until one goes before it, then another.
    for id in [ids[1], ids[0]] {
        let redriven = shard.handle_redrive(after(1), id, &mut tape);
        assert!(redriven.outcome.is_ok());
    }
    assert_eq!(state(&shard, ids[2]), ItemState::Blocked);
    let first = lease(&mut shard, after(1), &mut tape).expect("a is free");
    assert_eq!((first.sequence_id, first.attempt), (ids[0], 2));
    assert_eq!(lease(&mut shard, after(1), &mut tape), None);
    let copy = replay(in_order(), &tape, tape.entries.len());
    assert_eq!(copy.digest(after(1)), shard.digest(after(1)));
    let mut current = first;
    for expected in [ids[1], ids[2]] {
        let done = shard.handle_complete(after(2), &current.token, &mut tape);
        assert!(done.outcome.is_ok());
        current = lease(&mut shard, after(2), &mut tape).expect("a is free");
        assert_eq!(current.sequence_id, expected);
    }
}

#[test]
fn what_is_held_back_stays_so_after_a_restart() {
    let (mut shard, mut tape) = open(in_order());
    let ids = ["a", "a", "b"].map(|id| enqueue(&mut shard, &about(id), &mut tape));
    let grant = lease(&mut shard, START, &mut tape).expect("a is free");
    let mut copy = replay(in_order(), &tape, tape.entries.len());
    let _ = copy.handle_open(after(1), 0, &mut tape);
    assert_eq!(state(&copy, ids[1]), ItemState::Blocked);
    let other = lease(&mut copy, after(1), &mut tape).expect("b is free");
    assert_eq!(other.sequence_id, ids[2]);
    assert_eq!(lease(&mut copy, after(1), &mut tape), None);
    let _ = copy.handle_complete(after(1), &grant.token, &mut tape);
    let next = lease(&mut copy, after(1), &mut tape).expect("a is free");
    assert_eq!(next.sequence_id, ids[1]);
}

#[test]
fn a_cancelled_item_is_gone_and_its_lease_fenced() {
    let (mut shard, mut tape) = open(in_order());
    let ids = [(); 2].map(|()| enqueue(&mut shard, &about("a"), &mut tape));
    let grant = lease(&mut shard, START, &mut tape).expect("a is free");
    assert!(
        shard
            .handle_cancel(START, ids[0], &mut tape)
            .outcome
            .is_ok()
    );
    let refused = shard.handle_complete(START, &grant.token, &mut tape);
    let superseded = TokenRefused::Fenced {
        reason: Some(FenceReason::Superseded),
    };
    assert_eq!(refused.outcome, Err(superseded));
    let gone = Explanation::Gone {
        reason: Some(FenceReason::Superseded),
    };
    assert_eq!(shard.explain(START, ids[0]), gone);
    let again = shard.handle_cancel(START, ids[0], &mut tape);
    assert_eq!(again.outcome, Err(ItemRefused::NotFound));
    assert_eq!(again.rests_on, Some(shard.last_lsn()));
    let next = lease(&mut shard, START, &mut tape).expect("a is free");
    assert_eq!(next.sequence_id, ids[1]);
}

#[test]
fn a_redriven_item_gets_as_many_attempts_again_as_at_first() {
    let (mut shard, mut tape) = open(Options::default());
    let new = NewItem {
        max_attempts: Some(2),
        ..about("a")
    };
    let id = enqueue(&mut shard, &new, &mut tape);
    for round in 1..=3 {
        for _ in 0..2 {
            let grant = lease(&mut shard, START, &mut tape).expect("it waits");
            let failure = Failure {
                delay: Some(Duration::ZERO),
                ..FAILURE
            };
            let _ = shard.handle_fail(START, &grant.token, &failure, &mut tape);
        }
        assert_eq!(state(&shard, id), ItemState::Dead);
        assert_eq!(
            shard.explain(START, id),
            Explanation::Dead {
                attempts: round * 2
            }
        );
        assert!(shard.handle_redrive(START, id, &mut tape).outcome.is_ok());
        let again = shard.handle_redrive(START, id, &mut tape);
        assert_eq!(again.outcome, Err(ItemRefused::NotDead));
    }
}

#[test]
fn a_dead_letter_whose_time_is_over_can_be_redriven() {
    let (mut shard, mut tape) = open(Options::default());
    let new = NewItem {
        ttl: Some(Duration::from_secs(5)),
        max_attempts: Some(1),
        ..about("a")
    };
    let id = enqueue(&mut shard, &new, &mut tape);
    lease(&mut shard, START, &mut tape).expect("it waits");
    shard.handle_time(after(60), &mut tape, 100);
    assert_eq!(state(&shard, id), ItemState::Dead);
    assert!(
        shard
            .handle_redrive(after(60), id, &mut tape)
            .outcome
            .is_ok()
    );
    shard.handle_time(after(120), &mut tape, 100);
    assert_eq!(state(&shard, id), ItemState::Waiting);
}

#[test]
fn a_number_that_was_never_used_is_not_found() {
    let (mut shard, mut tape) = open(Options::default());
    let id = enqueue(&mut shard, &about("a"), &mut tape);
    let count = u64::from(shard.spec().count);
    for other in [
        SequenceId(id.0 + count),
        SequenceId(id.0 + 1),
        SequenceId(2),
    ] {
        assert_eq!(
            shard.explain(START, other),
            Explanation::NotFound,
            "{other}"
        );
        let refused = shard.handle_redrive(START, other, &mut tape);
        assert_eq!(refused.outcome, Err(ItemRefused::NotFound));
    }
}
