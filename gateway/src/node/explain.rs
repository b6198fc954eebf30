//! Why an item is not being worked on: what its shard knows, then what the node knows.

use std::collections::HashMap;

use omnirelay_net::messages::{ExplainResponse, Reason, reasons};
use omnirelay_net::rpc::Reply;
use omnirelay_queue::{Explanation, ItemState, ItemView, Nanos, SequenceId, ShardId};
use omnirelay_wal::Disk;

use super::calls::CallId;
use super::core::Core;
use super::errors;
use super::execute::Decided;
use super::layout::NamespaceId;
use super::owned_log::HeldResult;
use super::part::{ItemResult, Part};
use super::reads::RecordBytes;
use super::records::timestamp;

/// What an item's shard says of it.
pub(super) struct Explained {
    shard: ShardId,
    item: SequenceId,
    explanation: Explanation,
    pub(super) view: Option<ItemView>,
    /// The log hands out nothing.
    storage: Option<Reason>,
}

impl<D: Disk> Core<D> {
    pub(super) fn explain(&mut self, now: Nanos, id: CallId, item: u64) {
        let namespace = self.calls.get_mut(id).expect("just made").namespace;
        let item = SequenceId(item);
        let shard = self.layout.namespace(namespace).shard_of(item);
        let part = Part::Explain(namespace, shard, item);
        let log = self.layout.log_of(shard);
        self.start(now, id, Vec::new(), std::iter::once((log, part)));
    }

    pub(super) fn decide_explain(
        &mut self,
        now: Nanos,
        namespace: NamespaceId,
        log: usize,
        (shard, item): (ShardId, SequenceId),
    ) -> Decided {
        let slot = self.locate(log, shard);
        let owned = &self.logs[log].shards[slot];
        let explanation = owned.shard.explain(now, item);
        let mut decided = Decided::with_capacity(1);
        if self.is_durable(namespace) {
            decided.batch = owned.last_batch;
        }
        if explanation == Explanation::NotFound {
            decided.push(0, ItemResult::refused(errors::item_not_found()));
            return decided;
        }
        let explained = Explained {
            shard,
            item,
            explanation,
            view: owned.shard.view(item),
            storage: self.storage_reason(log),
        };
        decided.push_held(HeldResult::Explained(Box::new(explained)));
        decided
    }

    /// Why a log hands out nothing, if it does not.
    fn storage_reason(&self, log: usize) -> Option<Reason> {
        let owned = &self.logs[log];
        if let Some(why) = &owned.failed {
            return Some(reason(
                reasons::STORAGE,
                format!(
                    "the shard's log can no longer be written ({why}): restart the node once the disk is sound"
                ),
                &[("state", "failed".to_owned())],
            ));
        }
        (owned.disk_full && !owned.can_grant()).then(|| {
            reason(
                reasons::STORAGE,
                "the disk is full: nothing is handed out until there is room".to_owned(),
                &[("state", "full".to_owned())],
            )
        })
    }

    /// The answer as far as the item's shard can give it.
    pub(super) fn explained(&self, explained: Explained, bytes: &RecordBytes) -> ItemResult {
        let Explained {
            shard,
            item,
            explanation,
            view,
            storage,
        } = explained;
        let mut response = ExplainResponse {
            sequence_id: item.0,
            shard: Some(shard.0),
            ..ExplainResponse::default()
        };
        if let Some(view) = &view {
            fill_in(&mut response, view, bytes);
        }
        if matches!(
            explanation,
            Explanation::Waiting { .. } | Explanation::Blocked { .. }
        ) {
            response.reasons.extend(storage);
        }
        say(&mut response, explanation);
        ItemResult::Explained(Box::new(response))
    }

    /// Adds what the whole node knows: whether anybody asks for work, and whether it comes in.
    pub(super) fn finish_explain(
        &self,
        namespace: NamespaceId,
        mut response: ExplainResponse,
    ) -> Reply {
        if response.state == "waiting" && self.board.workers(namespace) == 0 {
            let no_worker = reason(
                reasons::NO_WORKER,
                "no worker waits for an item of this namespace right now".to_owned(),
                &[("waiting", "0".to_owned())],
            );
            response.reasons.insert(0, no_worker);
        }
        if response.state != "gone" && self.board.gate(namespace).closed {
            let marks = &self.layout.namespace(namespace).watermarks;
            let stats = self.namespace_stats(namespace);
            let live = stats.pending + stats.active + stats.delayed;
            response.reasons.push(reason(
                reasons::BACKPRESSURE,
                format!(
                    "the namespace holds new items back: {live} are there, and it takes more at {}",
                    marks.low
                ),
                &[
                    ("live", live.to_string()),
                    ("low", marks.low.to_string()),
                    ("high", marks.high.to_string()),
                    ("capacity", marks.capacity.to_string()),
                ],
            ));
        }
        Reply::Explain(response)
    }
}

