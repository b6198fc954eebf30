//! A shard against the simplest thing that could be right, and against itself
//! replayed.

mod naive;
mod tape;

use std::collections::BTreeMap;
use std::time::Duration;

use naive::{Item, Model, State, ceil, name};
use omnirelay_queue::{
    Attributes, Cursor, EnqueueRefused, Explanation, Failure, Fairness, FenceReason, Grant,
    ItemRefused, ItemState, LeaseWish, Listing, Lsn, Nanos, NewItem, Options, Ordering, PayloadRef,
    SequenceId, Shard, Token, TokenRefused,
};
use proptest::prelude::*;
use tape::{START, Tape, item, open, replay};

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Enqueue {
        request: Option<u8>,
        resource: u8,
        key: Option<u8>,
        delay_ms: u64,
        priority: u8,
        max_attempts: Option<u16>,
        ttl_ms: Option<u64>,
    },
    Lease {
        lease_ms: Option<u64>,
        key: Option<u8>,
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
    /// Items are chosen among all that ever were.
    Cancel(usize),
    Redrive(usize),
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
        (0..4_u8, prop::option::weighted(0.7, 0..3_u8)),
        delay.clone(),
        prop_oneof![3 => Just(0_u8), 1 => 0..4_u8, 1 => any::<u8>()],
        prop::option::weighted(0.3, 1..3_u16),
        prop::option::weighted(0.2, 0..20_000_u64),
    );
    let lease_ms = prop::option::of(0..40_000_u64);
    prop_oneof![
        7 => enqueue.prop_map(|(request, (resource, key), delay_ms, priority, max_attempts, ttl_ms)| {
            Op::Enqueue { request, resource, key, delay_ms, priority, max_attempts, ttl_ms }
        }),
        7 => (lease_ms.clone(), prop::option::weighted(0.2, 0..4_u8))
            .prop_map(|(lease_ms, key)| Op::Lease { lease_ms, key }),
        2 => any::<usize>().prop_map(Op::Release),
        3 => (any::<usize>(), lease_ms).prop_map(|(token, ms)| Op::Heartbeat(token, ms)),
        3 => any::<usize>().prop_map(Op::Complete),
        3 => (any::<usize>(), prop::bool::weighted(0.8), prop::option::of(delay))
            .prop_map(|(token, requeue, delay_ms)| Op::Fail { token, requeue, delay_ms }),
        1 => any::<usize>().prop_map(Op::Cancel),
        2 => any::<usize>().prop_map(Op::Redrive),
        4 => (prop_oneof![0..1_500_u64, 0..30_000_u64], 0..1_000_000_u64)
            .prop_map(|(ms, nanos)| Op::Pass { ms, nanos }),
        1 => (0..3_u64).prop_map(|skip| Op::Open { skip }),
    ]
}

