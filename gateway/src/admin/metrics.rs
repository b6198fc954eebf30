//! Every family of numbers that the node tells of itself, in one place: for `/metrics`, and for
//! OTLP.
//!
//! A label is there where its values sum: adding up all series of a family gives the node's
//! number. What a core that did not answer holds is missing, and its `omnirelay_core_up` is 0.

mod cores;
mod quic;
mod tls;

use std::time::Duration;

use omnirelay_net::rpc::{Code, Procedure};
use omnirelay_queue::{Nanos, Stats};

use super::families::{Families, Kind, Number};
use super::latency::Buckets;
use super::process::Process;
use super::status::{Moment, NodeFacts};
use crate::cores::{ConnectionReport, CoreReport, Transport, latency_histogram};
use crate::data_dir::LogRecovery;
use crate::node::{LogSize, NamespaceId};

/// Nodes with more shards than this show their shards' counts summed by core and namespace: a
/// series for each would be more than a scrape every few seconds should carry.
const LABELLED_SHARDS_MAX: usize = 1_024;

/// The node at a moment, in numbers.
pub(super) fn families(moment: &Moment, process: &Process) -> Families {
    let mut out = Families::default();
    node(&mut out, moment);
    let reports: Vec<&CoreReport> = moment.reports.iter().flatten().collect();
    if let Some(facts) = &moment.node {
        cores(&mut out, moment, &reports);
        cores::render(&mut out, facts, &reports);
        items(&mut out, facts, &reports);
        backpressure(&mut out, facts);
        calls(&mut out, &reports);
        logs(&mut out, &reports);
        log_sizes(&mut out, &reports);
        recovery(&mut out, facts);
        replication(&mut out, facts, moment.now);
        telemetry(&mut out, facts);
        quic::render(&mut out, facts, &reports);
        tls::render(&mut out, facts, &reports);
    }
    of_process(&mut out, moment, process);
    out
}

fn replication(out: &mut Families, facts: &NodeFacts, now: Nanos) {
    let Some(replication) = &facts.replication else {
        return;
    };
    out.single(
        "omnirelay.resourcelease.replication.events",
        Kind::Counter,
        "Events handed to readers of the replication stream, each as often as it was.",
        replication.events(),
    );
    out.single(
        "omnirelay.resourcelease.replication.readers",
        Kind::Gauge,
        "Readers of the replication stream.",
        replication.places().readers(),
    );
    out.single(
        "omnirelay.resourcelease.replication.readers_dropped",
        Kind::Counter,
        "Readers that were dropped because they took nothing.",
        replication.places().dropped(),
    );
    let untaken = replication.places().untaken();
    let lag = out.family(
        "omnirelay.resourcelease.replication.lag_seconds",
        Kind::Gauge,
        "Age of the oldest event that a reader of the namespace's shards has yet to take.",
    );
    for (id, namespace) in (0u16..).zip(facts.layout.namespaces()) {
        let is_of_it = |shard| facts.layout.namespace_of(shard) == Some(NamespaceId(id));
        let of_it = untaken.iter().filter(|(shard, _)| is_of_it(*shard));
        let oldest = of_it.map(|(_, at)| at.0).min().unwrap_or(now.0);
        let behind = Duration::from_nanos(now.0.saturating_sub(oldest));
        lag.sample(&[("namespace", &namespace.name)], behind.as_secs_f64());
    }
}

fn telemetry(out: &mut Families, facts: &NodeFacts) {
    let Some(spans) = &facts.spans else {
        return;
    };
    out.single(
        "omnirelay.telemetry.spans_sent",
        Kind::Counter,
        "Spans that the collector has taken.",
        spans.sent(),
    );
    out.single(
        "omnirelay.telemetry.spans_dropped",
        Kind::Counter,
        "Spans given up: there were too many at once, or the collector did not take them.",
        spans.dropped(),
    );
    out.single(
        "omnirelay.telemetry.failures",
        Kind::Counter,
        "Requests, of spans or metrics, that the collector did not take.",
        spans.failures(),
    );
}

fn node(out: &mut Families, moment: &Moment) {
    out.family(
        "omnirelay.build.info",
        Kind::Gauge,
        "Always 1; the label says what runs.",
    )
    .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64);
    let uptime = Duration::from_nanos(moment.now.0.saturating_sub(moment.started.0));
    out.single(
        "omnirelay.uptime_seconds",
        Kind::Gauge,
        "Time since the process started.",
        uptime.as_secs_f64(),
    );
    out.single(
        "omnirelay.ready",
        Kind::Gauge,
        "1 while /readyz says ready.",
        moment.readiness.ready,
    );
    out.single(
        "omnirelay.logging.lines_dropped",
        Kind::Counter,
        "Lines missing in the log: stderr did not take them in time, or not at all.",
        moment.log_lines_dropped,
    );
}

