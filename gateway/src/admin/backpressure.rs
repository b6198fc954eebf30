//! `/omnirelay/control/backpressure`: which namespaces hold enqueues back, at which marks, and how
//! that came; as a document, or each transition as it happens.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use omnirelay_queue::Nanos;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::introspect::{rfc3339, stats};
use super::outgoing::{self, KEEP_ALIVE_EVERY, NotTaken, Outgoing, SSE, StreamLife};
use super::replication::LOOK_EVERY;
use super::server::{document, query};
use super::status::{NodeFacts, NodeStatus};
use crate::node::{Gate, NamespaceId, Transition, Watermarks};

/// What a query asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// Only this namespace.
    namespace: Option<String>,
}

/// A gate at one moment, as its listeners are told.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Signal<'a> {
    namespace: &'a str,
    is_active: bool,
    /// Waiting, delayed and leased items: what is held against the marks.
    live_count: u64,
    observed_at: Option<String>,
    high_watermark: u64,
    low_watermark: u64,
    capacity: u64,
    /// How many transitions there have been since the process began, this one included.
    transition: u64,
}

/// `GET /omnirelay/control/backpressure`.
pub(crate) async fn page(State(status): State<Arc<NodeStatus>>, uri: Uri) -> Response {
    let (facts, namespaces) = match chosen(&status, &uri) {
        Ok(chosen) => chosen,
        Err(refusal) => return refusal.response(),
    };
    let rows = namespaces.iter().map(|&id| row(&facts, id));
    let rows: Vec<Value> = rows.collect();
    document(StatusCode::OK, &json!({"namespaces": rows}))
}

/// `GET /omnirelay/control/backpressure/stream`.
pub(super) async fn stream(
    State(status): State<Arc<NodeStatus>>,
    Extension(life): Extension<Arc<StreamLife>>,
    uri: Uri,
) -> Response {
    let (facts, namespaces) = match chosen(&status, &uri) {
        Ok(chosen) => chosen,
        Err(refusal) => return refusal.response(),
    };
    let (out, response) = outgoing::respond(life, SSE);
    let watch = Watch {
        status,
        facts,
        seen: namespaces.into_iter().map(|id| (id, 0)).collect(),
    };
    tokio::spawn(watch.run(out));
    response
}

/// Why there is no answer: HTTP's status, gRPC's, a stable code, a message.
struct Refusal(StatusCode, &'static str, &'static str, String);

impl Refusal {
    fn response(self) -> Response {
        let Refusal(http, status, code, message) = self;
        let body = json!({"message": message, "status": status, "code": code});
        document(http, &body)
    }
}

/// The node's parts and the namespaces that the query asks for, or why there are none.
fn chosen(status: &NodeStatus, uri: &Uri) -> Result<(NodeFacts, Vec<NamespaceId>), Refusal> {
    let wish: Wish = query(uri, "namespace=NAME").map_err(|message| {
        Refusal(
            StatusCode::BAD_REQUEST,
            "INVALID_ARGUMENT",
            "backpressure.request",
            message,
        )
    })?;
    let facts = status.facts().filter(|_| status.is_serving());
    let facts = facts.ok_or_else(|| {
        Refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "UNAVAILABLE",
            "backpressure.not_serving",
            "the node does not serve: ask again once /readyz says so".into(),
        )
    })?;
    let all = (0u16..).map(NamespaceId).zip(facts.layout.namespaces());
    let is_wanted = |name: &str| wish.namespace.as_deref().is_none_or(|only| only == name);
    let ids = all.filter(|(_, namespace)| is_wanted(&namespace.name));
    let ids: Vec<NamespaceId> = ids.map(|(id, _)| id).collect();
    if ids.is_empty() {
        let name = wish.namespace.unwrap_or_default();
        let names = facts.layout.namespaces().iter();
        let names: Vec<&str> = names.map(|namespace| namespace.name.as_str()).collect();
        return Err(Refusal(
            StatusCode::NOT_FOUND,
            "NOT_FOUND",
            "resourcelease.namespace.unknown",
            format!("no namespace `{name}`; there are {}", names.join(", ")),
        ));
    }
    Ok((facts, ids))
}

