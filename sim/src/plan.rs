//! What a seed decides before a run begins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use omnirelay::node::{Durability, Layout, Namespace, Watermarks};
use omnirelay_queue::{Fairness, Options, Ordering, Secret, ShardId};
use rand::Rng;
use rand::rngs::SmallRng;

use crate::checker::Space;
use crate::node::Tempo;

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000_000;

/// How a life of the node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The power fails between two steps.
    Power,
    /// The power fails once so many replies have left.
    PowerAfterReply(u64),
    /// The power fails after so many disk operations of some log, counted from the open node.
    PowerInDisk(u64),
    /// The same, counted from before recovery.
    PowerInRecovery(u64),
    /// The process is killed.
    Kill,
    /// The node is shut down in order.
    Clean,
}

/// One life of the node.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// How many cores it has.
    pub cores: u16,
    /// How quick things are.
    pub tempo: Tempo,
    /// How long it lasts at most, in nanoseconds.
    pub length: u64,
    /// How it ends.
    pub ending: Ending,
    /// Fails a write or sync of a log after so many disk operations.
    pub failed_disk: Option<u64>,
    /// When disks fill up and when there is room again, from the life's beginning.
    pub full: Option<(u64, u64)>,
    /// Payloads may not be in memory.
    pub cold: bool,
    /// What each log keeps of what has ended.
    pub history_bytes: u64,
    /// How the wall clock is set before this life, in nanoseconds.
    pub wall_jump: i64,
    /// How the monotonic clock drifts.
    pub drift_ppm: i64,
    /// It stands still for the better part of such a time, then leaps; 0: it does not.
    pub stutter_ns: u64,
    /// Share of reads that fail once the node is open.
    pub read_errors: f64,
    /// Share of renames and removals that fail once the node is open.
    pub name_errors: f64,
    /// Share of reads, renames and removals that fail while the node opens.
    pub boot_errors: f64,
    /// From when on syncs lie, counted from the open node.
    pub lies_from: Option<u64>,
    /// When a bit flips, counted from the open node.
    pub rots_at: Option<u64>,
    /// Whether, once it is over, bits flip in copies of its logs.
    pub rots_after: bool,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    namespaces: Vec<Namespace>,
    /// How many logs the node has.
    pub logs: u16,
    /// The node's lives; the last one ends when all work is done.
    pub lives: Vec<Life>,
    /// Callers that enqueue.
    pub producers: usize,
    /// Callers that lease.
    pub workers: usize,
    /// Callers that take items out and in, look at them, cancel and redrive them.
    pub operators: usize,
    /// Workers that now and then take items of one partition key only.
    pub keyed: bool,
    /// Resources of a namespace that keeps them in order.
    pub resources: u32,
    /// The longest pause between two calls of a caller, in nanoseconds.
    pub pause: u64,
    /// Share of replies that are lost on the way.
    pub lost: f64,
    /// Share of replies that the node cannot deliver.
    pub undelivered: f64,
    /// Share of calls whose caller goes away.
    pub cancelled: f64,
    /// Share of calls with a deadline that is hard to meet.
    pub hurried: f64,
    /// The longest body.
    pub body_bytes_max: usize,
    /// One worker drains one core when all is enqueued: in strict order.
    pub ordered: bool,
}

impl Plan {
    /// Draws a run.
    pub fn random(rng: &mut SmallRng) -> Plan {
        let heavy = rng.random_bool(0.25);
        let fills = heavy && rng.random_bool(0.4);
        let lives = rng.random_range(1..=4);
        let mut lives: Vec<Life> = (0..lives).map(|_| Life::random(fills, rng)).collect();
        lives.push(Life::last(rng));
        Plan {
            namespaces: namespaces(rng),
            logs: rng.random_range(1..=3),
            lives,
            producers: rng.random_range(1..=3),
            workers: rng.random_range(1..=4),
            operators: [0, 1, 1, 2][rng.random_range(0..4)],
            keyed: rng.random_bool(0.5),
            resources: rng.random_range(1..=6),
            pause: rng.random_range(1..=30) * MILLI,
            lost: [0.0, 0.02, 0.1][rng.random_range(0..3)],
            undelivered: [0.0, 0.02, 0.1][rng.random_range(0..3)],
            cancelled: [0.0, 0.05][rng.random_range(0..2)],
            hurried: [0.0, 0.05][rng.random_range(0..2)],
            ordered: false,
            body_bytes_max: if heavy {
                120_000
            } else {
                rng.random_range(0..=2_000)
            },
        }
    }

