//! `/omnirelay/introspect`: the node as one JSON document.

use std::time::Duration;

use hdrhistogram::Histogram;
use omnirelay_net::messages::Timestamp;
use omnirelay_net::rpc::{Code, Procedure};
use omnirelay_queue::{Nanos, Stats};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::latency::cells;
use super::metrics::sum;
use super::process::Process;
use super::status::{Moment, NodeFacts, NodeStatus};
use crate::cores::{CoreReport, latency_histogram};
use crate::node::{CoreId, LogId, NamespaceId};
use crate::tls::NodeTls;

/// How much of the node is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum View {
    /// Everything.
    Full,
    /// What changes from second to second, with the cells of the histograms, from which the reader
    /// can tell the latency between two readings; without the configuration.
    Live,
}

/// The document. Numbers of a core that did not answer are missing from the sums, except its
/// namespaces' counts, which it had published.
pub(super) fn render(view: View, status: &NodeStatus, moment: &Moment, process: &Process) -> Value {
    let reports: Vec<&CoreReport> = moment.reports.iter().flatten().collect();
    let uptime = Duration::from_nanos(moment.now.0.saturating_sub(moment.started.0));
    let mut document = Map::new();
    let mut put = |key: &str, value: Value| document.insert(key.to_owned(), value);
    put("version", env!("CARGO_PKG_VERSION").into());
    put("startedAt", rfc3339(moment.started).into());
    put("now", rfc3339(moment.now).into());
    put("uptimeSeconds", uptime.as_secs_f64().into());
    for (key, value) in moment
        .readiness
        .to_json()
        .as_object()
        .expect("readiness is an object")
    {
        put(key, value.clone());
    }
    put(
        "process",
        json!({
            "pid": std::process::id(),
            "cpuSeconds": process.cpu_seconds,
            "residentBytes": process.resident_bytes,
            "threads": process.threads,
            "openFds": process.open_fds,
            "fdsMax": process.fds_max,
        }),
    );
    if view == View::Full {
        put("configuration", status.configuration()["config"].clone());
        put(
            "configurationSources",
            status.configuration()["sources"].clone(),
        );
    }
    put("cores", cores(status, moment));
    put("rpc", rpc(view, &reports));
    put("wal", wal(view, &reports));
    if let Some(facts) = &moment.node {
        put("driver", facts.driver.to_string().into());
        put(
            "addresses",
            json!({
                "listen": facts.listen.to_string(),
                "quic": facts.quic_listen.map(|address| address.to_string()),
                "admin": facts.admin_listen.to_string(),
            }),
        );
        if let Some(tls) = &facts.tls {
            put("tls", certificate(tls));
        }
        put("namespaces", namespaces(facts, moment));
        put("logs", logs(facts, &reports));
        put("shards", shards(facts, &reports));
    }
    Value::Object(document)
}

/// The certificate that new connections are shown.
fn certificate(tls: &NodeTls) -> Value {
    let status = tls.server.status();
    let files = tls.server.files();
    let certificate = status.certificate;
    json!({
        "certificate": files.cert,
        "selfSigned": tls.is_self_signed,
        "clientCa": files.client_ca,
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "names": certificate.names,
        "notBefore": rfc3339_seconds(certificate.not_before),
        "notAfter": rfc3339_seconds(certificate.not_after),
        "fingerprint": certificate.fingerprint,
        "reloads": status.reloads,
        "reloadsFailed": status.reloads_failed,
        "failure": status.failure,
    })
}

