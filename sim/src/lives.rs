//! The node's lives, one after the other: how each begins and ends, and what is found in between.

use omnirelay_queue::{Ordering, Shard};
use omnirelay_wal::ViewError;
use rand::Rng;

use crate::difference::difference;
use crate::disk::SimDisk;
use crate::hits::Fault;
use crate::node::{Boot, Node};
use crate::plan::Ending;
use crate::readback::{add_record, read_kept, read_log};
use crate::violation::{Violation, broken};
use crate::world::{CLOSING_NS_MAX, Event, MILLI, PROBE_NS, World};

impl World {
    pub(crate) fn opened(&mut self) {
        self.is_open = true;
        self.trace(|| "the node is open".into());
        let life = *self.life();
        self.schedule
            .after(life.length, Event::EndOfLife(self.life));
        match life.ending {
            Ending::PowerAfterReply(replies) => self.replies_left = Some(replies),
            Ending::PowerInDisk(operations) => {
                let log = self.rng.random_range(0..self.disks.len());
                self.disks[log].burn_fuse(operations);
            }
            _ => {}
        }
        if let Some(operations) = life.failed_disk {
            let log = self.rng.random_range(0..self.disks.len());
            self.disks[log].fail_after(operations);
        }
        for disk in &self.disks {
            disk.set_errors(life.read_errors, life.name_errors);
        }
        if let Some(from) = life.lies_from {
            self.schedule.after(from, Event::Lie(self.life));
        }
        if let Some(at) = life.rots_at {
            self.schedule.after(at, Event::Rot(self.life));
        }
        if let Some((from, to)) = life.full {
            self.schedule.after(from, Event::Full(self.life, true));
            self.schedule.after(to, Event::Full(self.life, false));
        }
    }

    pub(crate) fn boot(&mut self) -> Result<(), Violation> {
        let before = *self.life();
        let first = self.life == 0;
        self.life += 1;
        let life = *self.life();
        if !first {
            self.wall.jump(life.wall_jump);
            self.hits
                .add(Fault::WallBack, u64::from(life.wall_jump < 0));
            self.hits
                .add(Fault::WallForward, u64::from(life.wall_jump > 0));
            self.hits
                .add(Fault::OtherCores, u64::from(life.cores != before.cores));
        }
        self.disks.iter().for_each(SimDisk::begin_life);
        if let Ending::PowerInRecovery(operations) = life.ending {
            let log = self.rng.random_range(0..self.disks.len());
            self.disks[log].burn_fuse(operations);
        }
        for disk in &self.disks {
            disk.set_cold(life.cold);
            disk.set_errors(life.boot_errors, life.boot_errors);
        }
        self.hits
            .add(Fault::ClockJitter, u64::from(life.stutter_ns > 0));
        self.hits
            .add(Fault::SlowLog, u64::from(life.tempo.is_slow()));
        self.trace(|| format!("life {} begins: {life:?}", self.life));
        let boot = Boot {
            life: self.life,
            layout: self.plan.layout(life.cores),
            disks: &self.disks,
            tapes: &self.tapes,
            history_bytes: life.history_bytes,
            wall: self.wall.at(self.schedule.now()),
            drift_ppm: life.drift_ppm,
            stutter_ns: life.stutter_ns,
            tempo: life.tempo,
        };
        // What was replayed must be what the node had, if all of that was on disk.
        let expected = std::mem::take(&mut self.digests);
        let mut other = None;
        let histories = self.is_proven.then(|| self.checker.histories());
        let mut compare = |shard: &Shard| {
            let id = shard.spec().shard.0;
            if other.is_none()
                && let Some(histories) = histories
            {
                other = histories[&id].difference(&shard.digest(shard.last_time()));
            }
            if let (None, Some((at, before))) = (&other, expected.get(&id)) {
                let is_ordered = shard.options().ordering == Ordering::PerResource;
                other = difference(before.clone(), shard.digest(*at), is_ordered);
            }
        };
        let node = Node::boot(boot, &mut self.schedule, &mut self.rng, &mut compare);
        self.is_open = false;
        self.messages_seen = 0;
        match node {
            Ok(node) => {
                self.node = Some(node);
                broken(other.is_some(), "replay gives the state that was", || {
                    other.unwrap_or_default()
                })?;
                self.schedule.after(PROBE_NS, Event::Probe(self.life));
                Ok(())
            }
            Err(_) if self.disks.iter().any(SimDisk::is_dead) => {
                self.hits.hit(Fault::CrashInRecovery);
                self.power_fails("in recovery")
            }
            Err(_) if life.boot_errors > 0.0 => {
                self.hits.hit(Fault::OpenError);
                self.digests = expected;
                self.node_dies("the disk refuses to open", false)
            }
            Err(error) => Err(Violation::new(
                "a log opens after every crash",
                error.to_string(),
            )),
        }
    }

    pub(crate) fn end_life(&mut self) -> Result<(), Violation> {
        if self.is_last() {
            if self.node.as_ref().is_some_and(Node::has_failed) {
                return self.power_fails("after a failed sync");
            }
            self.trace(|| "closing: nothing new, all work is to end".into());
            self.closing = true;
            self.schedule
                .after(CLOSING_NS_MAX, Event::EndOfLife(u32::MAX));
            return Ok(());
        }
        match self.life().ending {
            Ending::Kill => {
                self.hits.hit(Fault::Kill);
                self.node_dies("killed", false)
            }
            Ending::Clean if !self.node.as_ref().is_some_and(Node::has_failed) => self.shut_down(),
            _ => {
                self.hits.hit(Fault::CrashBetweenSteps);
                self.power_fails("between two steps")
            }
        }
    }

