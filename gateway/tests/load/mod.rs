//! Producers and workers at full speed, and a ledger of what they were told.

#![allow(unreachable_pub, reason = "a module of a test is nobody else's")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::harness::{self, Connection};

/// Longer than a round and a restart, short enough to wait for.
const LEASE_MS: u64 = 5_000;
/// Items in one batch.
const BATCH: usize = 20;
/// Bodies of batched items: enough to fill several segments in a run.
const BATCH_BODY_BYTES: usize = 4096;

/// The enqueue of a resource. All of it follows from the id, so that a lease can be checked.
pub fn item(id: &str) -> Value {
    let mut request = harness::item(id);
    if id.starts_with("batch") {
        let body: Vec<u8> = id.bytes().cycle().take(BATCH_BODY_BYTES).collect();
        request["payload"]["body"] = STANDARD.encode(body).into();
    }
    if id.starts_with("retried") {
        request["payload"]["requestId"] = id.into();
    }
    request
}

/// What is known of one resource, of which there is at most one item.
#[derive(Debug, Default)]
pub struct Item {
    pub sequence_id: Option<u64>,
    /// Its enqueue was answered.
    pub acknowledged: bool,
    /// It was enqueued with a request id, the same as the resource's.
    pub has_request_id: bool,
    pub completed: bool,
    /// The last lease of it that reached a worker and was not settled for certain.
    open: Option<Value>,
    complete_was_sent: bool,
}

/// What all clients were told; it panics at the first contradiction.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Entries>>);

#[derive(Default)]
pub struct Entries {
    items: HashMap<String, Item>,
    acknowledged: u64,
}

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0
            .lock()
            .unwrap_or_else(|broken| panic!("a client found a contradiction: {broken}"))
    }

    /// Acknowledgements of any kind so far.
    pub fn acknowledged(&self) -> u64 {
        self.entries().acknowledged
    }

    /// All items by resource.
    pub fn items(self) -> HashMap<String, Item> {
        std::mem::take(&mut self.entries().items)
    }

    fn will_enqueue(&self, id: &str, has_request_id: bool) {
        self.entries().items.insert(
            id.into(),
            Item {
                has_request_id,
                ..Item::default()
            },
        );
    }

    /// An enqueue was answered.
    pub fn enqueued(&self, id: &str, reply: &Value) {
        let mut entries = self.entries();
        entries.acknowledged += 1;
        let item = entries.items.get_mut(id).expect("it was announced");
        item.acknowledged = true;
        let sequence_id = reply["sequenceId"].as_u64().expect("a number");
        assert_eq!(
            *item.sequence_id.get_or_insert(sequence_id),
            sequence_id,
            "{id} is there twice"
        );
    }

    /// A lease reached a worker.
    pub fn leased(&self, lease: &Value) {
        let mut entries = self.entries();
        entries.acknowledged += 1;
        let id = lease["payload"]["resourceId"].as_str().expect("an id");
        let item = entries.items.get_mut(id).expect("nobody enqueued this");
        let sequence_id = lease["sequenceId"].as_u64().expect("a number");
        assert_eq!(
            *item.sequence_id.get_or_insert(sequence_id),
            sequence_id,
            "{id} is there twice"
        );
        assert!(!item.completed, "{id} was completed and came back");
        assert!(
            item.open.is_none(),
            "{id} was leased to two workers at once"
        );
        item.open = Some(lease.clone());
    }

    fn will_complete(&self, lease: &Value) {
        let id = lease["payload"]["resourceId"].as_str().expect("an id");
        self.entries()
            .items
            .get_mut(id)
            .expect("it was leased")
            .complete_was_sent = true;
    }

    /// A completion is certain.
    pub fn complete(&self, lease: &Value) {
        let mut entries = self.entries();
        entries.acknowledged += 1;
        let id = lease["payload"]["resourceId"].as_str().expect("an id");
        let item = entries.items.get_mut(id).expect("it was leased");
        assert!(!item.completed, "{id} was completed twice");
        item.completed = true;
        item.open = None;
    }

    /// Leases that were not settled for certain, and whether their completion was sent.
    pub fn take_open(&self) -> Vec<(Value, bool)> {
        let mut entries = self.entries();
        let open = entries.items.values_mut();
        open.filter_map(|item| Some((item.open.take()?, item.complete_was_sent)))
            .collect()
    }

    /// Resources that were enqueued with a request id, those without an answer first, and their
    /// items as far as they are known.
    pub fn with_request_id(&self, max: usize) -> Vec<(String, Option<u64>)> {
        let entries = self.entries();
        let mut found: Vec<_> = entries
            .items
            .iter()
            .filter(|(_, item)| item.has_request_id)
            .map(|(id, item)| {
                (
                    id.clone(),
                    item.acknowledged.then_some(item.sequence_id).flatten(),
                )
            })
            .collect();
        found.sort_by_key(|(_, known)| known.is_some());
        found.truncate(max);
        found
    }
}

