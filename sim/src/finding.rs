//! Work finding by itself: nothing goes wrong here, and the question is how soon a worker on one
//! core gets what waits on another. Times are virtual: a turn takes up to 0.2 ms, a ring up to
//! 0.3 ms, a sync up to 2.5 ms until its core hears of it, a timer is up to 1.5 ms late.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use omnirelay::node::{
    CallContext, CallId, Core, Durability, Layout, LogId, Namespace, NamespaceId, Outcome,
    Watermarks,
};
use omnirelay_net::messages::{
    CompleteRequest, EnqueueRequest, LeaseRequest, LeaseResponse, Payload,
};
use omnirelay_net::rpc::{Call, Reply};
use omnirelay_queue::{Nanos, Options, Secret, ShardId, shard_index_of_resource};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::disk::SimDisk;
use crate::hits::Hits;
use crate::node::{Boot, Node, Tempo};
use crate::schedule::Schedule;
use crate::tape::SharedTape;
use crate::violation::{Violation, broken};
use crate::world::{Event, MILLI};

/// At light load an item is with a worker this long after it was acknowledged, at the latest,
/// while a worker waits on any core.
pub const FOUND_NS_MAX: u64 = 10 * MILLI;
/// Of the takes of a core's workers, at most so many for each log of other cores go by an item
/// that is the best of its log and has at least the priority of what they get.
pub const PASSED_PER_LOG_MAX: usize = 8;

const RESOURCE_TYPE: &str = "job";
const LIFE: u32 = 1;
/// Items of a run at light load, and the longest pause between two.
const LIGHT_ITEMS: usize = 200;
const LIGHT_PAUSE_NS: u64 = 8 * MILLI;
/// Local items that wait all the time while one elsewhere has to be found.
const BACKLOG: usize = 150;
/// What one gains in priority by waiting, in a run in which that decides.
const AGING: Duration = Duration::from_millis(100);
/// By how much the backlog's priority is higher there.
const PRIORITY_GAP: u32 = 4;

/// A node that is open, and its callers.
struct Stage {
    node: Node,
    layout: Arc<Layout>,
    schedule: Schedule<Event>,
    rng: SmallRng,
    made: usize,
}

/// Something that a caller may have to act on.
enum Next {
    /// A caller's pause is over.
    Pause(usize),
    /// Replies have left.
    Replies(Vec<(usize, CallId, Outcome)>),
}

