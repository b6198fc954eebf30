//! `/omnirelay/control/explain`: where an item stands, and why nobody works on it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use omnirelay_net::messages::ExplainResponse;
use omnirelay_net::rpc::{Code, Error};
use omnirelay_queue::SequenceId;
use serde::Deserialize;
use serde_json::json;

use super::server::{document, json_bytes, query};
use super::status::NodeStatus;

/// The namespace if the query names none.
const NAMESPACE: &str = "resourcelease";

/// What a query asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Wish {
    namespace: Option<String>,
    sequence_id: u64,
}

/// Why there is no explanation.
#[derive(Debug)]
enum Refusal {
    /// The query is not understood.
    Request(String),
    /// The node does not serve, not yet or no more.
    NotServing,
    /// The item's core did not answer in time.
    Unanswered(u16),
    /// What the item's core says to clients, too.
    Call(Error),
}

impl Refusal {
    fn response(self) -> Response {
        let (code, name, message) = match self {
            Refusal::Request(message) => (Code::InvalidArgument, "explain.request", message),
            Refusal::NotServing => (
                Code::Unavailable,
                "explain.not_serving",
                "the node does not serve: ask again once /readyz says so".into(),
            ),
            Refusal::Unanswered(core) => (
                Code::Unavailable,
                "explain.unanswered",
                format!("core {core} did not answer; ask again"),
            ),
            Refusal::Call(error) => {
                let mut json = error.to_json();
                json.push(b'\n');
                return json_bytes(error.code.http_status(), json);
            }
        };
        let status = code.grpc_name();
        document(
            code.http_status(),
            &json!({"message": message, "status": status, "code": name}),
        )
    }
}

/// `GET /omnirelay/control/explain`.
pub(super) async fn explain(State(status): State<Arc<NodeStatus>>, uri: Uri) -> Response {
    match answer(&status, &uri).await {
        Ok(response) => document(StatusCode::OK, &json!(response)),
        Err(refusal) => refusal.response(),
    }
}

async fn answer(status: &NodeStatus, uri: &Uri) -> Result<ExplainResponse, Refusal> {
    let wish: Wish = query(uri, "namespace and sequenceId").map_err(Refusal::Request)?;
    let sequence_id = wish.sequence_id;
    let (facts, reporter) = status.asked().ok_or(Refusal::NotServing)?;
    let name = wish.namespace.as_deref().unwrap_or(NAMESPACE);
    let layout = &facts.layout;
    let Some(namespace) = layout.find_namespace(name) else {
        let names = layout.namespaces().iter();
        let names: Vec<&str> = names.map(|namespace| namespace.name.as_str()).collect();
        let names = names.join(", ");
        let error =
            Error::namespace_unknown(format!("no namespace `{name}`; this node has {names}"));
        return Err(Refusal::Call(error));
    };
    let shard = layout
        .namespace(namespace)
        .shard_of(SequenceId(sequence_id));
    let core = layout.core_of(layout.log_of(shard));
    match reporter.explain(core, namespace, sequence_id).await {
        Some(answer) => answer.map_err(Refusal::Call),
        None => Err(Refusal::Unanswered(core.0)),
    }
}