/// Clients at work; they end when the node goes away.
pub struct Work(Vec<JoinHandle<()>>);

impl Work {
    pub fn join(self) {
        for client in self.0 {
            if let Err(panic) = client.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Starts producers and workers, each on a connection of its own.
pub fn start(ledger: &Ledger, address: SocketAddr, round: u32) -> Work {
    type Client = fn(&Ledger, Connection, u32) -> std::io::Result<()>;
    let clients: [Client; 6] = [
        produce_single,
        produce_with_request_id,
        produce_batches,
        work_single,
        work_single,
        work_batches,
    ];
    let start = |client: Client| {
        let ledger = ledger.clone();
        thread::spawn(move || {
            let Ok(connection) = Connection::try_open(address) else {
                return;
            };
            // The connection's end is the end of the round.
            drop(client(&ledger, connection, round));
        })
    };
    Work(clients.map(start).into())
}

fn produce_single(ledger: &Ledger, mut node: Connection, round: u32) -> std::io::Result<()> {
    for number in 0.. {
        let id = format!("single-{round}-{number}");
        ledger.will_enqueue(&id, false);
        ledger.enqueued(&id, &node.try_call("enqueue", &item(&id))?.ok());
    }
    Ok(())
}

fn produce_with_request_id(
    ledger: &Ledger,
    mut node: Connection,
    round: u32,
) -> std::io::Result<()> {
    for number in 0.. {
        let id = format!("retried-{round}-{number}");
        ledger.will_enqueue(&id, true);
        for is_retry in [false, true] {
            let reply = node.try_call("enqueue", &item(&id))?.ok();
            assert_eq!(reply["duplicate"], is_retry);
            ledger.enqueued(&id, &reply);
        }
    }
    Ok(())
}

fn produce_batches(ledger: &Ledger, mut node: Connection, round: u32) -> std::io::Result<()> {
    for number in 0.. {
        let ids: Vec<String> = (0..BATCH)
            .map(|at| format!("batch-{round}-{number}-{at}"))
            .collect();
        for id in &ids {
            ledger.will_enqueue(id, false);
        }
        let items: Vec<Value> = ids.iter().map(|id| item(id)).collect();
        let reply = node
            .try_call("enqueueBatch", &json!({"items": items}))?
            .ok();
        let results = reply["results"].as_array().expect("a list");
        assert_eq!(results.len(), BATCH);
        for (id, result) in ids.iter().zip(results) {
            ledger.enqueued(id, result);
        }
    }
    Ok(())
}

fn work_single(ledger: &Ledger, mut node: Connection, _round: u32) -> std::io::Result<()> {
    loop {
        let reply = node.try_call("lease", &json!({"leaseMs": LEASE_MS}))?;
        let lease = reply.ok();
        ledger.leased(&lease);
        ledger.will_complete(&lease);
        node.try_call(
            "complete",
            &json!({"ownershipToken": lease["ownershipToken"]}),
        )?
        .ok();
        ledger.complete(&lease);
    }
}

/// Completes all but the last lease of each batch, which it holds until the end of the round.
fn work_batches(ledger: &Ledger, mut node: Connection, _round: u32) -> std::io::Result<()> {
    loop {
        let reply = node
            .try_call(
                "leaseBatch",
                &json!({"maxItems": BATCH, "leaseMs": LEASE_MS}),
            )?
            .ok();
        let leases = reply["leases"].as_array().expect("a list").clone();
        for lease in &leases {
            ledger.leased(lease);
        }
        let settled = &leases[..leases.len() - 1];
        if settled.is_empty() {
            continue;
        }
        for lease in settled {
            ledger.will_complete(lease);
        }
        let items: Vec<Value> = settled
            .iter()
            .map(|lease| json!({"ownershipToken": lease["ownershipToken"], "action": "complete"}))
            .collect();
        let reply = node.try_call("settle", &json!({"items": items}))?.ok();
        for (lease, result) in settled
            .iter()
            .zip(reply["results"].as_array().expect("a list"))
        {
            assert_eq!(result["success"], true, "{result}");
            ledger.complete(lease);
        }
    }
}
