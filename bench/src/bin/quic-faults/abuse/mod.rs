//! A healthy client beside an attacker.

mod attacker;
mod datagrams;
mod half_frames;
mod raw;
mod replay;
mod slow_readers;
mod versions;

use std::time::Duration;

use hdrhistogram::Histogram;
use omnirelay_client::{Failure, Item, Job, Namespace};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::args::Args;
use crate::network::connect;
use crate::node::{Metrics, Node};

use self::attacker::{Attacker, Target};
pub(crate) use self::raw::{Caller, Raw};

/// What is done to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attack {
    Initials,
    Garbage,
    Replay,
    SlowReaders,
    HalfFrames,
    Versions,
}

/// What an attack is expected to come to.
struct Expected {
    /// Shown, and what the attackers are held to.
    pace: &'static str,
    /// Where it is counted.
    metric: &'static str,
    labels: &'static [&'static str],
    /// Until it is counted, from its end on.
    counted_within: Duration,
    /// The most connections that the attacker may have at a time, half-open ones included.
    connections_max: f64,
    /// The most that the server may need.
    growth_max: u64,
}

/// The healthy client's calls.
const CALL_EVERY: Duration = Duration::from_millis(5);
const DEADLINE: Duration = Duration::from_secs(5);
/// Turns of being alone and beside the attacker.
const ROUNDS: u32 = 3;
/// Before anything is measured, and until a new client has to have connected.
const WARM_UP: Duration = Duration::from_secs(1);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Short, so that what an uncertain settlement leaves leased soon comes again.
const LEASE: Duration = Duration::from_secs(5);
/// Until everything is worked off once nothing more comes.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Until the server is at rest: longer than a handshake may take.
const REST_MAX: Duration = Duration::from_secs(30);
/// How much longer the slowest hundredth of calls may take beside the attacker.
const RATIO_MAX: f64 = 2.0;
const LATENCY_US_MAX: u64 = 60_000_000;

/// What came of one row.
#[derive(Debug, Serialize)]
pub(crate) struct Abuse {
    pub(crate) row: &'static str,
    pub(crate) pace: &'static str,
    pub(crate) sent: u64,
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) p99_alone_us: u64,
    pub(crate) p99_beside_us: u64,
    pub(crate) ratio: f64,
    pub(crate) new_client_us: u64,
    pub(crate) metric: &'static str,
    pub(crate) counted: f64,
    pub(crate) server_growth_bytes: u64,
    pub(crate) broken: Vec<String>,
}

impl Attack {
    fn expected(self) -> Expected {
        let usual = Expected {
            pace: "",
            metric: "omnirelay_quic_datagrams_stray_total",
            labels: &[],
            counted_within: Duration::from_secs(1),
            connections_max: 0.0,
            growth_max: 64 << 20,
        };
        match self {
            Attack::Initials => Expected {
                pace: "1,000 first packets a second, from 64 addresses",
                metric: "omnirelay_quic_retries_total",
                connections_max: 256.0,
                ..usual
            },
            Attack::Garbage => Expected {
                pace: "5,000 datagrams a second",
                ..usual
            },
            Attack::Replay => Expected {
                pace: "each datagram of a client twice, then 2,000 of them a second from 64 other addresses",
                // Once it is closed, its first packet begins another, each time.
                connections_max: 4.0,
                ..usual
            },
            Attack::SlowReaders => Expected {
                pace: "32 pages of 128 KiB a connection, 5 connections a second",
                metric: "omnirelay_rpc_requests_total",
                labels: &[r#"procedure="peek""#],
                connections_max: 64.0,
                // What pages may have together, and what else is usual.
                growth_max: (1 << 30) + usual.growth_max,
                ..usual
            },
            Attack::HalfFrames => Expected {
                pace: "128 streams a connection with 16 KiB of a frame of 32 KiB, 5 connections a second, 16 in all",
                metric: "omnirelay_quic_streams_failed_total",
                // They have 30 s.
                counted_within: Duration::from_secs(35),
                connections_max: 16.0,
                // What unfinished short frames may have is more than these take.
                growth_max: 128 << 20,
                ..usual
            },
            Attack::Versions => Expected {
                pace: "1,000 datagrams of another QUIC a second, 20 streams of other frames",
                connections_max: 1.0,
                ..usual
            },
        }
    }
}

/// What is needed while an attack goes on.
struct Row<'a> {
    node: &'a Node,
    queue: &'a Namespace,
    attack: Attack,
    expected: Expected,
    step: Duration,
    sent: u64,
    new_client: Duration,
    failed: u64,
    broken: Vec<String>,
}

