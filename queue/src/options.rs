//! A shard's options: its namespace's options, with this shard's shares.

use std::collections::BTreeMap;
use std::time::Duration;

/// Shortest lease that can be asked for.
pub const LEASE_MIN: Duration = Duration::from_secs(1);

/// Longest lease that can be asked for.
pub const LEASE_MAX: Duration = Duration::from_secs(12 * 60 * 60);

/// Longest delay, window or aging step: durations are kept as 32-bit
/// milliseconds.
const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: f64 = 100.0;

/// Largest weight of a partition key.
pub const WEIGHT_MAX: u32 = 1_000;

/// Most partition keys that have weights of their own.
pub const WEIGHTS_MAX: usize = 10_000;

/// Which items of one resource may be leased side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ordering {
    /// Any.
    #[default]
    None,
    /// One at a time, in the order that they were enqueued. An item that waits
    /// for its delay holds back those behind it; a dead letter does not.
    PerResource,
}

/// How waiting items share the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fairness {
    /// Highest effective priority first, then oldest.
    #[default]
    Fifo,
    /// Partition keys take turns, each by its weight; within a key as in
    /// [`Fifo`](Fairness::Fifo). Items without a key share the key `""`.
    PartitionKey,
}

/// What a shard goes by. Every field's default is the namespace's default.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Until an unrenewed lease ends. Default 30 s, 1 s to 12 h.
    pub lease_duration: Duration,
    /// What clients are told to heartbeat at; at most one heartbeat per third
    /// of it is recorded. Default a third of `lease_duration`, 100 ms to 12 h.
    pub heartbeat_interval: Option<Duration>,
    /// Delay after the first failure. Default 1 s, at most 30 d.
    pub requeue_delay: Duration,
    /// Factor of the delay for each further failure. Default 2, 1 to 100.
    pub requeue_backoff: f64,
    /// Longest delay after a failure. Default 5 m, `requeue_delay` to 30 d.
    pub requeue_delay_max: Duration,
    /// Attempts until an item becomes a dead letter. Default 16, at least 1.
    pub max_attempts: u16,
    /// How long request ids and the reasons of ended leases are remembered.
    /// Default 10 m, at most 30 d. Costs memory by the request and ended lease.
    pub dedupe_window: Duration,
    /// How long restored items are remembered, so that restoring one again
    /// adds nothing. Default 30 d, at most 30 d. Costs memory by the item, of
    /// which there may be `dedupe_entries_max`.
    pub restore_window: Duration,
    /// This shard's share of the remembered request ids. At least 1.
    pub dedupe_entries_max: u64,
    /// This shard's limit of waiting, delayed and leased items. At least 1.
    pub capacity: u64,
    /// An item's priority rises by one for each of these that it waits; zero
    /// for never. Default 30 s, at most 30 d.
    pub priority_aging: Duration,
    /// Whether items of one resource are leased one at a time. Default not.
    /// Per resource costs up to 60 bytes an item.
    pub ordering: Ordering,
    /// Whether partition keys take turns. Default not. Costs 12 bytes an item,
    /// and about 200 bytes a key that any item has.
    pub fairness: Fairness,
    /// Items that a partition key gets in one turn, 1 to [`WEIGHT_MAX`] for at
    /// most [`WEIGHTS_MAX`] keys; 1 for every other key. Only with
    /// [`Fairness::PartitionKey`].
    pub weights: BTreeMap<String, u32>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            lease_duration: Duration::from_secs(30),
            heartbeat_interval: None,
            requeue_delay: Duration::from_secs(1),
            requeue_backoff: 2.0,
            requeue_delay_max: Duration::from_secs(5 * 60),
            max_attempts: 16,
            dedupe_window: Duration::from_secs(10 * 60),
            restore_window: DURATION_MAX,
            dedupe_entries_max: 10_000_000,
            capacity: 10_000_000,
            priority_aging: Duration::from_secs(30),
            ordering: Ordering::None,
            fairness: Fairness::Fifo,
            weights: BTreeMap::new(),
        }
    }
}

/// An option is out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` must be {allowed}")]
pub struct OptionsError {
    /// The field's name.
    pub field: &'static str,
    /// What is allowed.
    pub allowed: &'static str,
}

impl Options {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// The first field that is out of range, and what is allowed.
    pub fn validate(&self) -> Result<(), OptionsError> {
        let heartbeat = self.heartbeat_interval();
        let checks = [
            (
                (LEASE_MIN..=LEASE_MAX).contains(&self.lease_duration),
                "lease_duration",
                "from 1s to 12h",
            ),
            (
                (HEARTBEAT_MIN..=LEASE_MAX).contains(&heartbeat),
                "heartbeat_interval",
                "from 100ms to 12h",
            ),
            (
                self.requeue_delay <= DURATION_MAX,
                "requeue_delay",
                "at most 30d",
            ),
            (
                (1.0..=BACKOFF_MAX).contains(&self.requeue_backoff),
                "requeue_backoff",
                "from 1 to 100",
            ),
            (
                (self.requeue_delay..=DURATION_MAX).contains(&self.requeue_delay_max),
                "requeue_delay_max",
                "from requeue_delay to 30d",
            ),
            (self.max_attempts >= 1, "max_attempts", "at least 1"),
            (
                self.dedupe_window <= DURATION_MAX,
                "dedupe_window",
                "at most 30d",
            ),
            (
                self.restore_window <= DURATION_MAX,
                "restore_window",
                "at most 30d",
            ),
            (
                self.dedupe_entries_max >= 1,
                "dedupe_entries_max",
                "at least 1",
            ),
            (self.capacity >= 1, "capacity", "at least 1"),
            (
                self.priority_aging <= DURATION_MAX,
                "priority_aging",
                "at most 30d",
            ),
            (
                self.weights.len() <= WEIGHTS_MAX,
                "weights",
                "for at most 10000 keys",
            ),
            (
                self.weights.values().all(|w| (1..=WEIGHT_MAX).contains(w)),
                "weights",
                "from 1 to 1000",
            ),
            (
                self.weights.is_empty() || self.fairness == Fairness::PartitionKey,
                "weights",
                "left out unless fairness is by partition key",
            ),
        ];
        match checks.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, field, allowed)) => Err(OptionsError { field, allowed }),
            None => Ok(()),
        }
    }

    /// What clients are told to heartbeat at.
    pub fn heartbeat_interval(&self) -> Duration {
        self.heartbeat_interval.unwrap_or(self.lease_duration / 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Options::default().validate(), Ok(()));
    }

    #[test]
    fn an_error_names_the_field_and_its_range() {
        let options = Options {
            requeue_backoff: f64::NAN,
            ..Options::default()
        };
        let error = options.validate().expect_err("NaN is no factor");
        assert_eq!(error.to_string(), "`requeue_backoff` must be from 1 to 100");
        let options = Options {
            lease_duration: Duration::from_millis(999),
            ..Options::default()
        };
        assert_eq!(options.validate().unwrap_err().field, "lease_duration");
    }
}
