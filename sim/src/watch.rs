//! What is looked at from outside, every few milliseconds: late replies, idle workers, chatter
//! without end; and, when all work is done, whether the node agrees with its logs.

use std::collections::BTreeMap;

use omnirelay::node::{LogSize, NamespaceId};
use omnirelay_queue::{ItemState, Listing, Shard};

use crate::client::Intent;
use crate::hits::Fault;
use crate::node::SEGMENT_BYTES;
use crate::violation::{Violation, broken};
use crate::world::{Event, MILLI, OpenCall, PROBE_NS, World};

/// Messages between cores in one probe's time that can only be a loop without end.
const MESSAGES_PER_PROBE_MAX: u64 = 20_000;

/// Segments that a log may have beyond what lives in it and its history: the one that is being
/// filled, the one that is given up, what carrying needs meanwhile.
const SEGMENTS_AT_REST: u64 = 4;
/// How long a log that is at rest may take to become short.
const TRIMMING_NS_MAX: u64 = 5_000 * MILLI;

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
        let slack = node.slack_ns();
        for ((core, id), call) in &self.open {
            let late = now.0 > call.reply_by.0 + slack;
            broken(late, "every call is answered by its deadline", || {
                format!("core {core} {id:?} {:?}, now {now:?}", call.intent)
            })?;
        }
        self.look_for_idle_workers()?;
        self.look_at_gates()?;
        if self.closing && self.is_at_rest() && self.is_trimmed()? {
            return self.finish();
        }
        self.schedule.after(PROBE_NS, Event::Probe(self.life));
        Ok(())
    }

    /// No worker waits for long while an item does.
    fn look_for_idle_workers(&mut self) -> Result<(), Violation> {
        let node = self.node.as_ref().expect("in life");
        let now = self.schedule.now();
        let bound = self.patience_ns();
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

    /// No enqueue waits for long once its namespace has room, its gate says so too, and no
    /// namespace takes more than it may.
    fn look_at_gates(&mut self) -> Result<(), Violation> {
        let node = self.node.as_ref().expect("in life");
        let impaired = node
            .all_cores()
            .any(|core| core.is_storage_full() || core.failure().is_some());
        let now = self.schedule.now();
        for space in 0..self.roomy_since.len() {
            let marks = self.plan.namespace(space).watermarks;
            let stats = node.all_cores().flat_map(|core| core.shards());
            let live: u64 = stats
                .filter(|(_, namespace, _)| usize::from(namespace.0) == space)
                .map(|(_, _, shard)| shard.stats())
                .map(|stats| stats.pending + stats.active + stats.delayed)
                .sum();
            let waits = |call: &&OpenCall| matches!(&call.intent, Intent::Enqueue { space: of, .. } if *of == space);
            let waiting = self.open.values().find(waits);
            if waiting.is_some() && live >= marks.high {
                self.hits.hit(Fault::GateClosed);
            }
            // Calls that are under way when the last room goes are let in on each core.
            let most = marks.capacity.saturating_add(self.plan.in_flight_max());
            broken(live > most, "a namespace takes no more than it may", || {
                format!("{live} items, capacity {}", marks.capacity)
            })?;
            if live > marks.low || impaired || !self.is_open {
                self.roomy_since[space] = None;
                continue;
            }
            let since = *self.roomy_since[space].get_or_insert(now);
            let cooldown = u64::try_from(marks.cooldown.as_nanos()).expect("seconds");
            let bound = self.patience_ns() + cooldown;
            let gate = node
                .board
                .gate(NamespaceId(u16::try_from(space).expect("few")));
            broken(
                gate.closed && since + bound < now,
                "a gate opens once there is room, asked or not",
                || format!("{live} items since {since}, {gate:?}"),
            )?;
            let late = waiting.filter(|call| since.max(call.sent_at) + bound < now);
            broken(
                late.is_some(),
                "no enqueue waits while there is room",
                || {
                    format!(
                        "{live} items since {since}, {:?}",
                        late.map(|call| &call.intent)
                    )
                },
            )?;
        }
        Ok(())
    }

    /// How long something that is possible may take to happen.
    fn patience_ns(&self) -> u64 {
        let node = self.node.as_ref().expect("in life");
        let tempo = node.tempo;
        let stutter_ns = node.clock.stutter_ns();
        6 * tempo.sync + 40 * (tempo.ring + tempo.turn + tempo.timer + stutter_ns) + 20 * MILLI
    }

    /// Whether each log is as short as it should be by now.
    fn is_trimmed(&mut self) -> Result<bool, Violation> {
        let history_bytes = self.life().history_bytes;
        let now = self.schedule.now();
        let node = self.node.as_ref().expect("in life");
        let most = |size: &LogSize| {
            3 * size.live_bytes + history_bytes + SEGMENTS_AT_REST * u64::from(SEGMENT_BYTES)
        };
        let sizes = node.log_sizes();
        let long = sizes
            .iter()
            .find(|size| size.used_bytes > most(size) && size.trim_blocked.is_none());
        let since = *self.resting_since.get_or_insert(now);
        broken(
            long.is_some() && since + TRIMMING_NS_MAX < now,
            "a log at rest is as short as its history and what lives in it allow",
            || format!("{long:?}"),
        )?;
        Ok(long.is_none())
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
