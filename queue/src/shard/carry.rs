//! Writing again what is still needed, so that the log can give up its oldest
//! records.
//!
//! Before the log gives a segment up, every record in it of one of the kinds
//! in [`CARRIED_KINDS`] is offered to [`Shard::carry`]; and a
//! [checkpoint](Shard::checkpoint) of what is remembered beside the items must
//! have been begun in a later segment, and be complete.
//!
//! An item's last error never lies in an older segment than its body: whoever
//! carries the body carries the error with it.

use crate::carry::{Carry, Rows, Turn};
use crate::codec::DecodeError;
use crate::ids::{Lsn, Nanos, Place, RequestKey};
use crate::item::{Lease, State};
use crate::record::{EnqueuedBody, Event, Log, Record, kind};
use crate::slab::Slot;
use crate::snapshot::{ItemSnapshot, SnapshotState};

use super::Shard;
use super::apply::{Change, ensure};

/// Kinds of record that items or drained bundles may be rooted in.
pub const CARRIED_KINDS: [u8; 4] = [
    kind::ENQUEUED,
    kind::DRAIN_SNAPSHOT,
    kind::RESTORE_SNAPSHOT,
    kind::CARRY,
];

/// Turns that are known to be written. A resource with many items that are gone
/// would have the same written for each of them.
const WRITTEN_TURNS: usize = 256;

/// The last turns that were written, and the segments that those are in; by
/// item, each of which may push out others.
#[derive(Debug, Default)]
pub(super) struct WrittenTurns(Vec<Option<(Turn, u32)>>);

/// What became of a record that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// Nothing that is still needed lies in it.
    NotRooted,
    /// What lies in it was written again.
    Done,
    /// What lies in it must be written again together with these bytes: offer
    /// it once more with them, before any other.
    NeedsError(Place, u32),
}

impl Shard {
    /// Offers a record of a segment that is to be given up: its kind and LSN,
    /// where its body lies, and the body. `error` holds the bytes that the
    /// offer before this one asked for.
    ///
    /// The record that is appended has no LSN of its own, and none of the
    /// shard's numbers moves.
    ///
    /// # Errors
    /// When the body cannot be read, or `error` is not what was asked for. The
    /// segment must be kept then.
    pub fn carry(
        &mut self,
        kind: u8,
        lsn: Lsn,
        place: Place,
        record_body: &[u8],
        error: Option<&[u8]>,
        log: &mut impl Log,
    ) -> Result<Carried, DecodeError> {
        if kind == kind::ENQUEUED {
            return self.carry_item(lsn, place, record_body, None, error, log);
        }
        if !CARRIED_KINDS.contains(&kind) || (kind == kind::CARRY && !Carry::is_item(record_body)) {
            return Ok(Carried::NotRooted);
        }
        let event = Event::decode(kind, record_body)?;
        let Some(snapshot) = event.snapshot() else {
            return Ok(Carried::NotRooted);
        };
        let place = place.after(record_body.len() - snapshot.encoded_len());
        match event {
            Event::DrainSnapshot { request, .. } => {
                Ok(self.carry_drained(request, lsn, place, snapshot, log))
            }
            Event::Carry(Carry::Drained { request, lsn, .. }) => {
                Ok(self.carry_drained(Some(request), lsn, place, snapshot, log))
            }
            _ => {
                let body = place.after(snapshot.body_offset());
                let own = (place.after(snapshot.error_offset()), snapshot.error);
                self.carry_item(snapshot.lsn, body, snapshot.body, Some(own), error, log)
            }
        }
    }

    /// Writes an item again if its body is the one at `place`. `own` is the
    /// error beside it, and its place.
    fn carry_item(
        &mut self,
        lsn: Lsn,
        place: Place,
        body: &[u8],
        own: Option<(Place, &[u8])>,
        given: Option<&[u8]>,
        log: &mut impl Log,
    ) -> Result<Carried, DecodeError> {
        let Some(slot) = self.index.get(&self.slab, lsn) else {
            self.carry_turn(lsn, body, place, log)?;
            return Ok(Carried::NotRooted);
        };
        if self.slab[slot].body != place {
            return Ok(Carried::NotRooted);
        }
        let item = &self.slab[slot];
        let asked_for = self.asked_for.take();
        let error = match (item.last_error(), own, given) {
            (None, _, _) => &[],
            (Some((at, _)), Some((own_at, own)), _) if at == own_at => own,
            (Some((at, _)), _, Some(given)) if asked_for == Some((lsn, at)) => given,
            // It may have failed again while its error was read.
            (Some((at, len)), _, _) => {
                self.asked_for = Some((lsn, at));
                return Ok(Carried::NeedsError(at, len));
            }
        };
        if (body.len(), error.len()) != (item.body_len as usize, item.error_len as usize) {
            return Err(DecodeError::Truncated);
        }
        let owner = match &item.state {
            State::Leased { owner, .. } => self.owners.name(*owner).to_owned(),
            _ => String::new(),
        };
        let snapshot = self.snapshot(slot, &owner, error, body);
        snapshot.enqueued()?;
        snapshot.failed()?;
        self.commit_carry(Carry::Item(snapshot), log);
        self.carry_turn(lsn, body, place, log)?;
        Ok(Carried::Done)
    }

