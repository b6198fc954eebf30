//! The log thread's end of the log: checksums, writes, syncs.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::batch::Batch;
use crate::disk::{Disk, DiskFile};
use crate::error::Poisoned;
use crate::format::{
    BatchHeader, Position, SECTOR_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, crc_seed,
    segment_name,
};

/// Writes batches, one after the other. Every call blocks on the disk.
#[derive(Debug)]
pub struct Writer<D: Disk> {
    disk: D,
    log: u16,
    tail: Option<Tail<D::File>>,
    next_batch: u64,
    poisoned: Option<Poisoned>,
    written: Arc<Written>,
}

/// The segment being written.
#[derive(Debug)]
pub(crate) struct Tail<F> {
    pub(crate) file: F,
    pub(crate) segment: u32,
    pub(crate) generation: u64,
    /// Where the next batch starts.
    pub(crate) offset: u32,
    /// Whether the marker of a clean end is there.
    pub(crate) marked: bool,
}

/// How far the log is durably written: what readers may map.
#[derive(Debug)]
pub(crate) struct Written {
    /// The first segment that this process has written to.
    pub(crate) first_segment: u32,
    /// The segment (upper half) and offset (lower) where it ends.
    end: AtomicU64,
}

impl Written {
    pub(crate) fn new(first_segment: u32, end: Position) -> Self {
        Self {
            first_segment,
            end: AtomicU64::new(Self::pack(end)),
        }
    }

    pub(crate) fn end(&self) -> Position {
        let packed = self.end.load(Ordering::Acquire).to_be_bytes();
        let [a, b, c, d, e, f, g, h] = packed;
        Position {
            segment: u32::from_be_bytes([a, b, c, d]),
            offset: u32::from_be_bytes([e, f, g, h]),
        }
    }

    fn publish(&self, end: Position) {
        self.end.store(Self::pack(end), Ordering::Release);
    }

    fn pack(at: Position) -> u64 {
        u64::from(at.segment) << 32 | u64::from(at.offset)
    }
}

impl<D: Disk> Writer<D> {
    pub(crate) fn new(
        disk: D,
        log: u16,
        tail: Option<Tail<D::File>>,
        next_batch: u64,
        written: Arc<Written>,
    ) -> Self {
        Self {
            disk,
            log,
            tail,
            next_batch,
            poisoned: None,
            written,
        }
    }

    /// Writes a batch and makes it durable: when this returns `Ok`, the batch
    /// and all before it outlive a loss of power.
    ///
    /// # Errors
    /// What failed, now or in an earlier call. Whether the batch is on disk is
    /// then unknown; nothing may be acknowledged any more.
    ///
    /// # Panics
    /// If batches come out of order.
    pub fn write(&mut self, batch: &Batch) -> Result<(), Poisoned> {
        self.check()?;
        assert_eq!(batch.number, self.next_batch, "batches come in order");
        let result = self.write_and_sync(batch);
        self.poison_on_failure(result)?;
        self.next_batch += 1;
        Ok(())
    }

    /// Ends the log cleanly: leaves an empty batch behind the last one, which
    /// proves to the next open that nothing is torn, so that it continues in
    /// place. Call it when every batch handed out has been written.
    ///
    /// # Errors
    /// What failed, now or in an earlier call. Nothing that was written is
    /// lost; the next open takes the longer way.
    pub fn close(&mut self) -> Result<(), Poisoned> {
        self.check()?;
        let result = self.mark();
        self.poison_on_failure(result)
    }

    fn check(&self) -> Result<(), Poisoned> {
        self.poisoned.clone().map_or(Ok(()), Err)
    }

    fn poison_on_failure(&mut self, result: Result<(), Failure>) -> Result<(), Poisoned> {
        result.map_err(|failure| {
            let poisoned = Poisoned {
                doing: failure.doing,
                path: failure.path,
                source: Arc::new(failure.source),
            };
            self.poisoned = Some(poisoned.clone());
            poisoned
        })
    }

    fn write_and_sync(&mut self, batch: &Batch) -> Result<(), Failure> {
        let path = self.disk.path(&segment_name(batch.segment));
        if let Some(starts) = batch.starts {
            let file = self.disk.open(&segment_name(batch.segment));
            self.tail = Some(Tail {
                file: file.map_err(Failure::of("open", &path))?,
                segment: batch.segment,
                generation: starts.generation,
                offset: SEGMENT_HEADER_BYTES,
                marked: false,
            });
        }
        let tail = self
            .tail
            .as_mut()
            .expect("the first batch starts a segment");
        assert_eq!(
            (batch.segment, batch.offset),
            (tail.segment, tail.offset),
            "batches lie one behind the other"
        );
        let seed = crc_seed(tail.generation, tail.segment);
        let header = BatchHeader::of(seed, batch.number, batch.records, batch.payload());
        let header = header.encode(seed);
        let (header, body) = (IoSlice::new(&header), IoSlice::new(&batch.buffer));
        if let Some(starts) = batch.starts {
            let page = SegmentHeader {
                log: self.log,
                segment: tail.segment,
                generation: tail.generation,
                first_batch: batch.number,
                recycled: starts.recycled,
                floor: starts.floor,
            };
            let page = page.encode();
            tail.file.write_at(&[IoSlice::new(&page), header, body], 0)
        } else {
            tail.file.write_at(&[header, body], u64::from(tail.offset))
        }
        .map_err(Failure::of("write to", &path))?;
        tail.file.sync_data().map_err(Failure::of("sync", &path))?;
        tail.offset += u32::try_from(batch.disk_bytes()).expect("a batch fits a segment");
        tail.marked = false;
        self.written.publish(Position {
            segment: tail.segment,
            offset: tail.offset,
        });
        Ok(())
    }

    fn mark(&mut self) -> Result<(), Failure> {
        let Some(tail) = self.tail.as_mut().filter(|tail| !tail.marked) else {
            return Ok(());
        };
        let path = self.disk.path(&segment_name(tail.segment));
        let seed = crc_seed(tail.generation, tail.segment);
        let mut sector = [0; SECTOR_BYTES as usize];
        let header = BatchHeader::of(seed, self.next_batch, 0, &[]).encode(seed);
        sector[..header.len()].copy_from_slice(&header);
        tail.file
            .write_at(&[IoSlice::new(&sector)], u64::from(tail.offset))
            .map_err(Failure::of("write to", &path))?;
        tail.file.sync_data().map_err(Failure::of("sync", &path))?;
        tail.marked = true;
        Ok(())
    }
}

/// What failed, before it is known to all as poison.
struct Failure {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Failure {
    fn of(doing: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}
