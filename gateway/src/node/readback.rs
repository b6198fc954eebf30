//! From what was decided to what a caller is shown: payloads and errors are read back from the
//! log.

use bytes::Bytes;
use omnirelay_queue::{EnqueuedBody, Nanos, Place};
use omnirelay_wal::Disk;

use super::core::{Core, LogTask, ReadRequest};
use super::errors;
use super::owned_log::{HeldResult, position};
use super::part::{Granted, ItemResult, Ticket};
use super::reads::{Field, Gathering, RecordBytes, Then};

impl HeldResult {
    /// Where the item's record lies that has to be read, and the record of its last failure.
    fn wanted(&self) -> [(Field, Option<(Place, u32)>); 2] {
        let (item, error) = match self {
            HeldResult::Ready(_) => (None, None),
            HeldResult::Granted(granted) => {
                let grant = &granted.grant;
                (Some((grant.item, grant.item_len)), grant.last_error)
            }
            HeldResult::Listed(item) => {
                let view = &item.view;
                (Some((view.body, view.body_len)), view.last_error)
            }
            HeldResult::Explained(explained) => match &explained.view {
                Some(view) => (Some((view.body, view.body_len)), view.last_error),
                None => (None, None),
            },
            HeldResult::Candidate(candidate) => {
                (Some((candidate.body, candidate.body_len)), candidate.error)
            }
            HeldResult::Bundled { place, len, .. } => (Some((*place, *len)), None),
        };
        [(Field::Item, item), (Field::LastError, error)]
    }
}

impl<D: Disk> Core<D> {
    /// Gathers the bytes behind some results, then goes on with them.
    pub(super) fn gather(
        &mut self,
        now: Nanos,
        log: usize,
        ticket: Ticket,
        results: Vec<(u32, HeldResult)>,
        then: Then,
    ) {
        let gathering_id = self.reads.next_id();
        let mut bytes = Vec::with_capacity(results.len());
        let mut missing = 0;
        for (entry, (_, result)) in results.iter().enumerate() {
            let mut found = RecordBytes::default();
            for (field, wanted) in result.wanted() {
                let Some(wanted) = wanted else { continue };
                match self.find_bytes(log, wanted, (gathering_id, entry, field)) {
                    Some(bytes) => found.put(field, bytes),
                    None => missing += 1,
                }
            }
            bytes.push(found);
        }
        let gathering = Gathering {
            log: self.logs[log].id,
            ticket,
            results,
            bytes,
            missing,
            then,
        };
        if missing == 0 {
            self.finish_gathering(now, gathering)
        } else {
            self.reads.wait(gathering_id, gathering)
        }
    }

    /// A record's body if it is at hand; else asks for it to be read.
    fn find_bytes(
        &mut self,
        log: usize,
        (place, len): (Place, u32),
        (gathering, entry, field): (u64, usize, Field),
    ) -> Option<Bytes> {
        let (at, len) = (position(place), len as usize);
        let found = self.logs[log]
            .appender
            .unwritten(at, len)
            .or_else(|| self.readers[log].recent(at, len));
        if found.is_none() {
            let id = self.reads.next_id();
            let segment = (self.logs[log].id, at.segment);
            self.reads.expect(id, segment, gathering, entry, field);
            self.tasks.push_back(LogTask::Read(
                self.logs[log].id,
                ReadRequest { id, at, len },
            ));
        }
        found
    }

    /// All bytes are there, or could not be read.
    pub(super) fn finish_gathering(&mut self, now: Nanos, done: Gathering) {
        if let Then::Drain(draining) = done.then {
            return self.go_on_draining(now, done.ticket, *draining, done.results, done.bytes);
        }
        let log = done.log;
        let mut results = Vec::with_capacity(done.results.len());
        for ((index, result), bytes) in done.results.into_iter().zip(done.bytes) {
            let result = match result {
                HeldResult::Ready(result) => result,
                HeldResult::Granted(mut granted) => match take_in(&mut granted, bytes) {
                    Ok(()) => ItemResult::Leased(granted),
                    // It is tried again after a while, and becomes a dead letter if that goes on.
                    Err(why) => {
                        self.fail_unreadable(now, &granted.reference(), &why);
                        ItemResult::refused(errors::unreadable(&why))
                    }
                },
                HeldResult::Listed(item) => self.listed(&item, &bytes),
                HeldResult::Explained(explained) => self.explained(*explained, &bytes),
                HeldResult::Bundled { shard, place, len } => {
                    self.bundled((shard, place, len), &bytes)
                }
                HeldResult::Candidate(_) => unreachable!("candidates are for draining"),
            };
            results.push((index, result));
        }
        self.deliver(now, log, done.ticket, results);
    }
}

/// Puts what was read into a grant, once it is known to be as it was written.
fn take_in(granted: &mut Granted, bytes: RecordBytes) -> Result<(), String> {
    granted.last_error = bytes.error_info()?.map(Box::new);
    granted.record = bytes.into_item()?;
    EnqueuedBody::verify(&granted.record).map_err(|error| error.to_string())
}
