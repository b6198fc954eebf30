//! What users rely on, one by one.

mod tape;

use std::time::Duration;

use omnirelay_queue::{
    Attributes, Carry, EnqueueRefused, Epoch, Event, Failure, FenceReason, Grant, LeaseId, Lsn,
    Nanos, NewItem, Options, Record, Rows, SEQUENCE_ID_MAX, Shard, Token, TokenRefused, kind,
    shard_index_of_key, shard_index_of_resource,
};
use tape::{SECOND, START, Tape, WISH, item, open, place, replay};

const FAILURE: Failure<'_> = Failure {
    reason: Some("no luck"),
    code: Some("E1"),
    requeue: true,
    delay: None,
    metadata: Attributes::NONE,
};

fn after(seconds: u64) -> Nanos {
    Nanos(START.0 + seconds * SECOND)
}

fn enqueue(shard: &mut Shard, now: Nanos, new: &NewItem<'_>, tape: &mut Tape) -> Lsn {
    let decision = shard.handle_enqueue(now, new, tape);
    decision.outcome.expect("there is room").lsn
}

fn lease(shard: &mut Shard, now: Nanos, tape: &mut Tape) -> Grant {
    let granted = shard.handle_lease(now, &WISH, tape);
    granted.expect("an item waits").outcome
}

fn fenced(reason: FenceReason) -> TokenRefused {
    TokenRefused::Fenced {
        reason: Some(reason),
    }
}

#[test]
fn a_completed_item_is_gone_and_its_token_says_so() {
    let (mut shard, mut tape) = open(Options::default());
    let lsn = enqueue(&mut shard, START, &item(None), &mut tape);
    let grant = lease(&mut shard, START, &mut tape);
    assert_eq!(grant.sequence_id, shard.spec().sequence_id(lsn));
    assert_eq!(grant.item, place(1));
    assert_eq!(grant.item_len as usize, tape.entries[1].body.len());
    let done = shard.handle_complete(START, &grant.token, &mut tape);
    assert_eq!(done.outcome, Ok(Lsn(4)));
    assert_eq!(done.rests_on, Some(Lsn(4)));
    let again = shard.handle_complete(START, &grant.token, &mut tape);
    assert_eq!(again.outcome, Err(fenced(FenceReason::Completed)));
    assert_eq!(again.rests_on, Some(Lsn(4)), "a crash may undo the first");
    assert_eq!(shard.stats().live(), 0);
}

#[test]
fn an_expired_lease_is_fenced_for_ever() {
    let (mut shard, mut tape) = open(Options::default());
    enqueue(&mut shard, START, &item(None), &mut tape);
    let first = lease(&mut shard, START, &mut tape);
    let just_before = Nanos(first.expires_at.0 - 1);
    shard.handle_time(just_before, &mut tape, 100);
    assert_eq!(shard.stats().active, 1);
    shard.handle_time(after(31), &mut tape, 100);
    let refused = |shard: &mut Shard, tape: &mut Tape| {
        let refused = shard.handle_complete(after(31), &first.token, tape);
        refused.outcome.expect_err("it expired")
    };
    assert_eq!(refused(&mut shard, &mut tape), fenced(FenceReason::Expired));
    let second = lease(&mut shard, after(31), &mut tape);
    assert_eq!(second.attempt, 2);
    assert_eq!(
        refused(&mut shard, &mut tape),
        fenced(FenceReason::Superseded)
    );
    let _ = shard.handle_complete(after(32), &second.token, &mut tape);
    assert_eq!(
        refused(&mut shard, &mut tape),
        fenced(FenceReason::Superseded)
    );
}

#[test]
fn an_item_becomes_a_dead_letter_at_its_last_attempt() {
    let (mut shard, mut tape) = open(Options::default());
    let new = NewItem {
        max_attempts: Some(2),
        ..item(None)
    };
    enqueue(&mut shard, START, &new, &mut tape);
    let first = lease(&mut shard, START, &mut tape);
    let failed = shard.handle_fail(START, &first.token, &FAILURE, &mut tape);
    assert_eq!(failed.outcome, Ok(Lsn(4)));
    assert_eq!(shard.stats().delayed, 1);
    shard.handle_time(after(2), &mut tape, 100);
    let second = lease(&mut shard, after(2), &mut tape);
    let error = (place(3), tape.entries[3].body.len() as u32);
    assert_eq!(second.last_error, Some(error));
    shard.handle_time(after(40), &mut tape, 100);
    assert_eq!((shard.stats().dead, shard.stats().live()), (1, 0));
    assert_eq!(
        shard.dead_letters().collect::<Vec<_>>(),
        [second.sequence_id]
    );
    let refused = shard.handle_complete(after(40), &second.token, &mut tape);
    assert_eq!(refused.outcome, Err(fenced(FenceReason::Expired)));
}