impl Stage {
    fn open(seed: u64, priority_aging: Duration) -> Result<Stage, Violation> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let cores = rng.random_range(2..=4);
        let logs = rng.random_range(2..=6);
        let namespace = Namespace {
            name: "resourcelease".into(),
            first_shard: ShardId(0),
            shards: u32::from(logs) * rng.random_range(1..=3),
            durability: Durability::Disk,
            options: Options {
                priority_aging,
                ..Options::default()
            },
            watermarks: Watermarks::of(u64::MAX),
            origin: [1; 16],
            secret: Secret(rng.random()),
            skips: false,
        };
        let layout = Arc::new(Layout::new(vec![namespace], logs, cores));
        let disks: Vec<SimDisk> = (0..logs).map(|_| SimDisk::new(rng.random())).collect();
        let tapes: Vec<SharedTape> = (0..logs).map(|_| SharedTape::default()).collect();
        let mut schedule = Schedule::new();
        let boot = Boot {
            life: LIFE,
            layout: Arc::clone(&layout),
            disks: &disks,
            tapes: &tapes,
            history_bytes: 1 << 20,
            wall: Nanos(1_700_000_000_000_000_000),
            drift_ppm: 0,
            stutter_ns: 0,
            tempo: Tempo {
                turn: MILLI / 5,
                ring: 3 * MILLI / 10,
                sync: 2 * MILLI,
                timer: 3 * MILLI / 2,
                ring_slots: 4_096,
            },
        };
        let node = Node::boot(boot, &mut schedule, &mut rng, &mut |_| ())
            .map_err(|error| Violation::new("an empty log opens", error.to_string()))?;
        let mut stage = Stage {
            node,
            layout,
            schedule,
            rng,
            made: 0,
        };
        while !stage.node.is_synced() {
            stage.next()?;
        }
        Ok(stage)
    }

    fn next(&mut self) -> Result<Next, Violation> {
        let nothing = || Violation::new("all work is found", "nothing is planned any more".into());
        match self.schedule.pop().ok_or_else(nothing)? {
            Event::Node(_, step) => {
                let mut hits = Hits::default();
                let (schedule, rng) = (&mut self.schedule, &mut self.rng);
                Ok(Next::Replies(
                    self.node.step(step, schedule, rng, &mut hits),
                ))
            }
            Event::Client(caller) => Ok(Next::Pause(caller)),
            other => unreachable!("nobody plans {other:?}"),
        }
    }

    fn pause(&mut self, caller: usize, longest: u64) {
        let pause = self.rng.random_range(0..=longest);
        self.schedule.after(pause, Event::Client(caller));
    }

    fn call(&mut self, core: usize, call: Call) -> CallId {
        let now = self.node.now(&self.schedule);
        let context = CallContext {
            namespace: NamespaceId(0),
            owner: "finder".into(),
            shard_key: None,
            reply_by: Nanos(now.0 + 30_000 * MILLI),
        };
        let id = self.node.core(core).handle_call(now, call.into(), &context);
        self.node.dirty(core, &mut self.schedule, &mut self.rng);
        id
    }

    fn lease(&mut self, core: usize) -> CallId {
        self.call(core, Call::Lease(LeaseRequest::default()))
    }

    fn complete(&mut self, core: usize, lease: &LeaseResponse) -> CallId {
        let request = CompleteRequest {
            ownership_token: lease.ownership_token.clone(),
            ..Default::default()
        };
        self.call(core, Call::Complete(request))
    }

    /// Enqueues an item whose log satisfies `lies`, under the name that it gives.
    fn enqueue(
        &mut self,
        core: usize,
        priority: u32,
        lies: impl Fn(u16) -> bool,
    ) -> (CallId, String) {
        let namespace = self.layout.namespace(NamespaceId(0));
        let name = loop {
            self.made += 1;
            let name = format!("r{}", self.made);
            let index = shard_index_of_resource(RESOURCE_TYPE, &name, namespace.shards);
            if lies(self.layout.log_of(ShardId(index)).0) {
                break name;
            }
        };
        let request = EnqueueRequest {
            payload: Some(Payload {
                resource_type: RESOURCE_TYPE.into(),
                resource_id: name.clone(),
                payload_encoding: "raw".into(),
                ..Default::default()
            }),
            priority: Some(priority),
            ..Default::default()
        };
        (self.call(core, Call::Enqueue(request)), name)
    }

    fn random_core(&mut self) -> usize {
        self.rng.random_range(0..self.node.cores())
    }
}

fn leased(outcome: Outcome) -> Result<LeaseResponse, Violation> {
    match outcome.reply.map(|answer| answer.to_reply()) {
        Ok(Reply::Lease(lease)) => Ok(lease),
        other => Err(Violation::new("a lease is granted", format!("{other:?}"))),
    }
}

fn name_of(lease: &LeaseResponse) -> String {
    let payload = lease.payload.as_ref();
    payload.map_or_else(String::new, |payload| payload.resource_id.clone())
}

/// What an open call is about.
enum Open {
    Enqueue(String),
    Lease(usize),
    Complete(usize),
}