fn fill_in(response: &mut ExplainResponse, view: &ItemView, bytes: &RecordBytes) {
    response.state = view.state.as_str().to_owned();
    let is_ahead = view.state == ItemState::Delayed;
    response.since = (!is_ahead).then(|| timestamp(view.ready_at));
    response.attempt = u32::from(view.attempt);
    response.max_attempts = u32::from(view.max_attempts);
    response.priority = Some(u32::from(view.priority));
    response.enqueued_at = Some(timestamp(view.enqueued_at));
    response.expires_at = view.ttl_end.map(timestamp);
    response.owner_peer_id.clone_from(&view.owner);
    response.lease_expires_at = view.expires_at.map(timestamp);
    response.last_error = bytes.error_info().unwrap_or_default();
    if let Ok(payload) = bytes.payload() {
        response.resource_type = Some(payload.resource_type);
        response.resource_id = Some(payload.resource_id);
        response.partition_key = payload.partition_key;
    }
}

/// Puts the shard's explanation into words and fields.
fn say(response: &mut ExplainResponse, explanation: Explanation) {
    match explanation {
        Explanation::Leased { owner, expires_at } => {
            let at = timestamp(expires_at).to_string();
            response.reasons.push(reason(
                reasons::LEASED,
                format!("{owner} works on it; its lease ends at {at} unless it is renewed"),
                &[
                    ("ownerPeerId", owner.clone()),
                    ("leaseExpiresAt", at.clone()),
                ],
            ));
        }
        Explanation::Delayed {
            until,
            after_failure,
        } => {
            let at = timestamp(until).to_string();
            let why = if after_failure {
                "its last attempt failed"
            } else {
                "it was enqueued with a delay"
            };
            response.reasons.push(reason(
                reasons::DELAYED,
                format!("it waits until {at}: {why}"),
                &[
                    ("until", at.clone()),
                    ("afterFailure", after_failure.to_string()),
                ],
            ));
        }
        Explanation::Blocked { behind, state } => response.reasons.push(reason(
            reasons::BEHIND_ITEM,
            format!(
                "item {behind} of the same resource goes first; it is {}",
                state.as_str()
            ),
            &[
                ("sequenceId", behind.to_string()),
                ("state", state.as_str().to_owned()),
            ],
        )),
        Explanation::Waiting {
            ahead,
            ahead_is_cut,
            effective_priority,
            share,
        } => {
            if let Some(share) = share {
                response.reasons.push(key_share(&share));
            }
            let more = if ahead_is_cut { "at least " } else { "" };
            response.reasons.push(reason(
                reasons::POSITION,
                match ahead {
                    0 => "it is the next of its shard".to_owned(),
                    ahead => format!("{more}{ahead} items of its shard go before it"),
                },
                &[
                    ("ahead", ahead.to_string()),
                    ("aheadIsCut", ahead_is_cut.to_string()),
                    ("effectivePriority", effective_priority.to_string()),
                ],
            ));
        }
        Explanation::Dead { attempts } => response.reasons.push(reason(
            reasons::DEAD,
            format!("it was given up on after {attempts} attempts; redrive it to try again"),
            &[("attempts", attempts.to_string())],
        )),
        Explanation::Gone { reason: how } => {
            "gone".clone_into(&mut response.state);
            let how = how.map(|how| how.as_str().to_owned());
            let metadata = how.iter().map(|how| ("reason", how.clone()));
            let metadata: Vec<_> = metadata.collect();
            response.reasons.push(reason(
                reasons::GONE,
                match &how {
                    Some(how) => format!("it is gone: its last lease ended as {how}"),
                    None => "it is gone, or the number was never an item's".to_owned(),
                },
                &metadata,
            ));
        }
        Explanation::NotFound => unreachable!("refused before"),
    }
}

fn key_share(share: &omnirelay_queue::KeyShare) -> Reason {
    let more = if share.position_is_cut {
        "at least "
    } else {
        ""
    };
    reason(
        reasons::KEY_SHARE,
        format!(
            "partition keys take turns: {more}{} of {} keys come before `{}`, which gets {} items a turn",
            share.position, share.keys_waiting, share.key, share.weight
        ),
        &[
            ("partitionKey", share.key.clone()),
            ("weight", share.weight.to_string()),
            ("keysWaiting", share.keys_waiting.to_string()),
            ("position", share.position.to_string()),
            ("positionIsCut", share.position_is_cut.to_string()),
        ],
    )
}

fn reason(code: &str, message: String, metadata: &[(&str, String)]) -> Reason {
    let metadata: HashMap<String, String> = metadata
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    Reason {
        code: code.to_owned(),
        message,
        metadata: metadata.into_iter().collect(),
    }
}