fn cores(status: &NodeStatus, moment: &Moment) -> Value {
    let core = |(number, report): (usize, &Option<CoreReport>)| {
        let mut core = Map::new();
        core.insert("core".into(), number.into());
        core.insert("cpu".into(), json!(status.cpus().get(number)));
        core.insert("up".into(), report.is_some().into());
        let Some(report) = report else {
            return Value::Object(core);
        };
        let told = json!({
            "driver": report.driver,
            "connections": {
                "open": report.http.connections.open,
                "accepted": report.http.connections.accepted,
                "refused": report.http.connections.refused,
                "timedOut": report.http.connections.timed_out,
                "failed": report.http.connections.failed,
                "tlsHandshakes": {
                    "ok": report.http.handshakes.ok,
                    "failed": report.http.handshakes.failed,
                    "timedOut": report.http.handshakes.timed_out,
                    "plainText": report.http.handshakes.plain_text,
                },
            },
            "quicConnections": {
                "open": report.quic.connections.open,
                "accepted": report.quic.connections.accepted,
                "refused": report.quic.connections.refused,
                "timedOut": report.quic.connections.timed_out,
                "failed": report.quic.connections.failed,
                "retried": report.quic.retried,
                "handshakesFailed": report.quic.handshakes_failed,
                "streamsFailed": report.quic.streams_failed,
            },
            "openCalls": report.open_calls,
            "waitingEnqueues": report.held_back,
            "turns": report.run.turns,
            "longTurns": report.run.long_turns,
            "sleeps": report.run.sleeps,
            "awakeSeconds": report.run.awake.as_secs_f64(),
            "spinSeconds": report.run.spun.as_secs_f64(),
            "cpuSeconds": report.run.cpu.as_secs_f64(),
            "tasks": report.run.tasks,
            "messages": report.telemetry.rings.messages,
            "ringWaitingMax": report.telemetry.rings.waiting_max,
            "ringFull": report.telemetry.rings.full,
            "shards": report.shards.len(),
            "storageFull": report.storage_full,
            "logs": report.logs.iter().map(|(log, size)| json!({
                "log": log.0,
                "usedBytes": size.used_bytes,
                "neededBytes": size.needed_bytes,
                "liveBytes": size.live_bytes,
                "segments": size.segments,
                "spares": size.spares,
                "segmentsRetired": size.retired,
                "trimBlocked": size.trim_blocked,
            })).collect::<Vec<_>>(),
            "logFailure": report.log_failure,
            "walBytes": report.telemetry.wal_bytes,
            "walRecords": report.telemetry.wal_records,
        });
        core.extend(told.as_object().expect("an object").clone());
        Value::Object(core)
    };
    moment.reports.iter().enumerate().map(core).collect()
}

fn rpc(view: View, reports: &[&CoreReport]) -> Value {
    let add = |sums: &mut [u64], codes: &[u64]| {
        sums.iter_mut()
            .zip(codes)
            .for_each(|(sum, &code)| *sum += code)
    };
    let calls = || reports.iter().flat_map(|report| &report.telemetry.calls);
    let procedures: Value = Procedure::ALL
        .iter()
        .enumerate()
        .map(|(at, procedure)| {
            let (mut codes, mut latency) = ([0; Code::ALL.len()], latency_histogram());
            for counts in calls().map(|calls| &calls.procedures[at]) {
                add(&mut codes, &counts.codes);
                latency
                    .add(&counts.latency_us)
                    .expect("all have the same bounds");
            }
            json!({
                "procedure": procedure.name(),
                "requests": codes.iter().sum::<u64>(),
                "codes": by_name(&codes),
                "latencyUs": told(view, &latency),
            })
        })
        .collect();
    let mut unrouted = [0; Code::ALL.len()];
    for calls in calls() {
        add(&mut unrouted, &calls.unrouted);
    }
    json!({"procedures": procedures, "unrouted": by_name(&unrouted)})
}

/// The statuses that occurred.
fn by_name(codes: &[u64]) -> Value {
    let occurred = Code::ALL.iter().zip(codes).filter(|&(_, &count)| count > 0);
    Value::Object(
        occurred
            .map(|(code, &count)| (code.name().to_owned(), count.into()))
            .collect(),
    )
}

fn wal(view: View, reports: &[&CoreReport]) -> Value {
    let mut sync = latency_histogram();
    let (mut bytes, mut batches, mut records) = (0, 0, 0);
    for telemetry in reports.iter().map(|report| &report.telemetry) {
        sync.add(&telemetry.wal_sync_us)
            .expect("all have the same bounds");
        bytes += telemetry.wal_bytes;
        batches += telemetry.wal_batches;
        records += telemetry.wal_records;
    }
    json!({
        "bytes": bytes,
        "batches": batches,
        "records": records,
        "syncUs": told(view, &sync),
    })
}

/// Latencies since the start; all 0 where nothing was counted.
fn told(view: View, histogram: &Histogram<u64>) -> Value {
    let mut told = json!({
        "count": histogram.len(),
        "p50": histogram.value_at_quantile(0.50),
        "p99": histogram.value_at_quantile(0.99),
        "max": histogram.max(),
    });
    if view == View::Live {
        told["cells"] = cells(histogram)
            .map(|(us, count)| json!([us, count]))
            .collect();
    }
    told
}

