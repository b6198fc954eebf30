//! From a committed grant to what the worker gets: the payload is read back from the log.

use bytes::Bytes;
use omnirelay_net::messages::{ErrorInfo, LeaseResponse, OwnershipToken, Payload, Timestamp};
use omnirelay_queue::{EnqueuedBody, Event, Nanos, Place, kind};
use omnirelay_wal::Disk;

use super::core::{Core, LogTask, ReadRequest};
use super::errors;
use super::owned_log::{Granted, HeldResult, position};
use super::part::{GrantRef, ItemResult, Leased, Ticket};
use super::reads::{Field, Gathering, GrantBytes};

impl<D: Disk> Core<D> {
    /// Gathers the payloads of committed grants, then delivers them.
    pub(super) fn read_grants(
        &mut self,
        now: Nanos,
        log: usize,
        ticket: Ticket,
        results: Vec<(u32, HeldResult)>,
    ) {
        let gathering_id = self.reads.next_id();
        let mut bytes = Vec::with_capacity(results.len());
        let mut missing = 0;
        for (entry, (_, result)) in results.iter().enumerate() {
            let mut found = GrantBytes::default();
            if let HeldResult::Granted(granted) = result {
                let grant = &granted.grant;
                let item = (grant.item, grant.item_len as usize);
                found.item =
                    self.find_bytes(log, item, gathering_id, entry, Field::Item, &mut missing);
                if let Some((place, len)) = grant.last_error {
                    let error = (place, len as usize);
                    found.last_error = self.find_bytes(
                        log,
                        error,
                        gathering_id,
                        entry,
                        Field::LastError,
                        &mut missing,
                    );
                }
            }
            bytes.push(found);
        }
        let log = self.logs[log].id;
        let gathering = Gathering {
            log,
            ticket,
            results,
            bytes,
            missing,
        };
        if missing == 0 {
            self.finish_grants(now, gathering)
        } else {
            self.reads.wait(gathering_id, gathering)
        }
    }

    /// A record's body if it is at hand; else asks for it to be read.
    fn find_bytes(
        &mut self,
        log: usize,
        (place, len): (Place, usize),
        gathering: u64,
        entry: usize,
        field: Field,
        missing: &mut u32,
    ) -> Option<Bytes> {
        let at = position(place);
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
            *missing += 1;
        }
        found
    }

    /// All payloads are there, or could not be read: those grants are failed.
    pub(super) fn finish_grants(&mut self, now: Nanos, done: Gathering) {
        let log = done.log;
        let mut results = Vec::with_capacity(done.results.len());
        for ((index, result), bytes) in done.results.into_iter().zip(done.bytes) {
            let result = match result {
                HeldResult::Ready(result) => result,
                HeldResult::Granted(granted) => {
                    let grant = GrantRef {
                        log,
                        token: granted.grant.token,
                    };
                    match lease_response(&granted, bytes) {
                        Ok(response) => ItemResult::Leased(Box::new(Leased { response, grant })),
                        Err(why) => {
                            self.fail_unreadable(now, &grant, &why);
                            ItemResult::Refused(errors::unreadable(&why))
                        }
                    }
                }
            };
            results.push((index, result));
        }
        self.deliver(now, log, done.ticket, results);
    }
}

fn lease_response(granted: &Granted, bytes: GrantBytes) -> Result<LeaseResponse, String> {
    if let Some(why) = bytes.failed {
        return Err(why);
    }
    let record = bytes.item.ok_or("the item's record is missing")?;
    let item = EnqueuedBody::decode_verified(&record)
        .map_err(|error| format!("the item's payload cannot be read back: {error}"))?;
    let last_error = match &bytes.last_error {
        Some(record) => last_error(record)?,
        None => None,
    };
    let grant = &granted.grant;
    let payload = &item.payload;
    Ok(LeaseResponse {
        payload: Some(Payload {
            resource_type: payload.resource_type.to_owned(),
            resource_id: payload.resource_id.to_owned(),
            partition_key: payload.partition_key.map(str::to_owned),
            payload_encoding: payload.encoding.to_owned(),
            // A view of the log's own bytes: the body is not copied.
            body: record.slice_ref(payload.body),
            attributes: payload
                .attributes
                .iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
            request_id: payload.request_id.map(str::to_owned),
        }),
        sequence_id: grant.sequence_id.0,
        attempt: grant.attempt,
        enqueued_at: Some(timestamp(grant.enqueued_at)),
        last_error,
        ownership_token: Some(OwnershipToken {
            sequence_id: grant.token.sequence_id.0,
            attempt: grant.token.attempt,
            lease_id: grant.token.lease_id.to_string(),
        }),
        owner_peer_id: granted.owner.clone(),
        lease_expires_at: Some(timestamp(grant.expires_at)),
        lease_for_ms: u64::try_from(grant.lease.as_millis()).unwrap_or(u64::MAX),
    })
}

fn decode(kind: u8, record: &[u8]) -> Result<Event<'_>, String> {
    Event::decode(kind, record).map_err(|e| e.to_string())
}

fn last_error(record: &[u8]) -> Result<Option<ErrorInfo>, String> {
    let Event::Failed(failed) = decode(kind::FAILED, record)? else {
        return Ok(None);
    };
    Ok(Some(ErrorInfo {
        message: failed.reason.unwrap_or_default().to_owned(),
        code: failed.code.map(str::to_owned),
        metadata: failed
            .metadata
            .iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
    }))
}

/// The wire form of a time.
pub(super) fn timestamp(at: Nanos) -> Timestamp {
    const NANOS_PER_SECOND: u64 = 1_000_000_000;
    Timestamp {
        seconds: i64::try_from(at.0 / NANOS_PER_SECOND).expect("u64 nanoseconds fit"),
        nanos: i32::try_from(at.0 % NANOS_PER_SECOND).expect("less than a second"),
    }
}
