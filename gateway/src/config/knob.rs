//! Every knob there is: its key, kind, bounds, default, and what turning it costs.

use std::time::Duration;

use omnirelay_queue::{WEIGHT_MAX, WEIGHTS_MAX};

use super::telemetry::SAMPLERS;
use super::value::Kind;

/// One configuration key.
#[derive(Debug)]
pub struct Knob {
    /// Dotted key, within its namespace for a namespace's options. A last segment `*` stands for
    /// any name: the knob may be there many times, once for each.
    pub key: &'static str,
    /// Type and bounds.
    pub kind: Kind,
    /// Default as a TOML value; `None` where it follows from another key or a name.
    pub default: Option<&'static str>,
    /// Unit, meaning and cost, for a person.
    pub doc: &'static str,
}

/// Smallest log segment: a record with the largest body and attributes always fits a fresh one.
pub const SEGMENT_BYTES_MIN: u64 = 8 << 20;
/// Most namespaces on one node; each costs telemetry series and start-up work.
pub const NAMESPACES_MAX: usize = 256;
/// Most shards of one namespace.
pub const SHARDS_MAX: u64 = 4_096;
/// Most shards of all namespaces together; each has fixed tables of some 10 KB.
pub const SHARDS_TOTAL_MAX: u64 = 16_384;

/// Most items of one namespace.
pub const CAPACITY_MAX: u64 = 1_000_000_000;

/// glommio is one where it was built in.
const DRIVERS: &[&str] = if cfg!(feature = "glommio") {
    &["auto", "io_uring", "epoll", "glommio"]
} else {
    &["auto", "io_uring", "epoll"]
};

