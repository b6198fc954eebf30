//! Callers: producers that retry under the same request id, workers that do all that workers do,
//! the careless ones too.

use omnirelay_net::messages::{
    CancelRequest, CompleteRequest, DeadLettersRequest, DrainRequest, EnqueueBatchRequest,
    EnqueueRequest, ExplainRequest, FailRequest, HeartbeatRequest, LeaseBatchRequest, LeaseRequest,
    OwnershipToken, Payload, PeekRequest, PendingItem, RedriveRequest, RestoreRequest, SettleItem,
    SettleRequest, StatsRequest,
};
use omnirelay_net::rpc::Call;
use omnirelay_queue::Ordering;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::history::JOB_ATTRIBUTE;
use crate::plan::Plan;

/// Tokens that a worker remembers after their time, to try them again.
const STALE_MAX: usize = 16;

/// Partition keys of jobs.
const KEYS: [Option<&str>; 6] = [
    None,
    Some("light"),
    Some("heavy"),
    Some("heavy"),
    Some("heavy"),
    Some("plain"),
];

/// A piece of work to enqueue.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its name, which no other job of the run has.
    pub name: String,
    resource: String,
    key: Option<String>,
    /// What it is retried under.
    pub request_id: Option<String>,
    delay_ms: Option<u64>,
    /// Its priority.
    pub priority: u32,
    max_attempts: Option<u32>,
    ttl_ms: Option<u64>,
    body_bytes: usize,
}

/// A lease that a worker holds, or once held.
#[derive(Debug, Clone)]
pub struct Held {
    /// The namespace's place in the plan.
    pub space: usize,
    /// The token.
    pub token: OwnershipToken,
    /// The duration that it was given, in ms.
    pub lease_ms: u64,
}

/// What to do with a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Say that the work is done.
    Complete,
    /// Give up.
    Fail {
        /// Whether it should be tried again.
        requeue: bool,
        /// After how long.
        delay_ms: Option<u64>,
    },
    /// Renew.
    Heartbeat(Option<u64>),
}

/// A call as its caller means it.
#[derive(Debug, Clone)]
pub enum Intent {
    /// Enqueue jobs, in a batch or alone.
    Enqueue {
        /// The namespace's place in the plan.
        space: usize,
        /// One, unless it is a batch.
        jobs: Vec<Job>,
        /// Whether to send a batch.
        batch: bool,
        /// Whether it was sent before.
        again: bool,
    },
    /// Take leases.
    Lease {
        /// The namespace's place in the plan.
        space: usize,
        /// Only of this partition key.
        key: Option<String>,
        /// How many at most.
        max: u32,
        /// Whether to send a batch.
        batch: bool,
        /// How long to wait.
        wait_ms: Option<u64>,
        /// How long to lease for.
        lease_ms: Option<u64>,
    },
    /// Renew or end leases of one namespace.
    Settle {
        /// One, unless it is a batch.
        acts: Vec<(Held, Act)>,
        /// Whether to send a batch.
        batch: bool,
    },
    /// Ask for counts.
    Stats {
        /// The namespace's place in the plan.
        space: usize,
    },
    /// Take items out, to take them in elsewhere.
    Drain {
        /// The namespace's place in the plan.
        space: usize,
        /// The namespace they are to come into.
        into: usize,
        /// How many at most.
        max: u32,
        /// Only from this shard.
        shard: Option<u32>,
        /// Makes it repeatable.
        request_id: Option<String>,
    },
    /// Take items in.
    Restore {
        /// The namespace's place in the plan.
        space: usize,
        /// What was taken out.
        items: Vec<PendingItem>,
        /// Whether all of it was taken in before.
        again: bool,
    },
    /// Look at items.
    List {
        /// The namespace's place in the plan.
        space: usize,
        /// Dead letters instead of waiting items.
        dead: bool,
        /// How many at most.
        max: u32,
        /// Where the page before ended.
        cursor: Option<String>,
    },
    /// Take items away.
    Cancel {
        /// The namespace's place in the plan.
        space: usize,
        /// Their numbers.
        ids: Vec<u64>,
    },
    /// Revive dead letters.
    Redrive {
        /// The namespace's place in the plan.
        space: usize,
        /// Their numbers.
        ids: Vec<u64>,
    },
    /// Ask why an item is not worked on.
    Explain {
        /// The namespace's place in the plan.
        space: usize,
        /// Its number.
        id: u64,
    },
}

