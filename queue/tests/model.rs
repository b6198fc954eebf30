//! A shard against the simplest thing that could be right, and against itself
//! replayed.

mod tape;

use std::time::Duration;

use omnirelay_queue::{
    Attributes, EnqueueRefused, Failure, FenceReason, Grant, LeaseWish, Lsn, Nanos, NewItem,
    Options, Shard, Stats, Token, TokenRefused,
};
use proptest::prelude::*;
use tape::{START, Tape, item, open, replay};

#[derive(Clone, Debug)]
enum Op {
    Enqueue {
        request: Option<u8>,
        delay_ms: u64,
        priority: u8,
        max_attempts: Option<u16>,
        ttl_ms: Option<u64>,
    },
    Lease {
        lease_ms: Option<u64>,
    },
    /// Tokens are chosen among all that were ever granted.
    Release(usize),
    Heartbeat(usize, Option<u64>),
    Complete(usize),
    Fail {
        token: usize,
        requeue: bool,
        delay_ms: Option<u64>,
    },
    Pass {
        ms: u64,
        nanos: u64,
    },
    Open {
        skip: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let delay = prop_oneof![4 => Just(0), 1 => 1..3_000_u64, 1 => 1..100_000_u64];
    let enqueue = (
        prop::option::weighted(0.3, 0..6_u8),
        delay.clone(),
        prop_oneof![3 => Just(0_u8), 1 => 0..4_u8, 1 => any::<u8>()],
        prop::option::weighted(0.3, 1..3_u16),
        prop::option::weighted(0.2, 0..20_000_u64),
    );
    let lease_ms = prop::option::of(0..40_000_u64);
    prop_oneof![
        6 => enqueue.prop_map(|(request, delay_ms, priority, max_attempts, ttl_ms)| Op::Enqueue {
            request, delay_ms, priority, max_attempts, ttl_ms,
        }),
        6 => lease_ms.clone().prop_map(|lease_ms| Op::Lease { lease_ms }),
        2 => any::<usize>().prop_map(Op::Release),
        3 => (any::<usize>(), lease_ms).prop_map(|(token, ms)| Op::Heartbeat(token, ms)),
        3 => any::<usize>().prop_map(Op::Complete),
        3 => (any::<usize>(), prop::bool::weighted(0.8), prop::option::of(delay))
            .prop_map(|(token, requeue, delay_ms)| Op::Fail { token, requeue, delay_ms }),
        4 => (prop_oneof![0..1_500_u64, 0..30_000_u64], 0..1_000_000_u64)
            .prop_map(|(ms, nanos)| Op::Pass { ms, nanos }),
        1 => (0..3_u64).prop_map(|skip| Op::Open { skip }),
    ]
}

fn options() -> Options {
    Options {
        lease_duration: Duration::from_secs(10),
        requeue_delay: Duration::from_secs(1),
        requeue_delay_max: Duration::from_secs(8),
        max_attempts: 4,
        dedupe_window: Duration::from_secs(60),
        dedupe_entries_max: 4,
        capacity: 12,
        priority_aging: Duration::from_secs(5),
        ..Options::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Waiting,
    Delayed,
    Leased {
        token: Token,
        expires_at: Nanos,
        recorded: Duration,
        duration: Duration,
    },
    Dead,
    Gone,
}

#[derive(Debug)]
struct ModelItem {
    lsn: Lsn,
    enqueued_at: Nanos,
    since: Nanos,
    ttl: Option<Duration>,
    priority: u8,
    attempt: u32,
    max_attempts: u32,
    state: State,
    /// The last lease that ended, and how.
    last_end: Option<(Token, FenceReason)>,
}

/// Every item that ever was, and every token.
#[derive(Default)]
struct Model {
    items: Vec<ModelItem>,
    tokens: Vec<Token>,
    requests: Vec<(u8, Lsn, Nanos)>,
}

fn ceil(at: Nanos) -> Nanos {
    Nanos::from_millis(at.millis_ceil())
}

impl Model {
    fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for item in &self.items {
            match item.state {
                State::Waiting => stats.pending += 1,
                State::Delayed => stats.delayed += 1,
                State::Leased { .. } => stats.active += 1,
                State::Dead => stats.dead += 1,
                State::Gone => {}
            }
        }
        stats
    }

    /// What time alone does, in the order of the milliseconds that it is due.
    fn pass(&mut self, now: Nanos) {
        let floor = Nanos::from_millis(now.millis_floor());
        for item in &mut self.items {
            let ttl_end = item.ttl.map(|ttl| item.enqueued_at.saturating_add(ttl));
            let is_over = ttl_end.is_some_and(|end| ceil(end) <= floor);
            if let State::Leased {
                token, expires_at, ..
            } = item.state
                && ceil(expires_at) <= floor
            {
                item.last_end = Some((token, FenceReason::Expired));
                item.since = ceil(expires_at);
                item.state = match item.attempt >= item.max_attempts {
                    true => State::Dead,
                    false => State::Waiting,
                };
            }
            if matches!(item.state, State::Waiting | State::Delayed) && is_over {
                item.state = State::Gone;
            }
            if item.state == State::Delayed && item.since <= floor {
                item.state = State::Waiting;
            }
        }
    }

    fn effective(item: &ModelItem, now: Nanos) -> u64 {
        let waited = now.since(item.since).as_nanos() / Duration::from_secs(5).as_nanos();
        (u64::from(item.priority) + waited as u64).min(255)
    }

    /// What any token is worth now.
    fn check(&mut self, token: &Token, shard: &Shard) -> Result<&mut ModelItem, TokenRefused> {
        let lsn = shard.spec().lsn_of(token.sequence_id).expect("ours");
        let item = self
            .items
            .iter_mut()
            .find(|item| item.lsn == lsn)
            .expect("granted once");
        if matches!(item.state, State::Leased { token: current, .. } if current == *token) {
            return Ok(item);
        }
        let reason = match item.last_end {
            Some((last, reason))
                if last == *token && !matches!(item.state, State::Leased { .. }) =>
            {
                reason
            }
            _ => FenceReason::Superseded,
        };
        Err(TokenRefused::Fenced {
            reason: Some(reason),
        })
    }
}

struct World {
    shard: Shard,
    tape: Tape,
    model: Model,
    now: Nanos,
    /// When the reasons of earlier leases may be forgotten.
    lax_reasons: bool,
}

type Outcome = Result<(), TestCaseError>;

impl World {
    fn new() -> World {
        let (shard, tape) = open(options());
        World {
            shard,
            tape,
            model: Model::default(),
            now: START,
            lax_reasons: false,
        }
    }

