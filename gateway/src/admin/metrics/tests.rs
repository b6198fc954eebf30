use std::sync::Arc;

use super::*;
use crate::admin::exposition::reading::{Sample, read};
use crate::admin::exposition::{Format, render};
use crate::admin::fixture;

fn shown(moment: &Moment) -> Families {
    let process = Process {
        cpu_seconds: Some(1.5),
        open_fds: Some(9),
        ..Process::default()
    };
    families(moment, &process)
}

fn samples(format: Format, moment: &Moment) -> Vec<Sample> {
    read(&render(format, &shown(moment)), format)
}

/// The sum of all series of a name that carry these labels.
fn total(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let matching: Vec<_> = samples
        .iter()
        .filter(|s| {
            s.name == name
                && labels
                    .iter()
                    .all(|(k, v)| s.labels.get(*k).is_some_and(|l| l == v))
        })
        .collect();
    assert!(!matching.is_empty(), "no {name}{labels:?}");
    matching.iter().map(|s| s.value).sum()
}

fn assert_total(samples: &[Sample], name: &str, labels: &[(&str, &str)], expected: f64) {
    let total = total(samples, name, labels);
    assert!(
        (total - expected).abs() < 1e-9,
        "{name}{labels:?} is {total}, not {expected}"
    );
}

#[test]
fn every_family_has_a_dotted_name_of_its_own() {
    let shown = shown(&fixture::moment(fixture::reports()));
    let mut names: Vec<&str> = shown.iter().map(|family| family.name).collect();
    for name in &names {
        assert!(
            name.starts_with("omnirelay.") || name.starts_with("process."),
            "{name}"
        );
    }
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
}

#[test]
fn both_formats_show_the_same_series() {
    let moment = fixture::moment(fixture::reports());
    let (text, open_metrics) = (
        samples(Format::Text, &moment),
        samples(Format::OpenMetrics, &moment),
    );
    assert_eq!(text, open_metrics);
}

#[test]
fn series_of_a_family_add_up_to_the_nodes_number() {
    let samples = samples(Format::Text, &fixture::moment(fixture::reports()));
    let all: &[(&str, &str)] = &[];
    assert_total(&samples, "omnirelay_resourcelease_pending", all, 22.0);
    assert_total(
        &samples,
        "omnirelay_resourcelease_pending",
        &[("namespace", "resourcelease")],
        17.0,
    );
    assert_total(
        &samples,
        "omnirelay_resourcelease_pending",
        &[("shard", "1"), ("core", "1")],
        7.0,
    );
    assert_total(&samples, "omnirelay_resourcelease_active", all, 3.0);
    assert_total(&samples, "omnirelay_resourcelease_delayed", all, 6.0);
    assert_total(
        &samples,
        "omnirelay_resourcelease_dead_letters",
        &[("namespace", "odd\"name")],
        0.0,
    );
    let enqueue = [("transport", "http"), ("procedure", "enqueue")];
    assert_total(&samples, "omnirelay_rpc_requests_total", &enqueue, 4.0);
    assert_total(
        &samples,
        "omnirelay_rpc_requests_total",
        &[("code", "resource-exhausted")],
        2.0,
    );
    assert_total(
        &samples,
        "omnirelay_rpc_requests_total",
        &[("procedure", "unknown")],
        2.0,
    );
    assert_total(
        &samples,
        "omnirelay_rpc_duration_seconds_count",
        &enqueue,
        4.0,
    );
    assert_total(
        &samples,
        "omnirelay_wal_sync_seconds_count",
        &[("core", "0")],
        1.0,
    );
    assert_total(&samples, "omnirelay_wal_bytes_total", all, 8_192.0);
    assert_total(&samples, "omnirelay_wal_records_total", all, 6.0);
    assert_total(
        &samples,
        "omnirelay_connections",
        &[("transport", "http")],
        4.0,
    );
    assert_total(&samples, "omnirelay_connections_refused_total", all, 2.0);
    assert_total(&samples, "omnirelay_open_calls", all, 8.0);
    for (name, expected) in [
        ("omnirelay_core_awake_seconds_total", 3.0),
        ("omnirelay_core_spin_seconds_total", 0.5),
        ("omnirelay_core_cpu_seconds_total", 2.5),
        ("omnirelay_core_turns_total", 200.0),
        ("omnirelay_core_sleeps_total", 120.0),
        ("omnirelay_core_long_turns_total", 2.0),
        ("omnirelay_core_tasks", 16.0),
        ("omnirelay_core_messages_total", 18.0),
        ("omnirelay_core_ring_full_total", 2.0),
        ("omnirelay_core_ring_waiting_max", 6.0),
        ("omnirelay_resourcelease_waiting_enqueues", 4.0),
        ("omnirelay_resourcelease_waiting_workers", 0.0),
    ] {
        assert_total(&samples, name, all, expected);
    }
    assert_total(
        &samples,
        "omnirelay_wal_recovery_torn_bytes",
        &[("log", "0")],
        40.0,
    );
    assert_total(&samples, "process_cpu_seconds_total", all, 1.5);
    assert_total(&samples, "omnirelay_uptime_seconds", all, 120.0);
    assert_total(&samples, "omnirelay_ready", all, 1.0);
    assert_total(&samples, "omnirelay_logging_lines_dropped_total", all, 6.0);
}