#[test]
fn a_released_grant_does_not_count_and_its_item_is_first_again() {
    let (mut shard, mut tape) = open(Options::default());
    for _ in 0..3 {
        enqueue(&mut shard, START, &item(None), &mut tape);
    }
    let grants = [(); 3].map(|()| lease(&mut shard, START, &mut tape));
    for nth in [1, 0, 2] {
        let released = shard.handle_release(after(1), &grants[nth].token, None, &mut tape);
        assert!(released.outcome);
    }
    let again = [(); 3].map(|()| lease(&mut shard, after(2), &mut tape));
    let mut ids = again.map(|grant| grant.sequence_id);
    ids.sort();
    assert_eq!(ids, grants.map(|grant| grant.sequence_id));
    for grant in again {
        assert_eq!(grant.attempt, 1);
        assert!(grants.iter().all(|old| old.token != grant.token));
    }
    let refused = shard.handle_complete(after(2), &grants[0].token, &mut tape);
    assert_eq!(refused.outcome, Err(fenced(FenceReason::Superseded)));
}

#[test]
fn a_grant_that_was_renewed_has_been_delivered_and_is_not_taken_back() {
    let (mut shard, mut tape) = open(Options::default());
    for _ in 0..2 {
        enqueue(&mut shard, START, &item(None), &mut tape);
    }
    let [renewed, unused] = [(); 2].map(|()| lease(&mut shard, START, &mut tape));
    let extended = shard.handle_heartbeat(after(1), &renewed.token, None, &mut tape);
    extended.outcome.expect("it is leased");
    let mut take_back = |grant: &Grant| {
        let until = Some(grant.expires_at);
        let released = shard.handle_release(after(2), &grant.token, until, &mut tape);
        released.outcome
    };
    assert!(!take_back(&renewed));
    assert!(take_back(&unused));
    assert!(!take_back(&unused), "it is over");
    let completed = shard.handle_complete(after(3), &renewed.token, &mut tape);
    completed.outcome.expect("whoever renews a lease has it");
}

#[test]
fn the_oldest_of_several_released_grants_is_first() {
    let (mut shard, mut tape) = open(Options::default());
    for second in 0..3 {
        enqueue(&mut shard, after(second), &item(None), &mut tape);
    }
    let grants = [(); 3].map(|()| lease(&mut shard, after(3), &mut tape));
    for nth in [1, 0, 2] {
        let _ = shard.handle_release(after(3), &grants[nth].token, None, &mut tape);
    }
    let again = [(); 3].map(|()| lease(&mut shard, after(3), &mut tape));
    assert_eq!(
        again.map(|grant| grant.sequence_id),
        grants.map(|grant| grant.sequence_id)
    );
}

#[test]
fn no_token_repeats_when_the_grant_counter_begins_again() {
    let (mut shard, mut tape) = open(Options::default());
    let new = NewItem {
        max_attempts: Some(2),
        ..item(None)
    };
    enqueue(&mut shard, START, &new, &mut tape);
    let first = lease(&mut shard, START, &mut tape);
    let mut grant = first;
    for _ in 1..=u16::MAX {
        assert_eq!(grant.attempt, 1);
        assert!(
            shard
                .handle_release(START, &grant.token, None, &mut tape)
                .outcome
        );
        grant = lease(&mut shard, START, &mut tape);
    }
    assert_eq!(grant.attempt, 2, "the attempt counts in the end");
    assert_ne!(grant.token.lease_id, first.token.lease_id);
    let refused = shard.handle_complete(START, &first.token, &mut tape);
    assert_eq!(refused.outcome, Err(fenced(FenceReason::Superseded)));
    let copy = replay(Options::default(), &tape, tape.entries.len());
    assert_eq!(copy.digest(START), shard.digest(START));
    for _ in 1..=u16::MAX {
        assert!(
            shard
                .handle_release(START, &grant.token, None, &mut tape)
                .outcome
        );
        match shard.handle_lease(START, &WISH, &mut tape) {
            Some(again) => grant = again.outcome,
            None => break,
        }
    }
    assert_eq!(shard.stats().dead, 1);
}