pub(crate) async fn run(args: &Args, row: &'static str, attack: Attack) -> anyhow::Result<Abuse> {
    // Without a disk in its way a call shows what the network's side of the server does.
    let memory = "namespaces.resourcelease.durability=memory";
    let node = Node::start(&args.place, &[memory]).await?;
    let client = connect(node.server.addresses.rpc, &node).await?;
    let queue = client.default_namespace().with_timeout(DEADLINE);
    let (end_work, mut work_ends) = watch::channel(false);
    let worker = queue.worker().concurrency(16).lease_for(LEASE);
    let working = tokio::spawn(async move {
        let end = async move { work_ends.wait_for(|end| *end).await.is_ok() };
        worker
            .run_until(end, |_: Job| async { Ok::<(), Failure>(()) })
            .await
    });
    measure(&queue, WARM_UP).await;

    let before = (node.metrics().await?, node.memory()?);
    let mut this = Row {
        node: &node,
        queue: &queue,
        attack,
        expected: attack.expected(),
        step: args.load_time() / ROUNDS,
        sent: 0,
        new_client: Duration::ZERO,
        failed: 0,
        broken: Vec::new(),
    };
    let (mut alone, mut beside) = (latencies(), latencies());
    for round in 0..ROUNDS {
        let calm = measure(&queue, this.step).await;
        this.failed += calm.failed;
        alone.add(&calm.latencies)?;
        let is_last = round + 1 == ROUNDS;
        beside.add(&this.attacked(is_last, &before.0).await?)?;
    }
    let Row {
        expected,
        sent,
        new_client,
        failed,
        mut broken,
        ..
    } = this;

    let drained = node.settle(DRAIN_MAX, |now| now.left() == 0.0).await?;
    end_work.send_replace(true);
    working.await??;
    client.close().await;
    let is_at_rest = |now: &Metrics| now.connections() + now.open_calls() == 0.0;
    let rest = node.settle(REST_MAX, is_at_rest).await?;
    if !is_at_rest(&rest) {
        let (connections, calls) = (rest.connections(), rest.open_calls());
        broken.push(format!("{connections} connections and {calls} calls stay"));
    }
    let counted = grown(&before.0, &rest, &expected);
    let growth = node.memory()?.peak.saturating_sub(before.1.now);
    broken.extend(node.end().await);

    let p99 = |of: &Histogram<u64>| of.value_at_quantile(0.99);
    let ratio = p99(&beside) as f64 / p99(&alone).max(1) as f64;
    let promises = [
        (
            drained.left() > 0.0,
            format!("{} items are left in the queue", drained.left()),
        ),
        (
            failed > 0,
            format!("{failed} calls of the healthy client failed"),
        ),
        (
            ratio > RATIO_MAX && !args.place.busy,
            format!("the healthy client's p99 became {ratio:.1} times as long"),
        ),
        (
            counted == 0.0,
            format!("{} does not count it", expected.metric),
        ),
        (
            growth > expected.growth_max,
            format!("the server needed {} MiB more", growth >> 20),
        ),
    ];
    broken.extend(
        promises
            .into_iter()
            .filter(|(is, _)| *is)
            .map(|(_, why)| why),
    );
    Ok(Abuse {
        row,
        pace: expected.pace,
        sent,
        calls: alone.len() + beside.len(),
        failed,
        p99_alone_us: p99(&alone),
        p99_beside_us: p99(&beside),
        ratio,
        new_client_us: u64::try_from(new_client.as_micros()).unwrap_or(u64::MAX),
        metric: expected.metric,
        counted,
        server_growth_bytes: growth,
        broken,
    })
}

impl Row<'_> {
    /// Latencies while the attack goes on.
    async fn attacked(
        &mut self,
        is_last: bool,
        before: &Metrics,
    ) -> anyhow::Result<Histogram<u64>> {
        let target = Target {
            server: self.node.server.addresses.rpc,
            certificate: self.node.certificate(),
        };
        let attacker = Attacker::start(self.attack, target).await?;
        let measured = measure(self.queue, self.step).await;
        self.failed += measured.failed;
        let open = self.node.metrics().await?.connections();
        // Its own one is open too.
        if open > self.expected.connections_max + 1.0 {
            self.broken.push(format!("{open} connections are open"));
        }
        let began = Instant::now();
        match timeout(
            CONNECT_MAX,
            connect(self.node.server.addresses.rpc, self.node),
        )
        .await
        {
            Ok(client) => client?.close().await,
            Err(_) => self.broken.push("a new client could not connect".into()),
        }
        self.new_client = self.new_client.max(began.elapsed());
        if is_last {
            let is_counted = |now: &Metrics| grown(before, now, &self.expected) > 0.0;
            self.node
                .settle(self.expected.counted_within, is_counted)
                .await?;
        }
        let done = attacker.end().await?;
        self.sent += done.sent;
        self.broken.extend(done.broken);
        Ok(measured.latencies)
    }
}

fn grown(before: &Metrics, now: &Metrics, expected: &Expected) -> f64 {
    let sum = |of: &Metrics| of.sum(expected.metric, expected.labels);
    sum(now) - sum(before)
}

fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are in order")
}

struct Measured {
    latencies: Histogram<u64>,
    failed: u64,
}

/// Makes calls at a steady rate, whether or not earlier ones have been answered.
async fn measure(queue: &Namespace, time: Duration) -> Measured {
    let mut measured = Measured {
        latencies: latencies(),
        failed: 0,
    };
    let mut calls = JoinSet::new();
    let mut ticks = interval(CALL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let end = Instant::now() + time;
    let mut number = 0_u64;
    while Instant::now() < end {
        // A call counts from when it should have been made.
        let due = ticks.tick().await;
        let queue = queue.clone();
        number += 1;
        let item = Item::new("job", number.to_string());
        calls.spawn(async move {
            let result = queue.enqueue(item).await;
            result.map(|_| due.elapsed())
        });
    }
    while let Some(call) = calls.join_next().await {
        match call {
            Ok(Ok(took)) => {
                let micros = u64::try_from(took.as_micros()).unwrap_or(LATENCY_US_MAX);
                measured.latencies.saturating_record(micros);
            }
            _ => measured.failed += 1,
        }
    }
    measured
}
