//! A run: callers, a node in one life after the other, and the checker that hears every reply.

use std::collections::BTreeMap;

use omnirelay::node::{Answer, CallContext, CallId, NamespaceId, Outcome};
use omnirelay_net::rpc::{Encoding, Reply, codes, decode_reply, encode_reply};
use omnirelay_queue::{Digest, Nanos};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::checker::{Checker, Moment};
use crate::client::{Client, Intent, Role};
use crate::clock::WallClock;
use crate::disk::{Rot, SimDisk};
use crate::hits::{Fault, Hits};
use crate::node::{Node, Step};
use crate::plan::{Life, Plan};
use crate::schedule::Schedule;
use crate::tape::SharedTape;
use crate::violation::{Violation, broken};

pub(crate) const MILLI: u64 = 1_000_000;
/// How often the whole is looked at.
pub(crate) const PROBE_NS: u64 = 5 * MILLI;
/// How long the last life may take to end all work, beyond the longest lease and delay.
pub(crate) const CLOSING_NS_MAX: u64 = 60_000 * MILLI;
/// Events of a whole run, far above what any run needs.
const EVENTS_MAX: u64 = 3_000_000;
/// Call deadlines: usual, and hard to meet.
const TTL_NS: u64 = 20_000 * MILLI;

/// What is planned.
#[derive(Debug)]
pub enum Event {
    /// A node of some life takes a step.
    Node(u32, Step),
    /// A caller makes its next call.
    Client(usize),
    /// A caller goes away.
    Cancel(u32, usize, CallId),
    /// The whole is looked at.
    Probe(u32),
    /// A life's time is up.
    EndOfLife(u32),
    /// Syncs begin to lie.
    Lie(u32),
    /// A bit flips.
    Rot(u32),
    /// Disks fill up, or have room again.
    Full(u32, bool),
    /// The node starts again.
    Boot,
}

pub(crate) struct OpenCall {
    pub(crate) client: usize,
    pub(crate) intent: Intent,
    pub(crate) reply_by: Nanos,
    pub(crate) sent_at: u64,
    /// The node's time then.
    pub(crate) asked_at: u64,
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Report {
    /// Which faults happened.
    pub hits: Hits,
    /// Events that happened.
    pub events: u64,
    /// Replies that left.
    pub replies: u64,
    /// The rule that was broken, and at which event.
    pub violation: Option<Violation>,
}

/// A run under way.
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: SmallRng,
    pub(crate) schedule: Schedule<Event>,
    pub(crate) hits: Hits,
    pub(crate) checker: Checker,
    pub(crate) clients: Vec<Client>,
    pub(crate) open: BTreeMap<(usize, CallId), OpenCall>,
    pub(crate) node: Option<Node>,
    pub(crate) closing: bool,
    pub(crate) wall: WallClock,
    pub(crate) disks: Vec<SimDisk>,
    pub(crate) tapes: Vec<SharedTape>,
    /// By log: the last batch whose records the histories have.
    pub(crate) known: Vec<u64>,
    /// What the histories say is what the disks have.
    pub(crate) is_proven: bool,
    /// By log: the last batch that was synced before syncs began to lie.
    pub(crate) trusted: Option<Vec<u64>>,
    /// The bit that has flipped in this life, and in which log.
    pub(crate) rotten: Option<(usize, Rot)>,
    pub(crate) life: u32,
    pub(crate) is_open: bool,
    pub(crate) replies_left: Option<u64>,
    replies: u64,
    events: u64,
    crash_at_event: Option<u64>,
    pub(crate) messages_seen: u64,
    pub(crate) busy_since: Vec<Option<u64>>,
    /// By namespace: since when it has room.
    pub(crate) roomy_since: Vec<Option<u64>>,
    /// Since when all work is done.
    pub(crate) resting_since: Option<u64>,
    pub(crate) digests: BTreeMap<u32, (Nanos, Digest)>,
    verbose: bool,
    pub(crate) done: bool,
    /// Priority and time of the item that was leased last, where order is checked.
    pub(crate) leased_last: Option<(u32, u64)>,
}

impl World {
    /// A run drawn from a seed.
    pub fn new(seed: u64, verbose: bool) -> World {
        let mut rng = SmallRng::seed_from_u64(seed);
        let plan = Plan::random(&mut rng);
        World::with_plan(plan, rng, verbose)
    }