    /// A short run with one namespace on a disk, and no trouble but what the caller adds.
    pub fn quiet(cores: u16, logs: u16, rng: &mut SmallRng) -> Plan {
        let mut plan = Plan::random(rng);
        plan.namespaces = vec![namespace("resourcelease", 0, 3, Durability::Disk, rng)];
        let options = &mut plan.namespaces[0].options;
        options.capacity = 10_000;
        (options.ordering, options.fairness) = (Ordering::None, Fairness::Fifo);
        options.weights.clear();
        plan.namespaces[0].watermarks = Watermarks::of(u64::MAX);
        let calm = Life {
            cores,
            ..Life::last(rng)
        };
        plan.lives = vec![
            Life {
                length: 40 * MILLI,
                ending: Ending::Kill,
                ..calm
            },
            Life {
                length: 20 * MILLI,
                ..calm
            },
        ];
        (plan.logs, plan.producers, plan.workers, plan.operators) = (logs, 1, 1, 0);
        (plan.lost, plan.undelivered, plan.cancelled, plan.hurried) = (0.0, 0.0, 0.0, 0.0);
        (plan.pause, plan.body_bytes_max) = (5 * MILLI, 200);
        plan
    }

    /// A run in which one worker drains what one core holds, and nothing ages.
    pub fn ordered(rng: &mut SmallRng) -> Plan {
        let mut plan = Plan::quiet(1, rng.random_range(1..=2), rng);
        plan.namespaces[0].options.priority_aging = Duration::ZERO;
        plan.lives.truncate(1);
        plan.producers = 3;
        plan.ordered = true;
        plan
    }

    /// The layout for a life with so many cores.
    pub fn layout(&self, cores: u16) -> Arc<Layout> {
        Arc::new(Layout::new(self.namespaces.clone(), self.logs, cores))
    }

    /// How many namespaces there are.
    pub fn space_count(&self) -> usize {
        self.namespaces.len()
    }

    /// Items of calls that may be under way at once.
    pub fn in_flight_max(&self) -> u64 {
        8 * (self.producers as u64) + 16 * (self.operators as u64)
    }

    /// A namespace's options.
    pub fn namespace(&self, space: usize) -> &Namespace {
        &self.namespaces[space]
    }

    /// A namespace to call; the first one most often.
    pub fn random_space(&self, rng: &mut SmallRng) -> usize {
        if rng.random_bool(0.6) {
            0
        } else {
            rng.random_range(0..self.namespaces.len())
        }
    }

    /// What the checker has to know.
    pub fn spaces(&self) -> Vec<Space> {
        let space = |n: &Namespace| Space {
            first_shard: n.first_shard.0,
            shards: n.shards,
            durable: n.durability == Durability::Disk,
            dedupe_ns: u64::try_from(n.options.dedupe_window.as_nanos()).expect("minutes"),
            restore_ns: u64::try_from(n.options.restore_window.as_nanos()).expect("minutes"),
            origin: n.origin,
            ordered: n.options.ordering == Ordering::PerResource,
            // A blocked item does not wait for its key's turn.
            weights: (n.options.fairness == Fairness::PartitionKey
                && n.options.ordering == Ordering::None
                && !self.keyed)
                .then(|| n.options.weights.clone()),
        };
        self.namespaces.iter().map(space).collect()
    }
}

impl Tempo {
    fn random(rng: &mut SmallRng) -> Tempo {
        Tempo {
            turn: [20 * MICRO, 200 * MICRO, MILLI][rng.random_range(0..3)],
            ring: [5 * MICRO, 300 * MICRO, 5 * MILLI][rng.random_range(0..3)],
            sync: [100 * MICRO, 2 * MILLI, 2 * MILLI, 60 * MILLI][rng.random_range(0..4)],
            timer: [10 * MICRO, 1_500 * MICRO][rng.random_range(0..2)],
            ring_slots: [2, 4_096, 4_096][rng.random_range(0..3)],
        }
    }

    /// Whether the log threads are slow.
    pub fn is_slow(&self) -> bool {
        self.sync > 10 * MILLI
    }
}