fn cores(out: &mut Families, moment: &Moment, reports: &[&CoreReport]) {
    let up = out.family(
        "omnirelay.core.up",
        Kind::Gauge,
        "1 if the core answered this scrape.",
    );
    for (core, report) in moment.reports.iter().enumerate() {
        up.sample(&[("core", &core.to_string())], report.is_some());
    }
    let driver = out.family(
        "omnirelay.core.info",
        Kind::Gauge,
        "Always 1; how the core does IO.",
    );
    for report in reports {
        driver.sample(
            &[
                ("core", &report.core.to_string()),
                ("driver", report.driver),
            ],
            1_u64,
        );
    }
    let mut by_core = |name, kind, help, value: fn(&CoreReport) -> u64| {
        each_core(out, name, kind, help, reports, value)
    };
    by_core(
        "omnirelay.open_calls",
        Kind::Gauge,
        "RPC calls not yet answered, waiting workers included.",
        |r| r.open_calls as u64,
    );
    by_core(
        "omnirelay.storage.full",
        Kind::Gauge,
        "1 while the core's disk has no room for new work.",
        |r| u64::from(r.storage_full),
    );
    by_core(
        "omnirelay.log.failed",
        Kind::Gauge,
        "1 once a log of the core takes nothing more.",
        |r| u64::from(r.log_failure.is_some()),
    );
    each_transport(
        out,
        "omnirelay.connections",
        Kind::Gauge,
        "Connections open now.",
        reports,
        |c| c.open,
    );
    let mut connections =
        |name, help, value| each_transport(out, name, Kind::Counter, help, reports, value);
    connections(
        "omnirelay.connections.accepted",
        "Connections accepted.",
        |c| c.accepted,
    );
    connections(
        "omnirelay.connections.refused",
        "Connections refused over the limit.",
        |c| c.refused,
    );
    connections(
        "omnirelay.connections.timed_out",
        "Connections closed for being idle or slow.",
        |c| c.timed_out,
    );
    connections(
        "omnirelay.connections.failed",
        "Connections that broke off or were malformed.",
        |c| c.failed,
    );
}

fn each_core(
    out: &mut Families,
    name: &'static str,
    kind: Kind,
    help: &str,
    reports: &[&CoreReport],
    value: fn(&CoreReport) -> u64,
) {
    let family = out.family(name, kind, help);
    for report in reports {
        family.sample(&[("core", &report.core.to_string())], value(report));
    }
}

/// For each core its connections over TCP, and those over QUIC.
fn each_transport(
    out: &mut Families,
    name: &'static str,
    kind: Kind,
    help: &str,
    reports: &[&CoreReport],
    value: fn(&ConnectionReport) -> u64,
) {
    let family = out.family(name, kind, help);
    for report in reports {
        let core = report.core.to_string();
        let connections = [
            ("http", &report.http.connections),
            ("quic", &report.quic.connections),
        ];
        for (transport, counts) in connections {
            family.sample(&[("transport", transport), ("core", &core)], value(counts));
        }
    }
}

/// One series of the item counts.
struct ItemRow {
    namespace: String,
    shard: Option<String>,
    core: String,
    stats: Stats,
}

fn items(out: &mut Families, facts: &NodeFacts, reports: &[&CoreReport]) {
    let rows = item_rows(facts, reports);
    let mut family = |name, help, value: fn(&Stats) -> u64| {
        let family = out.family(name, Kind::Gauge, help);
        for row in &rows {
            let mut labels = vec![("namespace", row.namespace.as_str())];
            labels.extend(row.shard.as_deref().map(|shard| ("shard", shard)));
            labels.push(("core", &row.core));
            family.sample(&labels, value(&row.stats));
        }
    };
    family(
        "omnirelay.resourcelease.pending",
        "Items that wait to be leased.",
        |s| s.pending,
    );
    family(
        "omnirelay.resourcelease.active",
        "Items that are leased.",
        |s| s.active,
    );
    family(
        "omnirelay.resourcelease.delayed",
        "Items whose delay has not ended.",
        |s| s.delayed,
    );
    family(
        "omnirelay.resourcelease.dead_letters",
        "Items that are given up on.",
        |s| s.dead,
    );
}