#[test]
fn heartbeats_keep_a_lease_and_few_are_recorded() {
    let (mut shard, mut tape) = open(Options::default());
    enqueue(&mut shard, START, &item(None), &mut tape);
    let grant = lease(&mut shard, START, &mut tape);
    for second in 1..=100 {
        assert!(shard.handle_time(after(second), &mut tape, 100) < 100);
        let beat = shard.handle_heartbeat(after(second), &grant.token, None, &mut tape);
        let extended = beat.outcome.expect("the lease is live");
        assert_eq!(extended.expires_at, after(second + 30));
        assert_eq!(beat.rests_on, None);
    }
    let beats = tape.entries.iter().filter(|e| e.kind == kind::HEARTBEAT);
    assert_eq!(beats.count(), 25, "one in 10 s / 3, at whole seconds");
}

#[test]
fn a_heartbeat_beyond_what_was_granted_rests_on_its_record() {
    let (mut shard, mut tape) = open(Options::default());
    enqueue(&mut shard, START, &item(None), &mut tape);
    let grant = lease(&mut shard, START, &mut tape);
    let long = Some(Duration::from_secs(60));
    let beat = shard.handle_heartbeat(START, &grant.token, long, &mut tape);
    assert_eq!(beat.rests_on, Some(Lsn(4)));
    // No further record, but the one before need not be on disk yet: without it, a restart would
    // give the lease no more than it was granted for.
    let beat = shard.handle_heartbeat(START, &grant.token, long, &mut tape);
    assert_eq!(beat.rests_on, Some(Lsn(4)));
    let beat = shard.handle_heartbeat(START, &grant.token, None, &mut tape);
    assert_eq!(beat.rests_on, None);
    let mut copy = replay(Options::default(), &tape, tape.entries.len());
    let _ = copy.handle_open(after(50), 0, &mut tape);
    copy.handle_time(after(109), &mut tape, 100);
    assert_eq!(copy.stats().active, 1, "it gets its longest duration anew");
    copy.handle_time(after(111), &mut tape, 100);
    assert_eq!(copy.stats().active, 0);
}

#[test]
fn a_lease_survives_a_restart_with_its_token() {
    let (mut shard, mut tape) = open(Options::default());
    enqueue(&mut shard, START, &item(None), &mut tape);
    let grant = lease(&mut shard, START, &mut tape);
    let mut copy = replay(Options::default(), &tape, tape.entries.len());
    let opened = copy.handle_open(after(29), 1000, &mut tape);
    assert_eq!(opened.rests_on, Some(Lsn(1004)));
    copy.handle_time(after(58), &mut tape, 100);
    let done = copy.handle_complete(after(58), &grant.token, &mut tape);
    assert_eq!(done.outcome, Ok(Lsn(1005)));
}

#[test]
fn a_token_that_was_never_issued_is_unknown() {
    let (mut shard, mut tape) = open(Options::default());
    enqueue(&mut shard, START, &item(None), &mut tape);
    let good = lease(&mut shard, START, &mut tape).token;
    for bit in 0..128 {
        let mut bytes = *good.lease_id.as_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let bad = Token {
            lease_id: LeaseId::from_bytes(bytes),
            ..good
        };
        let refused = shard.handle_complete(START, &bad, &mut tape);
        assert_eq!(refused.outcome, Err(TokenRefused::Unknown), "bit {bit}");
        assert_eq!(refused.rests_on, None);
    }
    for bad in [
        Token { attempt: 2, ..good },
        Token {
            attempt: good.attempt + (1 << 16),
            ..good
        },
        Token {
            sequence_id: omnirelay_queue::SequenceId(good.sequence_id.0 + 5),
            ..good
        },
        Token {
            sequence_id: omnirelay_queue::SequenceId(good.sequence_id.0 | 1 << 56),
            ..good
        },
        Token {
            sequence_id: omnirelay_queue::SequenceId(u64::MAX),
            ..good
        },
    ] {
        let refused = shard.handle_complete(START, &bad, &mut tape);
        assert_eq!(refused.outcome, Err(TokenRefused::Unknown));
    }
    assert!(
        shard
            .handle_complete(START, &good, &mut tape)
            .outcome
            .is_ok()
    );
}