impl Life {
    fn random(fills: bool, rng: &mut SmallRng) -> Life {
        let length = rng.random_range(20..1_200) * MILLI;
        let ending = match rng.random_range(0..10) {
            0 | 1 => Ending::Power,
            2..=4 => Ending::PowerAfterReply(rng.random_range(1..60)),
            5 | 6 => Ending::PowerInDisk(rng.random_range(0..150)),
            7 => Ending::PowerInRecovery(rng.random_range(0..60)),
            8 => Ending::Kill,
            _ => Ending::Clean,
        };
        let is_power_lost = matches!(ending, Ending::Power | Ending::PowerAfterReply(_));
        let lies_from = (is_power_lost && rng.random_bool(0.15))
            .then(|| length - rng.random_range(0..length.min(60 * MILLI)));
        let full_from = rng.random_range(0..length);
        let jump = rng.random_range(0..3_600_000) as i64 * MILLI as i64;
        Life {
            cores: rng.random_range(1..=4),
            tempo: Tempo::random(rng),
            length,
            ending,
            failed_disk: (lies_from.is_none() && rng.random_bool(0.1))
                .then(|| rng.random_range(0..80)),
            full: fills.then(|| (full_from, rng.random_range(full_from..length * 2))),
            stutter_ns: [0, 0, 0, MILLI / 2, 2 * MILLI][rng.random_range(0..5)],
            read_errors: [0.0, 0.0, 0.0, 0.02][rng.random_range(0..4)],
            name_errors: [0.0, 0.0, 0.0, 0.3][rng.random_range(0..4)],
            boot_errors: [0.0, 0.0, 0.0, 0.0, 0.0, 0.02][rng.random_range(0..6)],
            rots_at: rng.random_bool(0.1).then(|| rng.random_range(0..length)),
            rots_after: rng.random_bool(0.1),
            lies_from,
            cold: rng.random_bool(0.3),
            history_bytes: [0, 0, 1 << 20, 8 << 20][rng.random_range(0..4)],
            wall_jump: [0, jump, -jump, jump / 3_600][rng.random_range(0..4)],
            drift_ppm: rng.random_range(-300..=300),
        }
    }

    fn last(rng: &mut SmallRng) -> Life {
        let calm = Life {
            failed_disk: None,
            full: None,
            read_errors: 0.0,
            name_errors: 0.0,
            boot_errors: 0.0,
            lies_from: None,
            rots_at: None,
            ..Life::random(false, rng)
        };
        Life {
            length: rng.random_range(50..500) * MILLI,
            ending: Ending::Kill,
            ..calm
        }
    }
}

fn namespaces(rng: &mut SmallRng) -> Vec<Namespace> {
    let shards = rng.random_range(1..=5);
    let mut all = vec![namespace("resourcelease", 0, shards, Durability::Disk, rng)];
    for (name, durability) in [
        ("resourcelease.cache", Durability::Memory),
        ("resourcelease.other", Durability::Disk),
    ] {
        if rng.random_bool(0.4) {
            let first = all.iter().map(|namespace| namespace.shards).sum();
            let shards = rng.random_range(1..=3);
            all.push(namespace(name, first, shards, durability, rng));
        }
    }
    all
}

fn namespace(
    name: &str,
    first: u32,
    shards: u32,
    durability: Durability,
    rng: &mut SmallRng,
) -> Namespace {
    let fair = rng.random_bool(0.3);
    let named = ["", "light", "heavy"];
    let mut weights = BTreeMap::new();
    for key in named {
        if fair && rng.random_bool(0.6) {
            weights.insert(key.to_owned(), rng.random_range(1..=4));
        }
    }
    let options = Options {
        lease_duration: Duration::from_millis(rng.random_range(1_000..2_500)),
        requeue_delay: Duration::from_millis([0, 50, 300][rng.random_range(0..3)]),
        requeue_delay_max: Duration::from_secs(1),
        max_attempts: rng.random_range(2..=5),
        dedupe_window: Duration::from_millis([600, 600_000, 600_000][rng.random_range(0..3)]),
        capacity: [8, 1_000, 1_000][rng.random_range(0..3)],
        priority_aging: Duration::from_millis([0, 100, 30_000][rng.random_range(0..3)]),
        ordering: if rng.random_bool(0.3) {
            Ordering::PerResource
        } else {
            Ordering::None
        },
        fairness: if fair {
            Fairness::PartitionKey
        } else {
            Fairness::Fifo
        },
        weights,
        ..Options::default()
    };
    let watermarks = if rng.random_bool(0.3) {
        let capacity = rng.random_range(6..60);
        Watermarks {
            cooldown: Duration::from_millis([0, 20, 200][rng.random_range(0..3)]),
            ..Watermarks::of(capacity)
        }
    } else {
        Watermarks::of(u64::MAX)
    };
    Namespace {
        watermarks,
        name: name.into(),
        first_shard: ShardId(first),
        shards,
        durability,
        options,
        origin: u128::from(first + 1).to_be_bytes(),
        secret: Secret(rng.random()),
        skips: durability == Durability::Memory,
    }
}
