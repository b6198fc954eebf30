//! A node of two cores, two logs and two namespaces, as the tests show it.

use std::sync::Arc;
use std::time::Duration;

use omnirelay_net::rpc::{Code, Procedure};
use omnirelay_net::runtime::{CoreStats, DriverKind};
use omnirelay_queue::{Nanos, Options, Secret, ShardId, Stats};
use omnirelay_wal::{Recovery, TornTail};

use super::readiness::{Phase, readiness};
use super::reports::CoreReports;
use super::status::{Moment, NodeFacts, NodeStatus};
use crate::config::{self, Sources};
use crate::cores::{
    ConnectionReport, CoreReport, HandshakeReport, HttpReport, QuicReport, RingCounts, ShardReport,
    Telemetry, Transport,
};
use crate::data_dir::LogRecovery;
use crate::node::{Board, Durability, Layout, LogId, LogSize, Namespace, NamespaceId, Watermarks};

pub(super) const STARTED: Nanos = Nanos(1_700_000_000_000_000_000);

pub(super) fn status() -> Arc<NodeStatus> {
    NodeStatus::new(
        &config::load(&Sources {
            cpus: vec![0, 1],
            cpus_max: 2,
            ..Sources::default()
        })
        .unwrap(),
    )
}

pub(super) fn facts() -> NodeFacts {
    let namespace = |name: &str, first: u32, shards| Namespace {
        watermarks: Watermarks {
            capacity: 1_000,
            high: 800,
            low: 600,
            cooldown: Duration::from_secs(1),
        },
        name: name.into(),
        first_shard: ShardId(first),
        shards,
        durability: Durability::Disk,
        options: Options::default(),
        secret: Secret([7; 16]),
        origin: u128::from(first + 1).to_be_bytes(),
        skips: false,
    };
    let namespaces = vec![
        namespace("resourcelease", 0, 2),
        namespace("odd\"name", 2, 1),
    ];
    NodeFacts {
        layout: Arc::new(Layout::new(namespaces, 2, 2)),
        board: Arc::new(Board::new(2, 2, 2)),
        driver: DriverKind::Epoll,
        listen: "127.0.0.1:7420".parse().unwrap(),
        quic_listen: Some("127.0.0.1:7420".parse().unwrap()),
        admin_listen: "127.0.0.1:7421".parse().unwrap(),
        recoveries: vec![LogRecovery {
            log: LogId(0),
            recovery: Recovery {
                records: 9,
                torn: Some(TornTail {
                    segment: 1,
                    offset: 4_096,
                    bytes: 40,
                }),
                ..Recovery::default()
            },
            took: Duration::from_millis(1_500),
        }],
        replication: None,
        spans: Some(Arc::default()),
        tls: None,
    }
}

/// Both cores answered.
pub(super) fn reports() -> CoreReports {
    let shard = |shard, namespace, log, pending| ShardReport {
        shard,
        namespace: NamespaceId(namespace),
        log: LogId(log),
        epoch: 3,
        last_lsn: 100 + u64::from(shard),
        stats: Stats {
            pending,
            active: 1,
            delayed: 2,
            dead: 0,
        },
    };
    let core = |core: u16, shards| {
        let mut telemetry = Telemetry::default();
        telemetry.count_reply(
            Transport::Http,
            Some(Procedure::Enqueue),
            Code::Ok,
            Duration::from_micros(80),
        );
        telemetry.count_reply(
            Transport::Http,
            Some(Procedure::Enqueue),
            Code::ResourceExhausted,
            Duration::from_micros(200),
        );
        telemetry.count_reply(
            Transport::Http,
            None,
            Code::InvalidArgument,
            Duration::from_micros(10),
        );
        telemetry.count_batch(4_096, 3, Duration::from_micros(90));
        telemetry.rings = RingCounts {
            messages: 9,
            waiting_max: 3,
            full: 1,
        };
        CoreReport {
            core,
            driver: "epoll",
            telemetry,
            http: HttpReport {
                connections: ConnectionReport {
                    accepted: 5,
                    open: 2,
                    refused: 1,
                    ..ConnectionReport::default()
                },
                handshakes: HandshakeReport {
                    ok: 3,
                    failed: 1,
                    ..HandshakeReport::default()
                },
            },
            quic: QuicReport {
                connections: ConnectionReport {
                    accepted: 4,
                    open: 1,
                    ..ConnectionReport::default()
                },
                datagrams_in: 900,
                datagrams_out: 800,
                ..QuicReport::default()
            },
            run: CoreStats {
                turns: 100,
                sleeps: 60,
                awake: Duration::from_millis(1_500),
                spun: Duration::from_millis(250),
                long_turns: 1,
                tasks: 8,
                cpu: Duration::from_millis(1_250),
            },
            held_back: 2,
            shards,
            open_calls: 4,
            storage_full: false,
            logs: vec![(
                LogId(core),
                LogSize {
                    used_bytes: 3 << 20,
                    needed_bytes: 2 << 20,
                    live_bytes: 1 << 20,
                    segments: 3,
                    spares: 2,
                    retired: 7,
                    trim_blocked: None,
                },
            )],
            log_failure: None,
        }
    };
    Arc::from([
        Some(core(0, vec![shard(0, 0, 0, 10), shard(2, 1, 0, 5)])),
        Some(core(1, vec![shard(1, 0, 1, 7)])),
    ])
}

/// Two minutes after the start, with these reports.
pub(super) fn moment(reports: CoreReports) -> Moment {
    Moment {
        started: STARTED,
        now: Nanos(STARTED.0 + 120_000_000_000),
        readiness: readiness(&Phase::Ready, &reports),
        node: Some(facts()),
        reports,
        log_lines_dropped: 6,
    }
}
