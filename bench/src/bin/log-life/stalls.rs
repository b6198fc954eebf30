//! Which calls wait for the log, and whose fault that is.

#![allow(
    unsafe_code,
    reason = "one system call; its block says why it is sound"
)]

use std::time::{Duration, Instant};

use anyhow::Context;
use omnirelay_loadgen::{Latency, Load, Pace};
use serde::Serialize;

use crate::Report;
use crate::args::Stalls;
use crate::blame::{Cover, Span};
use crate::cpu_use::CpuUse;
use crate::log_work::{self, LogWork};
use crate::probes::{CPU_STEP, DEVICE_STEP, LoopProbe, Probe, ProbeFiles, Seen, Stall};
use crate::table::{Table, mib};
use crate::traffic::{bury, capacity_setting, check, check_buried, target, work_off};
use bench::server::{End, Launch, LogSizes, Server};

/// Between two lines about how far it is.
const PROGRESS_STEP: Duration = Duration::from_secs(30);
/// More than this of the server's CPUs is not what the kernel and the probes use for it.
const OTHERS_SHARE_MAX: f64 = 0.2;
/// Slow calls that are shown to eyes, the longest first; JSON has all.
const SHOWN_MAX: usize = 20;
/// Between two looks at whether all calls were answered.
const CHECK_STEP: Duration = Duration::from_millis(500);

/// Whose fault a slow call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Fault {
    Device,
    DeviceFlush,
    Client,
    ServerCpu,
    /// The log's own syncs, with no work on segments beside them.
    DeviceSync,
    /// Nobody is known to be at fault, and the server worked on segments.
    Segments,
    Unknown,
}

const FAULTS: [(Fault, &str); 7] = [
    (Fault::Device, "the device's, by its reads"),
    (Fault::DeviceFlush, "the device's, by its flushes"),
    (Fault::Client, "the client's"),
    (Fault::ServerCpu, "the machine's, which took the CPU"),
    (
        Fault::DeviceSync,
        "the device's, by the log's syncs, no segment beside",
    ),
    (Fault::Segments, "ours, beside work on segments"),
    (Fault::Unknown, "not explained"),
];

#[derive(Debug, Serialize)]
pub(crate) struct StallsReport {
    seconds: f64,
    cycles_per_s: f64,
    segments_begun: u64,
    segments_given_up: u64,
    segment_bytes: u64,
    device_write_bytes_per_s: f64,
    /// Whether it is known when the device was busy.
    device_has_counters: bool,
    /// Of the server's CPUs: what was used by anything but the server.
    others_cpu_share: f64,
    /// Of the time: what was beside work on segments.
    beside_segments_share: f64,
    enqueue_us: Latency,
    lease_us: Latency,
    complete_us: Latency,
    probes: Vec<ProbeReport>,
    slow_after_ms: u128,
    slow_calls: Vec<SlowCall>,
}