#[test]
fn a_core_that_does_not_answer_is_shown_as_down() {
    let mut reports = fixture::reports().to_vec();
    reports[1] = None;
    let samples = samples(Format::Text, &fixture::moment(reports.into()));
    assert_total(&samples, "omnirelay_core_up", &[("core", "0")], 1.0);
    assert_total(&samples, "omnirelay_core_up", &[("core", "1")], 0.0);
    assert_total(&samples, "omnirelay_ready", &[], 0.0);
    assert_total(&samples, "omnirelay_resourcelease_pending", &[], 15.0);
}

#[test]
fn full_storage_and_failed_logs_are_shown_by_core() {
    let mut reports = fixture::reports().to_vec();
    reports[0].as_mut().unwrap().storage_full = true;
    reports[1].as_mut().unwrap().log_failure = Some("input/output error".into());
    let samples = samples(Format::OpenMetrics, &fixture::moment(reports.into()));
    assert_total(&samples, "omnirelay_storage_full", &[("core", "0")], 1.0);
    assert_total(&samples, "omnirelay_storage_full", &[("core", "1")], 0.0);
    assert_total(&samples, "omnirelay_log_failed", &[("core", "0")], 0.0);
    assert_total(&samples, "omnirelay_log_failed", &[("core", "1")], 1.0);
}

#[test]
fn a_starting_node_has_metrics_too() {
    let moment = Moment {
        node: None,
        ..fixture::moment(Arc::default())
    };
    let samples = samples(Format::Text, &moment);
    assert_total(&samples, "omnirelay_build_info", &[], 1.0);
    assert!(
        !samples
            .iter()
            .any(|s| s.name.starts_with("omnirelay_resourcelease"))
    );
}

#[test]
fn many_shards_are_summed_by_core_and_namespace() {
    use crate::node::{Layout, Namespace};
    let mut moment = fixture::moment(fixture::reports());
    let facts = moment.node.as_mut().unwrap();
    let mut namespaces: Vec<Namespace> = facts.layout.namespaces().to_vec();
    namespaces[1].shards = u32::try_from(LABELLED_SHARDS_MAX).unwrap();
    facts.layout = Arc::new(Layout::new(namespaces, 2, 2));
    let samples = samples(Format::Text, &moment);
    let pending: Vec<_> = samples
        .iter()
        .filter(|s| s.name == "omnirelay_resourcelease_pending")
        .collect();
    assert_eq!(pending.len(), 4, "one for each core and namespace");
    assert!(pending.iter().all(|s| !s.labels.contains_key("shard")));
    assert_total(&samples, "omnirelay_resourcelease_pending", &[], 22.0);
}
