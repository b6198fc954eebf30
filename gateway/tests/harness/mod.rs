//! The real process over real sockets: starting and ending nodes, and calling them.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each test file uses its part"
)]

pub mod client;
pub mod collector;
pub mod events;
pub mod mounts;
pub mod node;
pub mod segments;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use client::{Connection, Reply, Request};
pub use collector::Collector;
pub use node::{Ended, Launch, Node};

/// How long anything that must happen may take: far beyond what a busy machine needs.
pub const BOUND: Duration = Duration::from_secs(30);

/// Whether a program of this machine runs.
pub fn is_there(program: &str) -> bool {
    let asked = Command::new(program).arg("--version").output();
    asked.is_ok_and(|output| output.status.success())
}

/// Looks again and again until something is there.
///
/// # Panics
/// If it is not within [`BOUND`].
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < BOUND, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A payload about a resource, its body ten bytes.
pub fn payload(resource_id: &str) -> Value {
    json!({
        "resourceType": "table",
        "resourceId": resource_id,
        "payloadEncoding": "text/plain",
        "body": "MDEyMzQ1Njc4OQ==",
    })
}

/// An enqueue of that payload.
pub fn item(resource_id: &str) -> Value {
    json!({"payload": payload(resource_id)})
}

/// An enqueue of that payload with further fields.
pub fn item_with(resource_id: &str, fields: &Value) -> Value {
    let mut item = item(resource_id);
    let more = fields.as_object().expect("fields are an object").clone();
    item.as_object_mut()
        .expect("an item is an object")
        .extend(more);
    item
}

/// The CPUs that a node may be given here.
pub fn cores_max() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
