//! What is looked at from outside, every few milliseconds: late replies, idle workers, chatter
//! without end; and, when all work is done, whether the node agrees with its logs.

use std::collections::BTreeMap;

use omnirelay_queue::{ItemState, Listing, Shard};

use crate::client::Intent;
use crate::violation::{Violation, broken};
use crate::world::{Event, MILLI, PROBE_NS, World};

/// Messages between cores in one probe's time that can only be a loop without end.
const MESSAGES_PER_PROBE_MAX: u64 = 20_000;

impl World {
    /// Looks at what must hold at every moment.
    pub(crate) fn probe(&mut self) -> Result<(), Violation> {
        let Some(node) = self.node.as_ref() else {
            return Ok(());
        };
        let messages = node.delivered - std::mem::replace(&mut self.messages_seen, node.delivered);
        broken(
            messages > MESSAGES_PER_PROBE_MAX,
            "a node comes to rest",
            || format!("{messages} messages between cores in 5 ms"),
        )?;
        let now = node.now(&self.schedule);
        let tempo = node.tempo;
        let slack = 2 * (tempo.turn + tempo.timer) + MILLI;
        for ((core, id), call) in &self.open {
            let late = now.0 > call.reply_by.0 + slack;
            broken(late, "every call is answered by its deadline", || {
                format!("core {core} {id:?} {:?}, now {now:?}", call.intent)
            })?;
        }
        self.look_for_idle_workers()?;
        if self.closing && self.is_at_rest() {
            return self.finish();
        }
        self.schedule.after(PROBE_NS, Event::Probe(self.life));
        Ok(())
    }

    /// No worker waits for long while an item does.
    fn look_for_idle_workers(&mut self) -> Result<(), Violation> {
        let node = self.node.as_ref().expect("in life");
        let now = self.schedule.now();
        let tempo = node.tempo;
        let bound = 6 * tempo.sync + 40 * (tempo.ring + tempo.turn + tempo.timer) + 20 * MILLI;
        let impaired = node
            .all_cores()
            .any(|core| core.is_storage_full() || core.failure().is_some());
        for space in 0..self.busy_since.len() {
            let waiting: u64 = node
                .all_cores()
                .flat_map(|core| core.shards())
                .filter(|(_, namespace, _)| usize::from(namespace.0) == space)
                .filter(|(_, _, shard)| has_item_to_lease(shard))
                .map(|(_, _, shard)| shard.stats().pending)
                .sum();
            if waiting == 0 || impaired || !self.is_open {
                self.busy_since[space] = None;
                continue;
            }
            let since = *self.busy_since[space].get_or_insert(now);
            let idle = self.open.values().find(|call| {
                matches!(&call.intent, Intent::Lease { space: of, key: None, .. } if *of == space)
                    && call.sent_at + bound < now
            });
            broken(
                since + bound < now && idle.is_some(),
                "no worker waits while an item does",
                || {
                    let idle = idle.expect("just seen");
                    format!(
                        "{waiting} items wait since {since}; {:?} since {}",
                        idle.intent, idle.sent_at
                    )
                },
            )?;
        }
        Ok(())
    }

    fn is_at_rest(&self) -> bool {
        let node = self.node.as_ref().expect("in life");
        let calls = self
            .open
            .values()
            .all(|call| matches!(call.intent, Intent::Lease { .. }));
        let wishes = self
            .clients
            .iter()
            .all(|client| client.retry.is_none() && client.held.is_empty());
        let items: u64 = node
            .all_cores()
            .flat_map(|core| core.shards())
            .map(|(_, _, shard)| shard.stats())
            .map(|stats| stats.pending + stats.active + stats.delayed)
            .sum();
        calls && wishes && items == 0 && node.is_synced() && node.rings_are_empty()
    }

    /// All work is done: what the node has is what its logs say, and its next life finds it so.
    fn finish(&mut self) -> Result<(), Violation> {
        self.trace(|| "all work is done".into());
        let node = self.node.as_ref().expect("in life");
        let digests = node.digests();
        let live: BTreeMap<u32, _> = node
            .all_cores()
            .flat_map(|core| core.shards())
            .map(|(_, _, shard)| (shard.spec().shard.0, shard.stats()))
            .collect();
        self.digests = digests;
        self.node_dies("at rest", false)?;
        for (shard, stats) in live {
            let counts = self.checker.histories()[&shard].counts();
            let same = (counts.waiting, counts.active, counts.dead)
                == (stats.pending + stats.delayed, stats.active, stats.dead);
            broken(!same, "stats are what the records add up to", || {
                format!("shard {shard}: {stats:?}, by the records {counts:?}")
            })?;
        }
        let unfinished = self.checker.unfinished();
        broken(!unfinished.is_empty(), "all work ends", || {
            format!("{unfinished:?}")
        })?;
        self.boot()?;
        self.done = true;
        Ok(())
    }
}

/// Whether a worker could have an item: those that are held back by others count as waiting too.
fn has_item_to_lease(shard: &Shard) -> bool {
    let first = shard.list(Listing::Waiting, None, 1, 1).items;
    first
        .first()
        .is_some_and(|item| item.state == ItemState::Waiting)
}
