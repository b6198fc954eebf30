//! The threads beside a log, which may block so that its core never does: one writes and syncs
//! batches, one allocates spare segments, one reads old records.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use omnirelay_wal::{Allocator, Batch, Disk, Fill, Reader, Writer};

use super::inbox::{Event, Inbox};
use crate::node::{LogId, ReadRequest};

/// How long to wait before asking a full disk for a segment again.
const ALLOCATE_RETRY: Duration = Duration::from_secs(1);
/// These threads keep little on their stacks.
const STACK_BYTES: usize = 256 * 1024;

/// A log's threads, as its core holds them. Dropping it ends them; [`LogThreads::join`] waits.
#[derive(Debug)]
pub(super) struct LogThreads {
    batches: mpsc::Sender<Batch>,
    allocations: mpsc::Sender<Fill>,
    reads: mpsc::Sender<ReadRequest>,
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
        inbox: &Inbox,
    ) -> io::Result<(LogThreads, LogThreadsEnd)>
    where
        D: Disk + Send + 'static,
    {
        let (batches, batch_queue) = mpsc::channel();
        let (allocations, allocation_queue) = mpsc::channel();
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
            Box::new(move || allocate_spares(log, allocator, &allocation_queue, &to)),
        )?;
        let to = inbox.clone();
        let read = spawn(
            "read",
            Box::new(move || read_records(&reader, &read_queue, &to)),
        )?;
        Ok((
            LogThreads {
                batches,
                allocations,
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
        let _ = self.allocations.send(fill);
    }

    /// Reads a record's body.
    pub(super) fn read(&self, request: ReadRequest) {
        let _ = self.reads.send(request);
    }
}

fn write_batches<D: Disk>(
    log: LogId,
    mut writer: Writer<D>,
    batches: &mpsc::Receiver<Batch>,
    inbox: &Inbox,
) {
    while let Ok(batch) = batches.recv() {
        let started = Instant::now();
        match writer.write(&batch) {
            Ok(()) => {
                let (number, bytes, records) =
                    (batch.number, batch.disk_bytes() as u64, batch.records());
                // The appender gets the buffer back with the event: let go of it first.
                drop(batch);
                let took = started.elapsed();
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

fn allocate_spares<D: Disk>(
    log: LogId,
    mut allocator: Allocator<D>,
    asked: &mpsc::Receiver<Fill>,
    inbox: &Inbox,
) {
    while let Ok(fill) = asked.recv() {
        let mut owed = 1;
        let mut refused = false;
        while owed > 0 {
            match allocator.allocate(fill) {
                Ok(spare) => {
                    if std::mem::take(&mut refused) {
                        tracing::info!(log = log.0, "the disk has room again");
                    }
                    inbox.send(Event::Spare(log, Ok(spare)));
                    owed -= 1;
                    continue;
                }
                Err(error) if !refused => {
                    tracing::error!(log = log.0, %error, "no room for another log segment: new work is refused until there is");
                    inbox.send(Event::Spare(log, Err(error.to_string())));
                    refused = true;
                }
                Err(_) => {}
            }
            match asked.recv_timeout(ALLOCATE_RETRY) {
                Ok(_) => owed += 1,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

fn read_records<D: Disk>(reader: &Reader<D>, asked: &mpsc::Receiver<ReadRequest>, inbox: &Inbox) {
    while let Ok(request) = asked.recv() {
        let bytes = reader
            .read(request.at, request.len)
            .map_err(|error| error.to_string());
        inbox.send(Event::Read(request.id, bytes));
    }
}