impl Intent {
    /// The namespace it goes to.
    pub fn space(&self) -> usize {
        match self {
            Intent::Enqueue { space, .. }
            | Intent::Lease { space, .. }
            | Intent::Drain { space, .. }
            | Intent::Restore { space, .. }
            | Intent::List { space, .. }
            | Intent::Cancel { space, .. }
            | Intent::Redrive { space, .. }
            | Intent::Explain { space, .. }
            | Intent::Stats { space } => *space,
            Intent::Settle { acts, .. } => acts[0].0.space,
        }
    }

    /// The request as it goes over the wire.
    pub fn call(&self) -> Call {
        match self {
            Intent::Enqueue {
                jobs, batch: false, ..
            } => Call::Enqueue(jobs[0].request()),
            Intent::Enqueue { jobs, .. } => Call::EnqueueBatch(EnqueueBatchRequest {
                items: jobs.iter().map(Job::request).collect(),
                ..Default::default()
            }),
            Intent::Lease {
                max,
                batch: true,
                wait_ms,
                lease_ms,
                key,
                ..
            } => Call::LeaseBatch(LeaseBatchRequest {
                max_items: *max,
                wait_ms: *wait_ms,
                lease_ms: *lease_ms,
                partition_key: key.clone(),
                ..Default::default()
            }),
            Intent::Lease {
                wait_ms,
                lease_ms,
                key,
                ..
            } => Call::Lease(LeaseRequest {
                wait_ms: *wait_ms,
                lease_ms: *lease_ms,
                partition_key: key.clone(),
                ..Default::default()
            }),
            Intent::Settle { acts, batch: true } => {
                let items = acts.iter().map(|(held, act)| act.item(held)).collect();
                Call::Settle(SettleRequest {
                    items,
                    ..Default::default()
                })
            }
            Intent::Settle { acts, .. } => acts[0].1.call(&acts[0].0),
            Intent::Stats { .. } => Call::Stats(StatsRequest::default()),
            Intent::Drain {
                max,
                shard,
                request_id,
                ..
            } => Call::Drain(DrainRequest {
                max_items: Some(*max),
                shard: *shard,
                request_id: request_id.clone(),
                ..Default::default()
            }),
            Intent::Restore { items, .. } => Call::Restore(RestoreRequest {
                items: items.clone(),
                ..Default::default()
            }),
            Intent::List {
                dead: true,
                max,
                cursor,
                ..
            } => Call::DeadLetters(DeadLettersRequest {
                max_items: Some(*max),
                cursor: cursor.clone(),
                ..Default::default()
            }),
            Intent::List { max, cursor, .. } => Call::Peek(PeekRequest {
                max_items: Some(*max),
                cursor: cursor.clone(),
                ..Default::default()
            }),
            Intent::Cancel { ids, .. } => Call::Cancel(CancelRequest {
                sequence_ids: ids.clone(),
                ..Default::default()
            }),
            Intent::Redrive { ids, .. } => Call::Redrive(RedriveRequest {
                sequence_ids: ids.clone(),
                ..Default::default()
            }),
            Intent::Explain { id, .. } => Call::Explain(ExplainRequest {
                sequence_id: *id,
                ..Default::default()
            }),
        }
    }
}

impl Job {
    fn request(&self) -> EnqueueRequest {
        EnqueueRequest {
            payload: Some(Payload {
                resource_type: "job".into(),
                resource_id: self.resource.clone(),
                partition_key: self.key.clone(),
                payload_encoding: "raw".into(),
                body: self.body().into(),
                attributes: [(JOB_ATTRIBUTE.to_owned(), self.name.clone())].into(),
                request_id: self.request_id.clone(),
            }),
            delay_ms: self.delay_ms,
            priority: Some(self.priority),
            max_attempts: self.max_attempts,
            ttl_ms: self.ttl_ms,
            ..Default::default()
        }
    }

    fn body(&self) -> Vec<u8> {
        body(&self.name, self.body_bytes)
    }
}

/// The job that a payload is of.
pub fn job_of(payload: &Payload) -> String {
    payload
        .attributes
        .get(JOB_ATTRIBUTE)
        .cloned()
        .unwrap_or_default()
}

/// Whether a payload's body is what its job was enqueued with.
pub fn is_whole(payload: &Payload) -> bool {
    payload.body == body(&job_of(payload), payload.body.len())
}

/// The body of a job: told by its name and length.
fn body(name: &str, bytes: usize) -> Vec<u8> {
    let mut body = name.repeat(bytes / name.len().max(1) + 1).into_bytes();
    body.truncate(bytes);
    body
}