#[derive(Debug, Serialize)]
struct ProbeReport {
    probe: &'static str,
    evidence_against: Option<Fault>,
    real_time: bool,
    times_us: Latency,
    stalls: Vec<ToldStall>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct ToldStall {
    began_s: f64,
    ended_s: f64,
    device_busy: bool,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct SlowCall {
    began_s: f64,
    ended_s: f64,
    fault: Fault,
    /// Whether the server worked on segments at that time, whoever is at fault.
    beside_segments: bool,
    /// How much of it stalls of each probe overlap, in the order of the probes.
    overlap_ms: [f64; 5],
}

/// What looks at the machine during a run.
struct Probes {
    client_loop: LoopProbe,
    read: Probe,
    flush: Probe,
    sync: Probe,
    client: Probe,
    server_cpus: Vec<Probe>,
}

/// What the probes saw: read, flush, sync, client, server CPU.
type AllSeen = [(&'static str, Option<Fault>, Seen); 5];

/// Works at a given rate beside the probes, and judges the slow calls.
pub(crate) async fn stalls(options: &Stalls) -> anyhow::Result<StallsReport> {
    let dir = tempfile::tempdir_in(".").context("the current directory cannot be written to")?;
    let files = ProbeFiles::make(dir.path())?;
    let data_dir = dir.path().join("data");
    let mut settings = vec![
        // Room for what queues up while something stalls.
        capacity_setting(options.bury + 60 * u64::from(options.rate)),
        format!("history_bytes={}", options.history),
        format!("segment_bytes={}", options.segment),
    ];
    settings.extend(log_work::SETTINGS.map(str::to_owned));
    let mut launch = Launch::new(&data_dir, options.place.cpus(), settings)?;
    let server = launch.start().await?;
    let target = target(&server);
    bury(&target, options.bury, options.place.size).await?;
    let before = server.log_sizes().await?;
    // What others wrote before is not to be written meanwhile.
    sync_all();

    let probes = Probes::start(options, &files)?;
    let shape = options.place.shape(options.batch, options.slow);
    let period = Duration::from_secs_f64(f64::from(options.batch) / f64::from(options.rate));
    let mut load = Load::open(&target, shape, Pace::Period(period)).await?;
    load.start_workers()?;
    load.start_producers()?;
    let cpu_use = CpuUse::from_now(&server, options.place.cpus().of_server())?;
    produce(options, &load, &server).await?;
    let others_cpu_share = cpu_use.others_share()?;
    let seconds = load.run().start.elapsed().as_secs_f64();
    let cycles = load.run().ledger.borrow().completed();
    work_off(&load).await?;
    let seen = probes.seen()?;
    let after = server.log_sizes().await?;

    check_buried(&target, options.bury, options.place.size).await?;
    server.end(End::Drain).await?;
    let work = LogWork::read(&launch.said())?;
    let begun = |sizes: LogSizes| sizes.retired + sizes.segments;
    let latencies = load.run().latencies.borrow();
    let start = load.run().start.into_std();
    let measured = Span {
        began: start,
        ended: start + Duration::from_secs_f64(seconds),
    };
    Ok(StallsReport {
        seconds,
        cycles_per_s: cycles as f64 / seconds,
        segments_begun: begun(after) - begun(before),
        segments_given_up: after.retired - before.retired,
        segment_bytes: options.segment,
        device_write_bytes_per_s: files.write_bytes_per_s(),
        device_has_counters: files.has_counters(),
        others_cpu_share,
        beside_segments_share: work.on_segments.within(measured).as_secs_f64() / seconds,
        enqueue_us: (&latencies.enqueue).into(),
        lease_us: (&latencies.lease).into(),
        complete_us: (&latencies.complete).into(),
        slow_after_ms: options.slow.as_millis(),
        slow_calls: judge(&load, &seen, &work, options.slow),
        probes: seen
            .iter()
            .map(|(name, against, seen)| told(name, *against, seen, start))
            .collect(),
    })
}

/// Brings to the device what waits to be written.
fn sync_all() {
    // SAFETY: it takes nothing and touches no memory of ours.
    unsafe { libc::sync() };
}

async fn produce(options: &Stalls, load: &Load, server: &Server) -> anyhow::Result<()> {
    let end = load.run().start + options.duration;
    let mut told = load.run().start;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep_until(end.min(tokio::time::Instant::now() + CHECK_STEP)).await;
        check(load.run())?;
        if told.elapsed() >= PROGRESS_STEP {
            told = tokio::time::Instant::now();
            let seconds = load.run().start.elapsed().as_secs_f64();
            let done = load.run().ledger.borrow().completed();
            let given_up = server.log_sizes().await?.retired;
            let slow = load.run().slow_calls().len();
            eprintln!(
                "{seconds:.0} s: {done} items done, {given_up} segments given up, {slow} slow calls"
            );
        }
    }
    Ok(())
}

impl Probes {
    fn start(options: &Stalls, files: &ProbeFiles) -> anyhow::Result<Self> {
        let (place, stall) = (&options.place, options.stall);
        let server_cpus = place.cpus().of_server().into_iter();
        Ok(Self {
            client_loop: LoopProbe::start(stall),
            read: Probe::read(files, stall)?,
            flush: Probe::flush(files, stall)?,
            sync: Probe::sync(files, stall)?,
            client: Probe::wake(place.client_cpu, false, stall)?,
            server_cpus: server_cpus
                .map(|cpu| Probe::wake(cpu, true, stall))
                .collect::<anyhow::Result<_>>()?,
        })
    }

    fn seen(self) -> anyhow::Result<AllSeen> {
        let mut client = self.client.seen()?;
        let kept = self.client_loop.seen().into_iter();
        client
            .stalls
            .extend(kept.map(|span| Stall { span, busy: false }));
        let mut server_cpus = self.server_cpus.into_iter();
        let mut server_cpu = server_cpus.next().expect("a server has a CPU").seen()?;
        for other in server_cpus {
            server_cpu.add(other.seen()?);
        }
        if !server_cpu.real_time {
            // Then it may have waited for the server itself.
            server_cpu.stalls.clear();
        }
        Ok([
            ("device: read", Some(Fault::Device), self.read.seen()?),
            (
                "device: flush",
                Some(Fault::DeviceFlush),
                self.flush.seen()?,
            ),
            ("device: write and sync", None, self.sync.seen()?),
            ("client wakes up", Some(Fault::Client), client),
            ("server CPU wakes up", Some(Fault::ServerCpu), server_cpu),
        ])
    }
}

/// Finds for each slow call the first fault that, with those before it, explains it.
fn judge(load: &Load, seen: &AllSeen, work: &LogWork, slow: Duration) -> Vec<SlowCall> {
    let start = load.run().start.into_std();
    let covers = seen.each_ref().map(|(_, against, seen)| {
        let step = match against {
            Some(Fault::Client | Fault::ServerCpu) => CPU_STEP,
            _ => DEVICE_STEP,
        };
        let stalls = seen.stalls.iter().filter(|stall| !stall.busy);
        let spans: Vec<Span> = stalls.map(|stall| stall.span).collect();
        Cover::of_stalls(&spans, step)
    });
    let mut cumulative = Vec::new();
    let mut all = Cover::default();
    for ((_, against, _), cover) in seen.iter().zip(&covers) {
        if let Some(fault) = against {
            all = all.and(cover.spans());
            cumulative.push((*fault, all.clone()));
        }
    }
    let judged = |call: Span| {
        let explained = cumulative
            .iter()
            .find(|(_, cover)| cover.explains(call, slow));
        let beside_segments = !work.on_segments.within(call).is_zero();
        let fault = match explained {
            Some((fault, _)) => *fault,
            None if beside_segments => Fault::Segments,
            None if all.and(work.slow_batches.spans()).explains(call, slow) => Fault::DeviceSync,
            None => Fault::Unknown,
        };
        SlowCall {
            began_s: seconds(start, call.began),
            ended_s: seconds(start, call.ended),
            fault,
            beside_segments,
            overlap_ms: covers
                .each_ref()
                .map(|cover| cover.within(call).as_secs_f64() * 1e3),
        }
    };
    let calls = load.run().slow_calls();
    let spans = calls.iter().map(|call| Span {
        began: call.began.into_std(),
        ended: call.ended.into_std(),
    });
    spans.map(judged).collect()
}

fn told(name: &'static str, against: Option<Fault>, seen: &Seen, start: Instant) -> ProbeReport {
    let stalls = seen.stalls.iter().map(|stall| ToldStall {
        began_s: seconds(start, stall.span.began),
        ended_s: seconds(start, stall.span.ended),
        device_busy: stall.busy,
    });
    ProbeReport {
        probe: name,
        evidence_against: against,
        real_time: seen.real_time,
        times_us: seen.latency(),
        stalls: stalls.collect(),
    }
}

/// Seconds since the start; 0 before it.
fn seconds(start: Instant, moment: Instant) -> f64 {
    moment.saturating_duration_since(start).as_secs_f64()
}

impl StallsReport {
    fn count(&self, fault: Fault) -> usize {
        let calls = self.slow_calls.iter();
        calls.filter(|call| call.fault == fault).count()
    }
}

impl Report for StallsReport {
    fn table(&self) -> Table {
        let mut table = Table::default();
        table.line("seconds", format!("{:.0}", self.seconds));
        table.line("cycles/s", format!("{:.0}", self.cycles_per_s));
        table.line("segment_bytes", mib(self.segment_bytes));
        table.line("segments begun", self.segments_begun.to_string());
        table.line("segments given up", self.segments_given_up.to_string());
        let speed = self.device_write_bytes_per_s;
        table.line("device, writing", format!("{:.2} GB/s", speed / 1e9));
        let others = format!("{:.0} %", 100.0 * self.others_cpu_share);
        table.line("server's CPUs used by others", others);
        let beside = format!("{:.1} %", 100.0 * self.beside_segments_share);
        table.line("time beside work on segments", beside);
        table.latency("enqueue", self.enqueue_us);
        table.latency("lease", self.lease_us);
        table.latency("complete", self.complete_us);
        for probe in &self.probes {
            table.latency(probe.probe, probe.times_us);
            let busy = probe
                .stalls
                .iter()
                .filter(|stall| stall.device_busy)
                .count();
            let class = if probe.real_time {
                ""
            } else {
                ", not real-time"
            };
            let total = probe.stalls.len();
            table.line("  stalls", format!("{total}, device busy in {busy}{class}"));
        }
        let slow = format!("enqueue calls above {} ms", self.slow_after_ms);
        table.line(slow, self.slow_calls.len().to_string());
        for (fault, name) in FAULTS {
            table.line(format!("  {name}"), self.count(fault).to_string());
        }
        let beside = self.slow_calls.iter().filter(|call| call.beside_segments);
        table.line("  beside work on segments", beside.count().to_string());
        let mut calls = self.slow_calls.clone();
        calls.sort_by(|a, b| (b.ended_s - b.began_s).total_cmp(&(a.ended_s - a.began_s)));
        for call in calls.iter().take(SHOWN_MAX) {
            let [read, flush, sync, client, cpu] = call.overlap_ms;
            table.line(
                format!("  {:.3} to {:.3} s", call.began_s, call.ended_s),
                format!(
                    "{:.1} ms, {:?}; stalls beside it, ms: read {read:.1}, flush {flush:.1}, \
                     write and sync {sync:.1}, client {client:.1}, server CPU {cpu:.1}",
                    (call.ended_s - call.began_s) * 1e3,
                    call.fault,
                ),
            );
        }
        table
    }

    fn broken(&self) -> Option<String> {
        let (ours, unknown) = (self.count(Fault::Segments), self.count(Fault::Unknown));
        let mut what = format!(
            "{ours} slow calls are nobody's fault but the server's work on segments; {unknown} away \
             from it are not explained"
        );
        if self.others_cpu_share > OTHERS_SHARE_MAX {
            let percent = 100.0 * self.others_cpu_share;
            what += &format!(
                "; but others used {percent:.0} % of its CPUs: repeat this on an idle machine"
            );
        }
        (ours > 0).then_some(what)
    }
}
