//! The demo: a node in this process, a seeder and two workers that use it over HTTP like anyone
//! else.

use std::path::Path;
use std::thread;
use std::time::Duration;

use omnirelay_net::messages::{
    CompleteRequest, EnqueueRequest, FailRequest, HeartbeatRequest, LeaseRequest, LeaseResponse,
    OwnershipToken, Payload,
};
use omnirelay_net::rpc::{Call, Reply};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cli::Failure;
use crate::cli::client::{Caller, Connection, block_on};
use crate::config::Config;
use crate::serve::{Node, ServeError, Served};

/// Between two enqueued items: about what two workers get done.
const ENQUEUE_INTERVAL: Duration = Duration::from_millis(200);
/// A worker's wait for work.
const WAIT: Duration = Duration::from_secs(2);
/// Limit of every other call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest and longest work, in ms.
const WORK_MS: (u64, u64) = (50, 400);
/// Between two heartbeats of a worker.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
/// One in so many items fails.
const FAILS_ONE_IN: u64 = 10;
/// Before another try after a call failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The kinds of resources that work is about.
const RESOURCES: [(&str, &str); 4] = [
    ("table", "vacuum"),
    ("shard", "rebalance"),
    ("workflow", "advance"),
    ("report", "render"),
];

/// Resources of one kind.
const RESOURCES_PER_KIND: u64 = 20;

const FAILURES: [(&str, &str); 3] = [
    ("demo.timeout", "the replica did not answer in time"),
    ("demo.conflict", "somebody else changed the row"),
    ("demo.disk", "not enough space for the temporary file"),
];

/// Runs the demo until Ctrl-C or SIGTERM, then ends the roles and drains the node.
///
/// # Errors
/// The node's; the roles report theirs in the log and go on.
///
/// # Panics
/// If a thread cannot be started.
pub fn run(config: &Config) -> Result<(), ServeError> {
    let mut served = Served::start(config)?;
    let (stop, stopped) = watch::channel(false);
    let address = served.node.listen().to_string();
    let roles = thread::Builder::new()
        .name("demo".into())
        .spawn(move || block_on(roles(address, stopped)))
        .expect("a thread for the demo's roles");
    introduce(&served.node, &config.data_dir);
    served.wait();
    eprintln!("stopping");
    let _ = stop.send(true);
    if roles.join().is_err() {
        tracing::error!("the demo's roles panicked");
    }
    served.drain()
}

fn introduce(node: &Node, data_dir: &Path) {
    // As the caller wrote it, so that the commands can be pasted.
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "omnirelay".into());
    eprintln!(
        "The demo is running: a seeder and two workers use this node; its data is in {}.\n\n\
         Open   http://{admin}/\n\
         Try    {program} lease stats --address {listen}\n       \
         {program} lease take --address {listen} --wait 5s\n\n\
         Ctrl-C ends it.",
        data_dir.display(),
        admin = node.admin_listen(),
        listen = node.listen(),
    );
}

async fn roles(address: String, stopped: watch::Receiver<bool>) {
    let role = |name: &str, seed: u64| Role {
        caller: Caller {
            address: address.clone(),
            namespace: "resourcelease".into(),
            caller: name.into(),
        },
        connection: None,
        stopped: stopped.clone(),
        dice: Dice(seed),
    };
    let (mut seeder, mut first, mut second) = (
        role("demo-seeder", 1),
        role("demo-worker-1", 2),
        role("demo-worker-2", 3),
    );
    tokio::join!(seeder.seed(), first.work(), second.work());
}

/// Numbers that look random enough for a demo (SplitMix64) and are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// One user of the node.
struct Role {
    caller: Caller,
    connection: Option<Connection>,
    stopped: watch::Receiver<bool>,
    dice: Dice,
}

impl Role {
    fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Waits, or ends at once when the demo does.
    async fn pause(&mut self, duration: Duration) {
        tokio::select! {
            () = sleep(duration) => {}
            _ = self.stopped.wait_for(|stopped| *stopped) => {}
        }
    }

