//! Replies as the checker and their callers hear them.

use omnirelay_net::messages::{EnqueueResult, Error as WireError, LeaseResponse, SettleResult};
use omnirelay_net::rpc::{Error, Reply, codes};

use crate::checker::moves::nanos;
use crate::checker::{EnqueueReply, GrantReply, Moment};
use crate::client::{Act, Held, Intent, Job, is_whole, job_of};
use crate::hits::Fault;
use crate::violation::{Violation, broken};
use crate::world::{OpenCall, World};

const NANOS_PER_MS: u64 = 1_000_000;

impl World {
    /// Before a settle is sent, the checker must know that its leases may end.
    pub(crate) fn note_settling(&mut self, at: Moment, acts: Vec<(Held, Act)>) {
        for (held, act) in acts {
            match act {
                Act::Complete | Act::Fail { .. } => self.checker.settling(&held.token.lease_id),
                Act::Heartbeat(extend_ms) => {
                    let lease_ns =
                        extend_ms.unwrap_or(held.lease_ms).min(held.lease_ms) * NANOS_PER_MS;
                    self.checker
                        .renewing(&held.token.lease_id, at.now + lease_ns, lease_ns);
                }
            }
        }
    }

    /// A reply has left. If it was lost, its caller does not hear it, but it counts.
    pub(crate) fn hear(
        &mut self,
        call: &OpenCall,
        reply: &Result<Reply, Error>,
        delivered: bool,
        lost: bool,
    ) -> Result<(), Violation> {
        let at = self.moment();
        match (&call.intent, reply) {
            (
                Intent::Enqueue {
                    space, jobs, again, ..
                },
                reply,
            ) => {
                let results = enqueue_results(reply, jobs.len());
                let mut refused = Vec::new();
                for (job, result) in jobs.iter().zip(results) {
                    if !self.hear_enqueue(at, call.asked_at, *space, job, &result)? {
                        refused.push(job.clone());
                    }
                }
                refused.retain(|job| job.request_id.is_some());
                if !lost && !refused.is_empty() && (*again || refused[0].priority % 2 == 0) {
                    let retry = Intent::Enqueue {
                        space: *space,
                        batch: refused.len() > 1,
                        jobs: refused,
                        again: true,
                    };
                    self.clients[call.client].retry = Some(retry);
                }
                Ok(())
            }
            (Intent::Lease { space, key, .. }, Ok(reply)) => {
                let held = self.hear_leases(at, *space, reply, delivered)?;
                if let Some(key) = key {
                    self.hits.hit(Fault::KeyedLease);
                    check_key(key, reply)?;
                }
                if !lost {
                    self.clients[call.client].held.extend(held);
                }
                Ok(())
            }
            (Intent::Settle { acts, .. }, reply) => {
                let results = settle_results(reply, acts.len());
                for ((held, act), result) in acts.iter().zip(results) {
                    self.hear_settle(at, call.client, held, *act, &result, lost)?;
                }
                Ok(())
            }
            (Intent::Lease { .. }, Err(error)) => {
                let unreadable = error.is(codes::INTERNAL);
                self.hits.add(Fault::Unreadable, u64::from(unreadable));
                broken(
                    unreadable && self.disks_are_sound(),
                    "what is on a sound disk can be read",
                    || format!("{error:?}"),
                )
            }
            (Intent::Stats { .. }, _) => Ok(()),
            _ => self.hear_operator(at, call, reply, lost),
        }
    }

    fn hear_enqueue(
        &mut self,
        at: Moment,
        asked_at: u64,
        space: usize,
        job: &Job,
        result: &EnqueueResult,
    ) -> Result<bool, Violation> {
        if let Some(error) = &result.error {
            self.hits.add(
                Fault::StorageRefused,
                u64::from(error.code == codes::STORAGE_FULL.name),
            );
            self.hits.add(
                Fault::Backpressure,
                u64::from(error.code == codes::BACKPRESSURE.name),
            );
            return Ok(false);
        }
        let receipt = result.receipt.clone().unwrap_or_default();
        let reply = EnqueueReply {
            asked_at,
            space,
            shard: receipt.shard,
            lsn: receipt.lsn,
            sequence_id: result.sequence_id,
            duplicate: result.duplicate,
            job: job.name.clone(),
            request_id: job.request_id.clone(),
            durability: receipt.durability,
        };
        self.checker.enqueued(at, reply)?;
        Ok(true)
    }

    pub(crate) fn hear_leases(
        &mut self,
        at: Moment,
        space: usize,
        reply: &Reply,
        delivered: bool,
    ) -> Result<Vec<Held>, Violation> {
        let leases: &[LeaseResponse] = match reply {
            Reply::Lease(lease) => std::slice::from_ref(lease),
            Reply::LeaseBatch(batch) => &batch.leases,
            other => {
                return Err(Violation::new(
                    "a call gets the reply of its procedure",
                    format!("{other:?}"),
                ));
            }
        };
        broken(
            leases.is_empty(),
            "a lease reply has at least one lease",
            || format!("{reply:?}"),
        )?;
        let mut held = Vec::new();
        for lease in leases {
            let token = lease.ownership_token.clone().unwrap_or_default();
            let payload = lease.payload.clone().unwrap_or_default();
            broken(
                !is_whole(&payload),
                "a lease brings the payload that was enqueued",
                || format!("{} {:?}", payload.resource_id, payload.attributes),
            )?;
            let same = token.sequence_id == lease.sequence_id && token.attempt == lease.attempt;
            broken(!same, "a lease and its token say the same", || {
                format!("{lease:?}")
            })?;
            self.check_order(lease)?;
            let reply = GrantReply {
                space,
                lease_id: token.lease_id.clone(),
                sequence_id: lease.sequence_id,
                attempt: lease.attempt,
                job: job_of(&payload),
                ends_at: nanos(lease.lease_expires_at),
                lease_ns: lease.lease_for_ms * NANOS_PER_MS,
                delivered,
            };
            self.checker.granted(at, reply)?;
            held.push(Held {
                space,
                token,
                lease_ms: lease.lease_for_ms,
            });
        }
        Ok(held)
    }