    fn token(&self, nth: usize) -> Option<Token> {
        let tokens = &self.model.tokens;
        // Mostly the latest: those are live.
        let from = tokens.len().saturating_sub(5);
        let range = if nth.is_multiple_of(4) {
            tokens
        } else {
            &tokens[from..]
        };
        (!range.is_empty()).then(|| range[(nth / 4) % range.len()])
    }

    fn run(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Enqueue {
                request,
                delay_ms,
                priority,
                max_attempts,
                ttl_ms,
            } => {
                let name = request.map(|n| format!("request-{n}"));
                let new = NewItem {
                    delay: Duration::from_millis(*delay_ms),
                    priority: *priority,
                    max_attempts: *max_attempts,
                    ttl: ttl_ms.map(Duration::from_millis),
                    ..item(name.as_deref())
                };
                self.enqueue(*request, &new)?;
            }
            Op::Lease { lease_ms } => self.lease(lease_ms.map(Duration::from_millis))?,
            Op::Release(nth) => self.release(*nth)?,
            Op::Heartbeat(nth, ms) => self.heartbeat(*nth, ms.map(Duration::from_millis))?,
            Op::Complete(nth) => self.complete(*nth)?,
            Op::Fail {
                token,
                requeue,
                delay_ms,
            } => {
                self.fail(*token, *requeue, delay_ms.map(Duration::from_millis))?;
            }
            Op::Pass { ms, nanos } => self.now.0 += ms * 1_000_000 + nanos,
            Op::Open { skip } => {
                let opened = self.shard.handle_open(self.now, *skip, &mut self.tape);
                prop_assert_eq!(opened.outcome, self.shard.epoch());
                for item in &mut self.model.items {
                    if let State::Leased {
                        expires_at,
                        recorded,
                        ..
                    } = &mut item.state
                    {
                        *expires_at = self.now.saturating_add(*recorded);
                    }
                }
            }
        }
        let taken = self.shard.handle_time(self.now, &mut self.tape, usize::MAX);
        prop_assert!(taken < usize::MAX);
        self.model.pass(self.now);
        prop_assert_eq!(self.shard.stats(), self.model.stats());
        Ok(())
    }