fn namespaces(facts: &NodeFacts, moment: &Moment) -> Value {
    (0u16..)
        .map(NamespaceId)
        .zip(facts.layout.namespaces())
        .map(|(id, namespace)| {
            json!({
                "name": namespace.name,
                "durability": namespace.durability.as_str(),
                "firstShard": namespace.first_shard.0,
                "shards": namespace.shards,
                "stats": stats(&namespace_stats(facts, moment, id)),
                "backpressure": backpressure(facts, id),
            })
        })
        .collect()
}

/// In short: `/omnirelay/control/backpressure` says more.
fn backpressure(facts: &NodeFacts, id: NamespaceId) -> Value {
    let marks = &facts.layout.namespace(id).watermarks;
    json!({
        "isActive": facts.board.gate(id).closed,
        "transitions": facts.board.gate_transitions(id),
        "lowWatermark": marks.low,
        "highWatermark": marks.high,
        "capacity": marks.capacity,
    })
}

/// As reported; for a core that did not answer, as it published them last.
fn namespace_stats(facts: &NodeFacts, moment: &Moment, id: NamespaceId) -> Stats {
    let parts =
        (0u16..)
            .map(CoreId)
            .zip(moment.reports.iter())
            .map(|(core, report)| match report {
                Some(report) => sum(report
                    .shards
                    .iter()
                    .filter(|shard| shard.namespace == id)
                    .map(|shard| shard.stats)),
                None => sum(facts
                    .layout
                    .logs_of(core)
                    .map(|log| facts.board.log_stats(id, log))),
            });
    sum(parts)
}

fn logs(facts: &NodeFacts, reports: &[&CoreReport]) -> Value {
    (0..facts.layout.logs())
        .map(LogId)
        .map(|log| {
            let shards = reports.iter().flat_map(|report| &report.shards).filter(|shard| shard.log == log).count();
            // Of a log that has just been made there was nothing to recover.
            let found = facts.recoveries.iter().find(|found| found.log == log);
            let found = found.filter(|found| !found.recovery.fresh);
            let recovery = found.map(|found| {
                json!({
                    "records": found.recovery.records,
                    "segments": found.recovery.segments,
                    "bytes": found.recovery.bytes,
                    "tornBytes": found.recovery.torn.as_ref().map_or(0, |torn| torn.bytes),
                    "clean": found.recovery.clean,
                    "seconds": found.took.as_secs_f64(),
                })
            });
            json!({"log": log.0, "core": facts.layout.core_of(log).0, "shards": shards, "recovery": recovery})
        })
        .collect()
}

fn shards(facts: &NodeFacts, reports: &[&CoreReport]) -> Value {
    let mut rows: Vec<_> = reports
        .iter()
        .flat_map(|report| report.shards.iter().map(|shard| (report.core, shard)))
        .collect();
    rows.sort_by_key(|(_, shard)| shard.shard);
    rows.into_iter()
        .map(|(core, shard)| {
            json!({
                "shard": shard.shard,
                "namespace": facts.layout.namespace(shard.namespace).name,
                "log": shard.log.0,
                "core": core,
                "epoch": shard.epoch,
                "lastLsn": shard.last_lsn,
                "stats": stats(&shard.stats),
            })
        })
        .collect()
}

/// As the contract names them.
pub(super) fn stats(stats: &Stats) -> Value {
    json!({
        "pendingCount": stats.pending,
        "activeLeaseCount": stats.active,
        "delayedCount": stats.delayed,
        "deadLetterCount": stats.dead,
    })
}

/// RFC 3339 in UTC, to the millisecond.
pub(crate) fn rfc3339(time: Nanos) -> String {
    let ms = time.0 / 1_000_000;
    let seconds =
        i64::try_from(ms / 1_000).expect("u64 nanoseconds are fewer seconds than an i64 holds");
    let nanos = i32::try_from(ms % 1_000).expect("below 1,000") * 1_000_000;
    Timestamp { seconds, nanos }.to_string()
}

/// Seconds since 1970, as RFC 3339 writes them.
pub(crate) fn rfc3339_seconds(seconds: i64) -> String {
    Timestamp { seconds, nanos: 0 }.to_string()
}

#[cfg(test)]
mod tests;