const _: () = assert!(SEGMENT_BYTES_MIN >= 2 * omnirelay_net::rpc::BODY_BYTES_MAX as u64);
const _: () = assert!(WEIGHTS_MAX == 10_000, "the doc of `weights` says so");
const _: () = assert!(SHARDS_MAX <= SHARDS_TOTAL_MAX);

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// The knobs of the node.
pub static NODE: &[Knob] = &[
    Knob {
        key: "listen",
        kind: Kind::Address,
        default: Some("\"127.0.0.1:7420\""),
        doc: "Where RPC over TCP is served (HTTP/1.1 and HTTP/2). Port 0 picks one. \
              Beyond loopback it needs `tls.cert` or `insecure`.",
    },
    Knob {
        key: "quic_listen",
        kind: Kind::Address,
        default: None,
        doc: "Where RPC over QUIC is served. Default: the address and port number of `listen`, but \
              nowhere beyond loopback without `tls.cert`: QUIC always has TLS, and a self-signed \
              certificate is for loopback only.",
    },
    Knob {
        key: "admin_listen",
        kind: Kind::Address,
        default: Some("\"127.0.0.1:7421\""),
        doc: "Where probes, metrics and introspection are served. Port 0 picks one. \
              Beyond loopback it needs `tls.cert` or `insecure`.",
    },
    Knob {
        key: "data_dir",
        kind: Kind::Path,
        default: Some("\"./omnirelay-data\""),
        doc: "The directory that holds the logs and node.json; made if missing, used by one \
              process at a time. Relative paths start at the working directory.",
    },
    Knob {
        key: "cores",
        kind: Kind::Cores,
        default: Some("\"all\""),
        doc: "CPUs to pin a core thread to, one each and in this order: \"all\", a count, or CPU \
              numbers and ranges, \"0,2\" or \"0-3,8\" (\"2-2\" is just CPU 2). Each serves its own \
              shards and connections; leave one free for the log threads on a busy machine. CPUs \
              that this process may not use, by its affinity or cpuset, are refused.",
    },
    Knob {
        key: "driver",
        kind: Kind::Choice(DRIVERS),
        default: Some("\"auto\""),
        doc: "How cores do IO. auto: io_uring, and epoll where the kernel forbids it.",
    },
    Knob {
        key: "require_io_uring",
        kind: Kind::Flag,
        default: Some("false"),
        doc: "Refuse to start where io_uring is forbidden, instead of using epoll.",
    },
    Knob {
        key: "insecure",
        kind: Kind::Flag,
        default: Some("false"),
        doc: "Allow listening beyond loopback without TLS: whoever reaches the port may read and \
              settle every item.",
    },
    Knob {
        key: "tls.cert",
        kind: Kind::Path,
        default: None,
        doc: "A certificate in PEM, with those between it and its root behind it. With it both ports \
              speak TLS only. Read again when the file changes; connections go on.",
    },
    Knob {
        key: "tls.key",
        kind: Kind::Path,
        default: None,
        doc: "The private key of `tls.cert`, in PEM and not encrypted; readable by its owner and \
              group only.",
    },
    Knob {
        key: "tls.client_ca",
        kind: Kind::Path,
        default: None,
        doc: "Who signs the certificates of clients, in PEM. With it a client needs one, but for \
              /healthz and /readyz.",
    },
    Knob {
        key: "drain_timeout",
        kind: Kind::Duration {
            min: secs(1),
            max: secs(HOUR),
        },
        default: Some("\"30s\""),
        doc: "How long a stopping node lets calls in flight finish before it ends them.",
    },
    Knob {
        key: "segment_bytes",
        kind: Kind::Bytes {
            min: SEGMENT_BYTES_MIN,
            max: 1 << 30,
        },
        default: Some("67108864"),
        doc: "Size of one log segment in bytes. Larger ones are made less often but take longer \
              to make, and disk space is freed in units of a segment.",
    },
    Knob {
        key: "history_bytes",
        kind: Kind::Bytes {
            min: 0,
            max: 1 << 50,
        },
        default: Some("\"4GiB\""),
        doc: "How much each log keeps of what has ended, in bytes, for whoever reads the stream of \
              events from the past. What live items need is kept in any case. Disk space is freed \
              in whole segments.",
    },
    Knob {
        key: "log.format",
        kind: Kind::Choice(&["text", "json"]),
        default: Some("\"text\""),
        doc: "How log lines are written on stderr: text for people, json for programs.",
    },
    Knob {
        key: "log.level",
        kind: Kind::LogFilter,
        default: Some("\"info\""),
        doc: "Least severe level that is logged, also for single parts: \
              \"info,omnirelay_wal=debug\". debug and trace cost throughput.",
    },
    Knob {
        key: "spin_us_max",
        kind: Kind::Integer { min: 0, max: 1_000 },
        default: Some("0"),
        doc: "How long a core without work looks for more before it sleeps, in µs, while work lately \
              came as soon; 0: never. Saves wake-ups where cores have CPUs to themselves, and \
              takes the CPU from log threads and clients where they do not.",
    },
    Knob {
        key: "telemetry.otlp_endpoint",
        kind: Kind::OtlpEndpoint,
        default: Some("\"\""),
        doc: "An OpenTelemetry collector that takes OTLP over HTTP in protobuf (port 4318 as a rule); \
              /v1/traces and /v1/metrics are added. Empty: nothing is sent.",
    },
    Knob {
        key: "telemetry.otlp_headers",
        kind: Kind::OtlpHeaders,
        default: Some("\"\""),
        doc: "Headers of each request to the collector, such as a token, as name=value pairs with \
              commas between them and percent-encoding in the values. They are secrets: not shown \
              here nor in introspection, and better given by OTEL_EXPORTER_OTLP_HEADERS or a file \
              than on the command line. They go over the network as they are.",
    },
    Knob {
        key: "telemetry.traces_sampler",
        kind: Kind::Choice(SAMPLERS),
        default: Some("\"parentbased_traceidratio\""),
        doc: "Which calls make spans, by OpenTelemetry's names. parentbased: a call that comes with a \
              trace is recorded if that is. traceidratio: `traces_sample_ratio` of the others.",
    },
    Knob {
        key: "telemetry.traces_sample_ratio",
        kind: Kind::Number { min: 0.0, max: 1.0 },
        default: Some("0.01"),
        doc: "Share of calls recorded that come without a trace. A recorded call costs its core \
              about a microsecond; spans beyond some 30,000 a second are dropped and counted.",
    },
    Knob {
        key: "telemetry.metrics_interval",
        kind: Kind::Duration {
            min: secs(0),
            max: secs(HOUR),
        },
        default: Some("\"60s\""),
        doc: "How often metrics are sent, at least 100ms; 0s: never. Each time costs as much as a \
              scrape of /metrics.",
    },
    Knob {
        key: "telemetry.service_name",
        kind: Kind::Name,
        default: Some("\"omnirelay\""),
        doc: "What the node is called in traces and metrics: `service.name`.",
    },
    Knob {
        key: "telemetry.resource_attributes",
        kind: Kind::Attributes,
        default: Some("\"\""),
        doc: "Attributes that go with everything the node sends, as key=value pairs with commas \
              between them.",
    },
    Knob {
        key: "limits.connections_max_per_core",
        kind: Kind::Integer {
            min: 1,
            max: 1_000_000,
        },
        default: Some("10000"),
        doc: "Connections a core keeps open; further ones are refused. Each costs a file \
              descriptor and about 20 KB.",
    },
];