#[test]
fn a_token_of_a_later_epoch_is_not_ours() {
    let (mut shard, mut tape) = open(Options::default());
    enqueue(&mut shard, START, &item(None), &mut tape);
    let mut deposed = replay(Options::default(), &tape, tape.entries.len());
    let _ = shard.handle_open(START, 0, &mut tape);
    let token = lease(&mut shard, START, &mut tape).token;
    let refused = deposed.handle_complete(START, &token, &mut Tape::default());
    assert_eq!(refused.outcome, Err(TokenRefused::NotMine));
}

#[test]
fn dead_letters_take_no_capacity() {
    let (mut shard, mut tape) = open(Options {
        capacity: 1,
        ..Options::default()
    });
    enqueue(&mut shard, START, &item(None), &mut tape);
    let refused = shard.handle_enqueue(START, &item(None), &mut tape);
    assert_eq!(refused.outcome, Err(EnqueueRefused::CapacityReached));
    let grant = lease(&mut shard, START, &mut tape);
    let failure = Failure {
        requeue: false,
        ..FAILURE
    };
    let _ = shard.handle_fail(START, &grant.token, &failure, &mut tape);
    enqueue(&mut shard, START, &item(None), &mut tape);
    assert_eq!((shard.stats().dead, shard.stats().live()), (1, 1));
}

#[test]
fn a_repeated_request_is_found_after_a_restart_and_when_full() {
    let options = || Options {
        capacity: 1,
        ..Options::default()
    };
    let (mut shard, mut tape) = open(options());
    let lsn = enqueue(&mut shard, START, &item(Some("r1")), &mut tape);
    let mut copy = replay(options(), &tape, tape.entries.len());
    let again = copy.handle_enqueue(after(599), &item(Some("r1")), &mut tape);
    let found = again.outcome.expect("a duplicate needs no room");
    assert_eq!((found.lsn, found.duplicate), (lsn, true));
    let later = copy.handle_enqueue(after(600), &item(Some("r1")), &mut tape);
    assert_eq!(later.outcome, Err(EnqueueRefused::CapacityReached));
}

#[test]
fn priority_grows_by_waiting() {
    let (mut shard, mut tape) = open(Options::default());
    let old = enqueue(&mut shard, START, &item(None), &mut tape);
    let urgent = NewItem {
        priority: 2,
        ..item(None)
    };
    let new = enqueue(&mut shard, after(59), &urgent, &mut tape);
    let head = shard.head(after(59), None).expect("two wait");
    assert_eq!((head.effective_priority, head.ready_since), (2, after(59)));
    let head = shard.head(after(60), None).expect("two wait");
    assert_eq!((head.effective_priority, head.ready_since), (2, START));
    let ids = [old, new].map(|lsn| shard.spec().sequence_id(lsn));
    let got = [(); 2].map(|()| lease(&mut shard, after(60), &mut tape).sequence_id);
    assert_eq!(got, ids);
}

#[test]
fn an_item_outlives_its_time_only_while_it_is_leased() {
    let (mut shard, mut tape) = open(Options::default());
    let new = NewItem {
        ttl: Some(Duration::from_secs(10)),
        ..item(None)
    };
    enqueue(&mut shard, START, &new, &mut tape);
    enqueue(&mut shard, START, &new, &mut tape);
    let grant = lease(&mut shard, START, &mut tape);
    shard.handle_time(after(11), &mut tape, 100);
    assert_eq!((shard.stats().pending, shard.stats().active), (0, 1));
    shard.handle_time(after(31), &mut tape, 100);
    assert_eq!((shard.stats().live(), shard.stats().dead), (0, 0));
    let refused = shard.handle_complete(after(31), &grant.token, &mut tape);
    assert_eq!(refused.outcome, Err(fenced(FenceReason::Expired)));
}

#[test]
fn time_is_handled_within_its_budget() {
    let (mut shard, mut tape) = open(Options::default());
    for _ in 0..50 {
        enqueue(&mut shard, START, &item(None), &mut tape);
        lease(&mut shard, START, &mut tape);
    }
    let mut rounds = 0;
    while shard.handle_time(after(31), &mut tape, 10) == 10 {
        rounds += 1;
    }
    assert_eq!(shard.stats().pending, 50);
    assert!(rounds >= 5);
    assert_eq!(shard.next_deadline(), None);
}