    /// A run of a given plan.
    pub fn with_plan(plan: Plan, mut rng: SmallRng, verbose: bool) -> World {
        let checker = Checker::new(plan.spaces());
        let mut clients: Vec<Client> = (0..plan.producers)
            .map(|n| Client::new(format!("producer{n}"), Role::Producer))
            .collect();
        clients.extend((0..plan.workers).map(|n| Client::new(format!("worker{n}"), Role::Worker)));
        clients.extend(
            (0..plan.operators).map(|n| Client::new(format!("operator{n}"), Role::Operator)),
        );
        let disks = (0..plan.logs).map(|_| SimDisk::new(rng.random())).collect();
        let tapes = (0..plan.logs).map(|_| SharedTape::default()).collect();
        let mut world = World {
            busy_since: vec![None; plan.space_count()],
            roomy_since: vec![None; plan.space_count()],
            resting_since: None,
            known: vec![0; usize::from(plan.logs)],
            is_proven: true,
            trusted: None,
            rotten: None,
            plan,
            rng,
            schedule: Schedule::new(),
            hits: Hits::default(),
            checker,
            clients,
            open: BTreeMap::new(),
            node: None,
            closing: false,
            wall: WallClock::default(),
            disks,
            tapes,
            life: 0,
            is_open: false,
            replies_left: None,
            replies: 0,
            events: 0,
            crash_at_event: None,
            messages_seen: 0,
            digests: BTreeMap::new(),
            verbose,
            done: false,
            leased_last: None,
        };
        world.schedule.after(0, Event::Boot);
        for client in 0..world.clients.len() {
            world.wake(client);
        }
        world
    }

    /// Has the power fail before this event.
    pub fn crash_at(&mut self, event: u64) {
        self.crash_at_event = Some(event);
    }

    /// Runs to the end, or to the first broken rule.
    pub fn run(mut self) -> Report {
        let violation = self.run_to_end().err();
        for disk in &self.disks {
            let counts = disk.counts();
            self.hits.add(Fault::SectorsLost, counts.sectors_lost);
            self.hits.add(Fault::TornSector, counts.sectors_torn);
            self.hits.add(Fault::NameLost, counts.names_lost);
            self.hits.add(Fault::FailedSync, counts.syncs_failed);
            self.hits.add(Fault::FailedWrite, counts.writes_failed);
            self.hits.add(Fault::Scribbled, counts.segments_scribbled);
            self.hits.add(Fault::LyingSync, counts.syncs_lied);
            let counts = disk.mood_counts();
            self.hits.add(Fault::ReadError, counts.reads_failed);
            self.hits.add(Fault::NameError, counts.names_failed);
        }
        let carries = self.checker.histories().values().map(|h| h.carries).sum();
        self.hits.add(Fault::Carried, carries);
        self.hits.add(Fault::MemoryLoss, self.checker.memory_lost());
        if let (Some(violation), true) = (&violation, self.verbose) {
            self.trace(|| violation.to_string());
        }
        Report {
            hits: self.hits,
            events: self.events,
            replies: self.replies,
            violation,
        }
    }