impl Act {
    fn call(self, held: &Held) -> Call {
        let ownership_token = Some(held.token.clone());
        match self {
            Act::Complete => Call::Complete(CompleteRequest {
                ownership_token,
                ..Default::default()
            }),
            Act::Fail { requeue, delay_ms } => Call::Fail(FailRequest {
                ownership_token,
                reason: Some(held.token.lease_id.clone()),
                requeue: Some(requeue),
                delay_ms,
                ..Default::default()
            }),
            Act::Heartbeat(extend_ms) => Call::Heartbeat(HeartbeatRequest {
                ownership_token,
                extend_ms,
                ..Default::default()
            }),
        }
    }

    fn item(self, held: &Held) -> SettleItem {
        let item = SettleItem {
            ownership_token: Some(held.token.clone()),
            ..Default::default()
        };
        match self {
            Act::Complete => SettleItem {
                action: "complete".into(),
                ..item
            },
            Act::Fail { requeue, delay_ms } => SettleItem {
                action: "fail".into(),
                reason: Some(held.token.lease_id.clone()),
                requeue: Some(requeue),
                delay_ms,
                ..item
            },
            Act::Heartbeat(extend_ms) => SettleItem {
                action: "heartbeat".into(),
                extend_ms,
                ..item
            },
        }
    }
}

/// What a caller does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Enqueues.
    Producer,
    /// Leases.
    Worker,
    /// Takes items out and in, looks at them, takes them away, revives them.
    Operator,
}

/// A caller with one call at a time.
#[derive(Debug)]
pub struct Client {
    /// Its name, which owns its leases.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Has a call open.
    pub is_busy: bool,
    /// What to send again.
    pub retry: Option<Intent>,
    /// Leases it works on.
    pub held: Vec<Held>,
    /// What it may do next.
    pub ideas: Vec<Intent>,
    stale: Vec<Held>,
    made: u64,
}

/// Ideas that an operator keeps.
const IDEAS_MAX: usize = 16;

impl Client {
    /// A caller that has not called yet.
    pub fn new(name: String, role: Role) -> Client {
        Client {
            name,
            role,
            is_busy: false,
            retry: None,
            held: Vec::new(),
            ideas: Vec::new(),
            stale: Vec::new(),
            made: 0,
        }
    }

    /// What it does next; `closing`: nothing new, only what ends work.
    pub fn next(&mut self, plan: &Plan, closing: bool, rng: &mut SmallRng) -> Option<Intent> {
        if let Some(again) = self.retry.take() {
            return Some(again);
        }
        match (self.role, closing) {
            (Role::Producer | Role::Operator, true) => None,
            (Role::Producer, false) => Some(self.produce(plan, rng)),
            (Role::Operator, false) => Some(self.operate(plan, rng)),
            (Role::Worker, _) => Some(self.work(plan, closing, rng)),
        }
    }

    /// Notes what could be done next.
    pub fn consider(&mut self, idea: Intent) {
        if self.ideas.len() < IDEAS_MAX {
            self.ideas.push(idea);
        }
    }

    fn operate(&mut self, plan: &Plan, rng: &mut SmallRng) -> Intent {
        if !self.ideas.is_empty() && rng.random_bool(0.7) {
            let at = rng.random_range(0..self.ideas.len());
            return self.ideas.swap_remove(at);
        }
        let space = plan.random_space(rng);
        if rng.random_bool(0.5) {
            self.made += 1;
            let namespace = plan.namespace(space);
            return Intent::Drain {
                space,
                into: plan.random_space(rng),
                max: rng.random_range(1..=12),
                shard: rng
                    .random_bool(0.3)
                    .then(|| namespace.first_shard.0 + rng.random_range(0..namespace.shards)),
                request_id: rng
                    .random_bool(0.7)
                    .then(|| format!("{}-{}", self.name, self.made)),
            };
        }
        Intent::List {
            space,
            dead: rng.random_bool(0.5),
            max: rng.random_range(1..=6),
            cursor: None,
        }
    }

    fn produce(&mut self, plan: &Plan, rng: &mut SmallRng) -> Intent {
        let space = plan.random_space(rng);
        let batch = rng.random_bool(0.3);
        let count = if batch { rng.random_range(1..=6) } else { 1 };
        let ordered = plan.namespace(space).options.ordering == Ordering::PerResource;
        let jobs = (0..count).map(|_| self.job(plan, rng, ordered)).collect();
        Intent::Enqueue {
            space,
            jobs,
            batch,
            again: false,
        }
    }