    /// Where one worker drains one core: highest priority first, then oldest.
    fn check_order(&mut self, lease: &LeaseResponse) -> Result<(), Violation> {
        if !self.plan.ordered {
            return Ok(());
        }
        let resource = lease.payload.as_ref().map_or("", |p| &p.resource_id);
        let priority = resource.split('-').next().and_then(|p| p.parse().ok());
        let this = (priority.unwrap_or(0), nanos(lease.enqueued_at));
        let before = self.leased_last.replace(this);
        let follows =
            |(priority, at): (u32, u64)| priority > this.0 || (priority == this.0 && at <= this.1);
        let wrong = lease.attempt == 1 && !before.is_none_or(follows);
        broken(
            wrong,
            "within a core the best item is handed out first",
            || format!("{this:?} after {before:?}"),
        )
    }

    fn hear_settle(
        &mut self,
        at: Moment,
        client: usize,
        held: &Held,
        act: Act,
        result: &SettleResult,
        lost: bool,
    ) -> Result<(), Violation> {
        let lease_id = &held.token.lease_id;
        let Some(error) = &result.error else {
            match act {
                Act::Heartbeat(_) => {
                    let (ends_at, lease_ms) = (
                        nanos(result.lease_expires_at),
                        result.lease_for_ms.unwrap_or(0),
                    );
                    self.checker
                        .renewed(at, lease_id, ends_at, lease_ms * NANOS_PER_MS)?;
                    if !lost {
                        self.clients[client].held.push(held.clone());
                    }
                }
                Act::Complete | Act::Fail { .. } => {
                    let lsn = result.receipt.as_ref().map_or(0, |receipt| receipt.lsn);
                    self.checker.settled(
                        at,
                        lease_id,
                        held.token.sequence_id,
                        lsn,
                        act == Act::Complete,
                    )?;
                    if !lost {
                        self.clients[client].remember(held.clone());
                    }
                }
            }
            return Ok(());
        };
        if error.code == codes::FENCED.name {
            self.hits.hit(Fault::StaleToken);
            self.checker.fenced(
                at,
                lease_id,
                error.metadata.get("reason").map(String::as_str),
            )?;
        } else if error.code == codes::UNKNOWN_TOKEN.name || error.code == codes::NOT_OWNER.name {
            self.checker.disowned(lease_id)?;
        } else if error.code == codes::STORAGE_FULL.name && !matches!(act, Act::Heartbeat(_)) {
            return Err(Violation::new(
                "settling is always admitted",
                format!("{error:?}"),
            ));
        } else if !lost {
            // Not known what came of it: again later.
            self.clients[client].held.push(held.clone());
        }
        Ok(())
    }
}

/// Who asks for one partition key gets nothing else.
fn check_key(key: &str, reply: &Reply) -> Result<(), Violation> {
    let leases = match reply {
        Reply::Lease(lease) => std::slice::from_ref(lease),
        Reply::LeaseBatch(batch) => &batch.leases,
        _ => &[],
    };
    let keys = leases.iter().flat_map(|lease| &lease.payload);
    let other = keys
        .map(|payload| payload.partition_key.as_deref().unwrap_or_default())
        .find(|other| *other != key);
    broken(
        other.is_some(),
        "who asks for one partition key gets nothing else",
        || format!("{other:?}, not {key:?}"),
    )
}

/// One result for each job, whatever the form of the call.
fn enqueue_results(reply: &Result<Reply, Error>, count: usize) -> Vec<EnqueueResult> {
    match reply {
        Ok(Reply::Enqueue(one)) => vec![EnqueueResult {
            sequence_id: one.sequence_id,
            duplicate: one.duplicate,
            stats: one.stats,
            receipt: one.receipt.clone(),
            error: None,
        }],
        Ok(Reply::EnqueueBatch(batch)) => batch.results.clone(),
        Ok(other) => unreachable!("an enqueue is answered as one, not by {other:?}"),
        Err(error) => {
            let error: WireError = error.clone().into();
            vec![
                EnqueueResult {
                    error: Some(error),
                    ..EnqueueResult::default()
                };
                count
            ]
        }
    }
}

/// One result for each lease, whatever the form of the call.
fn settle_results(reply: &Result<Reply, Error>, count: usize) -> Vec<SettleResult> {
    let done = |receipt| SettleResult {
        success: true,
        receipt,
        ..SettleResult::default()
    };
    match reply {
        Ok(Reply::Complete(one)) => vec![done(one.receipt.clone())],
        Ok(Reply::Fail(one)) => vec![done(one.receipt.clone())],
        Ok(Reply::Heartbeat(one)) => vec![SettleResult {
            success: true,
            lease_expires_at: one.lease_expires_at,
            lease_for_ms: Some(one.lease_for_ms),
            ..SettleResult::default()
        }],
        Ok(Reply::Settle(batch)) => batch.results.clone(),
        Ok(other) => unreachable!("a settle is answered as one, not by {other:?}"),
        Err(error) => {
            let error: WireError = error.clone().into();
            vec![
                SettleResult {
                    error: Some(error),
                    ..SettleResult::default()
                };
                count
            ]
        }
    }
}