/// Callers on random cores enqueue now and then; workers on random cores wait. Gives how long each
/// item was acknowledged and not yet handed out while there were workers for all that waited, in
/// ns, in the order of the grants.
///
/// # Errors
/// If that took longer than [`FOUND_NS_MAX`] for one, or one was never found.
pub fn run_light(seed: u64) -> Result<Vec<u64>, Violation> {
    let mut stage = Stage::open(seed, Duration::from_secs(30))?;
    let workers: Vec<usize> = (0..stage.rng.random_range(3..=8))
        .map(|_| stage.random_core())
        .collect();
    let producers: Vec<usize> = (0..2).map(|_| stage.random_core()).collect();
    let mut open = BTreeMap::new();
    for (worker, &core) in workers.iter().enumerate() {
        open.insert((core, stage.lease(core)), Open::Lease(worker));
    }
    for producer in 0..producers.len() {
        stage.pause(producer, LIGHT_PAUSE_NS);
    }
    let (mut left, mut leases_open) = (LIGHT_ITEMS, workers.len());
    // Acknowledged and not handed out, since when; and handed out before it was acknowledged.
    let mut waiting: BTreeMap<String, u64> = BTreeMap::new();
    let mut early = Vec::new();
    let mut enough_since = Some(stage.schedule.now());
    let mut waits = Vec::with_capacity(LIGHT_ITEMS);
    while waits.len() < LIGHT_ITEMS {
        let next = stage.next()?;
        let now = stage.schedule.now();
        let replies = match next {
            Next::Pause(_) if left == 0 => Vec::new(),
            Next::Pause(producer) => {
                left -= 1;
                let core = producers[producer];
                let (call, name) = stage.enqueue(core, 0, |_| true);
                open.insert((core, call), Open::Enqueue(name));
                Vec::new()
            }
            Next::Replies(replies) => replies,
        };
        for (core, id, outcome) in replies {
            match open.remove(&(core, id)).expect("a call that was made") {
                Open::Enqueue(name) => {
                    match early.iter().position(|known| *known == name) {
                        Some(at) => drop(early.swap_remove(at)),
                        None => drop(waiting.insert(name, now)),
                    }
                    let producer = producers.iter().position(|&at| at == core);
                    stage.pause(producer.expect("it enqueued"), LIGHT_PAUSE_NS);
                }
                Open::Lease(worker) => {
                    leases_open -= 1;
                    let lease = leased(outcome)?;
                    let name = name_of(&lease);
                    match waiting.remove(&name) {
                        Some(since) => waits.push(enough_since.map_or(0, |e| now - since.max(e))),
                        None => {
                            early.push(name);
                            waits.push(0);
                        }
                    }
                    let id = stage.complete(core, &lease);
                    open.insert((core, id), Open::Complete(worker));
                }
                Open::Complete(worker) => {
                    leases_open += 1;
                    let id = stage.lease(core);
                    open.insert((core, id), Open::Lease(worker));
                }
            }
            enough_since = match leases_open >= waiting.len() {
                true => enough_since.or(Some(now)),
                false => None,
            };
        }
        let late = waiting.iter().find(|(_, since)| {
            enough_since.is_some_and(|enough| enough.max(**since) + FOUND_NS_MAX < now)
        });
        broken(
            late.is_some(),
            "an item is found while a worker waits",
            || {
                format!(
                    "{late:?} waits at {now}, workers on cores {workers:?}, enough since {enough_since:?}"
                )
            },
        )?;
    }
    Ok(waits)
}

