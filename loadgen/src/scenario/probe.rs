//! A connection beside the load, to ask the queue for its counts.

use std::time::Duration;

use omnirelay_loadgen::{CallError, Caller, Connection, OpenError, Run, Target};
use omnirelay_net::messages::{Stats, StatsRequest};
use omnirelay_net::rpc::{Call, Procedure, Reply};
use tokio::time::{Instant, sleep, timeout_at};

/// How long the end of a run waits for the queue to be empty: what is still in it then is either
/// other people's, or a second copy of an item, which a worker should meet.
const EMPTY_WAIT_MAX: Duration = Duration::from_secs(2);

/// Between two looks at the queue's counts, which may be 10 ms stale.
const EMPTY_WAIT_STEP: Duration = Duration::from_millis(15);

/// Looks that must find the queue empty one after the other.
const EMPTY_LOOKS: usize = 2;

pub(super) struct Probe {
    connection: Connection,
    caller: Caller,
}

impl Probe {
    /// Sees that there is a server which speaks the protocol and has the namespace.
    pub(super) async fn open(target: &Target) -> Result<Self, OpenError> {
        let connection = Connection::open(target)
            .await
            .map_err(|error| OpenError::connect(target, error))?;
        let caller = Caller::new(&connection, target, Procedure::Stats)?;
        let mut probe = Self { connection, caller };
        probe
            .stats()
            .await
            .map_err(|error| of_call(target, error))?;
        Ok(probe)
    }

    /// The queue's counts.
    pub(super) async fn stats(&mut self) -> Result<Stats, CallError> {
        stats(&mut self.caller).await
    }

    /// Keeps the workers going until the queue says it is empty, so that they meet second copies.
    pub(super) async fn wait_until_empty(&mut self, run: &Run) {
        let deadline = Instant::now() + EMPTY_WAIT_MAX;
        let mut looks = 0;
        while looks < EMPTY_LOOKS && run.workers.get() > 0 {
            let Ok(Ok(stats)) = timeout_at(deadline, self.stats()).await else {
                return;
            };
            let left = stats.pending_count + stats.active_lease_count + stats.delayed_count;
            looks = if left == 0 { looks + 1 } else { 0 };
            if timeout_at(deadline, sleep(EMPTY_WAIT_STEP)).await.is_err() {
                return;
            }
        }
    }

    /// The queue's counts, once they are not from before this call.
    pub(super) async fn settled_stats(&mut self) -> Result<Stats, CallError> {
        sleep(EMPTY_WAIT_STEP).await;
        self.stats().await
    }

    pub(super) async fn close(self) {
        Connection::close_all(vec![self.connection]).await;
    }
}

/// Asks for the queue's counts, the smallest call there is.
pub(super) async fn stats(caller: &mut Caller) -> Result<Stats, CallError> {
    match caller.call(&Call::Stats(StatsRequest::default())).await? {
        Reply::Stats(reply) => reply
            .stats
            .ok_or_else(|| CallError::Broken("the reply has no counts".to_owned())),
        _ => unreachable!("a reply is of the procedure called"),
    }
}

/// A first call that failed is as good as no connection.
pub(super) fn of_call(target: &Target, error: CallError) -> OpenError {
    match error {
        CallError::Refused(error) => OpenError::Refused(error),
        CallError::Broken(words) => OpenError::broken(target, words),
    }
}