    fn job(&mut self, plan: &Plan, rng: &mut SmallRng, ordered: bool) -> Job {
        self.made += 1;
        let name = format!("{}-{}", self.name, self.made);
        if plan.ordered {
            let priority = rng.random_range(0..4);
            let name = format!("{priority}-{name}");
            return Job {
                resource: name.clone(),
                name,
                key: None,
                request_id: None,
                delay_ms: None,
                priority,
                max_attempts: None,
                ttl_ms: None,
                body_bytes: 10,
            };
        }
        Job {
            request_id: rng.random_bool(0.7).then(|| format!("once-{name}")),
            resource: if ordered {
                format!("resource{}", rng.random_range(0..plan.resources))
            } else {
                name.clone()
            },
            key: KEYS[rng.random_range(0..KEYS.len())].map(str::to_owned),
            delay_ms: rng.random_bool(0.2).then(|| rng.random_range(0..400)),
            priority: if rng.random_bool(0.3) {
                rng.random_range(0..=255)
            } else {
                0
            },
            max_attempts: rng.random_bool(0.2).then(|| rng.random_range(1..=3)),
            ttl_ms: rng.random_bool(0.05).then(|| rng.random_range(1..1_000)),
            body_bytes: rng.random_range(0..=plan.body_bytes_max),
            name,
        }
    }

    fn work(&mut self, plan: &Plan, closing: bool, rng: &mut SmallRng) -> Intent {
        if !closing && !self.stale.is_empty() && rng.random_bool(0.1) {
            let at = rng.random_range(0..self.stale.len());
            let held = self.stale.swap_remove(at);
            return Intent::Settle {
                acts: vec![(held.clone(), act(&held, rng))],
                batch: false,
            };
        }
        if rng.random_bool(0.02) {
            return Intent::Stats {
                space: plan.random_space(rng),
            };
        }
        if !self.held.is_empty() && (closing || rng.random_bool(0.7)) {
            return self.settle(closing, rng);
        }
        if !closing && rng.random_bool(0.05) {
            // Walks away from its leases, and may come back to them when they are over.
            self.stale.append(&mut self.held);
            self.stale.truncate(STALE_MAX);
        }
        // A batch comes from one log.
        let batch = rng.random_bool(0.3) && !(plan.ordered && plan.logs > 1);
        let wait_ms = if closing {
            Some(rng.random_range(50..300))
        } else {
            [None, Some(0), Some(rng.random_range(1..1_000))][rng.random_range(0..3)]
        };
        let is_keyed = plan.keyed && !closing && rng.random_bool(0.2);
        Intent::Lease {
            space: plan.random_space(rng),
            key: is_keyed.then(|| {
                KEYS[rng.random_range(1..KEYS.len())]
                    .unwrap_or("")
                    .to_owned()
            }),
            max: if batch { rng.random_range(1..=5) } else { 1 },
            batch,
            wait_ms,
            lease_ms: rng.random_bool(0.3).then(|| rng.random_range(1_000..3_000)),
        }
    }

    fn settle(&mut self, closing: bool, rng: &mut SmallRng) -> Intent {
        let first = self.held.swap_remove(rng.random_range(0..self.held.len()));
        let batch = rng.random_bool(0.3);
        let mut taken = vec![first];
        if batch {
            let space = taken[0].space;
            taken.extend(self.held.extract_if(.., |held| held.space == space));
        }
        let act = |held: Held, rng: &mut SmallRng| {
            if closing {
                (held, Act::Complete)
            } else {
                let a = act(&held, rng);
                (held, a)
            }
        };
        Intent::Settle {
            acts: taken.into_iter().map(|held| act(held, rng)).collect(),
            batch,
        }
    }

    /// Notes a lease that is over, to try its token later all the same.
    pub fn remember(&mut self, held: Held) {
        if self.stale.len() < STALE_MAX {
            self.stale.push(held);
        }
    }
}

fn act(held: &Held, rng: &mut SmallRng) -> Act {
    match rng.random_range(0..10) {
        0..=5 => Act::Complete,
        6 | 7 => Act::Fail {
            requeue: rng.random_bool(0.8),
            delay_ms: rng.random_bool(0.5).then(|| rng.random_range(0..300)),
        },
        8 => Act::Heartbeat(None),
        // Never less than it has, so that a renewal never makes a lease shorter.
        _ => Act::Heartbeat(Some(held.lease_ms + rng.random_range(0..2_000))),
    }
}
