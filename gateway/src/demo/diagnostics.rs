//! The demo's pages under `/demo/`: what a newcomer asks for first, on top of what every node has
//! under `/omnirelay/control/`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Json, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axum::routing::{get, post};
use omnirelay_net::messages::{EnqueueRequest, Payload};
use omnirelay_net::rpc::{self, Call, Encoding, RequestHead};
use serde::Deserialize;
use serde_json::{Value, json};

use super::peers;
use crate::admin::{self, NodeStatus, Pages, document};
use crate::cli::Failure;
use crate::cli::client::{Connection, Server};

/// How long an enqueue may wait for room.
const ENQUEUE_TTL: Duration = Duration::from_secs(5);
/// Bytes of a request.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// The pages, for a node's admin server.
pub(super) fn pages() -> Pages {
    let router = Router::new()
        .route("/demo/backpressure", get(admin::backpressure_page))
        .route("/demo/lease-health", get(lease_health))
        .route("/demo/replication", get(admin::recent_page))
        .route("/demo/enqueue", post(enqueue).fallback(enqueue_by_post))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX));
    Pages {
        router,
        paths: &[
            "/demo/backpressure",
            "/demo/enqueue",
            "/demo/lease-health",
            "/demo/replication",
        ],
    }
}

/// An item in few words.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Item {
    #[serde(default = "default_namespace")]
    namespace: String,
    resource_type: String,
    resource_id: String,
    partition_key: Option<String>,
    request_id: Option<String>,
    priority: Option<u32>,
    delay_ms: Option<u64>,
    /// Any JSON; it is the payload's body as text.
    #[serde(default = "default_body")]
    body: Value,
}

fn default_namespace() -> String {
    "resourcelease".into()
}

fn default_body() -> Value {
    json!({"message": "from /demo/enqueue"})
}

/// `GET /demo/lease-health`: what the newest events say of the workers.
async fn lease_health(State(status): State<Arc<NodeStatus>>) -> Response {
    match admin::newest_events(&status).await {
        Ok(events) => {
            let health = peers::lease_health(&events);
            let health = serde_json::to_value(health).expect("it has a JSON form");
            document(StatusCode::OK, &health)
        }
        Err(refusal) => admin::refuse_events(&refusal),
    }
}

/// `POST /demo/enqueue`: enqueues over RPC like anyone else, and answers as the node does.
async fn enqueue(
    State(status): State<Arc<NodeStatus>>,
    item: Result<Json<Item>, JsonRejection>,
) -> Response {
    let Json(item) = match item {
        Ok(item) => item,
        Err(rejection) => {
            let message = format!(
                "{}; the body is like {{\"resourceType\": \"demo.order\", \"resourceId\": \"42\"}}",
                rejection.body_text()
            );
            let error = json!({"message": message, "code": "demo.request"});
            return document(rejection.status(), &error);
        }
    };
    let Some(address) = status.listen() else {
        let message = "the node does not serve: ask again once /readyz says so";
        let error = json!({"message": message, "code": "demo.not_serving"});
        return document(StatusCode::SERVICE_UNAVAILABLE, &error);
    };
    match forward(&address.to_string(), item).await {
        Ok((code, answer)) => admin::json_bytes(code, answer),
        Err(failure) => {
            let error = json!({"message": failure.message, "code": failure.code});
            document(StatusCode::BAD_GATEWAY, &error)
        }
    }
}

async fn enqueue_by_post() -> Response {
    let message = "POST an item, as in curl -H 'Content-Type: application/json' \
                   -d '{\"resourceType\": \"demo.order\", \"resourceId\": \"42\"}'";
    let error = json!({"message": message, "allowed": ["POST"]});
    document(StatusCode::METHOD_NOT_ALLOWED, &error)
}

async fn forward(address: &str, item: Item) -> Result<(StatusCode, Vec<u8>), Failure> {
    let procedure = format!("{}::enqueue", item.namespace);
    let mut head = RequestHead::new("demo", "resourcelease", procedure, Encoding::Json);
    head.ttl = ENQUEUE_TTL;
    let request = EnqueueRequest {
        payload: Some(Payload {
            resource_type: item.resource_type,
            resource_id: item.resource_id,
            partition_key: item.partition_key,
            request_id: item.request_id,
            payload_encoding: "application/json".into(),
            body: item.body.to_string().into(),
            attributes: [("source".to_owned(), "demo".to_owned())].into(),
        }),
        priority: item.priority,
        delay_ms: item.delay_ms,
        ..EnqueueRequest::default()
    };
    let body = rpc::encode_call(Encoding::Json, &Call::Enqueue(request))
        .expect("lease calls have a JSON form");
    let mut connection = Connection::open(&Server::plain(address)).await?;
    let path = Uri::from_static(rpc::PATH);
    let response = connection.rpc(&path, &head, body).await?;
    let mut answer = response.body.to_vec();
    answer.push(b'\n');
    Ok((response.status, answer))
}