    /// Makes one call, over a new connection if the last one broke.
    async fn call(&mut self, ttl: Duration, call: &Call) -> Result<Reply, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.caller.address).await?,
        };
        let result = self.caller.call(&mut connection, ttl, call).await;
        if !matches!(&result, Err(failure) if failure.code.starts_with("cli.")) {
            self.connection = Some(connection);
        }
        result
    }

    /// Enqueues items until the demo ends.
    async fn seed(&mut self) {
        let mut next = Instant::now();
        while !self.is_stopped() {
            let request = self.next_item();
            if let Err(failure) = self.call(CALL_TIMEOUT, &Call::Enqueue(request)).await {
                self.complain("enqueue", &failure).await;
            }
            next = (next + ENQUEUE_INTERVAL).max(Instant::now());
            tokio::select! {
                () = sleep_until(next) => {}
                _ = self.stopped.wait_for(|stopped| *stopped) => {}
            }
        }
    }

    fn next_item(&mut self) -> EnqueueRequest {
        let (kind, operation) = *self.dice.pick(&RESOURCES);
        let resource = self.dice.below(RESOURCES_PER_KIND);
        let payload = Payload {
            resource_type: kind.into(),
            resource_id: format!("{kind}-{resource}"),
            payload_encoding: "application/json".into(),
            body: format!(r#"{{"operation":"{operation}"}}"#).into(),
            attributes: [("source".to_owned(), "demo".to_owned())].into(),
            ..Payload::default()
        };
        let priority = (self.dice.below(5) == 0).then_some(10);
        EnqueueRequest {
            payload: Some(payload),
            priority,
            ..EnqueueRequest::default()
        }
    }

    /// Takes, does and settles work until the demo ends.
    async fn work(&mut self) {
        let wait_ms = Some(WAIT.as_millis() as u64);
        while !self.is_stopped() {
            let request = LeaseRequest {
                wait_ms,
                ..LeaseRequest::default()
            };
            match self.call(WAIT + CALL_TIMEOUT, &Call::Lease(request)).await {
                Ok(Reply::Lease(lease)) => self.do_one(&lease).await,
                Ok(other) => panic!("a lease was answered with {other:?}"),
                Err(failure) if failure.code == "resourcelease.lease.none_available" => {}
                Err(failure) => self.complain("lease", &failure).await,
            }
        }
    }

    async fn do_one(&mut self, lease: &LeaseResponse) {
        let token = lease.ownership_token.clone();
        let done = Instant::now()
            + Duration::from_millis(WORK_MS.0 + self.dice.below(WORK_MS.1 - WORK_MS.0));
        while Instant::now() < done && !self.is_stopped() {
            self.pause(HEARTBEAT_INTERVAL.min(done - Instant::now()))
                .await;
            if Instant::now() < done {
                let request = HeartbeatRequest {
                    ownership_token: token.clone(),
                    ..HeartbeatRequest::default()
                };
                if let Err(failure) = self.call(CALL_TIMEOUT, &Call::Heartbeat(request)).await {
                    return self.complain("heartbeat", &failure).await;
                }
            }
        }
        let (action, request) = self.outcome(token);
        if let Err(failure) = self.call(CALL_TIMEOUT, &request).await {
            self.complain(action, &failure).await;
        }
    }

    /// Most work succeeds; work that the demo's end cut off waits again at once.
    fn outcome(&mut self, ownership_token: Option<OwnershipToken>) -> (&'static str, Call) {
        let (reason, code, delay_ms) = if self.is_stopped() {
            ("the demo ended", "demo.stopped", Some(0))
        } else if self.dice.below(FAILS_ONE_IN) == 0 {
            let (code, reason) = *self.dice.pick(&FAILURES);
            (reason, code, None)
        } else {
            return (
                "complete",
                Call::Complete(CompleteRequest {
                    ownership_token,
                    namespace: None,
                }),
            );
        };
        let request = FailRequest {
            ownership_token,
            reason: Some(reason.into()),
            error_code: Some(code.into()),
            delay_ms,
            ..FailRequest::default()
        };
        ("fail", Call::Fail(request))
    }

    async fn complain(&mut self, what: &str, failure: &Failure) {
        if !self.is_stopped() {
            tracing::warn!(role = self.caller.caller, code = %failure.code, "{what}: {}", failure.message);
            self.pause(RETRY_INTERVAL).await;
        }
    }
}