/// Workers of one core, whose logs always have a backlog; the first item in some logs elsewhere,
/// others behind it. Gives how many takes went by before each log's first item was handed out.
///
/// # Errors
/// If they were more than [`PASSED_PER_LOG_MAX`] for each log elsewhere.
pub fn run_backlog(seed: u64) -> Result<Vec<usize>, Violation> {
    let mut stage = Stage::open(seed, Duration::from_secs(30))?;
    let home = stage.rng.random_range(0..stage.layout.logs()) % stage.layout.cores();
    let layout = Arc::clone(&stage.layout);
    let is_local = move |log| layout.core_of(LogId(log)).0 == home;
    let here = usize::from(home);
    for _ in 0..BACKLOG {
        stage.enqueue(here, 0, &is_local);
    }
    let elsewhere: Vec<u16> = (0..stage.layout.logs())
        .filter(|&log| !is_local(log))
        .collect();
    let mut sought = Vec::new();
    for &log in &elsewhere {
        let (_, first) = stage.enqueue(here, 0, |at| at == log);
        sought.push(first);
        for _ in 0..stage.rng.random_range(0..20) {
            stage.enqueue(here, 0, |at| at == log);
        }
    }
    settle(&mut stage)?;
    let workers = stage.rng.random_range(1..=3);
    let most = PASSED_PER_LOG_MAX * elsewhere.len() + workers;
    let mut grants = 0;
    let mut passed = Vec::new();
    work(&mut stage, here, workers, |stage, lease| {
        if sought.contains(&name_of(lease)) {
            passed.push(grants);
        }
        grants += 1;
        broken(
            grants > most && passed.len() < sought.len(),
            "no local backlog hides what waits elsewhere",
            || {
                format!(
                    "{} of {} logs elsewhere were gone to in {grants} takes on core {home}",
                    passed.len(),
                    sought.len()
                )
            },
        )?;
        stage.enqueue(here, 0, &is_local);
        Ok(passed.len() < sought.len())
    })?;
    Ok(passed)
}

/// Workers of one core with a backlog of higher priority, and one item of lower priority on another
/// core, of which nothing is heard after it came. Gives how long it waited, in ns.
///
/// # Errors
/// If it waited for longer than its priority takes to grow beyond the others'.
pub fn run_aging(seed: u64) -> Result<u64, Violation> {
    let mut stage = Stage::open(seed, AGING)?;
    let home = stage.rng.random_range(0..stage.layout.logs()) % stage.layout.cores();
    let layout = Arc::clone(&stage.layout);
    let is_local = move |log| layout.core_of(LogId(log)).0 == home;
    let here = usize::from(home);
    for _ in 0..4 {
        stage.enqueue(here, PRIORITY_GAP, &is_local);
    }
    let (_, low) = stage.enqueue(here, 0, |log| !is_local(log));
    settle(&mut stage)?;
    let began = stage.schedule.now();
    let bound = AGING * (PRIORITY_GAP + 2);
    let bound = u64::try_from(bound.as_nanos()).expect("less than a second");
    let mut took = 0;
    work(&mut stage, here, 1, |stage, lease| {
        took = stage.schedule.now() - began;
        let is_found = name_of(lease) == low;
        broken(
            !is_found && took > bound,
            "waiting raises priority, as seen from other cores too",
            || format!("{low} waits for {took} ns behind what core {home} has"),
        )?;
        stage.enqueue(here, PRIORITY_GAP, &is_local);
        Ok(!is_found)
    })?;
    Ok(took)
}

/// Goes on until everything is on disk and every core knows what it can know.
fn settle(stage: &mut Stage) -> Result<(), Violation> {
    while !(stage.node.is_synced()
        && stage.node.rings_are_empty()
        && stage.node.all_cores().all(Core::is_idle))
    {
        stage.next()?;
    }
    Ok(())
}

/// Workers of one core take and complete items until `granted`, which is told of each, says that
/// it was enough.
fn work(
    stage: &mut Stage,
    core: usize,
    workers: usize,
    mut granted: impl FnMut(&mut Stage, &LeaseResponse) -> Result<bool, Violation>,
) -> Result<(), Violation> {
    let mut open = BTreeMap::new();
    for worker in 0..workers {
        open.insert(stage.lease(core), Open::Lease(worker));
    }
    loop {
        let Next::Replies(replies) = stage.next()? else {
            continue;
        };
        for (_, id, outcome) in replies {
            let next = match open.remove(&id) {
                Some(Open::Lease(worker)) => {
                    let lease = leased(outcome)?;
                    if !granted(stage, &lease)? {
                        return Ok(());
                    }
                    (stage.complete(core, &lease), Open::Complete(worker))
                }
                Some(Open::Complete(worker)) => (stage.lease(core), Open::Lease(worker)),
                Some(Open::Enqueue(_)) | None => continue,
            };
            open.insert(next.0, next.1);
        }
    }
}
