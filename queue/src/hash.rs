//! Keyed hashes: which shard a resource belongs to, and what only the holder
//! of the namespace's secret can compute.
//!
//! Each use of a secret begins with its own tag, so that no two uses ever hash
//! the same input.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;
use siphasher::sip128::{self, Hasher128};

use crate::ids::{Lsn, Origin, RequestKey, SEQUENCE_ID_MAX, Secret, SequenceId};

/// Key of the placement hash. Public and fixed for ever: which shard holds a
/// resource must never change.
const PLACEMENT_KEY: [u8; 16] = *b"omnirelay.place1";

const TAG_LEASE: u8 = 1;
const TAG_REQUEST: u8 = 2;
const TAG_JITTER: u8 = 3;
const TAG_DRAIN: u8 = 4;
const TAG_RESTORED: u8 = 5;
const TAG_RESOURCE: u8 = 6;
const TAG_PARTITION_KEY: u8 = 7;

/// The shard index of a resource: SipHash-1-3, under the key
/// `omnirelay.place1`, of the type's length (u32, little endian), the type,
/// and the id; scaled to `count` by the high half of a 128-bit product.
///
/// # Panics
/// When `count` is 0.
pub fn shard_index_of_resource(resource_type: &str, resource_id: &str, count: u32) -> u32 {
    let mut hasher = SipHasher13::new_with_key(&PLACEMENT_KEY);
    hasher.write(&(resource_type.len() as u32).to_le_bytes());
    hasher.write(resource_type.as_bytes());
    hasher.write(resource_id.as_bytes());
    scale(hasher.finish(), count)
}

/// The shard index of a shard key: SipHash-1-3 of the key under the key
/// `omnirelay.place1`, scaled to `count` by the high half of a 128-bit
/// product.
///
/// # Panics
/// When `count` is 0.
pub fn shard_index_of_key(key: &str, count: u32) -> u32 {
    let mut hasher = SipHasher13::new_with_key(&PLACEMENT_KEY);
    hasher.write(key.as_bytes());
    scale(hasher.finish(), count)
}

fn scale(hash: u64, count: u32) -> u32 {
    assert!(count > 0, "a namespace has at least one shard");
    ((u128::from(hash) * u128::from(count)) >> 64) as u32
}

impl Secret {
    /// The check over a whole ownership token; the caller keeps 62 bits.
    ///
    /// SipHash is a keyed hash made for this: who does not know the key can
    /// only guess, and a guess is right once in 2^62 times. One round a word
    /// and three at the end, which nobody is known to have broken either, are
    /// enough here: an owner sees checks of the shard's own counters alone,
    /// never of an input that it chose, and who tries a token learns nothing
    /// but that it is accepted or refused, which takes as long whichever of
    /// its bits are wrong. The input is short of three words, which makes
    /// three blocks of it with the length.
    ///
    /// # Panics
    /// When `sequence_id` is out of range: it shares a word with the tag.
    pub(crate) fn lease_check(&self, sequence_id: SequenceId, fields: u64, attempt: u32) -> u64 {
        assert!(
            sequence_id.0 <= SEQUENCE_ID_MAX,
            "id {sequence_id} is out of range"
        );
        let head = sequence_id.0 << 8 | u64::from(TAG_LEASE);
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write_u64(head);
        hasher.write_u64(fields);
        hasher.write_u32(attempt);
        hasher.finish()
    }

    /// The fingerprint of a request id of a resource.
    pub(crate) fn request_key(
        &self,
        resource_type: &str,
        resource_id: &str,
        request_id: &str,
    ) -> RequestKey {
        let mut head = [0; 9];
        head[0] = TAG_REQUEST;
        head[1..5].copy_from_slice(&(resource_type.len() as u32).to_le_bytes());
        head[5..9].copy_from_slice(&(resource_id.len() as u32).to_le_bytes());
        let (high, low) = self.hash(&[
            &head,
            resource_type.as_bytes(),
            resource_id.as_bytes(),
            request_id.as_bytes(),
        ]);
        [high, low]
    }

    /// The fingerprint of a drain request's id.
    pub fn drain_key(&self, request_id: &str) -> RequestKey {
        let (high, low) = self.hash(&[&[TAG_DRAIN], request_id.as_bytes()]);
        [high, low]
    }

    /// The fingerprint of an item of some namespace, this one or another.
    pub(crate) fn restored_key(&self, origin: &Origin, sequence_id: SequenceId) -> RequestKey {
        let number = sequence_id.0.to_le_bytes();
        let (high, low) = self.hash(&[&[TAG_RESTORED], origin, &number]);
        [high, low]
    }

    /// The fingerprint of a resource.
    pub(crate) fn resource_key(&self, resource_type: &str, resource_id: &str) -> u64 {
        let mut head = [0; 5];
        head[0] = TAG_RESOURCE;
        head[1..5].copy_from_slice(&(resource_type.len() as u32).to_le_bytes());
        self.hash(&[&head, resource_type.as_bytes(), resource_id.as_bytes()])
            .0
    }

    /// The hash of a partition key.
    pub(crate) fn partition_key_hash(&self, name: &str) -> u64 {
        self.hash(&[&[TAG_PARTITION_KEY], name.as_bytes()]).0
    }

    /// A number that spreads the retries of failed items.
    pub(crate) fn jitter(&self, lsn: Lsn, attempt: u32) -> u64 {
        let mut input = [0; 13];
        input[0] = TAG_JITTER;
        input[1..9].copy_from_slice(&lsn.0.to_le_bytes());
        input[9..13].copy_from_slice(&attempt.to_le_bytes());
        self.hash(&[&input]).0
    }

    fn hash(&self, parts: &[&[u8]]) -> (u64, u64) {
        let mut hasher = sip128::SipHasher24::new_with_key(&self.0);
        for part in parts {
            hasher.write(part);
        }
        let hash = hasher.finish128();
        (hash.h1, hash.h2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_is_used_and_in_range() {
        let mut seen = [0_u32; 16];
        for id in 0..1600 {
            let index = shard_index_of_resource("table", &id.to_string(), 16);
            seen[index as usize] += 1;
        }
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
    }

    #[test]
    fn type_and_id_do_not_run_into_each_other() {
        let secret = Secret([3; 16]);
        assert_ne!(
            secret.request_key("ab", "c", "r"),
            secret.request_key("a", "bc", "r")
        );
    }
}
