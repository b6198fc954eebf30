//! Grants whose payloads are being read from the log.
//!
//! A recent record's bytes are at hand; an old one's may have to come from the disk, which must
//! not hold up the core, so the grant waits here until somebody else has read them.

use bytes::Bytes;
use hashbrown::HashMap;

use super::layout::LogId;
use super::owned_log::HeldResult;
use super::part::Ticket;

/// The bytes behind one grant.
#[derive(Debug, Default)]
pub(super) struct GrantBytes {
    /// Body of the record that enqueued the item.
    pub(super) item: Option<Bytes>,
    /// Body of the record that says why its last attempt failed.
    pub(super) last_error: Option<Bytes>,
    /// Why one of them could not be read.
    pub(super) failed: Option<String>,
}

/// Results that wait for bytes.
pub(super) struct Gathering {
    pub(super) log: LogId,
    pub(super) ticket: Ticket,
    pub(super) results: Vec<(u32, HeldResult)>,
    /// One for each of `results`.
    pub(super) bytes: Vec<GrantBytes>,
    pub(super) missing: u32,
}

/// Which bytes a read brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Item,
    LastError,
}

/// All reads under way on a core.
#[derive(Default)]
pub(super) struct Reads {
    next: u64,
    gatherings: HashMap<u64, Gathering>,
    /// Read id → gathering, entry, field.
    pending: HashMap<u64, (u64, usize, Field)>,
}

impl Reads {
    /// A fresh id for a read or a gathering.
    pub(super) fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn expect(&mut self, read: u64, gathering: u64, entry: usize, field: Field) {
        self.pending.insert(read, (gathering, entry, field));
    }

    pub(super) fn wait(&mut self, id: u64, gathering: Gathering) {
        self.gatherings.insert(id, gathering);
    }

    /// Takes in a read's bytes; gives the gathering back once nothing is missing.
    pub(super) fn complete(
        &mut self,
        read: u64,
        bytes: Result<Bytes, String>,
    ) -> Option<Gathering> {
        let (id, entry, field) = self.pending.remove(&read)?;
        let gathering = self.gatherings.get_mut(&id)?;
        match bytes {
            Ok(bytes) => {
                let slot = &mut gathering.bytes[entry];
                match field {
                    Field::Item => slot.item = Some(bytes),
                    Field::LastError => slot.last_error = Some(bytes),
                }
            }
            Err(why) => gathering.bytes[entry].failed = Some(why),
        }
        gathering.missing -= 1;
        if gathering.missing == 0 {
            self.gatherings.remove(&id)
        } else {
            None
        }
    }
}
