//! Results whose payloads are being read from the log.
//!
//! A recent record's bytes are at hand; an old one's may have to come from the disk, which must
//! not hold up the core, so the result waits here until somebody else has read them.

use bytes::Bytes;
use hashbrown::HashMap;

use omnirelay_net::messages::{ErrorInfo, Payload};

use super::drain::Draining;
use super::layout::LogId;
use super::owned_log::HeldResult;
use super::part::Ticket;
use super::records;

/// The bytes behind one item.
#[derive(Debug, Default)]
pub(super) struct RecordBytes {
    /// Body of the record that enqueued the item.
    pub(super) item: Option<Bytes>,
    /// Body of the record that says why its last attempt failed.
    pub(super) last_error: Option<Bytes>,
    /// Why one of them could not be read.
    pub(super) failed: Option<String>,
}

impl RecordBytes {
    pub(super) fn put(&mut self, field: Field, bytes: Bytes) {
        match field {
            Field::Item => self.item = Some(bytes),
            Field::LastError => self.last_error = Some(bytes),
        }
    }

    /// The body of the record that the item is in.
    pub(super) fn item(&self) -> Result<&Bytes, String> {
        match &self.failed {
            Some(why) => Err(why.clone()),
            None => self
                .item
                .as_ref()
                .ok_or_else(|| "the item's record is missing".into()),
        }
    }

    /// As [`RecordBytes::item`], to keep.
    pub(super) fn into_item(self) -> Result<Bytes, String> {
        self.item()?;
        Ok(self.item.expect("just seen"))
    }

    /// What the item was enqueued with.
    pub(super) fn payload(&self) -> Result<Payload, String> {
        records::payload(self.item()?)
    }

    /// Why the item's last attempt failed.
    pub(super) fn error_info(&self) -> Result<Option<ErrorInfo>, String> {
        match &self.last_error {
            Some(record) => records::error_info(record),
            None => Ok(None),
        }
    }
}

/// What becomes of results when their bytes are there.
pub(super) enum Then {
    /// They go to whom they belong.
    Deliver,
    /// The items among them are taken out.
    Drain(Box<Draining>),
}

/// Results that wait for bytes.
pub(super) struct Gathering {
    pub(super) log: LogId,
    pub(super) ticket: Ticket,
    pub(super) results: Vec<(u32, HeldResult)>,
    /// One for each of `results`.
    pub(super) bytes: Vec<RecordBytes>,
    pub(super) missing: u32,
    pub(super) then: Then,
}

/// Which bytes a read brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Item,
    LastError,
}

/// A read under way.
struct Pending {
    log: LogId,
    segment: u32,
    want: Want,
}

/// What a read is for.
enum Want {
    /// A field of an entry of a gathering.
    Item(u64, usize, Field),
    /// The last error of an item that is being carried, in this of the core's logs.
    Error(usize),
}

/// What a read has completed.
pub(super) enum Completed {
    /// A gathering from which nothing is missing any more.
    Gathering(Gathering),
    /// The last error of an item that is being carried.
    Error(usize, Result<Bytes, String>),
}

/// All reads under way on a core.
#[derive(Default)]
pub(super) struct Reads {
    next: u64,
    gatherings: HashMap<u64, Gathering>,
    pending: HashMap<u64, Pending>,
}

impl Reads {
    /// A fresh id for a read or a gathering.
    pub(super) fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A read of these bytes is under way for a gathering.
    pub(super) fn expect(
        &mut self,
        read: u64,
        (log, segment): (LogId, u32),
        gathering: u64,
        entry: usize,
        field: Field,
    ) {
        let want = Want::Item(gathering, entry, field);
        self.pending.insert(read, Pending { log, segment, want });
    }

    /// A read of an error is under way, in `local` of the core's logs.
    pub(super) fn expect_error(&mut self, read: u64, (log, segment): (LogId, u32), local: usize) {
        let want = Want::Error(local);
        self.pending.insert(read, Pending { log, segment, want });
    }

    /// Whether a read of this segment is under way.
    pub(super) fn is_any_in(&self, log: LogId, segment: u32) -> bool {
        let mut pending = self.pending.values();
        pending.any(|read| (read.log, read.segment) == (log, segment))
    }

    pub(super) fn wait(&mut self, id: u64, gathering: Gathering) {
        self.gatherings.insert(id, gathering);
    }

    /// Takes in a read's bytes.
    pub(super) fn complete(
        &mut self,
        read: u64,
        bytes: Result<Bytes, String>,
    ) -> Option<Completed> {
        let (id, entry, field) = match self.pending.remove(&read)?.want {
            Want::Item(id, entry, field) => (id, entry, field),
            Want::Error(log) => return Some(Completed::Error(log, bytes)),
        };
        let gathering = self.gatherings.get_mut(&id)?;
        match bytes {
            Ok(bytes) => {
                gathering.bytes[entry].put(field, bytes);
            }
            Err(why) => gathering.bytes[entry].failed = Some(why),
        }
        gathering.missing -= 1;
        if gathering.missing == 0 {
            self.gatherings.remove(&id).map(Completed::Gathering)
        } else {
            None
        }
    }
}
