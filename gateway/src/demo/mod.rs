//! The demo: a node, a seeder and workers that use it over HTTP like anyone else, all in this
//! process or each in its own.

mod diagnostics;
mod peers;
mod seeder;
mod user;
mod worker;

use std::path::Path;
use std::thread;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::Pages;
use crate::cli::client::{Caller, Server, block_on};
use crate::config::Config;
use crate::logging;
use crate::serve::{self, Node, ServeError, Served};
use seeder::Seeder;
use user::User;
use worker::Worker;

/// Those who use a node.
#[derive(Debug, Clone)]
pub(crate) struct Users {
    /// The namespaces that get work and workers.
    pub(crate) namespaces: Vec<String>,
    /// The time between two items that the seeder puts into a namespace; none for no seeder.
    pub(crate) seeder_interval: Option<Duration>,
    /// A worker for each, in each namespace.
    pub(crate) worker_peer_ids: Vec<String>,
}

/// A node in this process.
#[derive(Debug)]
pub(crate) struct Dispatcher<'a> {
    pub(crate) config: &'a Config,
    /// Whether it has the pages under `/demo/`.
    pub(crate) has_diagnostics: bool,
}

/// Runs a node, and users of it or of the one at `address`, until Ctrl-C or SIGTERM; then ends the
/// users and drains the node.
///
/// # Errors
/// The node's; the users report theirs in the log and go on.
///
/// # Panics
/// If a thread cannot be started.
pub(crate) fn run_node(
    dispatcher: &Dispatcher<'_>,
    users: Users,
    address: Option<String>,
) -> Result<(), ServeError> {
    let pages = match dispatcher.has_diagnostics {
        true => diagnostics::pages(),
        false => Pages::default(),
    };
    let mut served = Served::start(dispatcher.config, pages)?;
    let (stop, stopped) = watch::channel(false);
    let address = address.unwrap_or_else(|| served.node.listen().to_string());
    introduce(
        &served.node,
        dispatcher.has_diagnostics,
        &users,
        &dispatcher.config.data_dir,
    );
    let users = thread::Builder::new()
        .name("demo".into())
        .spawn(move || block_on(use_node(users, address, stopped)))
        .expect("a thread for the demo's users");
    served.wait();
    logging::say("stopping\n");
    let _ = stop.send(true);
    if users.join().is_err() {
        tracing::error!("the demo's users panicked");
    }
    served.drain()
}

/// Runs users of the node at `address` until Ctrl-C or SIGTERM.
///
/// # Errors
/// If signals cannot be waited for.
pub(crate) fn run_users(users: Users, address: String) -> Result<(), ServeError> {
    let who = describe(&users);
    logging::say(&format!(
        "The demo is running: {who} at {address}.\nCtrl-C ends it.\n"
    ));
    block_on(async {
        let mut signals = serve::Signals::new().map_err(ServeError::Control)?;
        let (stop, stopped) = watch::channel(false);
        let until_told = async {
            signals.next().await;
            logging::say("stopping\n");
            let _ = stop.send(true);
        };
        tokio::join!(use_node(users, address, stopped), until_told);
        Ok(())
    })
}

fn describe(users: &Users) -> String {
    let seeder = users.seeder_interval.map(|_| "a seeder".to_owned());
    let workers = match &users.worker_peer_ids[..] {
        [] => None,
        [one] => Some(format!("worker {one}")),
        more => Some(format!("workers {}", more.join(", "))),
    };
    let parts: Vec<String> = seeder.into_iter().chain(workers).collect();
    parts.join(" and ")
}

fn introduce(node: &Node, has_diagnostics: bool, users: &Users, data_dir: &Path) {
    // As the caller wrote it, so that the commands can be pasted.
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "omnirelay".into());
    let (admin, listen) = (node.admin_listen(), node.listen());
    let who = match describe(users) {
        nobody if nobody.is_empty() => "a node for others to use".to_owned(),
        who => format!("{who} use this node"),
    };
    let pages = match has_diagnostics {
        true => format!("\n       curl http://{admin}/demo/lease-health"),
        false => String::new(),
    };
    logging::say(&format!(
        "The demo is running: {who}; its data is in {}.\n\n\
         Open   http://{admin}/\n\
         Try    {program} lease stats --address {listen}\n       \
         {program} lease take --address {listen} --wait 5s{pages}\n\n\
         Ctrl-C ends it.\n",
        data_dir.display(),
    ));
}

async fn use_node(users: Users, address: String, stopped: watch::Receiver<bool>) {
    let mut seed = 0;
    let mut user = |name: &str, namespace: &str| {
        seed += 1;
        let caller = Caller {
            server: Server::plain(&address),
            namespace: namespace.into(),
            caller: name.into(),
        };
        User::new(caller, stopped.clone(), seed)
    };
    let mut running = JoinSet::new();
    for namespace in &users.namespaces {
        if let Some(interval) = users.seeder_interval {
            let user = user("demo-seeder", namespace);
            running.spawn(Seeder { user, interval }.run());
        }
        for peer_id in &users.worker_peer_ids {
            let user = user(peer_id, namespace);
            let peer_id = peer_id.clone();
            running.spawn(Worker { user, peer_id }.run());
        }
    }
    running.join_all().await;
}