    fn enqueue(&mut self, request: Option<u8>, new: &NewItem<'_>) -> Outcome {
        let now = self.now;
        let window = options().dedupe_window;
        let requests = &mut self.model.requests;
        requests.retain(|(_, _, at)| at.saturating_add(window) > now);
        let seen = requests
            .iter()
            .find(|(n, _, _)| Some(*n) == request)
            .copied();
        let is_full = request.is_some() && requests.len() >= 4;
        let live = self.model.stats().live();
        let decision = self.shard.handle_enqueue(now, new, &mut self.tape);
        match (decision.outcome, seen) {
            (Ok(done), Some((_, lsn, _))) => {
                prop_assert!(done.duplicate);
                prop_assert_eq!((done.lsn, decision.rests_on), (lsn, Some(lsn)));
            }
            (Err(EnqueueRefused::DedupeFull), None) => prop_assert!(is_full),
            (Err(EnqueueRefused::CapacityReached), None) => prop_assert!(live >= 12 && !is_full),
            (Ok(done), None) => {
                prop_assert!(!done.duplicate && !is_full && live < 12);
                prop_assert_eq!(done.sequence_id, self.shard.spec().sequence_id(done.lsn));
                prop_assert_eq!(decision.rests_on, Some(done.lsn));
                if let Some(n) = request {
                    self.model.requests.push((n, done.lsn, now));
                }
                let is_delayed = !new.delay.is_zero();
                self.model.items.push(ModelItem {
                    lsn: done.lsn,
                    enqueued_at: now,
                    since: if is_delayed {
                        ceil(now.saturating_add(new.delay))
                    } else {
                        now
                    },
                    ttl: new.ttl.map(|ttl| ttl.max(Duration::from_millis(1))),
                    priority: new.priority,
                    attempt: 0,
                    max_attempts: u32::from(new.max_attempts.unwrap_or(4)),
                    state: if is_delayed {
                        State::Delayed
                    } else {
                        State::Waiting
                    },
                    last_end: None,
                });
            }
            (outcome, seen) => prop_assert!(false, "{outcome:?} {seen:?}"),
        }
        Ok(())
    }

    fn lease(&mut self, lease: Option<Duration>) -> Outcome {
        let now = self.now;
        let head = self.shard.head(now, None);
        let waiting = self
            .model
            .items
            .iter()
            .filter(|item| item.state == State::Waiting);
        let best = waiting
            .map(|item| (std::cmp::Reverse(Model::effective(item, now)), item.since))
            .min();
        let wish = LeaseWish {
            lease,
            ..tape::WISH
        };
        let granted = self.shard.handle_lease(now, &wish, &mut self.tape);
        let Some((std::cmp::Reverse(priority), since)) = best else {
            prop_assert!(granted.is_none() && head.is_none());
            return Ok(());
        };
        let head = head.expect("an item waits");
        prop_assert_eq!(u64::from(head.effective_priority), priority);
        prop_assert_eq!(head.ready_since, since);
        let grant = granted.expect("an item waits").outcome;
        let lsn = self.shard.spec().lsn_of(grant.sequence_id).expect("ours");
        let item = self
            .model
            .items
            .iter_mut()
            .find(|item| item.lsn == lsn)
            .expect("enqueued");
        prop_assert_eq!(item.state, State::Waiting);
        prop_assert_eq!((Model::effective(item, now), item.since), (priority, since));
        prop_assert_eq!(grant.attempt, item.attempt + 1);
        let asked = lease.unwrap_or(Duration::from_secs(10));
        let duration = asked.clamp(Duration::from_secs(1), Duration::from_secs(43_200));
        prop_assert_eq!(
            (grant.lease, grant.expires_at),
            (duration, now.saturating_add(duration))
        );
        prop_assert!(
            !self.model.tokens.contains(&grant.token),
            "a token was issued twice"
        );
        Self::granted(item, &grant, duration);
        self.model.tokens.push(grant.token);
        Ok(())
    }

