//! RabbitMQ's processes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::peers::process::{Process, free_address};

/// Erlang's name server, which the node would else start as a daemon, and the node.
#[derive(Debug)]
pub(crate) struct Processes {
    pub(crate) names: Process,
    pub(crate) node: Process,
}

/// Starts the node with everything that it writes in `dir`.
pub(crate) fn start(program: &Path, address: SocketAddr, dir: &Path) -> anyhow::Result<Processes> {
    let (names_port, peers_port) = (free_address()?.port(), free_address()?.port());
    let mut names = Command::new("epmd");
    names.args(["-address", "127.0.0.1", "-port", &names_port.to_string()]);
    let node_name = format!("bench{}@localhost", address.port());
    let mut node = Command::new(program);
    node
        // The virtual machine takes the script's place, so that it ends with this program.
        .env("RABBITMQ_ALLOW_INPUT", "1")
        .env("RABBITMQ_SERVER_START_ARGS", "-noinput")
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_NODENAME", node_name)
        .env("RABBITMQ_NODE_IP_ADDRESS", address.ip().to_string())
        .env("RABBITMQ_NODE_PORT", address.port().to_string())
        .env("RABBITMQ_DIST_PORT", peers_port.to_string())
        .env("ERL_EPMD_PORT", names_port.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1");
    for (variable, place) in [
        ("RABBITMQ_MNESIA_BASE", "data"),
        ("RABBITMQ_LOG_BASE", "log"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
        ("RABBITMQ_CONFIG_FILE", "config"),
        // Of Erlang's cookie.
        ("HOME", ""),
    ] {
        node.env(variable, dir.join(place));
    }
    Ok(Processes {
        names: Process::start(names, dir)?,
        node: Process::start(node, dir)?,
    })
}