    /// Writes an item of a bundle again if the bundle needs it, and has it
    /// from this place.
    fn carry_drained(
        &mut self,
        request: Option<RequestKey>,
        lsn: Lsn,
        place: Place,
        snapshot: &ItemSnapshot<'_>,
        log: &mut impl Log,
    ) -> Carried {
        let bundle = request.and_then(|request| self.drains.get(request, self.clock));
        let Some(bundle) = bundle.filter(|bundle| {
            let item = bundle.item(lsn);
            item.is_some_and(|(at, _)| at == place)
        }) else {
            return Carried::NotRooted;
        };
        let carry = Carry::Drained {
            request: bundle.request,
            lsn,
            at: bundle.at,
            snapshot: *snapshot,
        };
        self.commit_carry(carry, log);
        Carried::Done
    }

    /// Appends and applies a record outside the LSN sequence. Its body's
    /// length in bytes.
    pub(super) fn commit_carry(&mut self, carry: Carry<'_>, log: &mut impl Log) -> usize {
        self.commit_carry_at(carry, log).0
    }

    /// Appends and applies a record outside the LSN sequence. Its body's
    /// length in bytes, and where that lies.
    fn commit_carry_at(&mut self, carry: Carry<'_>, log: &mut impl Log) -> (usize, Place) {
        assert!(self.last_lsn > Lsn(0), "the shard was not opened");
        let record = Record {
            lsn: self.last_lsn,
            epoch: self.epoch,
            at: self.clock,
            event: Event::Carry(carry),
        };
        let place = log.append(&record);
        self.apply(&record, place);
        (record.event.encoded_len(), place)
    }

    /// Bytes of the log that trimming leaves: the bodies and errors of the items
    /// in the shard, the items of bundles that may be asked for again, and a
    /// checkpoint. Some of what is about to be forgotten is counted too.
    pub fn live_bytes(&self) -> u64 {
        self.item_bytes + self.drains.bytes() + self.checkpoint_bytes()
    }

    /// Whether records of this segment of the log must be offered to
    /// [`carry`](Shard::carry) before it is given up: an item's body or an item
    /// of a bundle lies in it. Where items of one resource are leased one at a
    /// time, records of items that are gone may matter too, so there it is true
    /// while there are items.
    pub fn is_rooted_in(&self, segment: u32) -> bool {
        let turns_matter = self.resources.is_some() && self.slab.len() > 0;
        turns_matter || self.roots.is_in(segment) || self.drains.roots().is_in(segment)
    }

    /// Makes things what a carry says. `place` is that of its snapshot.
    pub(super) fn carried(&mut self, carry: &Carry<'_>, at: Nanos, place: Place) -> Change {
        match carry {
            Carry::Item(snapshot) => return self.item_carried(snapshot, at, place),
            Carry::Drained {
                request,
                lsn,
                at,
                snapshot,
            } => {
                let item = (place, snapshot.encoded_len() as u32);
                self.drains.insert(*request, *lsn, *at, item);
            }
            Carry::Header { epochs, .. } => {
                let agrees = self.settled.carried_epochs(epochs);
                ensure(agrees, "its epochs are not the shard's")?;
            }
            Carry::Turns(rows) => rows.iter().for_each(|turn| self.turn_carried(&turn)),
            Carry::Drains(rows) => rows.iter().for_each(|row| self.drains.carried(&row)),
            Carry::Dedupe(rows) => rows.iter().for_each(|row| self.dedupe.carried(&row)),
            Carry::Restored(rows) => rows.iter().for_each(|row| self.restored.carried(&row)),
            Carry::Settled(rows) => rows.iter().for_each(|row| self.settled.carried(&row)),
            Carry::SettledPage {
                page,
                last_at,
                first_word,
                words,
            } => {
                let words = words.iter();
                self.settled
                    .carried_page(*page, *last_at, *first_word, words);
            }
        }
        Ok(())
    }

