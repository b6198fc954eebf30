//! The seeder: puts synthetic work into a namespace.

use std::time::Duration;

use omnirelay_net::messages::{EnqueueRequest, Payload};
use omnirelay_net::rpc::Call;
use tokio::time::Instant;

use super::user::{CALL_TIMEOUT, User};

/// The kinds of resources that work is about.
const RESOURCES: [(&str, &str); 4] = [
    ("table", "vacuum"),
    ("shard", "rebalance"),
    ("workflow", "advance"),
    ("report", "render"),
];

/// Resources of one kind.
const RESOURCES_PER_KIND: u64 = 20;
/// Whose work it is.
const TENANTS: u64 = 5;

/// Enqueues an item at a time.
pub(super) struct Seeder {
    pub(super) user: User,
    /// Between two items.
    pub(super) interval: Duration,
}

impl Seeder {
    /// Enqueues items until the demo ends.
    pub(super) async fn run(mut self) {
        let mut next = Instant::now();
        while !self.user.is_stopped() {
            let request = self.next_item();
            if let Err(failure) = self.user.call(CALL_TIMEOUT, &Call::Enqueue(request)).await {
                self.user.complain("enqueue", &failure).await;
            }
            next = (next + self.interval).max(Instant::now());
            self.user.pause_until(next).await;
        }
    }

    fn next_item(&mut self) -> EnqueueRequest {
        let (kind, operation) = *self.user.dice.pick(&RESOURCES);
        let resource = self.user.dice.below(RESOURCES_PER_KIND);
        let payload = Payload {
            resource_type: kind.into(),
            resource_id: format!("{kind}-{resource}"),
            partition_key: Some(format!("tenant-{}", self.user.dice.below(TENANTS))),
            payload_encoding: "application/json".into(),
            body: format!(r#"{{"operation":"{operation}"}}"#).into(),
            attributes: [("source".to_owned(), "demo".to_owned())].into(),
            ..Payload::default()
        };
        let priority = (self.user.dice.below(5) == 0).then_some(10);
        EnqueueRequest {
            payload: Some(payload),
            priority,
            ..EnqueueRequest::default()
        }
    }
}
