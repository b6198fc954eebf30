//! Which rows there are.

use std::time::Duration;

use crate::abuse::Attack;
use crate::proxy::{Blackhole, Path};

/// A row of one of the tables.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) what: &'static str,
    pub(crate) kind: Kind,
}

/// What is done in a row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Producers and workers on such a network.
    Network(Path),
    /// A client on a network that carries no datagrams of 1,200 bytes.
    SmallPath,
    /// Clients and a server that do not trust each other.
    Certificates,
    /// A healthy client beside an attacker.
    Abuse(Attack),
    /// Very many connections that do nothing.
    Idle,
}

const fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

const PERFECT: Path = Path {
    loss: 0.0,
    duplication: 0.0,
    reordering: 0.0,
    held_back: Duration::ZERO,
    delay: Duration::ZERO,
    rebind_every: None,
    blackhole: None,
    bytes_max: None,
};

const fn row(name: &'static str, what: &'static str, kind: Kind) -> Row {
    Row { name, what, kind }
}

const fn network(name: &'static str, what: &'static str, path: Path) -> Row {
    row(name, what, Kind::Network(path))
}

const fn dark(seconds: u64) -> Option<Blackhole> {
    Some(Blackhole {
        first: ms(3_000),
        length: ms(1_000 * seconds),
        every: None,
    })
}

pub(crate) const ROWS: [Row; 20] = [
    network("clean", "no faults", PERFECT),
    network(
        "loss-1",
        "1 % loss",
        Path {
            loss: 0.01,
            ..PERFECT
        },
    ),
    network(
        "loss-10",
        "10 % loss",
        Path {
            loss: 0.1,
            ..PERFECT
        },
    ),
    network(
        "delay",
        "50 ms delay each way",
        Path {
            delay: ms(50),
            ..PERFECT
        },
    ),
    network(
        "reordering",
        "20 % held back up to 20 ms",
        Path {
            reordering: 0.2,
            held_back: ms(20),
            ..PERFECT
        },
    ),
    network(
        "duplication",
        "5 % twice",
        Path {
            duplication: 0.05,
            ..PERFECT
        },
    ),
    network(
        "rebinding",
        "another address every second",
        Path {
            rebind_every: Some(ms(1_000)),
            ..PERFECT
        },
    ),
    network(
        "blackhole-1",
        "nothing for 1 s",
        Path {
            blackhole: dark(1),
            ..PERFECT
        },
    ),
    network(
        "blackhole-5",
        "nothing for 5 s",
        Path {
            blackhole: dark(5),
            ..PERFECT
        },
    ),
    network(
        "blackhole-20",
        "nothing for 20 s",
        Path {
            blackhole: dark(20),
            ..PERFECT
        },
    ),
    network(
        "everything",
        "10 % loss, 50 ms delay, 20 % reordered, 5 % twice, another address every second, nothing for 1 s every 5 s",
        Path {
            loss: 0.1,
            duplication: 0.05,
            reordering: 0.2,
            held_back: ms(20),
            delay: ms(50),
            rebind_every: Some(ms(1_000)),
            blackhole: Some(Blackhole {
                first: ms(3_000),
                length: ms(1_000),
                every: Some(ms(5_000)),
            }),
            bytes_max: None,
        },
    ),
    row("small-path", "no datagram of 1,200 bytes", Kind::SmallPath),
    row(
        "certificates",
        "who does not trust whom",
        Kind::Certificates,
    ),
    row("initials", "first packets", Kind::Abuse(Attack::Initials)),
    row("garbage", "random datagrams", Kind::Abuse(Attack::Garbage)),
    row("replay", "datagrams once more", Kind::Abuse(Attack::Replay)),
    row(
        "slow-readers",
        "replies not taken",
        Kind::Abuse(Attack::SlowReaders),
    ),
    row(
        "half-frames",
        "frames not finished",
        Kind::Abuse(Attack::HalfFrames),
    ),
    row(
        "versions",
        "unknown versions",
        Kind::Abuse(Attack::Versions),
    ),
    row("idle", "idle connections", Kind::Idle),
];

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.name)
}