#[test]
fn the_deadline_is_that_of_the_next_delay_or_lease() {
    let (mut shard, mut tape) = open(Options::default());
    let new = NewItem {
        delay: Duration::from_millis(5),
        ..item(None)
    };
    enqueue(&mut shard, START, &new, &mut tape);
    let due = Nanos::from_millis(Nanos(START.0 + 5_000_000).millis_ceil());
    let mut steps = 0;
    while let Some(deadline) = shard.next_deadline() {
        assert!(deadline <= due && steps < 8);
        shard.handle_time(deadline, &mut tape, 100);
        steps += 1;
    }
    assert_eq!(shard.head(due, None).expect("it is ready").ready_since, due);
    assert_eq!(shard.last_time(), due);
}

#[test]
fn a_delay_whose_end_is_handled_late_does_not_hide_what_became_ready() {
    let (mut shard, mut tape) = open(Options::default());
    let delayed = NewItem {
        delay: Duration::from_secs(1),
        ..item(None)
    };
    enqueue(&mut shard, START, &delayed, &mut tape);
    enqueue(&mut shard, after(2), &item(None), &mut tape);
    shard.handle_time(after(3), &mut tape, 100);
    let grants = [(); 2].map(|()| lease(&mut shard, after(3), &mut tape));
    assert_eq!(grants.map(|grant| grant.enqueued_at), [START, after(2)]);
    let _ = shard.handle_release(after(3), &grants[0].token, None, &mut tape);
    let head = shard.head(after(3), None).expect("one waits");
    assert_eq!(
        head.ready_since,
        after(2),
        "in line since it joined the line"
    );
}

#[test]
fn time_never_goes_back() {
    let (mut shard, mut tape) = open(Options::default());
    enqueue(&mut shard, after(10), &item(None), &mut tape);
    let grant = lease(&mut shard, after(5), &mut tape);
    assert_eq!(grant.expires_at, after(40));
    assert!(tape.entries.is_sorted_by_key(|entry| entry.at));
}

#[test]
#[should_panic(expected = "its LSN is not next")]
fn a_gap_in_live_use_is_a_broken_invariant() {
    let (mut shard, tape) = open(Options::default());
    let mut record = tape.entries[0].record();
    record.lsn = Lsn(3);
    record.event = Event::ItemExpired {
        item: Lsn(2),
        last: None,
    };
    shard.apply(&record, place(0));
}

/// Past these there is no next LSN, and no tick at which a lease could end.
#[test]
fn a_record_from_beyond_all_numbers_is_refused() {
    let (mut shard, _) = open(Options::default());
    let next = Record {
        lsn: Lsn(2),
        epoch: Epoch(2),
        at: START,
        event: Event::EpochStarted { previous: Epoch(1) },
    };
    let refusals = [
        (
            Record {
                lsn: Lsn(0),
                event: Event::Carry(Carry::Turns(Rows::Values(&[]))),
                ..next
            },
            "its LSN is out of range",
        ),
        (
            Record {
                lsn: Lsn(SEQUENCE_ID_MAX + 1),
                ..next
            },
            "its LSN is out of range",
        ),
        (
            Record {
                at: Nanos(u64::MAX),
                ..next
            },
            "its time is out of range",
        ),
    ];
    for (record, what) in refusals {
        let error = shard.replay(&record, place(1)).unwrap_err();
        assert_eq!(error.what, what);
        assert_eq!(shard.last_lsn(), Lsn(1));
    }
    let last = Record {
        lsn: Lsn(SEQUENCE_ID_MAX),
        ..next
    };
    assert_eq!(shard.replay(&last, place(1)), Ok(()));
}

/// Where a resource lives never changes: these values are part of the format.
#[test]
fn placement_is_pinned() {
    let resource = |id| shard_index_of_resource("table", id, 1 << 20);
    let key = |key| shard_index_of_key(key, 1 << 20);
    assert_eq!(
        ["", "users", "Ωmega"].map(resource),
        [728951, 533489, 809815]
    );
    assert_eq!(["", "users", "Ωmega"].map(key), [648196, 691995, 678336]);
}
