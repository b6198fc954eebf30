//! The threads beside a log, which may block so that its core never does: one writes and syncs
//! batches, one allocates and retires segments, one reads old records.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use omnirelay_wal::{Allocator, Batch, Cleaner, Disk, Fill, Reader, Reuse, Writer};

use super::inbox::{Event, Inbox};
use crate::node::{LogId, ReadRequest, ScanRequest};

/// How long to wait before asking a full disk for a segment again.
const ALLOCATE_RETRY: Duration = Duration::from_secs(1);
/// What takes longer than this is told to who debugs latencies.
const SLOW: Duration = Duration::from_millis(10);
/// These threads keep little on their stacks.
const STACK_BYTES: usize = 256 * 1024;

/// A log's threads, as its core holds them. Dropping it ends them; [`LogThreads::join`] waits.
#[derive(Debug)]
pub(super) struct LogThreads {
    batches: mpsc::Sender<Batch>,
    segments: mpsc::Sender<SegmentWork>,
    reads: mpsc::Sender<Reading>,
}

/// What is to be done with segment files.
enum SegmentWork {
    Allocate(Fill),
    Retire(u32, Reuse),
}

/// What is to be read.
enum Reading {
    Record(ReadRequest),
    Scan(ScanRequest),
    /// A segment will be gone: let go of its file.
    Forget(u32),
}

/// The threads themselves, to wait for.
#[derive(Debug)]
pub(super) struct LogThreadsEnd(Vec<JoinHandle<()>>);

impl LogThreadsEnd {
    /// Waits until the log is closed. The [`LogThreads`] must have been dropped.
    pub(super) fn join(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("a log thread panicked");
            }
        }
    }
}