    /// Shuts the node down in order: drains, waits until all is on disk, ends the logs.
    pub(crate) fn shut_down(&mut self) -> Result<(), Violation> {
        let life = self.life;
        let node = self.node.as_mut().expect("in life");
        let now = node.now(&self.schedule);
        for core in 0..node.cores() {
            node.core(core).handle_drain(now);
            node.dirty(core, &mut self.schedule, &mut self.rng);
        }
        // Nothing else happens to the node meanwhile, but all that it has begun ends.
        let until = self.schedule.now() + CLOSING_NS_MAX;
        loop {
            let node = self.node.as_ref().expect("in life");
            let idle = node.all_cores().all(omnirelay::node::Core::is_idle);
            if idle && node.is_synced() && node.rings_are_empty() {
                break;
            }
            broken(
                self.schedule.now() > until,
                "a drained node comes to rest",
                || "calls stay open".into(),
            )?;
            match self.schedule.pop() {
                Some(Event::Node(of, step)) if of == life => self.step(step)?,
                Some(Event::Client(client)) => self.schedule.after(PROBE_NS, Event::Client(client)),
                Some(event @ Event::Full(..)) => self.event(event)?,
                Some(_) => {}
                None => {
                    return Err(Violation::new(
                        "a drained node comes to rest",
                        "nothing is planned".into(),
                    ));
                }
            }
            if self.node.as_ref().is_none_or(Node::has_failed)
                || self.disks.iter().any(SimDisk::is_dead)
            {
                return if self.node.is_some() {
                    self.power_fails("while draining")
                } else {
                    Ok(())
                };
            }
        }
        self.digests = self.node.as_ref().expect("in life").digests();
        let closed = self.node.as_mut().is_some_and(Node::close);
        if closed {
            self.hits.hit(Fault::CleanRestart);
        }
        self.node_dies("shut down", false)
    }

    pub(crate) fn power_fails(&mut self, how: &str) -> Result<(), Violation> {
        self.digests.clear();
        self.disks.iter().for_each(SimDisk::lose_power);
        self.node_dies(how, true)
    }

    pub(crate) fn node_dies(&mut self, how: &str, power: bool) -> Result<(), Violation> {
        self.trace(|| format!("life {} ends: {how}", self.life));
        let mut proven = true;
        if let Some(node) = &self.node {
            // Without a loss of power, a batch whose sync failed still looks as if it were there.
            proven = power || !node.has_failed();
            let moment = self.moment();
            self.checker.life_over(moment);
        }
        self.node = None;
        self.is_open = false;
        self.replies_left = None;
        self.disks.iter().for_each(SimDisk::begin_life);
        self.repair();
        self.read_back(proven)?;
        self.rot_at_rest()?;
        for (_, call) in std::mem::take(&mut self.open) {
            self.lost(call.client, call.intent);
        }
        self.busy_since.fill(None);
        self.roomy_since.fill(None);
        self.resting_since = None;
        let down = self.rng.random_range(1..2_000) * MILLI;
        self.schedule.after(down, Event::Boot);
        Ok(())
    }

    /// What is on the disks is what was written, as far as it had to last. Unless it is `proven`,
    /// the end of it may still be lost: the page cache has it, the disk perhaps not.
    pub(crate) fn read_back(&mut self, proven: bool) -> Result<(), Violation> {
        let trusted = self.trusted.take();
        let mut histories = self.checker.histories().clone();
        let mut known = self.known.clone();
        let mut is_less = false;
        for (at, log) in (0u16..).zip(0..self.disks.len()) {
            let found = match read_log(at, &self.disks[log]) {
                Ok(found) => found,
                Err(error) if trusted.is_some() => return self.refused_after_lies(&error),
                Err(error) => {
                    let text = error.to_string();
                    return Err(Violation::new("a log opens after every crash", text));
                }
            };
            let tape = self.tapes[log].borrow();
            let synced = tape.last_synced();
            let least = trusted.as_ref().map_or(synced, |trusted| trusted[log]);
            if trusted.is_some() && found.last == 0 && tape.gives_up(least) {
                drop(tape);
                return self.emptied_by_lies(at);
            }
            tape.check(&found, least)?;
            let kept = found.last;
            is_less |= kept < synced;
            if trusted.is_none() {
                let unread = |error: ViewError| {
                    Violation::new(
                        "history can be read until it is given up",
                        error.to_string(),
                    )
                };
                let history = read_kept(at, &self.disks[log]).map_err(unread)?;
                tape.check(&history, kept)?;
                if history.records.len() > found.records.len() {
                    self.hits.hit(Fault::HistoryKept);
                }
            }
            let batches = tape.batches(self.known[log], kept);
            for record in batches.iter().flat_map(|batch| &batch.records) {
                add_record(&mut histories, record)?;
            }
            known[log] = kept;
        }
        if is_less {
            let tapes = self.tapes.iter().zip(&known);
            tapes.for_each(|(tape, kept)| tape.borrow_mut().lose_after(*kept));
            self.hits.hit(Fault::LieLost);
            self.checker.recovered_less(histories);
        } else {
            self.checker.recovered(histories, proven)?;
        }
        if proven {
            self.known = known;
        }
        self.is_proven = proven;
        Ok(())
    }
}
