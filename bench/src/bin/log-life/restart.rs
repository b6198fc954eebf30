//! How long a restart takes.

use std::time::Duration;

use anyhow::{Context, bail};
use omnirelay_loadgen::{Load, Pace, Run};
use omnirelay_net::messages::Stats;
use serde::Serialize;

use crate::Report;
use crate::args::Restart;
use crate::disk::{forget, on_disk, read_speed};
use crate::table::{Table, mib};
use crate::traffic::{capacity_setting, reach, stand_still, stats, target};
use bench::server::{End, Launch, Server};

/// How much of each log is read to tell the device's speed.
const DEVICE_SAMPLE_BYTES: u64 = 4 << 30;

#[derive(Debug, Serialize)]
pub(crate) struct RestartReport {
    items: u64,
    churn: u64,
    cores: u16,
    enqueues_per_s: f64,
    cycles_per_s: f64,
    waiting: u64,
    log_bytes: u64,
    spare_bytes: u64,
    live_bytes: u64,
    device_read_bytes_per_s: f64,
    /// How the logs were dropped from the page cache.
    cold_by: &'static str,
    after_drain: Vec<Start>,
    after_kill: Vec<Start>,
}

/// One cold start.
#[derive(Debug, Clone, Copy, Serialize)]
struct Start {
    ended_after_s: f64,
    ready_after_s: f64,
    read_bytes: u64,
    waiting: u64,
}

/// What the load left behind.
struct Filled {
    enqueues_per_s: f64,
    cycles_per_s: f64,
    waiting: u64,
}

/// Fills a queue, replaces what waits in it, and restarts the server.
pub(crate) async fn restart(options: &Restart) -> anyhow::Result<RestartReport> {
    let dir = tempfile::tempdir_in(".").context("the current directory cannot be written to")?;
    let data_dir = dir.path().join("data");
    let mut settings = vec![capacity_setting(options.items)];
    settings.extend(
        options
            .history
            .map(|bytes| format!("history_bytes={bytes}")),
    );
    settings.extend(
        options
            .segment
            .map(|bytes| format!("segment_bytes={bytes}")),
    );
    let mut launch = Launch::new(&data_dir, options.place.cpus(), settings)?;
    let mut server = launch.start().await?;

    let filled = fill(options, &server).await?;
    let live_bytes = server.log_sizes().await?.live_bytes;
    let disk = on_disk(&data_dir)?;
    let mut cold_by = "";
    let mut starts = [Vec::new(), Vec::new()];
    for (how, starts) in [End::Drain, End::Kill].into_iter().zip(&mut starts) {
        for _ in 0..options.restarts {
            check_waiting(&server, filled.waiting).await?;
            let ended_after_s = server.end(how).await?.as_secs_f64();
            cold_by = forget(&data_dir)?;
            server = launch.start().await?;
            let start = Start {
                ended_after_s,
                ready_after_s: server.ready_after.as_secs_f64(),
                read_bytes: server.read_bytes()?,
                waiting: check_waiting(&server, filled.waiting).await?,
            };
            eprintln!(
                "restart ({how:?}): ready after {:.3} s",
                start.ready_after_s
            );
            starts.push(start);
        }
    }
    server.end(End::Kill).await?;
    forget(&data_dir)?;
    let [after_drain, after_kill] = starts;
    Ok(RestartReport {
        items: options.items,
        churn: options.churn,
        cores: options.place.cores,
        enqueues_per_s: filled.enqueues_per_s,
        cycles_per_s: filled.cycles_per_s,
        waiting: filled.waiting,
        log_bytes: disk.bytes - disk.spare_bytes,
        spare_bytes: disk.spare_bytes,
        live_bytes,
        device_read_bytes_per_s: read_speed(&data_dir, DEVICE_SAMPLE_BYTES)?,
        cold_by,
        after_drain,
        after_kill,
    })
}

/// Enqueues all items, then has them leased and completed and as many enqueued.
async fn fill(options: &Restart, server: &Server) -> anyhow::Result<Filled> {
    let calls = options.items.div_ceil(options.batch.into());
    let items = calls * u64::from(options.batch);
    let shape = options.place.shape(options.batch, Duration::MAX);
    let pace = Pace::Backlog(usize::try_from(calls)?);
    let mut load = Load::open(&target(server), shape, pace).await?;
    load.start_producers()?;
    let acknowledged = |run: &Run| run.ledger.borrow().acknowledged();
    let enqueues_per_s = reach(load.run(), "enqueued", items, acknowledged).await?;

    let mut cycles_per_s = 0.0;
    if options.churn > 0 {
        load.start_workers()?;
        let cycles = items * options.churn;
        let completed = |run: &Run| run.ledger.borrow().completed();
        cycles_per_s = reach(load.run(), "cycles", cycles, completed).await?;
    }
    stand_still(&load).await?;
    let waiting = load.run().ledger.borrow().unfinished();
    Ok(Filled {
        enqueues_per_s,
        cycles_per_s,
        waiting,
    })
}

/// Sees that all items wait, no more and no less, and nothing else is in the queue.
async fn check_waiting(server: &Server, items: u64) -> anyhow::Result<u64> {
    let found = stats(&target(server)).await?;
    let expected = Stats {
        pending_count: items,
        ..Stats::default()
    };
    if found != expected {
        bail!("{items} items should wait and nothing else be there, found {found:?}");
    }
    Ok(found.pending_count)
}

impl Report for RestartReport {
    fn table(&self) -> Table {
        let mut table = Table::default();
        let mut line = |name: &str, value: String| table.line(name, value);
        line("items waiting", self.waiting.to_string());
        line("each replaced, times", self.churn.to_string());
        line("cores", self.cores.to_string());
        line("enqueues/s", format!("{:.0}", self.enqueues_per_s));
        line("cycles/s", format!("{:.0}", self.cycles_per_s));
        line("log, without spares", mib(self.log_bytes));
        line("spares", mib(self.spare_bytes));
        line("live in it", mib(self.live_bytes));
        let speed = self.device_read_bytes_per_s;
        line(
            "device, reading in order",
            format!("{:.2} GB/s", speed / 1e9),
        );
        for (name, starts) in [
            ("SIGTERM", &self.after_drain),
            ("SIGKILL", &self.after_kill),
        ] {
            let times: Vec<String> = starts
                .iter()
                .map(|start| format!("{:.3}", start.ready_after_s))
                .collect();
            let median = median(starts);
            let seconds = median.ready_after_s;
            line(
                &format!("after {name}: ready after"),
                format!("{seconds:.3} s ({} s)", times.join(", ")),
            );
            line("  read from the device", mib(median.read_bytes));
            line(
                "  times the device's own time",
                format!("{:.2}", seconds * speed / median.read_bytes.max(1) as f64),
            );
            line(
                "  items waiting before and after",
                format!("{} = {}", self.waiting, median.waiting),
            );
        }
        line("made cold by", self.cold_by.to_owned());
        table
    }

    fn broken(&self) -> Option<String> {
        // What must hold ends the measurement at once.
        None
    }
}

fn median(starts: &[Start]) -> Start {
    let mut starts = starts.to_vec();
    starts.sort_by(|a, b| a.ready_after_s.total_cmp(&b.ready_after_s));
    starts[starts.len() / 2]
}