fn backpressure(out: &mut Families, facts: &NodeFacts) {
    let mut family = |name, kind, help, value: &dyn Fn(NamespaceId) -> u64| {
        let family = out.family(name, kind, help);
        for (id, namespace) in (0u16..).zip(facts.layout.namespaces()) {
            family.sample(&[("namespace", &namespace.name)], value(NamespaceId(id)));
        }
    };
    family(
        "omnirelay.resourcelease.backpressure",
        Kind::Gauge,
        "1 while enqueues wait for the namespace to be down to its low watermark.",
        &|id| u64::from(facts.board.gate(id).closed),
    );
    family(
        "omnirelay.resourcelease.backpressure.transitions",
        Kind::Counter,
        "Times that the namespace began or ceased to hold enqueues back.",
        &|id| facts.board.gate_transitions(id),
    );
    let marks = |id| &facts.layout.namespace(id).watermarks;
    family(
        "omnirelay.resourcelease.capacity",
        Kind::Gauge,
        "Items at which the namespace refuses enqueues.",
        &|id| marks(id).capacity,
    );
    family(
        "omnirelay.resourcelease.high_watermark",
        Kind::Gauge,
        "Items at which the namespace begins to hold enqueues back.",
        &|id| marks(id).high,
    );
    family(
        "omnirelay.resourcelease.low_watermark",
        Kind::Gauge,
        "Items at which it lets them go on.",
        &|id| marks(id).low,
    );
}

fn item_rows(facts: &NodeFacts, reports: &[&CoreReport]) -> Vec<ItemRow> {
    let is_labelled = facts.layout.shards().count() <= LABELLED_SHARDS_MAX;
    let mut rows = Vec::new();
    for report in reports {
        for (id, namespace) in (0u16..).zip(facts.layout.namespaces()) {
            let of_namespace = report.shards.iter().filter(|shard| shard.namespace.0 == id);
            let row = |shard, stats| ItemRow {
                namespace: namespace.name.clone(),
                shard,
                core: report.core.to_string(),
                stats,
            };
            if is_labelled {
                rows.extend(
                    of_namespace.map(|shard| row(Some(shard.shard.to_string()), shard.stats)),
                );
            } else {
                rows.push(row(None, sum(of_namespace.map(|shard| shard.stats))));
            }
        }
    }
    rows
}

/// Adds up counts.
pub(super) fn sum(parts: impl Iterator<Item = Stats>) -> Stats {
    parts.fold(Stats::default(), |a, b| Stats {
        pending: a.pending + b.pending,
        active: a.active + b.active,
        delayed: a.delayed + b.delayed,
        dead: a.dead + b.dead,
    })
}

fn calls(out: &mut Families, reports: &[&CoreReport]) {
    let requests = out.family(
        "omnirelay.rpc.requests",
        Kind::Counter,
        "RPC replies by status; procedure `unknown` was refused before it was told.",
    );
    for report in reports {
        let core = report.core.to_string();
        let transports = Transport::ALL.iter().zip(&report.telemetry.calls);
        let rows = transports.flat_map(|(transport, calls)| {
            let routed = Procedure::ALL
                .iter()
                .map(|procedure| procedure.name())
                .zip(&calls.procedures);
            routed
                .map(move |(name, counts)| (transport, name, &counts.codes))
                .chain([(transport, "unknown", &calls.unrouted)])
        });
        for (transport, procedure, codes) in rows {
            for (code, &count) in Code::ALL.iter().zip(codes) {
                // Success starts at 0, so that a rate is right from the first call on.
                if count > 0 || (*code == Code::Ok && procedure != "unknown") {
                    let labels = [
                        ("transport", transport.name()),
                        ("procedure", procedure),
                        ("code", code.name()),
                        ("core", &core),
                    ];
                    requests.sample(&labels, count);
                }
            }
        }
    }
    let duration = out.family(
        "omnirelay.rpc.duration_seconds",
        Kind::Histogram,
        "From a request's head to its reply; a lease call's wait for work is part of it.",
    );
    for transport in Transport::ALL {
        for (at, procedure) in Procedure::ALL.iter().enumerate() {
            let mut merged = latency_histogram();
            for report in reports {
                let calls = &report.telemetry.calls[transport as usize];
                merged
                    .add(&calls.procedures[at].latency_us)
                    .expect("all have the same bounds");
            }
            let labels = [
                ("transport", transport.name()),
                ("procedure", procedure.name()),
            ];
            duration.histogram(&labels, &Buckets::of(&merged));
        }
    }
}

