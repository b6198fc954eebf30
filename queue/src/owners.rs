//! Names of lease owners, each kept once while it holds a lease.

use std::collections::VecDeque;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use crate::ids::Secret;

/// Owners without leases whose names are kept: those who work on one item
/// after the other come back at once.
const IDLE_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnerId(u32);

#[derive(Debug)]
struct Owner {
    name: Box<str>,
    /// Leases held; 0 when the owner is idle or the entry free.
    leases: u64,
    /// Whether it is in the queue of those that were idle.
    is_queued: bool,
}

#[derive(Debug)]
pub(crate) struct Owners {
    table: HashTable<OwnerId>,
    owners: Vec<Owner>,
    free: Vec<OwnerId>,
    /// Those that were idle, the longest ago first; some hold leases again.
    idle: VecDeque<OwnerId>,
    /// Who was found last, likely the next one too.
    last: OwnerId,
    /// Owners name themselves, so their hash is keyed.
    secret: Secret,
}

impl Owners {
    pub(crate) fn new(secret: Secret) -> Owners {
        Owners {
            table: HashTable::new(),
            owners: Vec::new(),
            free: Vec::new(),
            idle: VecDeque::new(),
            last: OwnerId(0),
            secret,
        }
    }

    /// Counts one lease more for the owner.
    pub(crate) fn acquire(&mut self, name: &str) -> OwnerId {
        let id = match self.owners.get(self.last.0 as usize) {
            // An entry that is free has the empty name.
            Some(last) if *last.name == *name && !name.is_empty() => self.last,
            _ => self.find_or_add(name),
        };
        self.last = id;
        self.owners[id.0 as usize].leases += 1;
        id
    }

    /// Counts one lease less; an owner without any is forgotten in time.
    pub(crate) fn release(&mut self, id: OwnerId) {
        let owner = &mut self.owners[id.0 as usize];
        assert!(owner.leases > 0, "an owner without leases was released");
        owner.leases -= 1;
        if owner.leases > 0 || owner.is_queued {
            return;
        }
        owner.is_queued = true;
        if self.idle.len() == IDLE_MAX {
            self.forget_longest_idle();
        }
        self.idle.push_back(id);
    }

    fn find_or_add(&mut self, name: &str) -> OwnerId {
        let (secret, owners) = (&self.secret, &mut self.owners);
        let hash = hash(secret, name);
        let found = self
            .table
            .find(hash, |id| &*owners[id.0 as usize].name == name);
        if let Some(id) = found {
            return *id;
        }
        let owner = Owner {
            name: name.into(),
            leases: 0,
            is_queued: false,
        };
        let id = match self.free.pop() {
            Some(id) => {
                owners[id.0 as usize] = owner;
                id
            }
            None => {
                owners.push(owner);
                OwnerId(owners.len() as u32 - 1)
            }
        };
        self.table
            .insert_unique(hash, id, |id| hash_of(secret, &owners[id.0 as usize]));
        id
    }

    /// Makes room in the queue of those that were idle.
    fn forget_longest_idle(&mut self) {
        let id = self.idle.pop_front().expect("the queue is full");
        let owner = &mut self.owners[id.0 as usize];
        owner.is_queued = false;
        if owner.leases > 0 {
            return;
        }
        let hash = hash_of(&self.secret, owner);
        owner.name = Box::default();
        let entry = self.table.find_entry(hash, |other| *other == id);
        entry.expect("every owner is in the table").remove();
        self.free.push(id);
    }

    pub(crate) fn name(&self, id: OwnerId) -> &str {
        &self.owners[id.0 as usize].name
    }

    /// Owners and how many leases each holds, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        let held = self.owners.iter().filter(|owner| owner.leases > 0);
        held.map(|owner| (&*owner.name, owner.leases))
    }
}

fn hash(secret: &Secret, name: &str) -> u64 {
    SipHasher13::new_with_key(&secret.0).hash(name.as_bytes())
}

fn hash_of(secret: &Secret, owner: &Owner) -> u64 {
    hash(secret, &owner.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_kept_once_and_counts_only_while_it_holds_leases() {
        let mut owners = Owners::new(Secret([1; 16]));
        let ann = owners.acquire("ann");
        let bob = owners.acquire("bob");
        assert_eq!(owners.acquire("ann"), ann);
        owners.release(ann);
        assert_eq!(owners.name(ann), "ann");
        owners.release(ann);
        assert_eq!(owners.iter().collect::<Vec<_>>(), [("bob", 1)]);
        assert_eq!(owners.acquire("ann"), ann);
        assert_eq!(owners.name(bob), "bob");
    }

    #[test]
    fn few_names_are_kept_of_those_without_leases() {
        let mut owners = Owners::new(Secret([1; 16]));
        let busy = owners.acquire("busy");
        for round in 0..3 {
            owners.release(busy);
            assert_eq!(owners.acquire("busy"), busy);
            for nth in 0..1000 {
                let id = owners.acquire(&format!("owner {round} {nth}"));
                owners.release(id);
            }
        }
        assert_eq!(owners.name(busy), "busy");
        assert_eq!(owners.iter().collect::<Vec<_>>(), [("busy", 1)]);
        assert!(owners.table.len() <= 1 + IDLE_MAX);
        assert!(owners.owners.len() <= 2 + IDLE_MAX);
    }

    #[test]
    fn an_owner_may_have_no_name() {
        let mut owners = Owners::new(Secret([1; 16]));
        let nobody = owners.acquire("");
        assert_eq!(owners.acquire(""), nobody);
        owners.release(nobody);
        owners.release(nobody);
        assert_eq!(owners.iter().count(), 0);
    }
}
