//! `omnirelay demo`: a node with example traffic, or one part of that.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::ValueEnum;

use super::address::Scheme;
use super::body::parse_duration;
use super::failure::Failure;
use super::serve::{SourceArgs, failed};
use super::target::split_url;
use crate::demo::{self, Dispatcher, Users};
use crate::logging;
use crate::serve::ServeError;

/// The workers of a demo that names none.
const WORKERS: [&str; 2] = ["demo-worker-1", "demo-worker-2"];

/// A part of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Role {
    /// The node: RPC, queues, logs, the admin endpoints
    Dispatcher,
    /// The node's pages under /demo/
    Diagnostics,
    /// Puts work in
    Seeder,
    /// Does work
    Worker,
}

/// Run a node with example traffic, to look around
///
/// A seeder enqueues work about tables, shards and workflows; workers take it, keep their leases
/// with heartbeats, complete most of it and fail some. Ctrl-C ends it; what is left in the queue
/// is there again the next time. With --roles, each process runs a part of it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE:\n  omnirelay demo\n  omnirelay demo --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0\n  omnirelay demo --roles dispatcher,diagnostics\n  omnirelay demo --roles worker --rpc-url http://127.0.0.1:7420 --worker-peer-id mesh-worker-a"
)]
pub(super) struct DemoArgs {
    /// What this process runs, with commas between; the seeder and workers of a process without
    /// a dispatcher use the node at --rpc-url
    #[arg(
        long,
        value_name = "ROLES",
        value_enum,
        value_delimiter = ',',
        ignore_case = true,
        env = "MESHDEMO_ROLES",
        default_value = "dispatcher,diagnostics,seeder,worker"
    )]
    roles: Vec<Role>,
    /// The node that seeder and workers use [default: this process's, else http://127.0.0.1:7420]
    #[arg(long, value_name = "URL", env = "MESHDEMO_RPC_URL")]
    rpc_url: Option<String>,
    /// Who the worker is; may be given several times [default: demo-worker-1 and demo-worker-2]
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "MESHDEMO_WORKER_PEER_ID"
    )]
    worker_peer_id: Vec<String>,
    /// Between two items that the seeder puts into a namespace
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = parse_duration,
        env = "MESHDEMO_SEEDER_INTERVAL",
        default_value = "200ms"
    )]
    seeder_interval: Duration,
    /// The namespaces that get work and workers
    #[arg(
        long = "namespace",
        value_name = "NAME",
        value_delimiter = ',',
        env = "MESHDEMO_NAMESPACES",
        default_value = "resourcelease,resourcelease.mesh"
    )]
    namespaces: Vec<String>,
    /// Directory of the logs
    #[arg(
        long,
        value_name = "DIR",
        env = "MESHDEMO_DATA_DIR",
        default_value = "./omnirelay-demo"
    )]
    data_dir: String,
    /// Where RPC is served; port 0 picks one
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "MESHDEMO_LISTEN",
        default_value = "127.0.0.1:7420"
    )]
    listen: String,
    /// Where the admin endpoints are served; port 0 picks one
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "MESHDEMO_ADMIN_LISTEN",
        default_value = "127.0.0.1:7421"
    )]
    admin_listen: String,
    /// Allow listening beyond loopback without TLS
    #[arg(long)]
    insecure: bool,
}

impl DemoArgs {
    fn config(&self) -> SourceArgs {
        let settings = self.namespaces.iter().flat_map(|namespace| {
            // Short leases and delays show in seconds what otherwise takes minutes.
            [
                "lease_duration=5s",
                "requeue_delay=500ms",
                "max_attempts=5",
                "fairness=partition-key",
            ]
            .map(|setting| format!("namespaces.\"{namespace}\".{setting}"))
        });
        SourceArgs {
            data_dir: Some(self.data_dir.clone()),
            listen: Some(self.listen.clone()),
            admin_listen: Some(self.admin_listen.clone()),
            insecure: self.insecure,
            set: settings.collect(),
            ..SourceArgs::default()
        }
    }
}

pub(super) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let roles: BTreeSet<Role> = args.roles.iter().copied().collect();
    let has = |role| roles.contains(&role);
    let has_diagnostics = has(Role::Diagnostics);
    if has_diagnostics && !has(Role::Dispatcher) {
        return Err(Failure::usage(
            "--roles: diagnostics are pages of the dispatcher, and this process has none",
            "add dispatcher to --roles, or leave diagnostics out",
        ));
    }
    if !args.worker_peer_id.is_empty() && !has(Role::Worker) {
        return Err(Failure::usage(
            "--worker-peer-id names a worker, and this process has none",
            "add worker to --roles, or leave --worker-peer-id out",
        ));
    }
    if args.seeder_interval.is_zero() {
        return Err(Failure::usage(
            "--seeder-interval is 0",
            "give the seeder time between two items, such as 10ms",
        ));
    }
    let url = args.rpc_url.as_deref();
    let url = url.map(|url| split_url("--rpc-url", url, omnirelay_net::rpc::PATH));
    let address = match url.transpose()? {
        Some((address, _)) if address.scheme == Some(Scheme::Https) => {
            return Err(Failure::usage(
                "--rpc-url: the demo's users speak no TLS",
                "name a node without TLS, with http://",
            ));
        }
        url => url.map(|(address, _)| address.host_port),
    };
    let users = Users {
        namespaces: args.namespaces.clone(),
        seeder_interval: has(Role::Seeder).then_some(args.seeder_interval),
        worker_peer_ids: match &args.worker_peer_id[..] {
            _ if !has(Role::Worker) => Vec::new(),
            [] => WORKERS.map(String::from).to_vec(),
            named => named.to_vec(),
        },
    };
    let config = args.config().load()?;
    if config.tls.is_some() {
        return Err(Failure::usage(
            "tls.cert is set, and the demo's users speak no TLS",
            "unset OMNIRELAY_TLS__CERT and its like for the demo, or run `omnirelay serve`",
        ));
    }
    logging::init(&config.log).map_err(|error| failed(&ServeError::Control(error)))?;
    let ended = if has(Role::Dispatcher) {
        let dispatcher = Dispatcher {
            config: &config,
            has_diagnostics,
        };
        demo::run_node(&dispatcher, users, address)
    } else {
        let address = address.unwrap_or_else(|| "127.0.0.1:7420".into());
        demo::run_users(users, address)
    };
    ended.map_err(|error| failed(&error))
}
