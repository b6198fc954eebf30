//! The options of one namespace.

use std::collections::BTreeMap;
use std::time::Duration;

use omnirelay_net::rpc::NAME_BYTES_MAX;
use omnirelay_queue::{Fairness, Ordering, WEIGHTS_MAX};

use super::error::ConfigError;
use super::tree::{Entry, entry, optional_entry};
use super::value::{DurationText, Fill, Setting, quoted};
use crate::node::{Durability, Watermarks};

/// One namespace's options; the table of knobs gives their defaults and bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Namespace {
    /// Until an unrenewed lease ends.
    pub lease_duration: Duration,
    /// What clients are told to renew by; below `lease_duration`.
    pub heartbeat_interval: Duration,
    /// Wait after a first failure.
    pub requeue_delay: Duration,
    /// Factor of that wait for each further attempt, at least 1.
    pub requeue_backoff: f64,
    /// Longest such wait, at least `requeue_delay`.
    pub requeue_delay_max: Duration,
    /// Grants before an item becomes a dead letter.
    pub max_attempts: u16,
    /// How long request ids and reasons of fencing are remembered.
    pub dedupe_window: Duration,
    /// Request ids remembered at once, over all shards.
    pub dedupe_entries_max: u64,
    /// How long restored items are remembered.
    pub restore_window: Duration,
    /// Waiting, delayed and leased items, over all shards.
    pub capacity: u64,
    /// When enqueues are held back.
    pub watermarks: Watermarks,
    /// Independent queues it is split into.
    pub shards: u32,
    /// What a reply has waited for.
    pub durability: Durability,
    /// Waiting this long raises an item's priority by one.
    pub priority_aging: Duration,
    /// Whether a resource's items are leased one after the other.
    pub ordering: Ordering,
    /// Whether partition keys take turns.
    pub fairness: Fairness,
    /// How many turns a partition key has in a round; 1 where it is not named.
    pub weights: BTreeMap<String, u32>,
}

impl Namespace {
    /// Reads a section whose values are each in bounds, fills in what follows from others and
    /// checks what must agree.
    pub(super) fn read(path: &str, section: &mut Vec<Entry>) -> Result<Namespace, ConfigError> {
        derive_heartbeat_interval(path, section);
        let namespace = Namespace {
            lease_duration: duration(section, "lease_duration"),
            heartbeat_interval: duration(section, "heartbeat_interval"),
            requeue_delay: duration(section, "requeue_delay"),
            requeue_backoff: number(section, "requeue_backoff"),
            requeue_delay_max: duration(section, "requeue_delay_max"),
            max_attempts: u16::try_from(integer(section, "max_attempts"))
                .expect("its knob's bound is u16::MAX"),
            dedupe_window: duration(section, "dedupe_window"),
            dedupe_entries_max: integer(section, "dedupe_entries_max"),
            restore_window: duration(section, "restore_window"),
            capacity: integer(section, "capacity"),
            watermarks: watermarks(section),
            shards: u32::try_from(integer(section, "shards"))
                .expect("its knob's bound is below u32::MAX"),
            durability: match text(section, "durability") {
                "memory" => Durability::Memory,
                _ => Durability::Disk,
            },
            priority_aging: duration(section, "priority_aging"),
            ordering: match text(section, "ordering") {
                "per-resource" => Ordering::PerResource,
                _ => Ordering::None,
            },
            fairness: match text(section, "fairness") {
                "partition-key" => Fairness::PartitionKey,
                _ => Fairness::Fifo,
            },
            weights: weights(path, section)?,
        };
        if namespace.heartbeat_interval >= namespace.lease_duration {
            return Err(contradiction(
                entry(section, "heartbeat_interval"),
                "must be shorter than",
                entry(section, "lease_duration"),
                "leave heartbeat_interval out to get a third of lease_duration",
            ));
        }
        if namespace.requeue_delay > namespace.requeue_delay_max {
            return Err(contradiction(
                entry(section, "requeue_delay"),
                "must not exceed",
                entry(section, "requeue_delay_max"),
                "raise requeue_delay_max or lower requeue_delay",
            ));
        }
        check_watermarks(section, &namespace.watermarks)?;
        let weight = section.iter().find(|entry| entry.knob.key == "weights.*");
        if let Some(weight) = weight.filter(|_| namespace.fairness == Fairness::Fifo) {
            return Err(contradiction(
                weight,
                "has no effect with",
                entry(section, "fairness"),
                "set fairness = \"partition-key\", or leave the weights out",
            ));
        }
        Ok(namespace)
    }

    /// The options of one of this namespace's shards. A hash does not spread items evenly, so a
    /// shard may hold twice its even share of what the namespace may hold in all.
    pub fn shard_options(&self) -> omnirelay_queue::Options {
        let share = |whole: u64| {
            whole
                .saturating_mul(2)
                .div_ceil(u64::from(self.shards))
                .min(whole)
        };
        omnirelay_queue::Options {
            lease_duration: self.lease_duration,
            heartbeat_interval: Some(self.heartbeat_interval),
            requeue_delay: self.requeue_delay,
            requeue_backoff: self.requeue_backoff,
            requeue_delay_max: self.requeue_delay_max,
            max_attempts: self.max_attempts,
            dedupe_window: self.dedupe_window,
            dedupe_entries_max: share(self.dedupe_entries_max),
            restore_window: self.restore_window,
            capacity: share(self.capacity),
            priority_aging: self.priority_aging,
            ordering: self.ordering,
            fairness: self.fairness,
            weights: self.weights.clone(),
        }
    }
}

