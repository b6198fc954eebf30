//! A sealed batch, and the buffers that batches are encoded into.

use std::sync::Arc;

use crate::floor::Floor;
use crate::format::{BATCH_BYTES_MAX, RecordHeader, batch_bytes};

/// The most buffers kept for the next batches. A pipeline has one batch open,
/// one being written and a few sealed behind it.
const BUFFERS_MAX: usize = 8;

/// A buffer that grew beyond this (by one outsized record) is not kept.
const BUFFER_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX;

/// A sealed batch, on its way to the [`Writer`](crate::Writer).
///
/// Moving it to another thread moves a pointer. Drop it before the core is
/// told that it is synced: then its buffer serves a later batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its number: one more than that of the batch before.
    pub number: u64,
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    /// What the header says of the segment that this batch is the first of.
    pub(crate) starts: Option<Starts>,
    pub(crate) records: u32,
    pub(crate) payload_bytes: usize,
    /// The payload, then zeros up to the batch's end.
    pub(crate) buffer: Arc<Vec<u8>>,
}

/// What a segment is started with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Starts {
    pub(crate) generation: u64,
    pub(crate) recycled: bool,
    pub(crate) floor: Floor,
}

impl Batch {
    /// How many records it holds; at least one.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Bytes of its records, headers and bodies.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Bytes it takes up in its segment.
    pub fn disk_bytes(&self) -> usize {
        batch_bytes(self.payload_bytes)
    }

    /// The segment it goes to.
    pub fn segment(&self) -> u32 {
        self.segment
    }

    /// Its records, in order: header and body. The log's own are among them.
    pub fn entries(&self) -> impl Iterator<Item = (RecordHeader, &[u8])> {
        let mut payload = self.payload();
        std::iter::from_fn(move || RecordHeader::split(&mut payload))
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.buffer[..self.payload_bytes]
    }
}

/// Buffers whose batches are synced. One that the log thread or a reader still
/// holds is passed over until they let go.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    free: Vec<Arc<Vec<u8>>>,
}

impl Buffers {
    /// An empty buffer that nobody else holds.
    pub(crate) fn take(&mut self) -> Arc<Vec<u8>> {
        let free = (0..self.free.len()).find(|&at| Arc::get_mut(&mut self.free[at]).is_some());
        let mut buffer = free.map(|at| self.free.swap_remove(at)).unwrap_or_default();
        Arc::get_mut(&mut buffer)
            .expect("a free buffer has one owner")
            .clear();
        buffer
    }

    pub(crate) fn give_back(&mut self, buffer: Arc<Vec<u8>>) {
        if self.free.len() < BUFFERS_MAX && buffer.capacity() <= BUFFER_BYTES_MAX {
            self.free.push(buffer);
        }
    }
}
