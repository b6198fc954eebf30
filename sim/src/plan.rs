//! What a seed decides before a run begins.

use std::sync::Arc;
use std::time::Duration;

use omnirelay::node::{Durability, Layout, Namespace, Watermarks};
use omnirelay_queue::{Options, Secret, ShardId};
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
    /// How the wall clock is set before this life, in nanoseconds.
    pub wall_jump: i64,
    /// How the monotonic clock drifts.
    pub drift_ppm: i64,
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
        let heavy = rng.random_bool(0.15);
        let fills = heavy && rng.random_bool(0.7);
        let lives = rng.random_range(1..=4);
        let mut lives: Vec<Life> = (0..lives).map(|_| Life::random(fills, rng)).collect();
        lives.push(Life::last(rng));
        Plan {
            namespaces: namespaces(rng),
            logs: rng.random_range(1..=3),
            lives,
            producers: rng.random_range(1..=3),
            workers: rng.random_range(1..=4),
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
        plan.namespaces[0].options.capacity = 10_000;
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
        (plan.logs, plan.producers, plan.workers) = (logs, 1, 1);
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
        let full_from = rng.random_range(0..length);
        let jump = rng.random_range(0..3_600_000) as i64 * MILLI as i64;
        Life {
            cores: rng.random_range(1..=4),
            tempo: Tempo::random(rng),
            length,
            ending,
            failed_disk: rng.random_bool(0.1).then(|| rng.random_range(0..80)),
            full: fills.then(|| (full_from, rng.random_range(full_from..length * 2))),
            cold: rng.random_bool(0.3),
            wall_jump: [0, jump, -jump, jump / 3_600][rng.random_range(0..4)],
            drift_ppm: rng.random_range(-300..=300),
        }
    }

    fn last(rng: &mut SmallRng) -> Life {
        let calm = Life {
            failed_disk: None,
            full: None,
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
    if rng.random_bool(0.5) {
        let more = rng.random_range(1..=3);
        all.push(namespace(
            "resourcelease.cache",
            shards,
            more,
            Durability::Memory,
            rng,
        ));
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
    let options = Options {
        lease_duration: Duration::from_millis(rng.random_range(1_000..2_500)),
        requeue_delay: Duration::from_millis([0, 50, 300][rng.random_range(0..3)]),
        requeue_delay_max: Duration::from_secs(1),
        max_attempts: rng.random_range(2..=5),
        dedupe_window: Duration::from_millis([600, 600_000, 600_000][rng.random_range(0..3)]),
        capacity: [8, 1_000, 1_000][rng.random_range(0..3)],
        priority_aging: Duration::from_millis([0, 100, 30_000][rng.random_range(0..3)]),
        ..Options::default()
    };
    Namespace {
        watermarks: Watermarks::of(u64::MAX),
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
