//! Who is compared.

pub(super) mod beanstalkd;
#[cfg(test)]
mod live;
mod nats;
pub(crate) mod omnirelay;
mod rabbitmq;
mod redis;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use omnirelay_loadgen::Transport;
use omnirelay_net::rpc::Encoding;

use self::omnirelay::{Running, Way, Work};
use super::drive::{self, Peer};
use super::figures::Figures;
use super::process::{Process, free_address};
use super::programs::{Found, Program};
use super::rows::{Row, Timing, WIDEST};

/// What is on disk when a reply leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Whatever the reply says: the server syncs first.
    EachReply,
    /// Nothing, or whatever the server has written by then.
    None,
}

/// A server in one of its settings, under one kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Over QUIC, as many items to a call as a connection has in flight.
    Quic,
    /// Over QUIC, one item to a call.
    QuicSingle,
    HttpProto,
    HttpJson,
    Grpc,
    Redis(Durability),
    Beanstalkd(Durability),
    Nats(Durability),
    /// A quorum queue.
    RabbitMq,
}

/// What everything is told in multiples of.
pub(crate) const BASELINE: Side = Side::Redis(Durability::EachReply);

/// All of them, in the order in which they take turns and are shown.
pub(crate) const SIDES: [Side; 12] = [
    Side::Quic,
    Side::QuicSingle,
    Side::HttpProto,
    Side::HttpJson,
    Side::Grpc,
    Side::Redis(Durability::EachReply),
    Side::Redis(Durability::None),
    Side::Beanstalkd(Durability::EachReply),
    Side::Beanstalkd(Durability::None),
    Side::Nats(Durability::EachReply),
    Side::Nats(Durability::None),
    Side::RabbitMq,
];

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Quic => "OmniRelay, QUIC, batches",
            Self::QuicSingle => "OmniRelay, QUIC, `--batch 1`",
            Self::HttpProto => "OmniRelay, HTTP/2 protobuf, batches",
            Self::HttpJson => "OmniRelay, HTTP/2 JSON, batches",
            Self::Grpc => "OmniRelay, gRPC, batches",
            Self::Redis(Durability::EachReply) => "Redis, `appendfsync always`",
            Self::Redis(Durability::None) => "Redis, in memory",
            Self::Beanstalkd(Durability::EachReply) => "beanstalkd, `-f 0`",
            Self::Beanstalkd(Durability::None) => "beanstalkd, in memory",
            Self::Nats(Durability::EachReply) => "NATS, `sync_interval: always`",
            Self::Nats(Durability::None) => "NATS, files without sync",
            Self::RabbitMq => "RabbitMQ, quorum queue",
        }
    }

    /// Beside a curve.
    pub(crate) fn short_name(self) -> &'static str {
        match self {
            Self::Quic => "QUIC",
            Self::QuicSingle => "QUIC, batch 1",
            Self::HttpProto => "HTTP/2 protobuf",
            Self::HttpJson => "HTTP/2 JSON",
            Self::Grpc => "gRPC",
            Self::Redis(Durability::EachReply) => "Redis",
            Self::Redis(Durability::None) => "Redis, memory",
            Self::Beanstalkd(Durability::EachReply) => "beanstalkd",
            Self::Beanstalkd(Durability::None) => "beanstalkd, memory",
            Self::Nats(Durability::EachReply) => "NATS",
            Self::Nats(Durability::None) => "NATS, no sync",
            Self::RabbitMq => "RabbitMQ",
        }
    }

    pub(crate) fn program(self) -> Program {
        match self {
            Self::Quic | Self::QuicSingle | Self::HttpProto | Self::HttpJson | Self::Grpc => {
                Program::OmniRelay
            }
            Self::Redis(_) => Program::Redis,
            Self::Beanstalkd(_) => Program::Beanstalkd,
            Self::Nats(_) => Program::Nats,
            Self::RabbitMq => Program::RabbitMq,
        }
    }

    pub(crate) fn durability(self) -> Durability {
        match self {
            Self::Redis(durability) | Self::Beanstalkd(durability) | Self::Nats(durability) => {
                durability
            }
            _ => Durability::EachReply,
        }
    }

    /// Whether the program that was found has the setting.
    pub(crate) fn is_possible(self, found: &Found) -> bool {
        self.durability() == Durability::None || found.can_sync(self.program())
    }

    /// Whether it has a place in a row: batches of one are [`Side::Quic`], and what only differs
    /// in the transport is in the widest.
    pub(crate) fn takes_part(self, row: Row) -> bool {
        match self {
            Self::QuicSingle => row.in_flight > 1,
            Self::HttpProto | Self::HttpJson | Self::Grpc => row == WIDEST,
            _ => true,
        }
    }

    /// How calls travel, of OmniRelay's.
    pub(crate) fn way(self, row: Row) -> Option<Way> {
        let way = |transport, encoding, batch| {
            Some(Way {
                transport,
                encoding,
                batch,
            })
        };
        match self {
            Self::Quic => way(Transport::Quic, Encoding::Proto, row.in_flight),
            Self::QuicSingle => way(Transport::Quic, Encoding::Proto, 1),
            Self::HttpProto => way(Transport::Http, Encoding::Proto, row.in_flight),
            Self::HttpJson => way(Transport::Http, Encoding::Json, row.in_flight),
            Self::Grpc => way(Transport::Grpc, Encoding::Proto, row.in_flight),
            Self::Redis(_) | Self::Beanstalkd(_) | Self::Nats(_) | Self::RabbitMq => None,
        }
    }

    /// Starts its server with nothing in it, puts a load on it, and ends it.
    ///
    /// # Errors
    /// If any of that fails, or an item that was acknowledged did not come and go exactly once.
    pub(crate) async fn run(
        self,
        found: &Found,
        dir: &Path,
        row: Row,
        size: usize,
        timing: Timing,
    ) -> anyhow::Result<Figures> {
        let dir = tempfile::tempdir_in(dir)?;
        let address = free_address()?;
        let (program, durability) = (found.path.as_path(), self.durability());
        match self.program() {
            Program::OmniRelay => {
                let way = self.way(row).expect("OmniRelay has one");
                let server = omnirelay::start(&dir.path().join("data"), Vec::new()).await?;
                omnirelay::measure(
                    &Running::from(&server),
                    way,
                    row,
                    size,
                    timing,
                    Work::default(),
                )
                .await
            }
            Program::Redis => {
                let command = redis::command(program, address, durability);
                let process = start(command, dir.path(), address).await?;
                let peer = redis::Redis::prepare(address).await?;
                measure(&peer, process, row, size, timing).await
            }
            Program::Beanstalkd => {
                let command = beanstalkd::command(program, address, durability, dir.path());
                let process = start(command, dir.path(), address).await?;
                let peer = beanstalkd::Beanstalkd::new(address);
                measure(&peer, process, row, size, timing).await
            }
            Program::Nats => {
                let command = nats::command(program, address, durability, dir.path())?;
                let process = start(command, dir.path(), address).await?;
                let peer = nats::Nats::prepare(address).await?;
                measure(&peer, process, row, size, timing).await
            }
            Program::RabbitMq => {
                let mut processes = rabbitmq::start(program, address, dir.path())?;
                processes.node.listens(address).await?;
                let peer = rabbitmq::RabbitMq::prepare(address).await?;
                let rabbitmq::Processes { node, names } = processes;
                let figures = measure(&peer, node, row, size, timing).await;
                drop(names);
                figures
            }
        }
        .with_context(|| format!("{}, {row}", self.name()))
    }
}

async fn start(command: Command, dir: &Path, address: SocketAddr) -> anyhow::Result<Process> {
    let mut process = Process::start(command, dir)?;
    process.listens(address).await?;
    Ok(process)
}

async fn measure(
    peer: &impl Peer,
    mut process: Process,
    row: Row,
    size: usize,
    timing: Timing,
) -> anyhow::Result<Figures> {
    let figures = drive::measure(peer, process.pid(), row, size, timing).await;
    // A server that has ended says more than a connection that has.
    process.check()?;
    figures
}
