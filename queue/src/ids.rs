//! Numbers that name things: time, log positions, shards, items.

use std::fmt;
use std::time::Duration;

/// Largest shard number: a lease id has 20 bits for it.
pub const SHARD_ID_MAX: u32 = (1 << 20) - 1;

/// Largest epoch: a lease id has 24 bits for it.
pub const EPOCH_MAX: u32 = (1 << 24) - 1;

/// Largest sequence id: the largest integer that a JSON number carries exactly.
pub const SEQUENCE_ID_MAX: u64 = (1 << 53) - 1;

const NANOS_PER_MILLI: u64 = 1_000_000;

/// A point in time: nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// This time plus `duration`; at the end of time, the end of time.
    pub fn saturating_add(self, duration: Duration) -> Nanos {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Nanos(self.0.saturating_add(nanos))
    }

    /// This time plus `millis`; at the end of time, the end of time.
    pub fn saturating_add_millis(self, millis: Millis) -> Nanos {
        Nanos(self.0.saturating_add(u64::from(millis.0) * NANOS_PER_MILLI))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Nanos) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The first whole millisecond that is not before this time.
    pub fn millis_ceil(self) -> u64 {
        self.0.div_ceil(NANOS_PER_MILLI)
    }

    /// The last whole millisecond that is not after this time.
    pub fn millis_floor(self) -> u64 {
        self.0 / NANOS_PER_MILLI
    }

    /// The time of a whole millisecond since the Unix epoch.
    pub fn from_millis(millis: u64) -> Nanos {
        Nanos(millis.saturating_mul(NANOS_PER_MILLI))
    }
}

/// A length of time in whole milliseconds, up to 49 days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u32);

impl From<Duration> for Millis {
    /// Rounds up, so that nothing ends early; 49 days and more are 49 days.
    fn from(duration: Duration) -> Millis {
        let below_a_second = duration.subsec_nanos().div_ceil(NANOS_PER_MILLI as u32);
        let millis = duration.as_secs().saturating_mul(1000);
        let millis = millis.saturating_add(below_a_second.into());
        Millis(u32::try_from(millis).unwrap_or(u32::MAX))
    }
}

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Duration {
        Duration::from_millis(u64::from(millis.0))
    }
}

/// A position in a shard's log: its records are numbered from 1 without gaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// How often a shard was opened; raised, and recorded, at every open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

/// A shard's number, unique in its cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u32);

/// An item's number, unique in its namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a record's body lies in the log. The queue keeps it and never looks in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Number of the segment.
    pub segment: u32,
    /// Bytes from the segment's start to the body.
    pub offset: u32,
}

impl Place {
    /// The place `bytes` behind this one.
    ///
    /// # Panics
    /// When that is beyond 4 GiB, which no record is.
    pub(crate) fn after(self, bytes: usize) -> Place {
        let bytes = u32::try_from(bytes).ok();
        let offset = bytes.and_then(|bytes| self.offset.checked_add(bytes));
        Place {
            offset: offset.expect("a record lies within 4 GiB"),
            ..self
        }
    }
}

/// A namespace's random id, unique among all clusters.
pub type Origin = [u8; 16];

/// A keyed fingerprint of what somebody outside chose.
pub type RequestKey = [u64; 2];

/// A namespace's secret: the key of its ownership tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 16]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Which shard this is, of which namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSpec {
    /// Unique in the cluster, at most [`SHARD_ID_MAX`].
    pub shard: ShardId,
    /// Which of the namespace's shards, from 0.
    pub index: u32,
    /// How many shards the namespace has.
    pub count: u32,
    /// The namespace's secret.
    pub secret: Secret,
    /// The namespace's own id, which names its items in other clusters.
    pub origin: Origin,
}

impl ShardSpec {
    /// The id of the item whose enqueue is the record `lsn`.
    ///
    /// # Panics
    /// When the id would pass [`SEQUENCE_ID_MAX`].
    pub fn sequence_id(&self, lsn: Lsn) -> SequenceId {
        let id = self.checked_id(lsn);
        SequenceId(id.expect("the shard's sequence ids are used up"))
    }

    /// Whether the item whose enqueue is the record `lsn` has an id.
    pub(crate) fn has_id(&self, lsn: Lsn) -> bool {
        self.checked_id(lsn).is_some()
    }

    fn checked_id(&self, lsn: Lsn) -> Option<u64> {
        let id = lsn.0.checked_mul(u64::from(self.count))?;
        let id = id.checked_add(u64::from(self.index))?;
        (id <= SEQUENCE_ID_MAX).then_some(id)
    }

    /// The LSN of the enqueue of `id`; `None` when `id` is not of this shard.
    pub fn lsn_of(&self, id: SequenceId) -> Option<Lsn> {
        let count = u64::from(self.count);
        (id.0 % count == u64::from(self.index)).then(|| Lsn(id.0 / count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret([7; 16])), "Secret(..)");
    }

    #[test]
    fn durations_round_up_to_whole_milliseconds() {
        assert_eq!(Millis::from(Duration::from_nanos(1)), Millis(1));
        assert_eq!(Millis::from(Duration::from_millis(5)), Millis(5));
        assert_eq!(Millis::from(Duration::MAX), Millis(u32::MAX));
        assert_eq!(Nanos(u64::MAX).saturating_add(Duration::MAX).0, u64::MAX);
    }

    #[test]
    fn a_sequence_id_leads_back_to_its_shard_and_record() {
        let spec = ShardSpec {
            shard: ShardId(9),
            index: 3,
            count: 16,
            secret: Secret([0; 16]),
            origin: [0; 16],
        };
        let id = spec.sequence_id(Lsn(1000));
        assert_eq!(id, SequenceId(16_003));
        assert_eq!(spec.lsn_of(id), Some(Lsn(1000)));
        assert_eq!(spec.lsn_of(SequenceId(16_004)), None);
    }
}