fn logs(out: &mut Families, reports: &[&CoreReport]) {
    let sync = out.family(
        "omnirelay.wal.sync_seconds",
        Kind::Histogram,
        "Writing and syncing a batch of records to the log.",
    );
    for report in reports {
        let core = report.core.to_string();
        sync.histogram(
            &[("core", &core)],
            &Buckets::of(&report.telemetry.wal_sync_us),
        );
    }
    let mut counter = |name, help, value| each_core(out, name, Kind::Counter, help, reports, value);
    counter("omnirelay.wal.bytes", "Bytes written to logs.", |r| {
        r.telemetry.wal_bytes
    });
    counter("omnirelay.wal.batches", "Batches written to logs.", |r| {
        r.telemetry.wal_batches
    });
    counter("omnirelay.wal.records", "Records written to logs.", |r| {
        r.telemetry.wal_records
    });
}

fn log_sizes(out: &mut Families, reports: &[&CoreReport]) {
    let mut by_log = |name, kind, help, value: fn(&LogSize) -> u64| {
        let family = out.family(name, kind, help);
        for report in reports {
            let core = report.core.to_string();
            for (log, size) in &report.logs {
                let log = log.0.to_string();
                family.sample(&[("log", &log), ("core", &core)], value(size));
            }
        }
    };
    by_log(
        "omnirelay.wal.used_bytes",
        Kind::Gauge,
        "Bytes of the segments that a log is made of.",
        |size| size.used_bytes,
    );
    by_log(
        "omnirelay.wal.needed_bytes",
        Kind::Gauge,
        "Bytes of those segments that a restart reads; the others are history.",
        |size| size.needed_bytes,
    );
    by_log(
        "omnirelay.wal.live_bytes",
        Kind::Gauge,
        "Bytes of records that items in the queues need, and what is remembered of others.",
        |size| size.live_bytes,
    );
    by_log(
        "omnirelay.wal.segments",
        Kind::Gauge,
        "Segments that a log is made of.",
        |size| size.segments,
    );
    by_log(
        "omnirelay.wal.spares",
        Kind::Gauge,
        "Segments that are ready to be filled.",
        |size| size.spares,
    );
    by_log(
        "omnirelay.wal.segments_retired",
        Kind::Counter,
        "Segments given up since the start.",
        |size| size.retired,
    );
    by_log(
        "omnirelay.wal.trim_blocked",
        Kind::Gauge,
        "1 when no segment can be given up until the next start: the log grows.",
        |size| u64::from(size.trim_blocked.is_some()),
    );
}

fn recovery(out: &mut Families, facts: &NodeFacts) {
    let mut by_log = |name, help, value: fn(&LogRecovery) -> Number| {
        let family = out.family(name, Kind::Gauge, help);
        for found in &facts.recoveries {
            family.sample(&[("log", &found.log.0.to_string())], value(found));
        }
    };
    by_log(
        "omnirelay.wal.recovery_seconds",
        "How long reading the log back took at the start.",
        |found| found.took.as_secs_f64().into(),
    );
    by_log(
        "omnirelay.wal.recovery.records",
        "Records read back at the start.",
        |found| found.recovery.records.into(),
    );
    by_log(
        "omnirelay.wal.recovery.torn_bytes",
        "Bytes of unfinished batches left out at the start.",
        |found| {
            found
                .recovery
                .torn
                .as_ref()
                .map_or(0, |torn| torn.bytes)
                .into()
        },
    );
}

fn of_process(out: &mut Families, moment: &Moment, process: &Process) {
    let mut single = |name, kind, help, value: Option<Number>| {
        if let Some(value) = value {
            out.single(name, kind, help, value);
        }
    };
    single(
        "process.cpu_seconds",
        Kind::Counter,
        "User and system CPU time spent.",
        process.cpu_seconds.map(Number::from),
    );
    single(
        "process.resident_memory_bytes",
        Kind::Gauge,
        "Memory in RAM, mapped logs included.",
        process.resident_bytes.map(Number::from),
    );
    single(
        "process.virtual_memory_bytes",
        Kind::Gauge,
        "Address space.",
        process.virtual_bytes.map(Number::from),
    );
    single(
        "process.threads",
        Kind::Gauge,
        "Threads.",
        process.threads.map(Number::from),
    );
    single(
        "process.open_fds",
        Kind::Gauge,
        "Open file descriptors.",
        process.open_fds.map(Number::from),
    );
    single(
        "process.max_fds",
        Kind::Gauge,
        "Most file descriptors allowed.",
        process.fds_max.map(Number::from),
    );
    single(
        "process.start_time_seconds",
        Kind::Gauge,
        "When the process started, in seconds since 1970.",
        Some(unix_seconds(moment.started).into()),
    );
}

fn unix_seconds(time: Nanos) -> f64 {
    Duration::from_nanos(time.0).as_secs_f64()
}

#[cfg(test)]
mod tests;
