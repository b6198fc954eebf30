//! Items of one resource leave a shard, and come into another, in the order in
//! which they are leased.

use std::collections::HashMap;
use std::time::Duration;

use crate::segments::{START, Segments, Travelling, payload, shard};
use omnirelay_queue::{
    Attributes, Candidate, DrainCursor, DrainRefused, Failure, ItemState, LeaseWish, Lsn, Nanos,
    NewItem, Options, Ordering, SequenceId, Shard, Token,
};
use proptest::prelude::*;

const HOUR_NS: u64 = 3_600_000_000_000;

#[derive(Clone, Debug)]
enum Op {
    Enqueue { resource: u8, delay_ms: u64 },
    Lease,
    Complete(usize),
    Release(usize),
    Fail { token: usize, requeue: bool },
    Cancel(usize),
    Redrive(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let nth = any::<usize>;
    let delay = prop_oneof![2 => Just(0), 1 => 1..900_u64];
    prop_oneof![
        8 => (0..4_u8, delay).prop_map(|(resource, delay_ms)| Op::Enqueue { resource, delay_ms }),
        4 => Just(Op::Lease),
        2 => nth().prop_map(Op::Complete),
        1 => nth().prop_map(Op::Release),
        2 => (nth(), any::<bool>()).prop_map(|(token, requeue)| Op::Fail { token, requeue }),
        1 => nth().prop_map(Op::Cancel),
        2 => nth().prop_map(Op::Redrive),
        2 => (0..500_u64).prop_map(Op::Pass),
    ]
}

struct World {
    shard: Shard,
    log: Segments,
    now: Nanos,
    tokens: Vec<Token>,
    resources: HashMap<Lsn, u8>,
}

impl World {
    fn new() -> World {
        let options = Options {
            ordering: Ordering::PerResource,
            requeue_delay: Duration::from_millis(200),
            ..Options::default()
        };
        let (mut shard, mut log) = (shard(options), Segments::new(1 << 20));
        let _ = shard.handle_open(START, 0, &mut log);
        World {
            shard,
            log,
            now: START,
            tokens: Vec::new(),
            resources: HashMap::new(),
        }
    }

    fn run(&mut self, op: &Op) {
        let (now, shard, log) = (self.now, &mut self.shard, &mut self.log);
        let token = |nth: usize| {
            let recent = &self.tokens[self.tokens.len().saturating_sub(4)..];
            (!recent.is_empty()).then(|| recent[nth % recent.len()])
        };
        match *op {
            Op::Enqueue { resource, delay_ms } => self.enqueue(resource, delay_ms),
            Op::Lease => self.tokens.extend(lease(shard, now, log)),
            Op::Complete(nth) => {
                if let Some(token) = token(nth) {
                    let _ = shard.handle_complete(now, &token, log);
                }
            }
            Op::Release(nth) => {
                if let Some(token) = token(nth) {
                    let _ = shard.handle_release(now, &token, None, log);
                }
            }
            Op::Fail {
                token: nth,
                requeue,
            } => {
                let failure = Failure {
                    reason: None,
                    code: None,
                    requeue,
                    delay: None,
                    metadata: Attributes::NONE,
                };
                if let Some(token) = token(nth) {
                    let _ = shard.handle_fail(now, &token, &failure, log);
                }
            }
            Op::Cancel(nth) => {
                let items = shard.digest(now).items;
                if !items.is_empty() {
                    let id = shard.spec().sequence_id(items[nth % items.len()].lsn);
                    let _ = shard.handle_cancel(now, id, log);
                }
            }
            Op::Redrive(nth) => {
                let dead: Vec<SequenceId> = shard.dead_letters().collect();
                if !dead.is_empty() {
                    let _ = shard.handle_redrive(now, dead[nth % dead.len()], log);
                }
            }
            Op::Pass(ms) => self.now.0 += ms * 1_000_000,
        }
        self.shard.handle_time(self.now, &mut self.log, usize::MAX);
    }

    fn enqueue(&mut self, resource: u8, delay_ms: u64) {
        let (name, id) = (resource.to_string(), self.resources.len().to_string());
        let new = NewItem {
            payload: payload(&name, Some(&id)),
            delay: Duration::from_millis(delay_ms),
            priority: 0,
            max_attempts: None,
            ttl: None,
            enqueued_by: "test",
        };
        let enqueued = self.shard.handle_enqueue(self.now, &new, &mut self.log);
        let lsn = enqueued.outcome.expect("there is room").lsn;
        self.resources.insert(lsn, resource);
    }

    /// Items in one of these states, in the order of their LSNs.
    fn items(&self, is_it: impl Fn(ItemState) -> bool) -> Vec<Lsn> {
        let items = self.shard.digest(self.now).items.into_iter();
        let state = |lsn| self.shard.view(self.shard.spec().sequence_id(lsn));
        let items = items.map(|item| item.lsn);
        items
            .filter(|lsn| is_it(state(*lsn).expect("it is there").state))
            .collect()
    }

