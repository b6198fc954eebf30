//! What the machine does meanwhile, seen by threads that do little but look at the clock.
//!
//! Which of them is evidence against the device, and why the others are not, is in the help of
//! `stalls`.

#![allow(unsafe_code, reason = "system calls; each block says why it is sound")]

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use hdrhistogram::Histogram;
use omnirelay_loadgen::{Latency, cpu};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::blame::Span;
use crate::disk::{Aligned, BLOCK_BYTES, open_direct};

/// Between two looks at the device.
pub(crate) const DEVICE_STEP: Duration = Duration::from_millis(2);
/// Between two looks at a CPU.
pub(crate) const CPU_STEP: Duration = Duration::from_millis(1);
/// What is read from, and what the device's speed is told by: more than it takes in one go.
const FILE_BYTES: usize = 128 << 20;
/// What is written to by the probe that syncs.
const SYNCED_BYTES: usize = 1 << 20;
/// A device that moves this share of what it can is busy, not stalled.
const BUSY_SHARE: f64 = 0.5;
/// The longest time that is told apart, µs.
const TIME_US_MAX: u64 = 10 * 60 * 1_000_000;
/// The most stalls that a probe remembers.
const STALLS_MAX: usize = 1_000_000;
/// Sectors in the kernel's counters are of this size whatever the device's are.
const SECTOR_BYTES: u64 = 512;

/// A stall as a probe saw it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stall {
    pub(crate) span: Span,
    /// The device moved so much that it was busy, or had as much to flush.
    pub(crate) busy: bool,
}

/// All that a probe saw.
#[derive(Debug)]
pub(crate) struct Seen {
    times_us: Histogram<u64>,
    pub(crate) stalls: Vec<Stall>,
    /// Whether nothing of fair scheduling could delay it.
    pub(crate) real_time: bool,
    stall: Duration,
}

impl Seen {
    fn new(stall: Duration, real_time: bool) -> Self {
        let times_us = Histogram::new_with_bounds(1, TIME_US_MAX, 3);
        Self {
            times_us: times_us.expect("the bounds are constants"),
            stalls: Vec::new(),
            real_time,
            stall,
        }
    }

    fn record(&mut self, span: Span, busy: impl FnOnce() -> bool) {
        let us = u64::try_from(span.length().as_micros()).unwrap_or(u64::MAX);
        self.times_us.saturating_record(us);
        if span.length() >= self.stall && self.stalls.len() < STALLS_MAX {
            let busy = busy();
            self.stalls.push(Stall { span, busy });
        }
    }

    /// With what another probe of its kind saw.
    pub(crate) fn add(&mut self, other: Seen) {
        let added = self.times_us.add(other.times_us);
        added.expect("all have the same bounds");
        self.stalls.extend(other.stalls);
        self.real_time &= other.real_time;
    }

    pub(crate) fn latency(&self) -> Latency {
        (&self.times_us).into()
    }
}

/// A thread that looks until it is told to stop.
#[derive(Debug)]
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Seen>>>,
}

impl Probe {
    /// Looks by doing `look` over and over; it says from when to when it took.
    fn start(
        name: &'static str,
        stall: Duration,
        cpus: Option<usize>,
        real_time: bool,
        device: Option<Device>,
        mut look: impl FnMut() -> io::Result<Span> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let body = move || {
            cpus.map_or(Ok(()), |cpu| cpu::pin(&[cpu]))?;
            let mut seen = Seen::new(stall, real_time && go_before_others());
            let moved = || device.as_ref().and_then(Device::moved_bytes);
            let mut before_last = moved();
            while !told.load(Ordering::Relaxed) {
                let before = moved();
                let span = look()?;
                // From the look before on: a flush has to bring to safety what that did not.
                let since = std::mem::replace(&mut before_last, before);
                seen.record(span, || {
                    let bytes = moved().zip(since).map(|(after, since)| after - since);
                    device
                        .as_ref()
                        .zip(bytes)
                        .is_some_and(|(device, bytes)| device.is_busy(bytes, span.length()))
                });
            }
            Ok(seen)
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(body);
        let thread = thread.with_context(|| format!("the thread `{name}` cannot start"))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends it.
    pub(crate) fn seen(mut self) -> anyhow::Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is taken once");
        let seen = thread.join().map_err(|_| anyhow!("a probe panicked"))?;
        seen.context("a probe failed")
    }

    /// Reads 4 KiB at random past the page cache.
    pub(crate) fn read(files: &ProbeFiles, stall: Duration) -> anyhow::Result<Self> {
        let file = open_direct(&files.old).context("O_DIRECT is not supported here")?;
        let mut block = Aligned::new(BLOCK_BYTES);
        let mut random = SmallRng::seed_from_u64(1);
        let look = move || {
            std::thread::sleep(DEVICE_STEP);
            let at = random.random_range(0..FILE_BYTES / BLOCK_BYTES) * BLOCK_BYTES;
            timed(|| file.read_exact_at(block.bytes(), at as u64))
        };
        Self::start(
            "read-probe",
            stall,
            None,
            true,
            Some(files.device.clone()),
            look,
        )
    }

    /// Flushes the device's cache: the sync of a file that has not changed since its last one does
    /// just that, because the journal's transaction that it would wait for is long over.
    pub(crate) fn flush(files: &ProbeFiles, stall: Duration) -> anyhow::Result<Self> {
        let file = File::open(&files.old)?;
        let look = move || {
            std::thread::sleep(DEVICE_STEP);
            timed(|| file.sync_data())
        };
        Self::start(
            "flush-probe",
            stall,
            None,
            true,
            Some(files.device.clone()),
            look,
        )
    }

    /// Writes 4 KiB over what was written, and syncs, as a commit does.
    pub(crate) fn sync(files: &ProbeFiles, stall: Duration) -> anyhow::Result<Self> {
        let file = File::options().write(true).open(&files.synced)?;
        let block = [7; BLOCK_BYTES];
        let mut at = 0;
        let look = move || {
            std::thread::sleep(DEVICE_STEP);
            at = (at + BLOCK_BYTES) % SYNCED_BYTES;
            timed(|| {
                file.write_all_at(&block, at as u64)?;
                file.sync_data()
            })
        };
        Self::start(
            "sync-probe",
            stall,
            None,
            true,
            Some(files.device.clone()),
            look,
        )
    }

    /// Sleeps on a CPU; the time from when it should have woken up until it did counts.
    pub(crate) fn wake(cpu: usize, real_time: bool, stall: Duration) -> anyhow::Result<Self> {
        let look = || {
            let began = Instant::now() + CPU_STEP;
            std::thread::sleep(CPU_STEP);
            let ended = Instant::now().max(began);
            Ok(Span { began, ended })
        };
        Self::start("wake-probe", stall, Some(cpu), real_time, None, look)
    }
}

/// A task between those that drive the load: while one of them keeps their thread, replies wait
/// there unread.
#[derive(Debug)]
pub(crate) struct LoopProbe {
    task: tokio::task::JoinHandle<()>,
    stalls: Rc<RefCell<Vec<Span>>>,
}

impl LoopProbe {
    /// Must be called on a [`tokio::task::LocalSet`].
    pub(crate) fn start(stall: Duration) -> Self {
        let stalls = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&stalls);
        let task = tokio::task::spawn_local(async move {
            loop {
                let began = Instant::now() + CPU_STEP;
                tokio::time::sleep(CPU_STEP).await;
                let ended = Instant::now();
                if ended > began + stall {
                    seen.borrow_mut().push(Span { began, ended });
                }
            }
        });
        Self { task, stalls }
    }

