//! How long the log becomes while an item is buried in it.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use omnirelay_loadgen::{Load, Pace, Run};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior};

use crate::Report;
use crate::args::Churn;
use crate::disk::on_disk;
use crate::table::{Table, mib};
use crate::traffic::{bury, capacity_setting, check, check_buried, reach, stats, target, work_off};
use bench::server::{End, Launch, Server};

/// Between two looks at the log.
const SAMPLE_STEP: Duration = Duration::from_secs(1);
/// What the log may be longer than what lives in it, by its promise.
const LIVE_FACTOR: u64 = 3;

#[derive(Debug, Serialize)]
pub(crate) struct ChurnReport {
    seconds: f64,
    cycles_per_s: f64,
    buried: u64,
    waiting: u64,
    logs: u64,
    history_bytes: u64,
    segment_bytes: u64,
    segments_given_up: u64,
    written_bytes: u64,
    /// What counts as living once all but the buried items is worked off: those, and what is
    /// remembered of the ends of leases for the dedupe window.
    live_bytes_at_end: u64,
    samples: Vec<Sample>,
    /// Bytes on disk, spares included, as a share of what is allowed; where it was highest.
    share_max: f64,
    worst: Sample,
    /// The same without spares.
    share_without_spares_max: f64,
    bytes_without_spares_max: u64,
}

/// The log at one moment.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Sample {
    at_s: f64,
    bytes: u64,
    spare_bytes: u64,
    live_bytes: u64,
    allowed_bytes: u64,
}

impl Sample {
    fn share(&self) -> f64 {
        self.bytes as f64 / self.allowed_bytes as f64
    }

    fn without_spares(&self) -> u64 {
        self.bytes - self.spare_bytes
    }

    fn share_without_spares(&self) -> f64 {
        self.without_spares() as f64 / self.allowed_bytes as f64
    }
}

/// Buries items, works beside them, and watches the log.
pub(crate) async fn churn(options: &Churn) -> anyhow::Result<ChurnReport> {
    let dir = tempfile::tempdir_in(".").context("the current directory cannot be written to")?;
    let data_dir = dir.path().join("data");
    let settings = vec![
        capacity_setting(options.live + options.bury),
        format!("history_bytes={}", options.history),
        format!("segment_bytes={}", options.segment),
    ];
    let mut launch = Launch::new(&data_dir, options.place.cpus(), settings)?;
    let server = launch.start().await?;
    let target = target(&server);
    bury(&target, options.bury, options.place.size).await?;

    let batch = u64::from(options.batch);
    let calls = options.live.div_ceil(batch).max(1);
    let shape = options.place.shape(options.batch, Duration::MAX);
    let mut load = Load::open(&target, shape, Pace::Backlog(usize::try_from(calls)?)).await?;
    load.start_producers()?;
    let acknowledged = |run: &Run| run.ledger.borrow().acknowledged();
    reach(load.run(), "enqueued", calls * batch, acknowledged).await?;
    load.start_workers()?;
    let began = Instant::now();
    let samples = watch(options, &load, &server, &data_dir).await?;
    let (seconds, cycles) = (
        began.elapsed().as_secs_f64(),
        load.run().ledger.borrow().completed(),
    );
    let waiting = stats(&target).await?.pending_count;
    let sizes = server.log_sizes().await?;

    work_off(&load).await?;
    check_buried(&target, options.bury, options.place.size).await?;
    let live_bytes_at_end = server.log_sizes().await?.live_bytes;
    server.end(End::Drain).await?;
    let worst = |by: fn(&Sample) -> f64| {
        let worst = samples.iter().max_by(|a, b| by(a).total_cmp(&by(b)));
        worst.copied().unwrap_or_default()
    };
    Ok(ChurnReport {
        seconds,
        cycles_per_s: cycles as f64 / seconds,
        buried: options.bury,
        waiting,
        logs: sizes.logs,
        history_bytes: options.history,
        segment_bytes: options.segment,
        segments_given_up: sizes.retired,
        written_bytes: sizes.retired * options.segment + sizes.used_bytes,
        live_bytes_at_end,
        share_max: worst(Sample::share).share(),
        worst: worst(Sample::share),
        share_without_spares_max: worst(Sample::share_without_spares).share_without_spares(),
        bytes_without_spares_max: samples
            .iter()
            .map(Sample::without_spares)
            .max()
            .unwrap_or(0),
        samples,
    })
}

/// Looks at the log once a second for as long as is asked.
async fn watch(
    options: &Churn,
    load: &Load,
    server: &Server,
    data_dir: &Path,
) -> anyhow::Result<Vec<Sample>> {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(SAMPLE_STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut samples = Vec::new();
    while began.elapsed() < options.duration {
        ticks.tick().await;
        check(load.run())?;
        // What lives goes up and down with the calls in flight: the log may rest on either.
        let before = server.log_sizes().await?;
        let disk = on_disk(data_dir)?;
        let after = server.log_sizes().await?;
        let live_bytes = before.live_bytes.max(after.live_bytes);
        let sample = Sample {
            at_s: began.elapsed().as_secs_f64(),
            bytes: disk.bytes,
            spare_bytes: disk.spare_bytes,
            live_bytes,
            allowed_bytes: LIVE_FACTOR * live_bytes + after.logs * options.history,
        };
        if samples.len() % 10 == 9 {
            eprintln!(
                "{:.0} s: {} on disk, {} of them spares, {} live, {:.3} of what is allowed",
                sample.at_s,
                mib(sample.bytes),
                mib(sample.spare_bytes),
                mib(sample.live_bytes),
                sample.share()
            );
        }
        samples.push(sample);
    }
    Ok(samples)
}

impl Report for ChurnReport {
    fn table(&self) -> Table {
        let mut table = Table::default();
        let mut line = |name: &str, value: String| table.line(name, value);
        line("seconds", format!("{:.0}", self.seconds));
        line("cycles/s", format!("{:.0}", self.cycles_per_s));
        line("items buried, all still as sent", self.buried.to_string());
        line("items waiting beside them", self.waiting.to_string());
        line("logs", self.logs.to_string());
        line("history_bytes", mib(self.history_bytes));
        line("segment_bytes", mib(self.segment_bytes));
        line("segments given up", self.segments_given_up.to_string());
        line("written in all", mib(self.written_bytes));
        line("looks at the log", self.samples.len().to_string());
        if let (Some(first), Some(last)) = (self.samples.first(), self.samples.last()) {
            let (first, last) = (mib(first.live_bytes), mib(last.live_bytes));
            line("live, at first and at last", format!("{first}, {last}"));
        }
        line(
            "live without those that waited",
            mib(self.live_bytes_at_end),
        );
        line(
            "bytes / (3 × live + history), max",
            format!("{:.3}", self.share_max),
        );
        let worst = self.worst;
        line(
            "  there",
            format!(
                "{} on disk, {} of them spares, {} live, after {:.0} s",
                mib(worst.bytes),
                mib(worst.spare_bytes),
                mib(worst.live_bytes),
                worst.at_s
            ),
        );
        line(
            "  the same without spares, max",
            format!("{:.3}", self.share_without_spares_max),
        );
        line(
            "bytes without spares, max",
            mib(self.bytes_without_spares_max),
        );
        table
    }

    fn broken(&self) -> Option<String> {
        (self.share_max > 1.0).then(|| {
            format!(
                "the log was {:.3} of three times what lives in it and the history",
                self.share_max
            )
        })
    }
}