/// The knobs of a namespace, under `namespaces.<name>`.
pub static NAMESPACE: &[Knob] = &[
    Knob {
        key: "lease_duration",
        kind: Kind::Duration {
            min: secs(1),
            max: secs(12 * HOUR),
        },
        default: Some("\"30s\""),
        doc: "How long a lease lasts unless it is renewed; then its item waits again. Shorter \
              finds dead workers sooner and needs more heartbeats.",
    },
    Knob {
        key: "heartbeat_interval",
        kind: Kind::Duration {
            min: ms(100),
            max: secs(6 * HOUR),
        },
        default: None,
        doc: "How often clients are told to renew; default: a third of `lease_duration`, and \
              always below it. Each third of it at most one heartbeat is written to the log.",
    },
    Knob {
        key: "requeue_delay",
        kind: Kind::Duration {
            min: secs(0),
            max: secs(12 * HOUR),
        },
        default: Some("\"1s\""),
        doc: "How long an item waits after its first failure.",
    },
    Knob {
        key: "requeue_backoff",
        kind: Kind::Number {
            min: 1.0,
            max: 100.0,
        },
        default: Some("2.0"),
        doc: "Factor by which that delay grows with each further attempt.",
    },
    Knob {
        key: "requeue_delay_max",
        kind: Kind::Duration {
            min: secs(0),
            max: secs(30 * DAY),
        },
        default: Some("\"5m\""),
        doc: "Where that growth ends. Must be at least `requeue_delay`.",
    },
    Knob {
        key: "max_attempts",
        kind: Kind::Integer {
            min: 1,
            max: 65_535,
        },
        default: Some("16"),
        doc: "Grants of one item before a further failure or expiry makes it a dead letter.",
    },
    Knob {
        key: "dedupe_window",
        kind: Kind::Duration {
            min: secs(1),
            max: secs(30 * DAY),
        },
        default: Some("\"10m\""),
        doc: "How long a request id is remembered, and why a token is fenced. Each remembered id \
              costs about 40 bytes.",
    },
    Knob {
        key: "dedupe_entries_max",
        kind: Kind::Integer {
            min: 1,
            max: 1_000_000_000,
        },
        default: Some("10000000"),
        doc: "Request ids remembered at once; at that many an enqueue with a new one is refused, \
              none is forgotten early.",
    },
    Knob {
        key: "restore_window",
        kind: Kind::Duration {
            min: secs(1),
            max: secs(30 * DAY),
        },
        default: Some("\"30d\""),
        doc: "How long a restored item is remembered, so that restoring it again adds nothing. \
              At most `dedupe_entries_max` are; at that many a restore is refused.",
    },
    Knob {
        key: "capacity",
        kind: Kind::Integer {
            min: 1,
            max: CAPACITY_MAX,
        },
        default: Some("10000000"),
        doc: "Items that wait, are delayed or are leased; at that many an enqueue is refused. Each \
              costs about 140 bytes of memory; its body stays in the log.",
    },
    Knob {
        key: "high_watermark",
        kind: Kind::Fill { max: CAPACITY_MAX },
        default: Some("\"80%\""),
        doc: "At this many items, or this share of `capacity`, enqueues wait for their deadline or \
              `low_watermark`. Between the two nothing changes.",
    },
    Knob {
        key: "low_watermark",
        kind: Kind::Fill { max: CAPACITY_MAX },
        default: Some("\"60%\""),
        doc: "At this many items, or this share of `capacity`, enqueues that wait go on. Must be \
              below `high_watermark`.",
    },
    Knob {
        key: "cooldown",
        kind: Kind::Duration {
            min: secs(0),
            max: secs(HOUR),
        },
        default: Some("\"1s\""),
        doc: "Least time between two transitions at the watermarks. Longer ones flap less and let \
              more items in, or hold them back longer, than the marks say.",
    },
    Knob {
        key: "shards",
        kind: Kind::Integer {
            min: 1,
            max: SHARDS_MAX,
        },
        default: Some("16"),
        doc: "Independent queues the namespace is split into, fixed when it is made. More spread \
              over more cores; ordering and priority are exact only within a core.",
    },
    Knob {
        key: "durability",
        kind: Kind::Choice(&["memory", "disk"]),
        default: Some("\"disk\""),
        doc: "What a reply has waited for. disk: the record is synced. memory: nothing; a crash \
              loses the last moments.",
    },
    Knob {
        key: "priority_aging",
        kind: Kind::Duration {
            min: secs(0),
            max: secs(30 * DAY),
        },
        default: Some("\"30s\""),
        doc: "Waiting this long raises an item's priority by one, so that none starves; 0s: never.",
    },
    Knob {
        key: "ordering",
        kind: Kind::Choice(&["none", "per-resource"]),
        default: Some("\"none\""),
        doc: "per-resource: at most one lease at a time for each resource, its items in the order \
              they were enqueued; a delayed one holds back those behind it. Costs up to 60 bytes of \
              memory an item; `Rpc-Shard-Key` has no effect then.",
    },
    Knob {
        key: "fairness",
        kind: Kind::Choice(&["fifo", "partition-key"]),
        default: Some("\"fifo\""),
        doc: "partition-key: workers are handed items of all partition keys in turn, each key as \
              often as its weight, so that one with many items does not hold up the others. Costs \
              memory for each item.",
    },
    Knob {
        key: "weights.*",
        kind: Kind::Integer {
            min: 1,
            max: WEIGHT_MAX as u64,
        },
        default: None,
        doc: "How many items of a partition key are handed out in one round, 1 unless it is named \
              here; \"\" are the items without a key. At most 10,000 keys, only with `fairness = \
              \"partition-key\"`.",
    },
];