    fn run_to_end(&mut self) -> Result<(), Violation> {
        while !self.done {
            let Some(event) = self.schedule.pop() else {
                return Err(Violation::new(
                    "a run ends with all work done",
                    "nothing is planned any more".into(),
                ));
            };
            self.events += 1;
            broken(self.events > EVENTS_MAX, "a node comes to rest", || {
                format!("{EVENTS_MAX} events")
            })?;
            if self.crash_at_event == Some(self.events) && self.node.is_some() {
                self.hits.hit(Fault::CrashBetweenSteps);
                self.power_fails("at the chosen event")?;
            }
            self.event(event)?;
            if self.node.is_some() && self.disks.iter().any(SimDisk::is_dead) {
                self.hits.hit(if self.is_open {
                    Fault::CrashInDisk
                } else {
                    Fault::CrashInRecovery
                });
                self.power_fails("in a disk operation")?;
            }
        }
        Ok(())
    }

    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            let at = self.schedule.now();
            println!(
                "{:>8} {:>6}.{:06} ms  {}",
                self.events,
                at / MILLI,
                at % MILLI,
                what()
            );
        }
    }

    pub(crate) fn moment(&self) -> Moment {
        let node = self.node.as_ref().expect("only a node in life replies");
        Moment {
            life: self.life,
            now: node.now(&self.schedule).0,
            booted_at: node.clock.booted_at().0,
        }
    }

    pub(crate) fn life(&self) -> &Life {
        let at = (self.life as usize)
            .saturating_sub(1)
            .min(self.plan.lives.len() - 1);
        &self.plan.lives[at]
    }

    pub(crate) fn is_last(&self) -> bool {
        self.life as usize >= self.plan.lives.len()
    }

    pub(crate) fn wake(&mut self, client: usize) {
        // Who was refused or lost waits longer before the same again.
        let longer = if self.clients[client].retry.is_some() {
            5
        } else {
            1
        };
        let pause = self.rng.random_range(0..=self.plan.pause * longer);
        self.schedule.after(pause, Event::Client(client));
    }

    pub(crate) fn event(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Node(life, step) if life == self.life => self.step(step),
            Event::Client(client) => {
                self.call(client);
                Ok(())
            }
            Event::Cancel(life, core, id) if life == self.life => {
                self.cancel(core, id);
                Ok(())
            }
            Event::Probe(life) if life == self.life => self.probe(),
            Event::EndOfLife(life) if life == self.life && self.node.is_some() => self.end_life(),
            Event::Full(life, full) if life == self.life => {
                self.trace(|| format!("disks full: {full}"));
                self.disks.iter().for_each(|disk| disk.set_full(full));
                self.checker.disk_was_full();
                Ok(())
            }
            Event::Lie(life) if life == self.life && self.node.is_some() => {
                self.begin_lies();
                Ok(())
            }
            Event::Rot(life) if life == self.life && self.node.is_some() => {
                self.rot_running();
                Ok(())
            }
            Event::Boot => self.boot(),
            // Of a life that is over.
            _ => Ok(()),
        }
    }

    pub(crate) fn step(&mut self, step: Step) -> Result<(), Violation> {
        let Some(node) = self.node.as_mut() else {
            return Ok(());
        };
        let failed = matches!(step, Step::LogFailed(..));
        if self.verbose && !matches!(step, Step::Turn(_) | Step::Timer(..)) {
            let text = format!("{step:?}");
            let at = self.schedule.now();
            println!(
                "{:>8} {:>6}.{:06} ms  {}",
                self.events,
                at / MILLI,
                at % MILLI,
                text.chars().take(400).collect::<String>()
            );
        }
        let outcomes = node.step(step, &mut self.schedule, &mut self.rng, &mut self.hits);
        if failed {
            // What a failed log has acknowledged is known once it is read back.
            let soon = self.rng.random_range(1..200) * MILLI;
            self.schedule.after(soon, Event::EndOfLife(self.life));
        }
        if !self.is_open && self.node.as_ref().is_some_and(Node::is_synced) {
            self.opened();
        }
        for (core, id, outcome) in outcomes {
            self.outcome(core, id, outcome)?;
            if self.node.is_none() {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn replied(&mut self) -> Result<(), Violation> {
        self.replies += 1;
        match self.replies_left.as_mut() {
            Some(0 | 1) => {
                self.replies_left = None;
                self.hits.hit(Fault::CrashAfterReply);
                self.power_fails("right after a reply")
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn call(&mut self, client: usize) {
        if self.clients[client].is_busy {
            return;
        }
        if self.plan.ordered && !self.closing && self.clients[client].role == Role::Worker {
            // Drains what the others have left once they are done.
            self.schedule.after(PROBE_NS, Event::Client(client));
            return;
        }
        if !self.is_open || self.node.as_ref().is_none_or(|node| node.has_failed()) {
            self.schedule
                .after(self.plan.pause + PROBE_NS, Event::Client(client));
            return;
        }
        let Some(intent) = self.clients[client].next(&self.plan, self.closing, &mut self.rng)
        else {
            return;
        };
        self.send(client, intent);
    }

    fn send(&mut self, client: usize, intent: Intent) {
        let moment = self.moment();
        let hurried = !self.closing && self.rng.random_bool(self.plan.hurried);
        let ttl = if hurried {
            self.rng.random_range(0..5 * MILLI)
        } else {
            TTL_NS
        };
        let reply_by = Nanos(moment.now + ttl);
        if let Intent::Settle { acts, .. } = &intent {
            self.note_settling(moment, acts.clone());
        }
        match &intent {
            Intent::Enqueue { again: true, .. } => self.hits.hit(Fault::Duplicate),
            Intent::Cancel { space, ids } => self.checker.cancelling(*space, ids),
            Intent::Drain {
                space,
                request_id: Some(request),
                ..
            } => self.checker.draining(moment, *space, request),
            _ => {}
        }
        let context = CallContext {
            namespace: NamespaceId(u16::try_from(intent.space()).expect("few namespaces")),
            owner: self.clients[client].name.clone(),
            shard_key: None,
            reply_by,
        };
        let node = self.node.as_mut().expect("open");
        let core = self.rng.random_range(0..node.cores());
        let id = node
            .core(core)
            .handle_call(Nanos(moment.now), intent.call().into(), &context);
        node.dirty(core, &mut self.schedule, &mut self.rng);
        self.clients[client].is_busy = true;
        if !self.closing && self.rng.random_bool(self.plan.cancelled) {
            let patience = self.rng.random_range(0..20 * MILLI);
            self.schedule
                .after(patience, Event::Cancel(self.life, core, id));
        }
        self.trace(|| {
            format!(
                "core {core} {id:?} {}: {intent:?}",
                self.clients[client].name
            )
        });
        let sent_at = self.schedule.now();
        self.open.insert(
            (core, id),
            OpenCall {
                client,
                intent,
                reply_by,
                sent_at,
                asked_at: moment.now,
            },
        );
    }

    fn cancel(&mut self, core: usize, id: CallId) {
        let Some(call) = self.open.remove(&(core, id)) else {
            return;
        };
        self.trace(|| format!("core {core} {id:?} cancelled"));
        self.hits.hit(Fault::CancelledCall);
        let node = self.node.as_mut().expect("a call is open");
        node.core(core).handle_cancel(id);
        node.dirty(core, &mut self.schedule, &mut self.rng);
        self.lost(call.client, call.intent);
    }

    fn outcome(&mut self, core: usize, id: CallId, outcome: Outcome) -> Result<(), Violation> {
        let moment = self.moment();
        let Some(call) = self.open.remove(&(core, id)) else {
            // Its caller went away when the reply was made already.
            return self.undelivered(core, outcome);
        };
        let slack = self.node.as_ref().map_or(0, Node::slack_ns);
        broken(
            moment.now > call.reply_by.0 + slack,
            "a reply leaves before its deadline",
            || format!("{:?} at {moment:?}, due {:?}", call.intent, call.reply_by),
        )?;
        let reply = outcome.reply.as_ref().map(Answer::to_reply);
        if let (Ok(answer), Ok(reply)) = (&outcome.reply, &reply) {
            let written = encode_reply(Encoding::Proto, answer);
            let read = decode_reply(reply.procedure(), Encoding::Proto, &written);
            broken(
                read.as_ref() != Ok(reply),
                "a reply is written as its message says",
                || format!("{reply:?} is written as {read:?}"),
            )?;
        }
        if let Err(error) = &reply {
            self.hits
                .add(Fault::DeadlinePassed, u64::from(error.is(codes::DEADLINE)));
        }
        if self.rng.random_bool(self.plan.undelivered) && !self.closing {
            self.trace(|| format!("core {core} {id:?} cannot be delivered: {reply:?}"));
            self.lost(call.client, call.intent);
            return self.undelivered(core, outcome);
        }
        self.trace(|| format!("core {core} {id:?} replies {reply:?}"));
        let lost = self.rng.random_bool(self.plan.lost) && !self.closing;
        self.hear(&call, &reply.map_err(Clone::clone), true, lost)?;
        if lost {
            self.hits.hit(Fault::LostReply);
            self.lost(call.client, call.intent);
        } else {
            self.clients[call.client].is_busy = false;
            self.wake(call.client);
        }
        self.replied()
    }

    /// A reply that nobody takes: its grants go back.
    fn undelivered(&mut self, core: usize, outcome: Outcome) -> Result<(), Violation> {
        let moment = self.moment();
        let reply = outcome.reply.as_ref().map(Answer::to_reply);
        if let Ok(reply @ (Reply::Lease(_) | Reply::LeaseBatch(_))) = &reply {
            self.hits.hit(Fault::UndeliveredGrant);
            let space = outcome
                .grants
                .first()
                .map_or(0, |grant| self.space_of(grant.token.lease_id.shard().0));
            self.hear_leases(moment, space, reply, false)?;
        }
        let node = self.node.as_mut().expect("it just replied");
        node.core(core)
            .handle_undelivered(Nanos(moment.now), outcome.grants);
        node.dirty(core, &mut self.schedule, &mut self.rng);
        Ok(())
    }

    fn space_of(&self, shard: u32) -> usize {
        let spaces = self.plan.spaces();
        spaces
            .iter()
            .position(|s| (s.first_shard..s.first_shard + s.shards).contains(&shard))
            .expect("a shard of the plan")
    }

    /// A caller gets no reply: it sends again what can be sent again.
    pub(crate) fn lost(&mut self, client: usize, intent: Intent) {
        let caller = &mut self.clients[client];
        caller.is_busy = false;
        caller.retry = match intent {
            Intent::Enqueue {
                space, jobs, batch, ..
            } => {
                let jobs: Vec<_> = jobs
                    .into_iter()
                    .filter(|job| job.request_id.is_some())
                    .collect();
                (!jobs.is_empty()).then_some(Intent::Enqueue {
                    space,
                    jobs,
                    batch,
                    again: true,
                })
            }
            again @ (Intent::Settle { .. }
            | Intent::Restore { .. }
            | Intent::Drain {
                request_id: Some(_),
                ..
            }) => Some(again),
            _ => None,
        };
        self.wake(client);
    }
}