    fn take(&mut self, candidate: &Candidate) -> Result<Travelling, DrainRefused> {
        let body = self.log.read(candidate.body, candidate.body_len);
        let body = body.expect("it is there").to_vec();
        let error = candidate
            .error
            .map(|(place, len)| self.log.read(place, len));
        let error = error.flatten().unwrap_or_default().to_vec();
        let (now, log) = (self.now, &mut self.log);
        let taken = self
            .shard
            .handle_drain(now, candidate, &body, &error, None, log);
        Ok(Travelling::read(&self.log, &taken?.outcome))
    }
}

fn lease(shard: &mut Shard, now: Nanos, log: &mut Segments) -> Option<Token> {
    let wish = LeaseWish {
        owner: "ann",
        lease: None,
        partition_key: None,
    };
    let granted = shard.handle_lease(now, &wish, log);
    granted.map(|granted| granted.outcome.token)
}

/// An item's resource, and its own name.
fn name(item: &Travelling) -> (String, String) {
    let payload = item.payload();
    let id = payload.request_id.expect("each has one");
    (payload.resource_id.to_owned(), id.to_owned())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn items_of_a_resource_leave_and_come_in_by_their_lsns(
        ops in prop::collection::vec(op(), 1..120),
        page in 1..6_usize,
    ) {
        let mut here = World::new();
        ops.iter().for_each(|op| here.run(op));
        let is_live = |state| !matches!(state, ItemState::Leased | ItemState::Dead);
        let expected = here.items(is_live);
        let dead = here.items(|state| state == ItemState::Dead);
        let (mut given, mut order) = (Vec::new(), Vec::new());
        let mut cursor = Some(DrainCursor::default());
        while let Some(at) = cursor {
            let candidates = here.shard.drain_candidates(at, page);
            prop_assert!(candidates.found.len() <= page);
            cursor = candidates.next;
            for candidate in &candidates.found {
                order.push(candidate.lsn);
                given.push(here.take(candidate).expect("nothing changed"));
            }
        }
        let mut last: HashMap<u8, Lsn> = HashMap::new();
        for lsn in order.iter().filter(|lsn| !dead.contains(lsn)) {
            let before = last.insert(here.resources[lsn], *lsn);
            prop_assert!(before < Some(*lsn), "{:?}", order);
        }
        let mut found = order.clone();
        found.sort_unstable();
        let mut all = [expected, dead].concat();
        all.sort_unstable();
        prop_assert_eq!(found, all);

        let mut there = World::new();
        let later = Nanos(here.now.0 + HOUR_NS);
        let mut names = HashMap::new();
        for item in &mut given {
            item.origin = *b"another cluster!";
            let restored = there.shard.handle_restore(here.now, &item.restored(), &mut there.log);
            let restored = restored.outcome.expect("there is room");
            prop_assert!(!restored.duplicate);
            names.insert(restored.sequence_id, name(item));
        }
        there.shard.handle_time(later, &mut there.log, usize::MAX);
        let mut leased: HashMap<String, Vec<String>> = HashMap::new();
        while let Some(token) = lease(&mut there.shard, later, &mut there.log) {
            let (resource, id) = names[&token.sequence_id].clone();
            leased.entry(resource).or_default().push(id);
            let done = there.shard.handle_complete(later, &token, &mut there.log);
            prop_assert!(done.outcome.is_ok());
        }
        let mut expected: HashMap<String, Vec<String>> = HashMap::new();
        for item in given.iter().filter(|item| !item.drained.dead) {
            let (resource, id) = name(item);
            expected.entry(resource).or_default().push(id);
        }
        prop_assert_eq!(leased, expected);
    }

    /// Between a look and what is taken out the shard goes on.
    #[test]
    fn no_item_leaves_before_another_of_its_resource_that_goes_first(
        before in prop::collection::vec(op(), 1..60),
        between in prop::collection::vec(prop::collection::vec(op(), 0..4), 1..20),
        page in 1..6_usize,
    ) {
        let mut world = World::new();
        before.iter().for_each(|op| world.run(op));
        let mut cursor = DrainCursor::default();
        for ops in &between {
            let candidates = world.shard.drain_candidates(cursor, page);
            cursor = candidates.next.unwrap_or_default();
            ops.iter().for_each(|op| world.run(op));
            for candidate in &candidates.found {
                let is_live = |state| !matches!(state, ItemState::Leased | ItemState::Dead);
                let live = world.items(is_live);
                let Ok(item) = world.take(candidate) else {
                    continue;
                };
                let resource = world.resources[&candidate.lsn];
                let is_ahead = |lsn: &Lsn| *lsn < candidate.lsn && world.resources[lsn] == resource;
                prop_assert!(item.drained.dead || !live.iter().any(is_ahead));
            }
        }
    }
}
