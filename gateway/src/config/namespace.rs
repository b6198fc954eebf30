//! The options of one namespace.

use std::time::Duration;

use super::error::ConfigError;
use super::tree::{Entry, entry, optional_entry};
use super::value::{DurationText, Setting};
use crate::node::Durability;

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
    /// Waiting, delayed and leased items, over all shards.
    pub capacity: u64,
    /// Independent queues it is split into.
    pub shards: u32,
    /// What a reply has waited for.
    pub durability: Durability,
    /// Waiting this long raises an item's priority by one.
    pub priority_aging: Duration,
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
            capacity: integer(section, "capacity"),
            shards: u32::try_from(integer(section, "shards"))
                .expect("its knob's bound is below u32::MAX"),
            durability: match text(section, "durability") {
                "memory" => Durability::Memory,
                _ => Durability::Disk,
            },
            priority_aging: duration(section, "priority_aging"),
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
            capacity: share(self.capacity),
            priority_aging: self.priority_aging,
            ..omnirelay_queue::Options::default()
        }
    }
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

fn number(section: &[Entry], key: &str) -> f64 {
    match entry(section, key).setting {
        Setting::Number(number) => number,
        ref other => panic!("{key} is a number, found {other:?}"),
    }
}