    fn item_carried(&mut self, snapshot: &ItemSnapshot<'_>, at: Nanos, place: Place) -> Change {
        let Some(slot) = self.index.get(&self.slab, snapshot.lsn) else {
            ensure(snapshot.lsn <= self.unknown_to, "its item is not there")?;
            let enqueued = snapshot.enqueued().map_err(|_| "its item cannot be read")?;
            let slot = self.insert_snapshot(snapshot, &enqueued.payload, place)?;
            if enqueued.max_attempts != snapshot.max_attempts {
                self.redriven.insert(snapshot.lsn, enqueued.max_attempts);
            }
            self.resume(slot, snapshot, at);
            self.step_back();
            return Ok(());
        };
        self.ensure_same(slot, snapshot)?;
        let item = &mut self.slab[slot];
        self.roots.add(place.segment);
        self.roots.remove(item.body.segment);
        item.body = place.after(snapshot.body_offset());
        if item.error_len > 0 {
            item.error = place.after(snapshot.error_offset());
        }
        Ok(())
    }

    /// Gives an item that replay did not know its state.
    fn resume(&mut self, slot: Slot, snapshot: &ItemSnapshot<'_>, at: Nanos) {
        match snapshot.state {
            SnapshotState::Waiting => return self.wait_since(slot, snapshot.since, at),
            SnapshotState::Dead => return self.bury(slot, snapshot.since),
            SnapshotState::Leased {
                owner,
                duration,
                recorded,
            } => {
                let owner = self.owners.acquire(owner);
                self.slab[slot].state = State::Leased {
                    owner,
                    lease: Lease {
                        expires_at: at.saturating_add_millis(recorded),
                        recorded_before: recorded,
                        duration,
                        recorded,
                    },
                };
            }
        }
        self.stats.active += 1;
        if let Some(resources) = &mut self.resources {
            resources.begin_lease(&self.slab, slot);
        }
        self.wheel.insert(&mut self.slab, slot);
    }

    /// Whoever is served on an item's resource may have got the turn by what
    /// happened to that item, which replay passes over while it does not know
    /// the item: since when the other waits is written down. `place` is what
    /// the item's body is given up at.
    fn carry_turn(
        &mut self,
        item: Lsn,
        body: &[u8],
        place: Place,
        log: &mut impl Log,
    ) -> Result<(), DecodeError> {
        let Some(resources) = &self.resources else {
            return Ok(());
        };
        let payload = EnqueuedBody::decode(body)?.payload;
        let secret = &self.spec.secret;
        let resource = secret.resource_key(payload.resource_type, payload.resource_id);
        let Some(served) = resources.served(resource) else {
            return Ok(());
        };
        let served = &self.slab[served];
        // What lies in the segment that is given up is carried itself.
        if served.lsn != item && served.body.segment != place.segment {
            let turn = Turn {
                item: served.lsn,
                since: served.since,
            };
            if !self.written_turns.has(&turn, place.segment) {
                let (_, at) = self.commit_carry_at(Carry::Turns(Rows::Values(&[turn])), log);
                self.written_turns.note(turn, at.segment);
            }
        }
        Ok(())
    }

    fn turn_carried(&mut self, turn: &Turn) {
        // One that is not there is carried itself; where all are there, replay
        // has seen every turn pass.
        if let Some(slot) = self.index.get(&self.slab, turn.item)
            && !self.lists_are_ordered
        {
            self.wheel.remove(&mut self.slab, slot);
            self.slab[slot].since = turn.since;
            self.wheel.insert(&mut self.slab, slot);
        }
    }
}

impl WrittenTurns {
    /// Whether a turn is known to be written in a segment that is kept when
    /// this one is given up.
    fn has(&self, turn: &Turn, given_up: u32) -> bool {
        let written = self.0.get(WrittenTurns::nth(turn)).copied().flatten();
        written.is_some_and(|(written, segment)| written == *turn && segment > given_up)
    }

    fn note(&mut self, turn: Turn, segment: u32) {
        self.0.resize(WRITTEN_TURNS, None);
        self.0[WrittenTurns::nth(&turn)] = Some((turn, segment));
    }

    fn nth(turn: &Turn) -> usize {
        (turn.item.0 % WRITTEN_TURNS as u64) as usize
    }
}
