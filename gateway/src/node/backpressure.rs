//! Whether a namespace takes new work: at its high watermark enqueues wait until it is down to the
//! low one, at capacity they are refused at once. Ending work is always admitted.
//!
//! The gate (`gate`) of a namespace is one word on the board. Whichever core sees that it has to move moves
//! it, so that all cores agree and every transition counts once; the counts that move it are the
//! board's, exact for a core's own logs and a turn late for the others'.

use std::collections::VecDeque;
use std::time::Duration;

use omnirelay_net::messages::PendingItem;
use omnirelay_net::messages::read::EnqueueItems;
use omnirelay_queue::Nanos;
use omnirelay_wal::Disk;

use super::calls::CallId;
use super::core::{CallContext, Core, namespace_id};
use super::errors;
use super::layout::NamespaceId;

/// Enqueues that may wait on one core; more are refused.
const WAITING_MAX: usize = 4_096;
/// How often a core with waiting enqueues looks at what the others have made free.
const LOOK_EVERY: Nanos = Nanos(10_000_000);

/// Limits on a namespace's waiting, delayed and leased items, over all its shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// At this many an enqueue is refused.
    pub capacity: u64,
    /// At this many enqueues begin to wait.
    pub high: u64,
    /// At this many they go on.
    pub low: u64,
    /// Least time between two transitions.
    pub cooldown: Duration,
}

impl Watermarks {
    /// The default marks of a namespace with this capacity.
    pub fn of(capacity: u64) -> Watermarks {
        Watermarks {
            capacity,
            high: capacity - capacity / 5,
            low: capacity / 5 * 3,
            cooldown: Duration::from_secs(1),
        }
    }
}

/// What a namespace says to an enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intake {
    /// With room for so many items.
    Open(u64),
    Wait,
    Full,
}

/// New work that a call brings.
#[derive(Debug)]
pub(super) enum Incoming {
    Enqueue(EnqueueItems),
    Restore(Vec<PendingItem>),
}

/// New work that waits for its namespace's gate.
#[derive(Debug)]
pub(super) struct WaitingEnqueue {
    context: CallContext,
    incoming: Incoming,
}

/// All enqueues that wait on a core, by namespace, first come first.
pub(super) struct Waiting {
    namespaces: Vec<VecDeque<CallId>>,
    len: usize,
    next_look: Nanos,
    /// When a gate that only its cooldown keeps closed may open, whether or not anybody waits.
    cooled_at: Option<Nanos>,
}

impl Waiting {
    pub(super) fn new(namespaces: usize) -> Waiting {
        Waiting {
            namespaces: (0..namespaces).map(|_| VecDeque::new()).collect(),
            len: 0,
            next_look: Nanos(0),
            cooled_at: None,
        }
    }

    /// How many there are; some may have given up since they were counted last.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// When to look again whether a gate has opened.
    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        let next_look = (self.len > 0).then_some(self.next_look);
        next_look.into_iter().chain(self.cooled_at).min()
    }

    fn of(&mut self, namespace: NamespaceId) -> &mut VecDeque<CallId> {
        &mut self.namespaces[usize::from(namespace.0)]
    }

    fn push(&mut self, namespace: NamespaceId, id: CallId) {
        self.of(namespace).push_back(id);
        self.len += 1;
    }

    fn pop(&mut self, namespace: NamespaceId) {
        if self.of(namespace).pop_front().is_some() {
            self.len -= 1;
        }
    }
}

