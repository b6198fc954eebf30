//! Whether what was promised is so.

use crate::history::{History, Phase};
use crate::violation::Violation;

use super::{Promise, Promised};

pub(super) fn lost(rule: &'static str, promise: &Promise) -> Violation {
    let (shard, life) = (promise.shard, promise.life);
    Violation::new(
        rule,
        format!("shard {shard}: {:?}, life {life}", promise.what),
    )
}

pub(super) fn keeps(history: &History, promise: &Promise) -> Result<(), Violation> {
    let lost = |rule| lost(rule, promise);
    match &promise.what {
        Promised::Enqueued { lsn, job } => {
            let kept = history.items.get(lsn).is_some_and(|item| item.job == *job);
            if kept {
                Ok(())
            } else {
                Err(lost("an acknowledged enqueue survives every crash"))
            }
        }
        Promised::Granted { key, job } => {
            let item = history.items.get(&key.0).filter(|item| item.job == *job);
            let kept = item.is_some_and(|item| item.leases.contains(key));
            if kept {
                Ok(())
            } else {
                Err(lost("a lease is durable before it is handed out"))
            }
        }
        Promised::Ended { key, lsn, how } => {
            let ended = history.ended.get(key);
            let kept = ended.is_some_and(|ended| ended.how == *how && ended.lsn == *lsn);
            if kept {
                Ok(())
            } else {
                Err(lost("an acknowledged settlement survives every crash"))
            }
        }
        Promised::Over {
            key,
            reason,
            told_at,
        } => {
            let is_last = history
                .items
                .get(&key.0)
                .and_then(|item| item.leases.last())
                == Some(key);
            if history.is_active(*key) || (is_last && !history.ended.contains_key(key)) {
                return Err(lost("a refusal rests on what is durable"));
            }
            let Some(ended) = history.ended.get(key) else {
                return Ok(());
            };
            if reason.is_none() && history.remembers(ended, *told_at) {
                return Err(lost(
                    "a refusal says how the lease ended for the dedupe window",
                ));
            }
            let outcome = ended.how.reason();
            let told = reason
                .as_deref()
                .is_none_or(|told| told == outcome || told == "superseded");
            if told {
                Ok(())
            } else {
                Err(lost("a refusal says how the lease ended"))
            }
        }
        Promised::Gone { item, phase } => {
            match history.items.get(item).is_some_and(|i| i.phase == *phase) {
                true => Ok(()),
                false => Err(lost("what was taken away stays away")),
            }
        }
        Promised::Drained { item, moved } => {
            let item = history.items.get(item);
            let item = item.filter(|item| item.phase == Phase::Drained);
            match item.is_some_and(|item| moved.was(item)) {
                true => Ok(()),
                false => Err(lost("what was taken out is as it was, and out")),
            }
        }
        Promised::Redriven { item, lsn } => match history.redriven.get(lsn) == Some(item) {
            true => Ok(()),
            false => Err(lost("an acknowledged redrive survives every crash")),
        },
        Promised::Restored { .. } => unreachable!("judged over all shards"),
    }
}
