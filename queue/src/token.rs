//! Ownership tokens, which name their shard and cannot be guessed.

use std::fmt;
use std::str::FromStr;

use crate::ids::{EPOCH_MAX, Epoch, SHARD_ID_MAX, Secret, SequenceId, ShardId, ShardSpec};
use crate::record::LeaseRef;

/// Length of a lease id as text.
const TEXT_LEN: usize = 36;

/// Where the hyphens are in it, and where each byte's two digits.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
const DIGITS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// The digits of each byte, and the value of each digit.
const TEXT_OF: [[u8; 2]; 256] = text_of();
const VALUE_OF: [u8; 256] = value_of();

/// What stands for all that is no digit.
const NO_DIGIT: u8 = 0xff;

const fn text_of() -> [[u8; 2]; 256] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    table
}

const fn value_of() -> [u8; 256] {
    let mut table = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        let digit = text_of()[value as usize][1];
        table[digit as usize] = value;
        table[digit.to_ascii_uppercase() as usize] = value;
        value += 1;
    }
    table
}

/// The UUID's version, 8, in its high half.
const VERSION: u64 = 0b1000 << 12;

/// The UUID's variant in its low half.
const VARIANT: u64 = 0b10 << 62;

/// What the owner of a lease must show to renew or settle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The item.
    pub sequence_id: SequenceId,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The lease.
    pub lease_id: LeaseId,
}

/// A UUIDv8 (RFC 9562): shard (20 bits), epoch (24), the item's grant counter
/// (16), and 62 bits of a keyed check over these, the item and the attempt.
/// Version and variant take the six bits that are left.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId([u8; 16]);

impl ShardSpec {
    /// The token of a lease.
    ///
    /// # Panics
    /// When the lease is not one that the shard can have granted.
    pub fn token(&self, lease: &LeaseRef) -> Token {
        let sequence_id = self.sequence_id(lease.item);
        let attempt = u32::from(lease.attempt);
        Token {
            sequence_id,
            attempt,
            lease_id: LeaseId::issue(
                &self.secret,
                self.shard,
                lease.epoch,
                sequence_id,
                attempt,
                lease.grant,
            ),
        }
    }
}

impl LeaseId {
    /// The lease id of a grant.
    ///
    /// # Panics
    /// When `shard`, `epoch` or `sequence_id` is out of range.
    #[inline]
    pub(crate) fn issue(
        secret: &Secret,
        shard: ShardId,
        epoch: Epoch,
        sequence_id: SequenceId,
        attempt: u32,
        grant: u16,
    ) -> LeaseId {
        assert!(shard.0 <= SHARD_ID_MAX, "shard {shard} is out of range");
        assert!(epoch.0 <= EPOCH_MAX, "epoch {epoch} is out of range");
        let fields = u64::from(shard.0) << 40 | u64::from(epoch.0) << 16 | u64::from(grant);
        let check = secret.lease_check(sequence_id, fields, attempt) >> 2;
        let high = (fields >> 12) << 16 | VERSION | fields & 0xfff;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&(VARIANT | check).to_be_bytes());
        LeaseId(bytes)
    }

    /// A lease id from its bytes; any 16 bytes will do, the shard checks them.
    pub fn from_bytes(bytes: [u8; 16]) -> LeaseId {
        LeaseId(bytes)
    }

    /// The UUID's bytes, in network order.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The shard that it says issued it.
    pub fn shard(&self) -> ShardId {
        ShardId((self.fields() >> 40) as u32)
    }

    /// The epoch that it says it was issued in.
    pub fn epoch(&self) -> Epoch {
        Epoch((self.fields() >> 16) as u32 & EPOCH_MAX)
    }

    pub(crate) fn grant(&self) -> u16 {
        self.fields() as u16
    }

    /// Shard, epoch and grant counter: 60 bits.
    fn fields(&self) -> u64 {
        let high: [u8; 8] = *self.0.first_chunk().expect("a half of 16 bytes");
        let high = u64::from_be_bytes(high);
        ((high >> 16) << 12) | (high & 0xfff)
    }

    /// The lower-case hyphenated text of the UUID, without allocation.
    pub fn to_text(&self) -> [u8; TEXT_LEN] {
        let mut text = [b'-'; TEXT_LEN];
        for (byte, at) in self.0.into_iter().zip(DIGITS) {
            text[at..at + 2].copy_from_slice(&TEXT_OF[usize::from(byte)]);
        }
        text
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_text();
        f.pad(std::str::from_utf8(&text).expect("hexadecimal digits are ASCII"))
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text is no UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lease id is a UUID: 8-4-4-4-12 hexadecimal digits")]
pub struct LeaseIdError;

impl FromStr for LeaseId {
    type Err = LeaseIdError;

    /// Upper-case digits are accepted too.
    fn from_str(text: &str) -> Result<LeaseId, LeaseIdError> {
        let text: &[u8; TEXT_LEN] = text.as_bytes().try_into().map_err(|_| LeaseIdError)?;
        let mut bytes = [0; 16];
        let mut any = 0;
        for (byte, at) in bytes.iter_mut().zip(DIGITS) {
            let (high, low) = (value(text[at]), value(text[at + 1]));
            *byte = high << 4 | low & 15;
            any |= high | low;
        }
        // Of digits none has a bit of the upper half.
        let is_hyphenated = HYPHENS.iter().all(|&at| text[at] == b'-');
        if any > 15 || !is_hyphenated {
            return Err(LeaseIdError);
        }
        Ok(LeaseId(bytes))
    }
}

fn value(digit: u8) -> u8 {
    VALUE_OF[usize::from(digit)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease_id(shard: u32, epoch: u32, grant: u16) -> LeaseId {
        LeaseId::issue(
            &Secret([9; 16]),
            ShardId(shard),
            Epoch(epoch),
            SequenceId(77),
            3,
            grant,
        )
    }

    #[test]
    fn a_lease_id_carries_its_fields() {
        for (shard, epoch, grant) in [
            (0, 0, 0),
            (SHARD_ID_MAX, EPOCH_MAX, u16::MAX),
            (0xabcde, 0x123456, 0x789a),
        ] {
            let id = lease_id(shard, epoch, grant);
            assert_eq!(id.shard(), ShardId(shard));
            assert_eq!(id.epoch(), Epoch(epoch));
            assert_eq!(id.grant(), grant);
        }
    }

    #[test]
    fn a_lease_id_is_a_uuid_of_version_8() {
        let text = lease_id(SHARD_ID_MAX, EPOCH_MAX, u16::MAX).to_string();
        assert_eq!(text.len(), 36);
        assert_eq!(&text[14..15], "8");
        assert!("89ab".contains(&text[19..20]), "{text}");
    }

    #[test]
    fn a_lease_id_survives_its_text() {
        let id = lease_id(5, 6, 7);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
    }

    #[test]
    fn what_is_no_uuid_is_refused() {
        let good = lease_id(5, 6, 7).to_string();
        for bad in [
            String::new(),
            good[1..].to_owned(),
            format!("{good}0"),
            good.replace('-', "_"),
            good.replacen('0', "g", 1),
            "é".repeat(18),
        ] {
            assert_eq!(bad.parse::<LeaseId>(), Err(LeaseIdError), "{bad}");
        }
    }
}
