//! One user of a node, as the demo plays it: calls over one connection, pauses, complaints.

use std::time::Duration;

use omnirelay_net::rpc::{Call, Reply};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::cli::Failure;
use crate::cli::client::{Caller, Connection};

/// Limit of a call that waits for nothing.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Before another try after a call failed, and the longest after many did.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
const RETRY_INTERVAL_MAX: Duration = Duration::from_secs(8);

/// Numbers that look random enough for a demo (SplitMix64) and are the same every time.
#[derive(Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// One user of a node.
pub(super) struct User {
    caller: Caller,
    connection: Option<Connection>,
    stopped: watch::Receiver<bool>,
    retry_interval: Duration,
    pub(super) dice: Dice,
}

impl User {
    /// A user that calls itself and its namespace as `caller` says, until `stopped` is true.
    pub(super) fn new(caller: Caller, stopped: watch::Receiver<bool>, seed: u64) -> User {
        User {
            caller,
            connection: None,
            stopped,
            retry_interval: RETRY_INTERVAL,
            dice: Dice(seed),
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Waits, or ends at once when the demo does.
    pub(super) async fn pause_until(&mut self, end: Instant) {
        tokio::select! {
            () = sleep_until(end) => {}
            _ = self.stopped.wait_for(|stopped| *stopped) => {}
        }
    }

    /// Makes one call, over a new connection if the last one broke.
    pub(super) async fn call(&mut self, ttl: Duration, call: &Call) -> Result<Reply, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.caller.server).await?,
        };
        let result = self.caller.call(&mut connection, ttl, call).await;
        if !matches!(&result, Err(failure) if failure.code.starts_with("cli.")) {
            self.connection = Some(connection);
        }
        if result.is_ok() {
            self.retry_interval = RETRY_INTERVAL;
        }
        result
    }

    /// Tells what did not work, and waits before the next try, longer each time.
    pub(super) async fn complain(&mut self, what: &str, failure: &Failure) {
        if self.is_stopped() {
            return;
        }
        tracing::warn!(
            caller = self.caller.caller,
            namespace = self.caller.namespace,
            code = %failure.code,
            "{what}: {}",
            failure.message
        );
        self.pause_until(Instant::now() + self.retry_interval).await;
        self.retry_interval = (self.retry_interval * 2).min(RETRY_INTERVAL_MAX);
    }
}