impl<D: Disk> Core<D> {
    /// Takes an enqueue on now, lets it wait, or refuses it.
    pub(super) fn take_in(
        &mut self,
        now: Nanos,
        id: CallId,
        context: &CallContext,
        incoming: Incoming,
    ) {
        let namespace = context.namespace;
        let first_come = !self.waiting.of(namespace).is_empty();
        match self.intake(now, namespace) {
            Intake::Full => {
                self.answer(id, Err(errors::at_capacity()));
            }
            Intake::Open(room) if !first_come => self.admit_all(now, id, context, incoming, room),
            _ if !self.has_place_to_wait() => {
                let error = errors::backpressure("too many enqueues wait for it already");
                self.answer(id, Err(error));
            }
            Intake::Open(_) | Intake::Wait => {
                if self.waiting.len == 0 {
                    self.waiting.next_look = Nanos(now.0.saturating_add(LOOK_EVERY.0));
                }
                let call = self.calls.get_mut(id).expect("just made");
                call.enqueue = Some(Box::new(WaitingEnqueue {
                    context: context.clone(),
                    incoming,
                }));
                self.waiting.push(namespace, id);
            }
        }
    }

    /// Lets waiting enqueues go on as far as their namespaces' gates are open.
    pub(super) fn serve_enqueues(&mut self, now: Nanos) {
        if self.waiting.cooled_at.is_some_and(|at| at <= now) {
            self.waiting.cooled_at = None;
            for namespace in 0..self.waiting.namespaces.len() {
                self.look_at_gate(now, namespace_id(namespace));
            }
        }
        if self.waiting.len == 0 {
            return;
        }
        self.waiting.next_look = Nanos(now.0.saturating_add(LOOK_EVERY.0));
        for namespace in 0..self.waiting.namespaces.len() {
            let namespace = namespace_id(namespace);
            while let Some(&id) = self.waiting.of(namespace).front() {
                let waits = |call: &mut super::calls::PendingCall| {
                    call.enqueue.is_some() && !call.abandoned
                };
                if self.calls.get_mut(id).is_some_and(waits) {
                    let Intake::Open(room) = self.intake(now, namespace) else {
                        break;
                    };
                    let call = self.calls.get_mut(id).expect("just seen");
                    let waiting = call.enqueue.take().expect("just seen");
                    self.admit_all(now, id, &waiting.context, waiting.incoming, room);
                }
                self.waiting.pop(namespace);
            }
        }
    }

    fn has_place_to_wait(&mut self) -> bool {
        if self.waiting.len < WAITING_MAX {
            return true;
        }
        // Calls that have ended leave their places to others only now.
        let calls = &mut self.calls;
        for waiting in &mut self.waiting.namespaces {
            waiting.retain(|&id| calls.is_held_back(id));
        }
        self.waiting.len = self.waiting.namespaces.iter().map(VecDeque::len).sum();
        self.waiting.len < WAITING_MAX
    }

    /// Opens a closed gate also when nobody asks for it, now or when its cooldown is over: whoever
    /// is told of it may bring nothing before.
    pub(super) fn look_at_gate(&mut self, now: Nanos, namespace: NamespaceId) {
        if !self.board.gate(namespace).closed {
            return;
        }
        self.intake(now, namespace);
        let gate = self.board.gate(namespace);
        if gate.closed {
            let live = self.namespace_stats(namespace).live();
            let marks = &self.layout.namespace(namespace).watermarks;
            let cooled_at = gate.moves_at(live, marks);
            let earliest = self.waiting.cooled_at.into_iter().chain(cooled_at).min();
            self.waiting.cooled_at = earliest;
        }
    }

    fn admit_all(
        &mut self,
        now: Nanos,
        id: CallId,
        context: &CallContext,
        incoming: Incoming,
        room: u64,
    ) {
        match incoming {
            Incoming::Enqueue(items) => self.enqueue(now, id, context, items, room),
            Incoming::Restore(items) => self.restore(now, id, items, room),
        }
    }

    fn intake(&mut self, now: Nanos, namespace: NamespaceId) -> Intake {
        let marks = &self.layout.namespace(namespace).watermarks;
        let live = self.namespace_stats(namespace).live();
        let gate = self.board.gate(namespace);
        let next = gate.next(live, now, marks);
        if next != gate {
            // If another core was quicker, its look is as good as ours.
            self.board.move_gate(namespace, gate, next, live);
        }
        if live >= marks.capacity {
            Intake::Full
        } else if next.closed {
            Intake::Wait
        } else {
            Intake::Open(marks.capacity - live)
        }
    }
}
