//! A worker: takes work, keeps its lease with heartbeats, completes most of it and fails some.

use std::time::Duration;

use omnirelay_net::messages::{
    CompleteRequest, FailRequest, HeartbeatRequest, LeaseRequest, LeaseResponse, OwnershipToken,
};
use omnirelay_net::rpc::{Call, Reply};
use tokio::time::Instant;

use super::user::{CALL_TIMEOUT, User};

/// A worker's wait for work.
const WAIT: Duration = Duration::from_secs(2);
/// Shortest and longest work, in ms.
const WORK_MS: (u64, u64) = (50, 400);
/// Between two heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
/// One in so many items fails.
const FAILS_ONE_IN: u64 = 10;

const FAILURES: [(&str, &str); 3] = [
    ("demo.timeout", "the replica did not answer in time"),
    ("demo.conflict", "somebody else changed the row"),
    ("demo.disk", "not enough space for the temporary file"),
];

/// Does an item at a time.
pub(super) struct Worker {
    pub(super) user: User,
    /// Who owns its leases.
    pub(super) peer_id: String,
}

impl Worker {
    /// Takes, does and settles work until the demo ends.
    pub(super) async fn run(mut self) {
        let wait_ms = Some(WAIT.as_millis() as u64);
        while !self.user.is_stopped() {
            let request = LeaseRequest {
                wait_ms,
                peer_id: Some(self.peer_id.clone()),
                ..LeaseRequest::default()
            };
            match self
                .user
                .call(WAIT + CALL_TIMEOUT, &Call::Lease(request))
                .await
            {
                Ok(Reply::Lease(lease)) => self.do_one(&lease).await,
                Ok(other) => panic!("a lease was answered with {other:?}"),
                Err(failure) if failure.code == "resourcelease.lease.none_available" => {}
                Err(failure) => self.user.complain("lease", &failure).await,
            }
        }
    }

    async fn do_one(&mut self, lease: &LeaseResponse) {
        let token = lease.ownership_token.clone();
        let done = Instant::now()
            + Duration::from_millis(WORK_MS.0 + self.user.dice.below(WORK_MS.1 - WORK_MS.0));
        while Instant::now() < done && !self.user.is_stopped() {
            let next = Instant::now() + HEARTBEAT_INTERVAL;
            self.user.pause_until(next.min(done)).await;
            if Instant::now() < done {
                let request = HeartbeatRequest {
                    ownership_token: token.clone(),
                    ..HeartbeatRequest::default()
                };
                if let Err(failure) = self
                    .user
                    .call(CALL_TIMEOUT, &Call::Heartbeat(request))
                    .await
                {
                    return self.user.complain("heartbeat", &failure).await;
                }
            }
        }
        let (action, request) = self.outcome(token);
        if let Err(failure) = self.user.call(CALL_TIMEOUT, &request).await {
            self.user.complain(action, &failure).await;
        }
    }

    /// Most work succeeds; work that the demo's end cut off waits again at once.
    fn outcome(&mut self, ownership_token: Option<OwnershipToken>) -> (&'static str, Call) {
        let (reason, code, delay_ms) = if self.user.is_stopped() {
            ("the demo ended", "demo.stopped", Some(0))
        } else if self.user.dice.below(FAILS_ONE_IN) == 0 {
            let (code, reason) = *self.user.dice.pick(&FAILURES);
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
}
