//! A log that has given up its oldest segments makes the same shard as one
//! that never did.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::segments::{START, Segments, Travelling, drain, payload, shard};
use omnirelay_queue::{
    Attributes, Carry, Checkpoint, Digest, Event, Failure, Fairness, ItemSnapshot, ItemState,
    LeaseWish, Lsn, Nanos, NewItem, Options, Ordering, Origin, RequestKey, SequenceId, Shard,
    Token, TokenRefused, kind,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Enqueue {
        request: Option<u8>,
        resource: u8,
        delay_ms: u64,
        priority: u8,
        max_attempts: Option<u16>,
        ttl_ms: Option<u64>,
    },
    Lease(u8),
    Release(usize),
    Heartbeat(usize, Option<u64>),
    Complete(usize),
    Fail {
        token: usize,
        requeue: bool,
        delay_ms: Option<u64>,
    },
    Cancel(usize),
    Redrive(usize),
    Drain {
        max: usize,
        request: Option<u8>,
        complete: bool,
    },
    Restore {
        nth: usize,
        elsewhere: bool,
    },
    Pass {
        ms: u64,
        nanos: u64,
    },
    Open,
    Roll,
    /// A step of a checkpoint, the first if none is under way.
    Checkpoint {
        budget_bytes: usize,
    },
    /// The oldest segment is given up; or everything but the last step of
    /// that is done.
    Trim {
        drop: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let delay = prop_oneof![3 => Just(0), 1 => 1..900_u64];
    let enqueue = (
        (prop::option::weighted(0.4, 0..9_u8), 0..4_u8),
        delay.clone(),
        0..3_u8,
        prop::option::weighted(0.3, 1..3_u16),
        prop::option::weighted(0.2, 0..3_000_u64),
    );
    let nth = any::<usize>;
    prop_oneof![
        8 => enqueue.prop_map(|((request, resource), delay_ms, priority, max_attempts, ttl_ms)| {
            Op::Enqueue { request, resource, delay_ms, priority, max_attempts, ttl_ms }
        }),
        7 => (0..3_u8).prop_map(Op::Lease),
        1 => nth().prop_map(Op::Release),
        2 => (nth(), prop::option::of(0..5_000_u64)).prop_map(|(n, ms)| Op::Heartbeat(n, ms)),
        3 => nth().prop_map(Op::Complete),
        4 => (nth(), prop::bool::weighted(0.7), prop::option::of(delay))
            .prop_map(|(token, requeue, delay_ms)| Op::Fail { token, requeue, delay_ms }),
        1 => nth().prop_map(Op::Cancel),
        2 => nth().prop_map(Op::Redrive),
        2 => (1..4_usize, prop::option::weighted(0.7, 0..3_u8), prop::bool::weighted(0.3))
            .prop_map(|(max, request, complete)| Op::Drain { max, request, complete }),
        2 => (nth(), any::<bool>()).prop_map(|(nth, elsewhere)| Op::Restore { nth, elsewhere }),
        4 => (0..400_u64, 0..1_000_000_u64).prop_map(|(ms, nanos)| Op::Pass { ms, nanos }),
        1 => Just(Op::Open),
        2 => Just(Op::Roll),
        2 => (0..40_000_usize).prop_map(|budget_bytes| Op::Checkpoint { budget_bytes }),
        3 => prop::bool::weighted(0.8).prop_map(|drop| Op::Trim { drop }),
    ]
}

fn options() -> Options {
    Options {
        lease_duration: Duration::from_secs(1),
        requeue_delay: Duration::from_millis(200),
        requeue_delay_max: Duration::from_secs(1),
        max_attempts: 3,
        dedupe_window: Duration::from_secs(600),
        dedupe_entries_max: 30,
        capacity: 40,
        ..Options::default()
    }
}

struct World {
    options: Options,
    shard: Shard,
    log: Segments,
    now: Nanos,
    tokens: Vec<Token>,
    /// What drain requests got so far, and whether that was all.
    bundles: HashMap<RequestKey, (Vec<Travelling>, bool)>,
    /// Everything that was ever taken out.
    travelling: Vec<Travelling>,
    restored: HashMap<(Origin, SequenceId), Lsn>,
    /// A checkpoint under way, and the segment that it began in.
    checkpoint: Option<(Checkpoint, u32)>,
    /// The segment that the last complete one began in.
    checkpointed: u32,
    /// Reasons of ended leases and bundles may be forgotten.
    is_lax: bool,
}

type Outcome = Result<(), TestCaseError>;

impl World {
    fn new(options: Options) -> World {
        let (mut shard, mut log) = (shard(options.clone()), Segments::new(700));
        let _ = shard.handle_open(START, 0, &mut log);
        World {
            options,
            shard,
            log,
            now: START,
            tokens: Vec::new(),
            bundles: HashMap::new(),
            travelling: Vec::new(),
            restored: HashMap::new(),
            checkpoint: None,
            checkpointed: 0,
            is_lax: false,
        }
    }

    fn token(&self, nth: usize) -> Option<Token> {
        let from = self.tokens.len().saturating_sub(6);
        let recent = &self.tokens[from..];
        (!recent.is_empty()).then(|| recent[nth % recent.len()])
    }

    fn item(&self, nth: usize) -> Option<SequenceId> {
        let items = self.shard.digest(self.now).items;
        let item = (!items.is_empty()).then(|| items[nth % items.len()].lsn)?;
        Some(self.shard.spec().sequence_id(item))
    }

    fn run(&mut self, op: &Op) -> Outcome {
        let now = self.now;
        let (shard, log) = (&mut self.shard, &mut self.log);
        match *op {
            Op::Enqueue { .. } => self.enqueue(op),
            Op::Lease(owner) => self.lease(owner),
            Op::Release(nth) => {
                if let Some(token) = self.token(nth) {
                    let _ = self.shard.handle_release(now, &token, None, &mut self.log);
                }
            }
            Op::Heartbeat(nth, ms) => {
                if let Some(token) = self.token(nth) {
                    let extend = ms.map(Duration::from_millis);
                    let _ = self
                        .shard
                        .handle_heartbeat(now, &token, extend, &mut self.log);
                }
            }
            Op::Complete(nth) => {
                if let Some(token) = self.token(nth) {
                    let _ = self.shard.handle_complete(now, &token, &mut self.log);
                }
            }
            Op::Fail {
                token,
                requeue,
                delay_ms,
            } => self.fail(token, requeue, delay_ms),
            Op::Cancel(nth) => {
                if let Some(id) = self.item(nth) {
                    let _ = self.shard.handle_cancel(now, id, &mut self.log);
                }
            }
            Op::Redrive(nth) => {
                let dead: Vec<SequenceId> = self.shard.dead_letters().collect();
                if !dead.is_empty() {
                    let id = dead[nth % dead.len()];
                    let _ = self.shard.handle_redrive(now, id, &mut self.log);
                }
            }
            Op::Drain {
                max,
                request,
                complete,
            } => self.drain(max, request, complete)?,
            Op::Restore { nth, elsewhere } => self.restore(nth, elsewhere)?,
            Op::Pass { ms, nanos } => self.now.0 += ms * 1_000_000 + nanos,
            Op::Open => drop(shard.handle_open(now, 0, log)),
            Op::Roll => log.roll(),
            Op::Checkpoint { budget_bytes } => self.step(budget_bytes),
            Op::Trim { drop } => self.trim(drop),
        }
        let taken = self.shard.handle_time(self.now, &mut self.log, usize::MAX);
        prop_assert!(taken < usize::MAX);
        self.check_live_bytes()?;
        self.check_rooted(&self.shard)
    }

    fn enqueue(&mut self, op: &Op) {
        let Op::Enqueue {
            request,
            resource,
            delay_ms,
            priority,
            max_attempts,
            ttl_ms,
        } = op
        else {
            unreachable!("the caller looked");
        };
        let request = request.map(|n| format!("request-{n}"));
        let resource = format!("users-{resource}");
        let new = NewItem {
            payload: payload(&resource, request.as_deref()),
            delay: Duration::from_millis(*delay_ms),
            priority: *priority,
            max_attempts: *max_attempts,
            ttl: ttl_ms.map(Duration::from_millis),
            enqueued_by: "test",
        };
        let _ = self.shard.handle_enqueue(self.now, &new, &mut self.log);
    }

    fn lease(&mut self, owner: u8) {
        let owner = format!("worker-{owner}");
        let wish = LeaseWish {
            owner: &owner,
            lease: None,
            partition_key: None,
        };
        let granted = self.shard.handle_lease(self.now, &wish, &mut self.log);
        self.tokens
            .extend(granted.map(|granted| granted.outcome.token));
    }

    fn fail(&mut self, token: usize, requeue: bool, delay_ms: Option<u64>) {
        let Some(token) = self.token(token) else {
            return;
        };
        let failure = Failure {
            reason: Some("no luck"),
            code: requeue.then_some("E1"),
            requeue,
            delay: delay_ms.map(Duration::from_millis),
            metadata: Attributes::Pairs(&[("m", "n")]),
        };
        let _ = self
            .shard
            .handle_fail(self.now, &token, &failure, &mut self.log);
    }

    fn drain(&mut self, max: usize, request: Option<u8>, complete: bool) -> Outcome {
        let now = self.now;
        let key = request.map(|n| self.shard.spec().secret.drain_key(&n.to_string()));
        if let Some(key) = key
            && self.shard.drained(key, now).is_none()
        {
            let forgotten = self.bundles.remove(&key);
            prop_assert!(self.is_lax || forgotten.is_none());
        }
        let taken = drain(&mut self.shard, now, max, key, &mut self.log);
        self.travelling.extend(taken.iter().cloned());
        let Some(key) = key else {
            return Ok(());
        };
        if taken.is_empty() && !complete {
            return Ok(());
        }
        let (bundle, is_complete) = self.bundles.entry(key).or_default();
        prop_assert!(taken.is_empty() || !*is_complete);
        bundle.extend(taken);
        if complete {
            let done = self.shard.handle_drain_complete(now, key, &mut self.log);
            prop_assert_eq!(done.is_err(), *is_complete);
            *is_complete = true;
        }
        Ok(())
    }

    fn restore(&mut self, nth: usize, elsewhere: bool) -> Outcome {
        if self.travelling.is_empty() {
            return Ok(());
        }
        let mut item = self.travelling[nth % self.travelling.len()].clone();
        if elsewhere {
            item.origin = *b"someone else's !";
        }
        let name = (item.origin, item.sequence_id());
        let decision = self
            .shard
            .handle_restore(self.now, &item.restored(), &mut self.log);
        let Ok(restored) = decision.outcome else {
            return Ok(());
        };
        prop_assert_eq!(decision.rests_on, Some(restored.lsn));
        let before = self.restored.insert(name, restored.lsn);
        prop_assert_eq!(restored.duplicate, before.is_some());
        prop_assert!(before.is_none_or(|before| before == restored.lsn));
        Ok(())
    }

    fn step(&mut self, budget_bytes: usize) {
        let (checkpoint, _) = self
            .checkpoint
            .get_or_insert_with(|| (self.shard.checkpoint(), self.log.newest()));
        let is_complete = self
            .shard
            .handle_checkpoint(checkpoint, budget_bytes, &mut self.log);
        if is_complete && let Some((_, began)) = self.checkpoint.take() {
            self.checkpointed = began;
        }
    }

    fn trim(&mut self, drop: bool) {
        if self.checkpointed <= self.log.oldest() {
            self.log.checkpoint(&mut self.shard);
            self.checkpoint = None;
            self.checkpointed = self.log.newest();
        }
        self.log.carry_oldest(&mut self.shard);
        if drop {
            self.log.drop_oldest();
        }
    }

    fn check_live_bytes(&self) -> Outcome {
        let digest = self.shard.digest(self.now);
        let items = digest.items.iter();
        let items = items.map(|item| item.body.1 + item.error.map_or(0, |error| error.1));
        let items: u64 = items.map(u64::from).sum();
        let drained = digest.drains.iter().flat_map(|drain| &drain.items);
        let drained: u64 = drained.map(|(_, len)| u64::from(*len)).sum();
        // Old bundles are forgotten when room is needed.
        prop_assert!(self.shard.live_bytes() >= items + drained);
        prop_assert_eq!(digest.live_bytes, items + drained);
        Ok(())
    }

    /// A shard says which segments it needs.
    fn check_rooted(&self, shard: &Shard) -> Outcome {
        let digest = shard.digest(self.now);
        let bodies = digest.items.iter().map(|item| item.body.0);
        let drained = digest.drains.iter().flat_map(|drain| &drain.items);
        let places = bodies.chain(drained.map(|(place, _)| *place));
        let segments: HashSet<u32> = places.map(|place| place.segment).collect();
        let is_in_order = self.options.ordering == Ordering::PerResource;
        let turns_matter = is_in_order && !digest.items.is_empty();
        for segment in 0..=self.log.newest() + 1 {
            let is_needed = turns_matter || segments.contains(&segment);
            let is_rooted = shard.is_rooted_in(segment);
            // Old bundles are forgotten when room is needed.
            prop_assert!(
                is_rooted == is_needed || self.is_lax && is_rooted,
                "segment {segment}"
            );
        }
        Ok(())
    }

    /// Replays what is left, opens both, and compares all that is logged.
    fn check(&mut self) -> Result<Shard, TestCaseError> {
        let mut copy = shard(self.options.clone());
        let replayed = self.log.replay(&mut copy, None);
        prop_assert_eq!(replayed, Ok(()));
        let mut aside = self.log.clone();
        let _ = copy.handle_open(self.now, 0, &mut aside);
        let _ = self.shard.handle_open(self.now, 0, &mut self.log);
        let (theirs, ours) = (
            comparable(&copy, self.now),
            comparable(&self.shard, self.now),
        );
        for (theirs, ours) in theirs.items.iter().zip(&ours.items) {
            prop_assert_eq!(theirs, ours);
        }
        prop_assert_eq!(theirs, ours);
        prop_assert_eq!(copy.stats(), self.shard.stats());
        self.check_roots(&copy)?;
        self.check_rooted(&copy)?;
        self.check_bundles(&copy)?;
        Ok(copy)
    }

    /// Everything that is referred to is in the log that is left.
    fn check_roots(&self, copy: &Shard) -> Outcome {
        for item in copy.digest(self.now).items {
            let (place, len) = item.body;
            let body = self
                .log
                .read(place, len)
                .expect("the log has the item's body");
            prop_assert!(omnirelay_queue::EnqueuedBody::decode_verified(body).is_ok());
            if let Some((place, len)) = item.error {
                let error = self
                    .log
                    .read(place, len)
                    .expect("the log has the item's error");
                prop_assert!(Event::decode(kind::FAILED, error).is_ok());
            }
        }
        Ok(())
    }

    /// A drain request that is repeated gets what it got.
    fn check_bundles(&self, copy: &Shard) -> Outcome {
        for (key, (bundle, is_complete)) in &self.bundles {
            let Some(part) = copy.drained(*key, self.now) else {
                prop_assert!(self.is_lax);
                continue;
            };
            prop_assert_eq!(part.complete, *is_complete);
            let read = part.items.iter().map(|(place, len)| {
                let snapshot = self
                    .log
                    .read(*place, *len)
                    .expect("the log has the snapshot");
                let decoded = ItemSnapshot::decode_verified(snapshot).expect("it was written");
                let drained = copy.drained_item(&decoded, *place, *len);
                (drained.sequence_id, drained.last_token, snapshot.to_vec())
            });
            let given = bundle.iter().map(|item| {
                (
                    item.sequence_id(),
                    item.drained.last_token,
                    item.snapshot.clone(),
                )
            });
            prop_assert_eq!(read.collect::<Vec<_>>(), given.collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Both give the same answers from here on.
    fn check_answers(&mut self, mut copy: Shard) -> Outcome {
        let (now, mut aside) = (self.now, self.log.clone());
        for token in &self.tokens {
            let ours = self.shard.handle_heartbeat(now, token, None, &mut self.log);
            let theirs = copy.handle_heartbeat(now, token, None, &mut aside);
            let is_forgotten = |outcome: &Result<_, TokenRefused>| {
                matches!(outcome, Err(TokenRefused::Fenced { reason: None }))
            };
            let forgot = is_forgotten(&ours.outcome) || is_forgotten(&theirs.outcome);
            if !(self.is_lax && forgot) {
                prop_assert_eq!(ours.outcome, theirs.outcome, "{:?}", token);
            }
        }
        let wish = LeaseWish {
            owner: "ann",
            lease: None,
            partition_key: None,
        };
        loop {
            let ours = self.shard.handle_lease(now, &wish, &mut self.log);
            let theirs = copy.handle_lease(now, &wish, &mut aside);
            let (ours, theirs) = (ours.map(|g| g.outcome), theirs.map(|g| g.outcome));
            let Some(grant) = ours else {
                prop_assert_eq!(theirs, None);
                return Ok(());
            };
            let theirs = theirs.expect("as much waits there");
            prop_assert_eq!((grant.token, grant.item), (theirs.token, theirs.item));
        }
    }
}

/// What must be the same. Since when an item waits is said anew when it gets its
/// turn; until then it decides nothing, and replay may take another's turn for
/// its own before that is carried.
fn comparable(shard: &Shard, now: Nanos) -> Digest {
    let mut digest = shard.digest(now);
    for item in &mut digest.items {
        let view = shard.view(shard.spec().sequence_id(item.lsn));
        if view.expect("it is there").state == ItemState::Blocked {
            item.times.1 = Nanos(0);
        }
    }
    digest
}

fn modes() -> impl Strategy<Value = Options> {
    let ordering = prop_oneof![Just(Ordering::None), Just(Ordering::PerResource)];
    let fairness = prop_oneof![Just(Fairness::Fifo), Just(Fairness::PartitionKey)];
    (ordering, fairness).prop_map(|(ordering, fairness)| Options {
        ordering,
        fairness,
        ..options()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_trimmed_log_makes_the_same_shard(
        options in modes(),
        ops in prop::collection::vec(op(), 1..150),
        checks in prop::collection::vec(any::<prop::sample::Index>(), 3),
    ) {
        let mut world = World::new(options);
        let checks: Vec<usize> = checks.iter().map(|nth| nth.index(ops.len())).collect();
        for (nth, op) in ops.iter().enumerate() {
            world.run(op)?;
            if checks.contains(&nth) {
                world.check()?;
            }
        }
        let copy = world.check()?;
        world.check_answers(copy)?;
    }

    #[test]
    fn what_is_older_than_its_window_may_go_and_nothing_else(
        options in modes(),
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let window = Duration::from_secs(1);
        let mut world = World::new(Options { dedupe_window: window, ..options });
        world.is_lax = true;
        for op in &ops {
            world.run(op)?;
        }
        let copy = world.check()?;
        world.check_answers(copy)?;
    }
}

#[test]
fn a_checkpoint_goes_on_in_the_next_epoch() {
    let mut world = World::new(options());
    let enqueue = Op::Enqueue {
        request: None,
        resource: 0,
        delay_ms: 0,
        priority: 0,
        max_attempts: None,
        ttl_ms: None,
    };
    let whole = Op::Checkpoint {
        budget_bytes: 1 << 20,
    };
    let ops = [
        // An ended lease with an entry of its own, and one in a page.
        enqueue.clone(),
        Op::Lease(0),
        Op::Release(0),
        Op::Lease(0),
        Op::Complete(1),
        enqueue,
        Op::Lease(0),
        Op::Complete(2),
        whole.clone(),
        Op::Roll,
        Op::Checkpoint { budget_bytes: 0 },
        Op::Open,
        whole,
    ];
    for op in &ops {
        world.run(op).expect("all is well");
    }
    assert_eq!(world.checkpointed, world.log.newest());
    while world.log.oldest() < world.checkpointed {
        world.trim(true);
    }
    let copy = world.check().expect("it is the same");
    world.check_answers(copy).expect("it answers alike");
}

/// Each item of a resource that is gone may have passed the turn on.
#[test]
fn a_turn_is_written_once_for_all_that_are_gone_and_again_when_it_goes() {
    let mut world = World::new(Options {
        ordering: Ordering::PerResource,
        ..options()
    });
    world.log = Segments::new(1 << 20);
    world.shard = shard(world.options.clone());
    let _ = world.shard.handle_open(START, 0, &mut world.log);
    let enqueue = |world: &mut World, resource| {
        let op = Op::Enqueue {
            request: None,
            resource,
            delay_ms: 0,
            priority: 0,
            max_attempts: None,
            ttl_ms: None,
        };
        world.run(&op).expect("all is well");
    };
    for nth in 0..30 {
        enqueue(&mut world, nth % 2);
    }
    world.log.roll();
    (0..2).for_each(|resource| enqueue(&mut world, resource));
    for nth in 0..30 {
        world.run(&Op::Lease(0)).expect("all is well");
        world.run(&Op::Complete(nth.min(5))).expect("all is well");
        let pass = Op::Pass { ms: 1, nanos: 0 };
        world.run(&pass).expect("all is well");
    }
    let waits = (world.shard.stats().pending, world.shard.stats().active);
    assert_eq!(waits, (2, 0));
    // One that is gone, beside the turns that are about to be written.
    world.log.roll();
    enqueue(&mut world, 0);
    let gone = world.shard.digest(world.now).items.len() - 1;
    world.run(&Op::Cancel(gone)).expect("all is well");

    world.log.carry_oldest(&mut world.shard);
    world.log.drop_oldest();
    assert_eq!(turns(&world.log), 2, "one for each resource");
    world.log.roll();
    world.log.carry_oldest(&mut world.shard);
    world.log.drop_oldest();
    assert_eq!(
        turns(&world.log),
        2,
        "those that wait were carried themselves"
    );
    world.log.checkpoint(&mut world.shard);
    world.log.carry_oldest(&mut world.shard);
    world.log.drop_oldest();
    assert_eq!(turns(&world.log), 1, "those of before went");
    let copy = world.check().expect("it is the same");
    world.check_answers(copy).expect("it answers alike");
}

#[test]
fn more_drain_requests_than_fit_a_record_are_carried_while_others_come() {
    let mut world = World::new(options());
    let secret = world.shard.spec().secret;
    let key = |nth: u32| secret.drain_key(&nth.to_string());
    let complete = |world: &mut World, nth| {
        let done = world
            .shard
            .handle_drain_complete(world.now, key(nth), &mut world.log);
        let _ = done.expect("there is room");
    };
    let mut requests = 1_200;
    for nth in 0..requests {
        complete(&mut world, nth);
    }
    world.log.roll();
    while world.checkpointed == 0 {
        world.step(0);
        complete(&mut world, requests);
        requests += 1;
    }
    assert!(requests > 1_204, "the checkpoint took several steps");
    while world.log.oldest() < world.checkpointed {
        world.trim(true);
    }
    let copy = world.check().expect("it is the same");
    for nth in 0..requests {
        let part = copy.drained(key(nth), world.now);
        assert!(part.is_some_and(|part| part.complete), "request {nth}");
    }
}

/// How many records of turns a log holds.
fn turns(log: &Segments) -> usize {
    let events = log.entries().map(|entry| {
        let body = log.read(entry.place, entry.len());
        Event::decode(entry.kind, body.expect("it is left")).expect("it was written")
    });
    let is_turn = |event: &Event<'_>| matches!(event, Event::Carry(Carry::Turns(_)));
    events.filter(is_turn).count()
}

/// One of everything that is carried: whatever carry is missing, the shard is
/// not the same. Turns are written where they may be needed, and are not here.
#[test]
fn no_carry_can_be_left_out() {
    let mut world = World::new(Options {
        ordering: Ordering::PerResource,
        ..options()
    });
    let enqueue = |resource, request| Op::Enqueue {
        request,
        resource,
        delay_ms: 0,
        priority: 0,
        max_attempts: None,
        ttl_ms: None,
    };
    let fail = Op::Fail {
        token: 3,
        requeue: false,
        delay_ms: None,
    };
    let pass = Op::Pass { ms: 1, nanos: 0 };
    let drain = |complete| Op::Drain {
        max: 1,
        request: Some(1),
        complete,
    };
    let before = [
        // A completed lease with a page, one with an entry of its own.
        enqueue(0, None),
        Op::Lease(0),
        Op::Complete(0),
        enqueue(1, None),
        Op::Lease(0),
        Op::Release(1),
        Op::Lease(0),
        Op::Complete(2),
        // A bundle, and its item restored.
        enqueue(2, None),
        drain(true),
        Op::Restore {
            nth: 0,
            elsewhere: true,
        },
        // A dead letter, a leased item, a waiting one with a request id.
        enqueue(1, None),
        Op::Lease(0),
        Op::Lease(0),
        fail,
        enqueue(3, Some(1)),
        enqueue(3, Some(2)),
    ];
    for op in &before {
        world.run(op).expect("all is well");
        world.run(&pass).expect("all is well");
    }
    world.log.checkpoint(&mut world.shard);
    while world.log.len() > 2 {
        world.log.carry_oldest(&mut world.shard);
        world.log.drop_oldest();
    }
    world.log.carry_oldest(&mut world.shard);
    world.log.drop_oldest();
    let answers = |world: &World, without| {
        let mut copy = shard(world.options.clone());
        world.log.replay(&mut copy, without).ok()?;
        let mut aside = world.log.clone();
        let _ = copy.handle_open(world.now, 0, &mut aside);
        let digest = copy.digest(world.now);
        let reasons: Vec<_> = world
            .tokens
            .iter()
            .map(|token| copy.handle_complete(world.now, token, &mut aside).outcome)
            .collect();
        Some((digest, reasons))
    };
    let whole = answers(&world, None);
    assert!(whole.is_some());
    let mut kinds = HashSet::new();
    for (nth, entry) in world.log.entries().enumerate() {
        let body = world.log.read(entry.place, entry.len());
        let event = Event::decode(entry.kind, body.expect("it is left"));
        let Ok(Event::Carry(carry)) = event else {
            panic!("only carries are left: {event:?}");
        };
        let kind = std::mem::discriminant(&carry);
        if !matches!(carry, Carry::Turns(_)) {
            assert_ne!(
                answers(&world, Some(nth)),
                whole,
                "{carry:?} makes no difference"
            );
        }
        kinds.insert(kind);
    }
    assert!(kinds.len() >= 8, "some kind is not carried");
}