    fn granted(item: &mut ModelItem, grant: &Grant, duration: Duration) {
        item.attempt += 1;
        item.state = State::Leased {
            token: grant.token,
            expires_at: grant.expires_at,
            recorded: duration,
            duration,
        };
    }

    fn same<T: std::fmt::Debug>(
        &self,
        outcome: &Result<T, TokenRefused>,
        expected: TokenRefused,
    ) -> Outcome {
        match outcome {
            // Beyond the window, and for leases before an item's last, the
            // reason may be gone; it is never another one.
            Err(TokenRefused::Fenced { reason: None }) if self.lax_reasons => {}
            Err(refused) => prop_assert_eq!(*refused, expected),
            Ok(done) => prop_assert!(false, "a fenced token was accepted: {done:?}"),
        }
        Ok(())
    }

    fn release(&mut self, nth: usize) -> Outcome {
        let Some(token) = self.token(nth) else {
            return Ok(());
        };
        let released = self
            .shard
            .handle_release(self.now, &token, &mut self.tape)
            .outcome;
        match self.model.check(&token, &self.shard) {
            Err(_) => prop_assert!(!released),
            Ok(item) => {
                prop_assert!(released);
                item.attempt -= 1;
                item.state = State::Waiting;
                item.last_end = Some((token, FenceReason::Superseded));
            }
        }
        Ok(())
    }

    fn heartbeat(&mut self, nth: usize, extend: Option<Duration>) -> Outcome {
        let Some(token) = self.token(nth) else {
            return Ok(());
        };
        let before = self.shard.last_lsn();
        let decision = self
            .shard
            .handle_heartbeat(self.now, &token, extend, &mut self.tape);
        match self.model.check(&token, &self.shard) {
            Err(expected) => self.same(&decision.outcome, expected)?,
            Ok(item) => {
                let State::Leased {
                    expires_at,
                    recorded,
                    duration,
                    ..
                } = &mut item.state
                else {
                    return Err(TestCaseError::fail("it is leased"));
                };
                let asked = extend.unwrap_or(*duration);
                let asked = asked.clamp(Duration::from_secs(1), Duration::from_secs(43_200));
                *expires_at = self.now.saturating_add(asked);
                let extended = decision.outcome.expect("the lease is live");
                prop_assert_eq!(extended.expires_at, *expires_at);
                prop_assert_eq!(decision.rests_on.is_some(), asked > *recorded);
                if asked > *recorded {
                    prop_assert!(self.shard.last_lsn() > before);
                    *recorded = asked;
                }
            }
        }
        Ok(())
    }

    fn complete(&mut self, nth: usize) -> Outcome {
        let Some(token) = self.token(nth) else {
            return Ok(());
        };
        let decision = self.shard.handle_complete(self.now, &token, &mut self.tape);
        match self.model.check(&token, &self.shard) {
            Err(expected) => self.same(&decision.outcome, expected)?,
            Ok(item) => {
                prop_assert_eq!(decision.rests_on, decision.outcome.ok());
                item.state = State::Gone;
                item.last_end = Some((token, FenceReason::Completed));
            }
        }
        Ok(())
    }