pub(crate) fn plain() -> Options {
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

/// The ways in which a namespace may order its items.
fn options() -> impl Strategy<Value = Options> {
    (any::<bool>(), any::<bool>()).prop_map(|(in_order, fair)| {
        let mut options = plain();
        if in_order {
            options.ordering = Ordering::PerResource;
        }
        if fair {
            options.fairness = Fairness::PartitionKey;
            options.weights = [("a".to_owned(), 3), ("b".to_owned(), 2)].into();
        }
        options
    })
}

pub(crate) struct World {
    shard: Shard,
    tape: Tape,
    model: Model,
    pub(crate) now: Nanos,
    last_grant_at: Nanos,
    /// When the reasons of earlier leases may be forgotten.
    pub(crate) lax_reasons: bool,
}

type Outcome = Result<(), TestCaseError>;

impl World {
    pub(crate) fn new(options: &Options) -> World {
        let (shard, tape) = open(options.clone());
        World {
            shard,
            tape,
            model: Model::new(options.clone()),
            now: START,
            last_grant_at: Nanos(0),
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

    /// A shard made from the log so far is this one, down to what each token
    /// that was ever granted is worth.
    pub(crate) fn replays(&mut self, options: &Options) -> Outcome {
        let mut copy = replay(options.clone(), &self.tape, self.tape.entries.len());
        prop_assert_eq!(self.shard.digest(self.now), copy.digest(self.now));
        for token in &self.model.tokens.clone() {
            let (now, mut void) = (self.now, Tape::default());
            let refused = copy.handle_heartbeat(now, token, None, &mut void);
            match refused.outcome {
                Err(refused) => {
                    let same = self.shard.handle_complete(now, token, &mut void);
                    prop_assert_eq!(same.outcome, Err(refused));
                }
                Ok(_) => prop_assert!(self.model.check(token, &self.shard).is_ok()),
            }
        }
        Ok(())
    }

    pub(crate) fn run(&mut self, op: &Op) -> Outcome {
        let leasable = self.model.leasable();
        self.run_at_once(op)?;
        let taken = self.shard.handle_time(self.now, &mut self.tape, usize::MAX);
        prop_assert!(taken < usize::MAX);
        self.model.pass(self.now);
        self.model.note_losses(&leasable);
        prop_assert_eq!(self.shard.stats(), self.model.stats());
        Ok(())
    }

    fn run_at_once(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Enqueue {
                request,
                resource,
                key,
                delay_ms,
                priority,
                max_attempts,
                ttl_ms,
            } => {
                let request_id = request.map(|n| format!("request-{resource}-{n}"));
                let resource_id = resource.to_string();
                let request_item = item(request_id.as_deref());
                let new = NewItem {
                    payload: PayloadRef {
                        resource_id: &resource_id,
                        partition_key: key.map(name),
                        ..request_item.payload
                    },
                    delay: Duration::from_millis(*delay_ms),
                    priority: *priority,
                    max_attempts: *max_attempts,
                    ttl: ttl_ms.map(Duration::from_millis),
                    ..request_item
                };
                let request = request.map(|n| n * 4 + resource);
                self.enqueue(request, (*resource, *key), &new)?;
            }
            Op::Lease { lease_ms, key } => {
                self.lease(lease_ms.map(Duration::from_millis), *key)?;
            }
            Op::Cancel(nth) => self.cancel(*nth)?,
            Op::Redrive(nth) => self.redrive(*nth)?,
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
            Op::Pass { ms, nanos } => {
                self.now.0 += ms * 1_000_000 + nanos;
                return Ok(());
            }
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
                self.model.note_epoch();
            }
        }
        self.model.settle(self.now);
        Ok(())
    }

    fn enqueue(
        &mut self,
        request: Option<u8>,
        (resource, key): (u8, Option<u8>),
        new: &NewItem<'_>,
    ) -> Outcome {
        let now = self.now;
        let window = plain().dedupe_window;
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
                let max_attempts = u32::from(new.max_attempts.unwrap_or(4));
                self.model.items.push(Item {
                    lsn: done.lsn,
                    resource,
                    key,
                    enqueued_at: now,
                    since: if is_delayed {
                        ceil(now.saturating_add(new.delay))
                    } else {
                        now
                    },
                    ttl: new.ttl.map(|ttl| ttl.max(Duration::from_millis(1))),
                    priority: new.priority,
                    attempt: 0,
                    max_attempts,
                    max_attempts_at_first: max_attempts,
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

    fn lease(&mut self, lease: Option<Duration>, key: Option<u8>) -> Outcome {
        let now = self.now;
        let partition_key = key.map(name);
        let head = self.shard.head(now, partition_key);
        let best = self.model.best(key.map(Some), now);
        let wish = LeaseWish {
            lease,
            partition_key,
            ..tape::WISH
        };
        let granted = self.shard.handle_lease(now, &wish, &mut self.tape);
        let Some(best) = best else {
            prop_assert!(granted.is_none() && head.is_none());
            return Ok(());
        };
        let head = head.expect("an item waits");
        let grant = granted.expect("an item waits").outcome;
        let lsn = self.shard.spec().lsn_of(grant.sequence_id).expect("ours");
        let item = self.model.item_mut(lsn).clone();
        prop_assert!(self.model.can_be_leased(&item));
        prop_assert_eq!(grant.attempt, item.attempt + 1);
        let got = (self.model.effective(&item, now), item.since);
        if self.model.is_fair() && key.is_none() {
            prop_assert_eq!(Some(got), self.model.best(Some(item.key), now));
            prop_assert_eq!(head.effective_priority, 0);
            prop_assert_eq!(head.ready_since, item.since.max(self.last_grant_at));
            self.model
                .note_turn(item.key)
                .map_err(TestCaseError::fail)?;
        } else {
            prop_assert_eq!(got, best);
            prop_assert_eq!((head.effective_priority.into(), head.ready_since), best);
        }
        self.last_grant_at = now;
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
        Self::granted(self.model.item_mut(lsn), &grant, duration);
        self.model.tokens.push(grant.token);
        Ok(())
    }

    /// One of all items that ever were.
    fn item(&self, nth: usize) -> Option<(SequenceId, Item)> {
        let items = &self.model.items;
        let item = items.get(nth % items.len().max(1))?;
        Some((self.shard.spec().sequence_id(item.lsn), item.clone()))
    }

    fn cancel(&mut self, nth: usize) -> Outcome {
        let Some((id, Item { lsn, state, .. })) = self.item(nth) else {
            return Ok(());
        };
        let before = self.shard.last_lsn();
        let decision = self.shard.handle_cancel(self.now, id, &mut self.tape);
        if state == State::Gone {
            prop_assert_eq!(decision.outcome, Err(ItemRefused::NotFound));
            prop_assert_eq!(decision.rests_on, Some(before));
            return Ok(());
        }
        prop_assert_eq!(decision.outcome, Ok(Lsn(before.0 + 1)));
        prop_assert_eq!(decision.rests_on, decision.outcome.ok());
        let item = self.model.item_mut(lsn);
        if let State::Leased { token, .. } = state {
            item.last_end = Some((token, FenceReason::Superseded));
        }
        item.state = State::Gone;
        Ok(())
    }

    fn redrive(&mut self, nth: usize) -> Outcome {
        let Some((id, Item { lsn, state, .. })) = self.item(nth) else {
            return Ok(());
        };
        let (now, before) = (self.now, self.shard.last_lsn());
        let decision = self.shard.handle_redrive(now, id, &mut self.tape);
        match state {
            State::Dead => {
                prop_assert_eq!(decision.outcome, Ok(Lsn(before.0 + 1)));
                prop_assert_eq!(decision.rests_on, decision.outcome.ok());
                let item = self.model.item_mut(lsn);
                let is_over = |ttl| item.enqueued_at.saturating_add(ttl) <= now;
                item.ttl = item.ttl.filter(|ttl| !is_over(*ttl));
                item.max_attempts = item.attempt + item.max_attempts_at_first;
                item.since = now;
                item.state = State::Waiting;
            }
            State::Gone => prop_assert_eq!(decision.outcome, Err(ItemRefused::NotFound)),
            _ => prop_assert_eq!(decision.outcome, Err(ItemRefused::NotDead)),
        }
        Ok(())
    }

    fn granted(item: &mut Item, grant: &Grant, duration: Duration) {
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
            .handle_release(self.now, &token, None, &mut self.tape)
            .outcome;
        match self.model.check(&token, &self.shard) {
            Err(_) => prop_assert!(!released),
            Ok(item) => {
                prop_assert!(released);
                item.attempt -= 1;
                item.state = State::Waiting;
                item.last_end = Some((token, FenceReason::Superseded));
                let lsn = item.lsn;
                self.model.settle_released(lsn, self.now);
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
                let rests_on = (asked > *duration).then(|| self.shard.last_lsn());
                prop_assert_eq!(decision.rests_on, rests_on);
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

type Listed = BTreeMap<Lsn, (ItemState, Nanos)>;

impl World {
    /// Every item that is there is shown as it is, and explained as it is.
    fn check_views(&self) -> Outcome {
        for item in &self.model.items {
            let id = self.shard.spec().sequence_id(item.lsn);
            let view = self.shard.view(id);
            let explanation = self.shard.explain(self.now, id);
            if item.state == State::Gone {
                prop_assert!(view.is_none());
                let is_gone = matches!(explanation, Explanation::Gone { .. });
                prop_assert!(is_gone, "{explanation:?}");
                continue;
            }
            let view = view.expect("it is there");
            prop_assert!(self.model.is_shown_by(&view), "{item:?} {view:?}");
            let explained = match explanation {
                Explanation::Waiting { ahead_is_cut, .. } => {
                    prop_assert!(!ahead_is_cut);
                    ItemState::Waiting
                }
                Explanation::Delayed { until, .. } => {
                    prop_assert_eq!(until, item.since);
                    ItemState::Delayed
                }
                Explanation::Blocked { behind, state } => {
                    let lsn = self.shard.spec().lsn_of(behind).expect("ours");
                    let other = self.model.items.iter().find(|other| other.lsn == lsn);
                    let other = other.expect("it is there");
                    prop_assert_eq!(other.resource, item.resource);
                    prop_assert_eq!(self.model.shown(other), state);
                    ItemState::Blocked
                }
                Explanation::Leased { expires_at, .. } => {
                    prop_assert_eq!(Some(expires_at), view.expires_at);
                    ItemState::Leased
                }
                Explanation::Dead { attempts } => {
                    prop_assert_eq!(u32::from(attempts), item.attempt);
                    ItemState::Dead
                }
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            };
            prop_assert_eq!(explained, self.model.shown(item));
        }
        Ok(())
    }

    /// What a listing should show, with what tells an item that stayed put.
    fn listed_states(&self, which: Listing) -> Listed {
        let items = self.model.items.iter();
        let there = items.filter(|item| item.state != State::Gone);
        let states = there.map(|item| (item.lsn, (self.model.shown(item), item.since)));
        states
            .filter(|(_, (state, _))| match which {
                Listing::Dead => *state == ItemState::Dead,
                Listing::Waiting => !matches!(state, ItemState::Dead | ItemState::Leased),
            })
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_shard_does_what_the_model_does(
        options in options(),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut world = World::new(&options);
        // Some runs are longer than the window.
        world.lax_reasons = true;
        for op in &ops {
            world.run(op)?;
            world.check_views()?;
        }
    }

    #[test]
    fn an_item_that_stays_put_is_listed_exactly_once(
        options in options(),
        before in prop::collection::vec(op(), 10..80),
        during in prop::collection::vec(op(), 1..40),
        (max, budget) in (1..4_usize, 1..6_usize),
        dead: bool,
    ) {
        let mut world = World::new(&options);
        world.lax_reasons = true;
        for op in &before {
            world.run(op)?;
        }
        let which = if dead { Listing::Dead } else { Listing::Waiting };
        let mut stayed = world.listed_states(which);
        let (mut shown, mut cursor) = (Vec::new(), None);
        let (mut last_shown, mut lost) = (None, Vec::new());
        let mut during = during.iter();
        loop {
            let page = world.shard.list(which, cursor, max, budget);
            prop_assert!(page.items.len() <= max);
            for view in page.items {
                prop_assert!(world.model.is_shown_by(&view), "{view:?}");
                shown.push((view.lsn, view.state));
                last_shown = Some((view.lsn, (view.state, view.ready_at)));
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
            if let Some(op) = during.next() {
                world.run(op)?;
                let now = world.listed_states(which);
                stayed.retain(|lsn, state| now.get(lsn) == Some(state));
                // When the last one shown is gone, its place may be too far to
                // be found exactly.
                if let Some((lsn, was)) = last_shown.filter(|(lsn, was)| now.get(lsn) != Some(was)) {
                    lost.push((lsn, was.1));
                }
            }
        }
        for (lsn, state) in stayed {
            let times = shown.iter().filter(|shown| shown.0 == lsn).count();
            let is_beside = |lost: &(Lsn, Nanos)| lost.1 == state.1 && lsn < lost.0;
            let may_come_again = lost.iter().any(is_beside);
            prop_assert!(times == 1 || times > 1 && may_come_again, "{lsn:?} {state:?} {times}");
        }
    }

    #[test]
    fn any_cursor_leads_to_an_end(
        options in options(),
        ops in prop::collection::vec(op(), 1..60),
        (head, tail) in (any::<u64>(), prop_oneof![any::<u64>(), 0..20_u64]),
        dead: bool,
    ) {
        let mut world = World::new(&options);
        world.lax_reasons = true;
        for op in &ops {
            world.run(op)?;
        }
        let which = if dead { Listing::Dead } else { Listing::Waiting };
        let mut cursor = Some(Cursor(head, tail));
        let mut pages = 0;
        while let Some(at) = cursor {
            cursor = world.shard.list(which, Some(at), 2, 3).next;
            pages += 1;
            prop_assert!(pages < 1_000, "{at:?}");
        }
    }

    #[test]
    fn reasons_are_exact_within_the_window(
        options in options(),
        ops in prop::collection::vec(op().prop_map(|op| match op {
            Op::Pass { ms, nanos } => Op::Pass { ms: ms / 100, nanos },
            op => op,
        }), 1..120),
    ) {
        let mut world = World::new(&options);
        for op in &ops {
            world.run(op)?;
            if world.now.since(START) >= options.dedupe_window {
                break;
            }
        }
    }

    #[test]
    fn replay_makes_an_equal_shard_at_any_prefix(
        options in options(),
        ops in prop::collection::vec(op(), 1..80),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new(&options);
        world.lax_reasons = true;
        let cut = cut.index(ops.len());
        for (nth, op) in ops.iter().enumerate() {
            world.run(op)?;
            if nth == cut || nth == ops.len() - 1 {
                world.replays(&options)?;
            }
        }
    }

    #[test]
    fn a_damaged_sequence_is_refused_and_changes_nothing(
        options in options(),
        ops in prop::collection::vec(op(), 2..60),
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new(&options);
        world.lax_reasons = true;
        for op in &ops {
            world.run(op)?;
        }
        let entries = &world.tape.entries;
        // A log may begin with any record: what follows is held against it.
        let (from, to) = (from.index(entries.len()), to.index(entries.len()).max(1));
        let mut copy = replay(options.clone(), &world.tape, to);
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