/// The marks as numbers of items. A share is rounded so that the higher one stays higher.
fn watermarks(section: &[Entry]) -> Watermarks {
    let capacity = integer(section, "capacity");
    let share = |percent: u8| capacity * u64::from(percent);
    let mark = |key| match entry(section, key).setting {
        Setting::Fill(fill) => fill,
        ref other => panic!("{key} is a fill, found {other:?}"),
    };
    Watermarks {
        capacity,
        high: match mark("high_watermark") {
            Fill::Items(items) => items,
            Fill::Percent(percent) => share(percent).div_ceil(100),
        },
        low: match mark("low_watermark") {
            Fill::Items(items) => items,
            Fill::Percent(percent) => share(percent) / 100,
        },
        cooldown: duration(section, "cooldown"),
    }
}

fn check_watermarks(section: &[Entry], marks: &Watermarks) -> Result<(), ConfigError> {
    let (high, low) = (
        entry(section, "high_watermark"),
        entry(section, "low_watermark"),
    );
    if marks.low >= marks.high {
        return Err(contradiction(
            low,
            "must be below",
            high,
            "lower low_watermark or raise high_watermark; shares are of capacity",
        ));
    }
    if marks.high > marks.capacity {
        return Err(contradiction(
            high,
            "must not exceed",
            entry(section, "capacity"),
            "lower high_watermark or raise capacity; a share such as \"80%\" follows it",
        ));
    }
    Ok(())
}

fn weights(path: &str, section: &[Entry]) -> Result<BTreeMap<String, u32>, ConfigError> {
    let mut weights = BTreeMap::new();
    for entry in section.iter().filter(|entry| entry.knob.key == "weights.*") {
        if entry.name.len() > NAME_BYTES_MAX {
            let shown: String = entry.name.chars().take(64).collect();
            return Err(ConfigError::Value {
                origin: entry.origin.clone(),
                key: format!("{path}.weights.<key>"),
                value: quoted(&format!("{shown}…")),
                allowed: format!("a partition key of at most {NAME_BYTES_MAX} bytes"),
            });
        }
        let Setting::Integer(weight) = entry.setting else {
            panic!("a weight is a whole number, found {:?}", entry.setting);
        };
        let weight = u32::try_from(weight).expect("its knob's bound is below u32::MAX");
        weights.insert(entry.name.clone(), weight);
    }
    if weights.len() > WEIGHTS_MAX {
        return Err(ConfigError::Contradiction {
            message: format!(
                "`{path}.weights` names {} partition keys, at most {WEIGHTS_MAX} are allowed",
                weights.len()
            ),
            help: "leave out keys with the weight 1, which is the default".into(),
        });
    }
    Ok(weights)
}

fn derive_heartbeat_interval(path: &str, section: &mut Vec<Entry>) {
    if optional_entry(section, "heartbeat_interval").is_some() {
        return;
    }
    let third = duration(section, "lease_duration").as_millis() / 3;
    let third = Duration::from_millis(u64::try_from(third).expect("a lease is at most 12 h"));
    let knob = super::source::find_knob(&[
        "namespaces".into(),
        String::new(),
        "heartbeat_interval".into(),
    ])
    .expect("the table has it");
    section.insert(
        1,
        Entry {
            knob,
            name: "heartbeat_interval".into(),
            path: format!("{path}.heartbeat_interval"),
            setting: Setting::Duration(third),
            origin: "default: a third of lease_duration".into(),
            is_default: true,
        },
    );
}

/// Two entries that cannot both hold.
pub(super) fn contradiction(one: &Entry, relation: &str, other: &Entry, help: &str) -> ConfigError {
    let show = |entry: &Entry| {
        let value = match &entry.setting {
            Setting::Duration(duration) => format!("\"{}\"", DurationText(*duration)),
            setting => setting.to_toml(),
        };
        format!("`{} = {value}` ({})", entry.path, entry.origin)
    };
    ConfigError::Contradiction {
        message: format!("{} {relation} {}", show(one), show(other)),
        help: help.to_owned(),
    }
}

pub(super) fn duration(section: &[Entry], key: &str) -> Duration {
    match entry(section, key).setting {
        Setting::Duration(duration) => duration,
        ref other => panic!("{key} is a duration, found {other:?}"),
    }
}

pub(super) fn integer(section: &[Entry], key: &str) -> u64 {
    match entry(section, key).setting {
        Setting::Integer(number) => number,
        ref other => panic!("{key} is a whole number, found {other:?}"),
    }
}

pub(super) fn flag(section: &[Entry], key: &str) -> bool {
    match entry(section, key).setting {
        Setting::Flag(flag) => flag,
        ref other => panic!("{key} is a flag, found {other:?}"),
    }
}

pub(super) fn text<'a>(section: &'a [Entry], key: &str) -> &'a str {
    match &entry(section, key).setting {
        Setting::Text(text) => text,
        other => panic!("{key} is text, found {other:?}"),
    }
}

pub(super) fn secret<'a>(section: &'a [Entry], key: &str) -> &'a str {
    match &entry(section, key).setting {
        Setting::Secret(secret) => &secret.0,
        other => panic!("{key} is a secret, found {other:?}"),
    }
}

pub(super) fn number(section: &[Entry], key: &str) -> f64 {
    match entry(section, key).setting {
        Setting::Number(number) => number,
        ref other => panic!("{key} is a number, found {other:?}"),
    }
}
