//! Names of lease owners, each kept once while it holds a lease.

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

use crate::ids::Secret;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnerId(u32);

#[derive(Debug)]
struct Owner {
    name: Box<str>,
    /// Leases held; 0 when the entry is free.
    leases: u64,
}

#[derive(Debug)]
pub(crate) struct Owners {
    table: HashTable<OwnerId>,
    owners: Vec<Owner>,
    free: Vec<OwnerId>,
    /// Owners name themselves, so their hash is keyed.
    secret: Secret,
}

impl Owners {
    pub(crate) fn new(secret: Secret) -> Owners {
        Owners {
            table: HashTable::new(),
            owners: Vec::new(),
            free: Vec::new(),
            secret,
        }
    }

    /// Counts one lease more for the owner.
    pub(crate) fn acquire(&mut self, name: &str) -> OwnerId {
        let hash = hash(&self.secret, name);
        let owners = &mut self.owners;
        let found = self
            .table
            .find(hash, |id| &*owners[id.0 as usize].name == name);
        if let Some(id) = found {
            owners[id.0 as usize].leases += 1;
            return *id;
        }
        let owner = Owner {
            name: name.into(),
            leases: 1,
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
        let secret = &self.secret;
        self.table
            .insert_unique(hash, id, |id| hash_of(secret, &owners[id.0 as usize]));
        id
    }

    /// Counts one lease less; an owner without any is forgotten.
    pub(crate) fn release(&mut self, id: OwnerId) {
        let owner = &mut self.owners[id.0 as usize];
        assert!(owner.leases > 0, "an owner without leases was released");
        owner.leases -= 1;
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
    let mut hasher = SipHasher13::new_with_key(&secret.0);
    hasher.write(name.as_bytes());
    hasher.finish()
}

fn hash_of(secret: &Secret, owner: &Owner) -> u64 {
    hash(secret, &owner.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_kept_once_and_only_while_it_holds_leases() {
        let mut owners = Owners::new(Secret([1; 16]));
        let ann = owners.acquire("ann");
        let bob = owners.acquire("bob");
        assert_eq!(owners.acquire("ann"), ann);
        owners.release(ann);
        assert_eq!(owners.name(ann), "ann");
        owners.release(ann);
        assert_eq!(owners.iter().collect::<Vec<_>>(), [("bob", 1)]);
        assert_eq!(owners.acquire("eve"), ann);
        assert_eq!(owners.name(bob), "bob");
    }
}
