//! Opening the logs and rebuilding the shards from their records.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use omnirelay_queue::{Epoch, Event, Lsn, Nanos, Place, Record, Shard, ShardId};
use omnirelay_wal::{Disk, Fill, LogOptions, OpenError, RealDisk, RecordHeader, Recovery, open};

use super::DataDirError;
use crate::cores::OpenedLog;
use crate::node::{Layout, LogId, SPARES_MIN};
use crate::replication::CommittedLog;

/// Room in the log that is enough to start with when the disk gives no more.
const ROOM_TO_START_BYTES: u64 = 1 << 20;

/// How large a log's parts are, and it.
#[derive(Debug, Clone, Copy)]
pub struct LogSettings {
    /// The size of a segment.
    pub segment_bytes: u32,
    /// Bytes of log kept beyond what lives in them.
    pub history_bytes: u64,
}

/// How a log was found.
#[derive(Debug, Clone)]
pub struct LogRecovery {
    /// Which log.
    pub log: LogId,
    /// What the log itself says.
    pub recovery: Recovery,
    /// How long reading and replaying it took.
    pub took: Duration,
}

/// All logs of a node, open and replayed.
pub struct OpenedLogs<D: Disk> {
    /// In order.
    pub logs: Vec<OpenedLog<D>>,
    /// The same, to be read by others.
    pub committed: Vec<CommittedLog<D>>,
    /// What each was like.
    pub recoveries: Vec<LogRecovery>,
    /// The latest time in any record.
    pub last_at: Nanos,
}

/// Opens every log of `dir` and replays it into the layout's shards, as many at once as there are
/// CPUs. Says after each how many are open.
///
/// # Errors
/// If a log's directory or segments cannot be used. Nothing in them has been overwritten.
pub fn open_logs(
    dir: &Path,
    layout: &Layout,
    settings: LogSettings,
    entropy: fn() -> u64,
    progress: &(dyn Fn(u16) + Sync),
) -> Result<OpenedLogs<RealDisk>, DataDirError> {
    let (next, open) = (AtomicU16::new(0), AtomicU16::new(0));
    let found = Mutex::new(Vec::new());
    let worker = || {
        loop {
            let log = LogId(next.fetch_add(1, Relaxed));
            if log.0 >= layout.logs() {
                return;
            }
            let opened = open_in(dir, layout, settings, log, entropy);
            progress(open.fetch_add(1, Relaxed) + 1);
            found.lock().expect("no worker panics").push((log, opened));
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 1..workers.min(usize::from(layout.logs())) {
            scope.spawn(worker);
        }
        worker();
    });
    let mut found = found.into_inner().expect("no worker panics");
    found.sort_by_key(|(log, _)| *log);
    let mut all = OpenedLogs {
        logs: Vec::new(),
        committed: Vec::new(),
        recoveries: Vec::new(),
        last_at: Nanos(0),
    };
    for (_, opened) in found {
        let (log, committed, recovery) = opened?;
        all.last_at = all.last_at.max(Nanos(recovery.recovery.last_at));
        all.committed.push(committed);
        all.logs.push(log);
        all.recoveries.push(recovery);
    }
    // The new logs' directories must outlive a power failure too.
    std::fs::File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|source| DataDirError::Unusable {
            path: dir.to_owned(),
            source,
        })?;
    Ok(all)
}

type OpenedIn = (OpenedLog<RealDisk>, CommittedLog<RealDisk>, LogRecovery);

fn open_in(
    dir: &Path,
    layout: &Layout,
    settings: LogSettings,
    log: LogId,
    entropy: fn() -> u64,
) -> Result<OpenedIn, DataDirError> {
    let path = dir.join(format!("log-{}", log.0));
    let unusable = |source| DataDirError::Unusable {
        path: path.clone(),
        source,
    };
    std::fs::create_dir_all(&path).map_err(unusable)?;
    let disk = RealDisk::open(&path).map_err(unusable)?;
    let mut entropy = entropy;
    let (opened, recovery) = open_log(disk.clone(), &path, settings, layout, log, &mut entropy)
        .map_err(|source| DataDirError::Log { log: log.0, source })?;
    let committed = CommittedLog::new(disk, log.0, opened.reader.clone());
    Ok((opened, committed, recovery))
}

/// Opens one log on any disk, replays it, and makes sure that it has room to start with. `path`
/// is for messages.
///
/// # Errors
/// See [`OpenError`].
pub fn open_log<D: Disk>(
    disk: D,
    path: &Path,
    settings: LogSettings,
    layout: &Layout,
    log: LogId,
    entropy: &mut dyn FnMut() -> u64,
) -> Result<(OpenedLog<D>, LogRecovery), OpenError> {
    let started = Instant::now();
    let mut shards: Vec<Shard> = layout
        .shards()
        .filter(|&shard| layout.log_of(shard) == log)
        .map(|shard| {
            let namespace =
                layout.namespace(layout.namespace_of(shard).expect("a shard of the layout"));
            Shard::new(
                namespace.shard_spec(shard.0 - namespace.first_shard.0),
                namespace.options.clone(),
            )
        })
        .collect();
    let logs = u32::from(layout.logs());
    let mut replay = |header: &RecordHeader, at: omnirelay_wal::Position, body: &[u8]| {
        let shard = shards
            .get_mut((header.shard / logs) as usize)
            .filter(|shard| shard.spec().shard == ShardId(header.shard))
            .ok_or_else(|| {
                format!(
                    "a record of shard {}, which this node does not have",
                    header.shard
                )
            })?;
        let event = Event::decode(header.kind, body).map_err(|error| error.to_string())?;
        let record = Record {
            lsn: Lsn(header.lsn),
            epoch: Epoch(header.epoch),
            at: Nanos(header.at),
            event,
        };
        let place = Place {
            segment: at.segment,
            offset: at.offset,
        };
        shard
            .replay(&record, place)
            .map_err(|error| error.to_string())
    };
    let options = LogOptions {
        log: log.0,
        segment_bytes: settings.segment_bytes,
    };
    let mut opened = open(disk, options, entropy, &mut replay)?;
    while opened.appender.spares() < SPARES_MIN {
        match opened.allocator.allocate(Fill::Zeros) {
            Ok(spare) => opened.appender.handle_spare(spare),
            // A full disk must not keep a node down that can still end the work it has.
            Err(_) if opened.appender.room() >= ROOM_TO_START_BYTES => break,
            Err(source) => {
                return Err(OpenError::Io {
                    doing: "allocate a segment in",
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
    let recovery = LogRecovery {
        log,
        recovery: opened.recovery,
        took: started.elapsed(),
    };
    let opened = OpenedLog {
        id: log,
        appender: opened.appender,
        writer: opened.writer,
        allocator: opened.allocator,
        reader: opened.reader,
        cleaner: opened.cleaner,
        shards,
        segment_bytes: u64::from(settings.segment_bytes),
        history_bytes: settings.history_bytes,
    };
    Ok((opened, recovery))
}