impl LogThreads {
    /// Starts the threads of one log; their results go to its core's inbox.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn start<D>(
        log: LogId,
        writer: Writer<D>,
        allocator: Allocator<D>,
        reader: Reader<D>,
        cleaner: Cleaner<D>,
        inbox: &Inbox,
    ) -> io::Result<(LogThreads, LogThreadsEnd)>
    where
        D: Disk + Send + 'static,
    {
        let (batches, batch_queue) = mpsc::channel();
        let (segments, segment_queue) = mpsc::channel();
        let (reads, read_queue) = mpsc::channel();
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            thread::Builder::new()
                .name(format!("{name}-{}", log.0))
                .stack_size(STACK_BYTES)
                .spawn(run)
        };
        let to = inbox.clone();
        let write = spawn(
            "log",
            Box::new(move || write_batches(log, writer, &batch_queue, &to)),
        )?;
        let to = inbox.clone();
        let allocate = spawn(
            "alloc",
            Box::new(move || keep_segments(log, allocator, &segment_queue, &to)),
        )?;
        let to = inbox.clone();
        let read = spawn(
            "read",
            Box::new(move || read_records(log, &reader, &cleaner, &read_queue, &to)),
        )?;
        Ok((
            LogThreads {
                batches,
                segments,
                reads,
            },
            LogThreadsEnd(vec![write, allocate, read]),
        ))
    }

    /// Writes and syncs a batch.
    pub(super) fn write(&self, batch: Batch) {
        // The thread ends only when this sender is dropped.
        let _ = self.batches.send(batch);
    }

    /// Allocates a spare segment.
    pub(super) fn allocate(&self, fill: Fill) {
        let _ = self.segments.send(SegmentWork::Allocate(fill));
    }

    /// Gives up a segment.
    pub(super) fn retire(&self, segment: u32, reuse: Reuse) {
        let _ = self.reads.send(Reading::Forget(segment));
        let _ = self.segments.send(SegmentWork::Retire(segment, reuse));
    }

    /// Reads a record's body.
    pub(super) fn read(&self, request: ReadRequest) {
        let _ = self.reads.send(Reading::Record(request));
    }

    /// Reads a part of a segment that is given up.
    pub(super) fn scan(&self, request: ScanRequest) {
        let _ = self.reads.send(Reading::Scan(request));
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

fn write_batches<D: Disk>(
    log: LogId,
    mut writer: Writer<D>,
    batches: &mpsc::Receiver<Batch>,
    inbox: &Inbox,
) {
    let mut segment = None;
    while let Ok(batch) = batches.recv() {
        let started = Instant::now();
        let before = segment.replace(batch.segment());
        let begins = before.is_some_and(|before| before != batch.segment());
        match writer.write(&batch) {
            Ok(()) => {
                let (number, bytes, records) =
                    (batch.number, batch.disk_bytes() as u64, batch.records());
                let segment = batch.segment();
                // The appender gets the buffer back with the event: let go of it first.
                drop(batch);
                let took = started.elapsed();
                let took_us = micros(took);
                if begins {
                    tracing::debug!(log = log.0, segment, took_us, "a segment was begun");
                }
                if took >= SLOW {
                    tracing::debug!(
                        log = log.0,
                        segment,
                        bytes,
                        took_us,
                        "a batch was slow to become durable"
                    );
                }
                inbox.send(Event::Synced {
                    log,
                    batch: number,
                    bytes,
                    records: u64::from(records),
                    took,
                });
            }
            Err(poisoned) => {
                tracing::error!(log = log.0, error = %poisoned, "the log failed; nothing in it is acknowledged any more");
                inbox.send(Event::LogFailed(log, poisoned.to_string()));
                return;
            }
        }
    }
    if let Err(error) = writer.close() {
        tracing::warn!(log = log.0, %error, "the log could not be closed cleanly; the next start will recover it");
    }
}

fn keep_segments<D: Disk>(
    log: LogId,
    mut allocator: Allocator<D>,
    work: &mpsc::Receiver<SegmentWork>,
    inbox: &Inbox,
) {
    // Spares that are still to be allocated because the disk had no room.
    let mut owed: VecDeque<Fill> = VecDeque::new();
    let mut refused = false;
    loop {
        let next = match owed.is_empty() {
            true => work
                .recv()
                .map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            false => work.recv_timeout(ALLOCATE_RETRY),
        };
        match next {
            Ok(SegmentWork::Allocate(fill)) => owed.push_back(fill),
            Ok(SegmentWork::Retire(segment, reuse)) => {
                let started = Instant::now();
                let retired = allocator.retire(segment, reuse);
                let took_us = micros(started.elapsed());
                tracing::debug!(
                    log = log.0,
                    segment,
                    ?reuse,
                    took_us,
                    "a segment was given up"
                );
                if let Err(error) = &retired {
                    tracing::error!(log = log.0, segment, %error, "a segment could not be given up: the log grows until the next start");
                }
                let retired = retired.map_err(|error| error.to_string());
                inbox.send(Event::Retired(log, segment, retired));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        while let Some(&fill) = owed.front() {
            let started = Instant::now();
            match allocator.allocate(fill) {
                Ok(spare) => {
                    let (segment, took_us) = (spare.segment(), micros(started.elapsed()));
                    tracing::debug!(log = log.0, segment, ?fill, took_us, "a segment was made");
                    if std::mem::take(&mut refused) {
                        tracing::info!(log = log.0, "the disk has room again");
                    }
                    inbox.send(Event::Spare(log, Ok(spare)));
                    owed.pop_front();
                }
                Err(error) => {
                    if !std::mem::replace(&mut refused, true) {
                        tracing::error!(log = log.0, %error, "no room for another log segment: new work is refused until there is");
                        inbox.send(Event::Spare(log, Err(error.to_string())));
                    }
                    break;
                }
            }
        }
    }
}

fn read_records<D: Disk>(
    log: LogId,
    reader: &Reader<D>,
    cleaner: &Cleaner<D>,
    asked: &mpsc::Receiver<Reading>,
    inbox: &Inbox,
) {
    while let Ok(reading) = asked.recv() {
        match reading {
            Reading::Record(request) => {
                let bytes = reader.read(request.at, request.len);
                let bytes = bytes.map_err(|error| error.to_string());
                inbox.send(Event::Read(request.id, bytes));
            }
            Reading::Scan(request) => {
                let ScanRequest {
                    segment,
                    from,
                    bytes_max,
                } = request;
                let scanned = cleaner.scan(segment, from, ScanRequest::is_wanted, bytes_max);
                if let Err(error) = &scanned {
                    tracing::error!(log = log.0, segment, %error, "a segment cannot be read, so it is kept: the log grows until the next start");
                }
                inbox.send(Event::Scanned(
                    log,
                    scanned.map_err(|error| error.to_string()),
                ));
            }
            Reading::Forget(segment) => reader.forget(segment),
        }
    }
}