    fn fail(&mut self, nth: usize, requeue: bool, delay: Option<Duration>) -> Outcome {
        let Some(token) = self.token(nth) else {
            return Ok(());
        };
        let failure = Failure {
            reason: Some("no luck"),
            code: None,
            requeue,
            delay,
            metadata: Attributes::NONE,
        };
        let now = self.now;
        let decision = self
            .shard
            .handle_fail(now, &token, &failure, &mut self.tape);
        let digest = self.shard.digest(now);
        match self.model.check(&token, &self.shard) {
            Err(expected) => self.same(&decision.outcome, expected)?,
            Ok(item) => {
                prop_assert!(decision.outcome.is_ok());
                item.last_end = Some((token, FenceReason::Failed));
                if !requeue || item.attempt >= item.max_attempts {
                    item.state = State::Dead;
                    return Ok(());
                }
                let found = digest.items.iter().find(|i| i.lsn == item.lsn);
                item.since = found.expect("it was requeued").times.1;
                let nominal = Duration::from_secs(1 << (item.attempt - 1))
                    .as_secs_f64()
                    .min(8.0);
                let waits = item.since.since(now).as_secs_f64();
                match delay {
                    Some(Duration::ZERO) => prop_assert_eq!(item.since, now),
                    Some(delay) => {
                        prop_assert_eq!(item.since, ceil(now.saturating_add(delay)));
                    }
                    None => prop_assert!(
                        waits >= nominal * 0.9 && waits <= (nominal * 1.1).min(8.0) + 0.001
                    ),
                }
                item.state = match item.since > now {
                    true => State::Delayed,
                    false => State::Waiting,
                };
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_shard_does_what_the_model_does(ops in prop::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        // Some runs are longer than the window.
        world.lax_reasons = true;
        for op in &ops {
            world.run(op)?;
        }
    }

    #[test]
    fn reasons_are_exact_within_the_window(
        ops in prop::collection::vec(op().prop_map(|op| match op {
            Op::Pass { ms, nanos } => Op::Pass { ms: ms / 100, nanos },
            op => op,
        }), 1..120),
    ) {
        let mut world = World::new();
        for op in &ops {
            world.run(op)?;
            if world.now.since(START) >= options().dedupe_window {
                break;
            }
        }
    }

    #[test]
    fn replay_makes_an_equal_shard_at_any_prefix(
        ops in prop::collection::vec(op(), 1..80),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new();
        world.lax_reasons = true;
        let cut = cut.index(ops.len());
        for (nth, op) in ops.iter().enumerate() {
            world.run(op)?;
            if nth == cut || nth == ops.len() - 1 {
                let mut copy = replay(options(), &world.tape, world.tape.entries.len());
                prop_assert_eq!(world.shard.digest(world.now), copy.digest(world.now));
                for token in &world.model.tokens.clone() {
                    let (now, mut void) = (world.now, Tape::default());
                    let refused = copy.handle_heartbeat(now, token, None, &mut void);
                    match refused.outcome {
                        Err(refused) => {
                            let same = world.shard.handle_complete(now, token, &mut void);
                            prop_assert_eq!(same.outcome, Err(refused));
                        }
                        Ok(_) => prop_assert!(world.model.check(token, &world.shard).is_ok()),
                    }
                }
            }
        }
    }

    #[test]
    fn a_damaged_sequence_is_refused_and_changes_nothing(
        ops in prop::collection::vec(op(), 2..60),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new();
        world.lax_reasons = true;
        for op in &ops {
            world.run(op)?;
        }
        let entries = &world.tape.entries;
        let (from, to) = (from.index(entries.len()), to.index(entries.len()));
        let mut copy = replay(options(), &world.tape, to);
        let before = copy.digest(world.now);
        // Only the record that is next fits; with the right number forged,
        // some others may, and none panics.
        let mut forged = entries[from].record();
        if from != to && !matches!(forged.event, omnirelay_queue::Event::EpochStarted { .. }) {
            prop_assert!(copy.replay(&forged, tape::place(from)).is_err());
            prop_assert_eq!(copy.digest(world.now), before.clone());
        }
        forged.lsn = Lsn(copy.last_lsn().0 + 1);
        forged.epoch = copy.epoch();
        if copy.replay(&forged, tape::place(from)).is_err() {
            prop_assert_eq!(copy.digest(world.now), before);
        }
    }
}