/// A namespace's gate as it is now, with what became of it.
fn row(facts: &NodeFacts, id: NamespaceId) -> Value {
    let marks = &facts.layout.namespace(id).watermarks;
    let recent = facts.board.gate_transitions_after(id, 0);
    let recent: Vec<Value> = recent
        .iter()
        .map(|transition| {
            json!({
                "transition": transition.number,
                "isActive": transition.gate.closed,
                "liveCount": transition.live,
                "observedAt": moved_at(transition.gate),
            })
        })
        .collect();
    let mut row = serde_json::to_value(now(facts, id)).expect("a signal has a JSON form");
    let cooldown_ms = u64::try_from(marks.cooldown.as_millis());
    row["cooldownMs"] = cooldown_ms.unwrap_or(u64::MAX).into();
    row["stats"] = stats(&facts.board.stats(id));
    row["recent"] = recent.into();
    row
}

fn now(facts: &NodeFacts, id: NamespaceId) -> Signal<'_> {
    // Counted before the look: a listener may be told of a transition twice, but of each.
    let number = facts.board.gate_transitions(id);
    let live = facts.board.stats(id).live();
    signal(facts, id, facts.board.gate(id), live, number)
}

fn signal(facts: &NodeFacts, id: NamespaceId, gate: Gate, live: u64, number: u64) -> Signal<'_> {
    let namespace = facts.layout.namespace(id);
    let Watermarks {
        capacity,
        high,
        low,
        ..
    } = namespace.watermarks;
    Signal {
        namespace: &namespace.name,
        is_active: gate.closed,
        live_count: live,
        observed_at: moved_at(gate),
        high_watermark: high,
        low_watermark: low,
        capacity,
        transition: number,
    }
}

/// When a gate moved, nothing if it never has.
fn moved_at(gate: Gate) -> Option<String> {
    (gate.since_ms > 0).then(|| rfc3339(Nanos::from_millis(gate.since_ms)))
}

/// A listener to some namespaces' gates.
struct Watch {
    status: Arc<NodeStatus>,
    facts: NodeFacts,
    /// The last transition of each that the listener was told of.
    seen: Vec<(NamespaceId, u64)>,
}

impl Watch {
    async fn run(mut self, out: Outgoing) {
        match self.tell(&out).await {
            Ok(()) => {
                let why = "the node ends; come back";
                let last = outgoing::farewell(why, "UNAVAILABLE", "backpressure.not_serving");
                out.end(last, false);
            }
            Err(NotTaken::Slow) => {
                let why = "the reader took nothing for too long; come back";
                let last = outgoing::farewell(why, "ABORTED", "backpressure.slow_reader");
                out.end(last, true);
            }
            Err(NotTaken::Gone) => {}
        }
    }

    /// Tells how each gate is, then each transition, until the node ends.
    async fn tell(&mut self, out: &Outgoing) -> Result<(), NotTaken> {
        let mut text = b"retry: 1000\n\n".to_vec();
        for (id, seen) in &mut self.seen {
            let state = now(&self.facts, *id);
            *seen = state.transition;
            put(&mut text, "state", &state);
        }
        let mut quiet_since = Instant::now();
        while self.status.is_serving() {
            for (id, seen) in &mut self.seen {
                for transition in self.facts.board.gate_transitions_after(*id, *seen) {
                    let Transition { number, gate, live } = transition;
                    *seen = number;
                    let moved = signal(&self.facts, *id, gate, live, number);
                    put(&mut text, "transition", &moved);
                }
            }
            if !text.is_empty() {
                quiet_since = Instant::now();
            } else if quiet_since.elapsed() >= KEEP_ALIVE_EVERY {
                quiet_since = Instant::now();
                out.keep_alive().await?;
            }
            out.send(&mut text).await?;
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                () = out.gone() => return Err(NotTaken::Gone),
            }
        }
        Ok(())
    }
}

fn put(text: &mut Vec<u8>, event: &str, signal: &Signal<'_>) {
    text.extend_from_slice(format!("event: {event}\ndata: ").as_bytes());
    // JSON text has no line breaks of its own.
    serde_json::to_writer(&mut *text, signal).expect("a signal has a JSON form");
    text.extend_from_slice(b"\n\n");
}