    /// Ends it; when the thread was kept.
    pub(crate) fn seen(self) -> Vec<Span> {
        self.task.abort();
        self.stalls.take()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The files that probes use, written and synced before anything is measured.
#[derive(Debug)]
pub(crate) struct ProbeFiles {
    old: PathBuf,
    synced: PathBuf,
    device: Device,
}

impl ProbeFiles {
    pub(crate) fn make(dir: &Path) -> anyhow::Result<Self> {
        let (old, synced) = (dir.join("old.probe"), dir.join("synced.probe"));
        write_synced(&synced, SYNCED_BYTES)?;
        let bytes_per_s = FILE_BYTES as f64 / write_synced(&old, FILE_BYTES)?.as_secs_f64();
        let device = Device::of(dir, bytes_per_s)?;
        Ok(Self {
            old,
            synced,
            device,
        })
    }

    /// What the device can write, bytes a second.
    pub(crate) fn write_bytes_per_s(&self) -> f64 {
        self.device.bytes_per_s
    }

    /// Whether the kernel counts what the device moves.
    pub(crate) fn has_counters(&self) -> bool {
        self.device.moved_bytes().is_some()
    }
}

/// Writes a file twice, so that the second time needs no space; how long that took.
fn write_synced(path: &Path, bytes: usize) -> anyhow::Result<Duration> {
    let mut random = SmallRng::seed_from_u64(2);
    let mut block = vec![0; 1 << 20];
    random.fill(&mut block[..]);
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut took = Duration::ZERO;
    for _ in 0..2 {
        let began = Instant::now();
        for at in (0..bytes).step_by(block.len()) {
            file.write_all_at(&block, at as u64)?;
        }
        file.sync_all()?;
        took = began.elapsed();
    }
    Ok(took)
}

/// The device's counters in the kernel.
#[derive(Debug, Clone)]
struct Device {
    counters: PathBuf,
    bytes_per_s: f64,
}

impl Device {
    fn of(dir: &Path, bytes_per_s: f64) -> anyhow::Result<Self> {
        let device = std::fs::metadata(dir)?.st_dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        Ok(Self {
            counters: format!("/sys/dev/block/{major}:{minor}/stat").into(),
            bytes_per_s,
        })
    }

    /// Bytes that it has read and written; `None` where the file system is not on one device.
    fn moved_bytes(&self) -> Option<u64> {
        let told = std::fs::read_to_string(&self.counters).ok()?;
        let mut fields = told.split_ascii_whitespace();
        let read: u64 = fields.nth(2)?.parse().ok()?;
        let written: u64 = fields.nth(3)?.parse().ok()?;
        Some((read + written) * SECTOR_BYTES)
    }

    fn is_busy(&self, bytes: u64, time: Duration) -> bool {
        bytes as f64 / time.as_secs_f64() >= BUSY_SHARE * self.bytes_per_s
    }
}

fn timed(act: impl FnOnce() -> io::Result<()>) -> io::Result<Span> {
    let began = Instant::now();
    act()?;
    Ok(Span {
        began,
        ended: Instant::now(),
    })
}

/// Gives this thread the lowest real-time priority, which goes before all fair scheduling; whether
/// that is allowed.
fn go_before_others() -> bool {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: `parameters` outlives the call; 0 is this thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) == 0 }
}
