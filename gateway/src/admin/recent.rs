//! `/omnirelay/control/replication/recent`: the newest events of all shards.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::replication::{blocking, refuse};
use super::server::{json_bytes, query};
use super::status::NodeStatus;
use crate::replication::{RecentEvent, Refusal};

/// Events if the query does not say how many.
const EVENTS: u64 = 50;
/// The most events.
const EVENTS_MAX: u64 = 500;
/// What was read so long ago still answers, so that many who ask cost the disk no more than one.
const AGE_MAX: Duration = Duration::from_millis(500);

/// The newest events as they were read last.
#[derive(Debug, Default)]
pub(super) struct RecentCache(Mutex<Option<(Instant, Arc<[RecentEvent]>)>>);

/// What a query asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    limit: Option<u64>,
}

/// `GET /omnirelay/control/replication/recent`.
pub(crate) async fn recent(State(status): State<Arc<NodeStatus>>, uri: Uri) -> Response {
    match read(&status, &uri).await {
        Ok(json) => json_bytes(StatusCode::OK, json),
        Err(refusal) => refuse(&refusal),
    }
}

async fn read(status: &NodeStatus, uri: &Uri) -> Result<Vec<u8>, Refusal> {
    let takes = format!("limit, 1 to {EVENTS_MAX}");
    let wish: Wish = query(uri, &takes).map_err(Refusal::Request)?;
    let limit = wish.limit.unwrap_or(EVENTS);
    if !(1..=EVENTS_MAX).contains(&limit) {
        let message = format!("limit is {limit}; it is 1 to {EVENTS_MAX}");
        return Err(Refusal::Request(message));
    }
    let events = newest(status).await?;
    let limit = usize::try_from(limit).expect("at most the maximum");
    let mut json = br#"{"events":"#.to_vec();
    let shown = &events[..limit.min(events.len())];
    serde_json::to_writer(&mut json, shown).expect("events have a JSON form");
    json.extend_from_slice(b"}\n");
    Ok(json)
}

/// Reads them, unless somebody just has. Whoever comes while they are read waits for those.
///
/// # Errors
/// If the node does not serve, or a log cannot be read.
pub(crate) async fn newest(status: &NodeStatus) -> Result<Arc<[RecentEvent]>, Refusal> {
    let mut newest = status.recent().0.lock().await;
    if let Some((at, events)) = newest.as_ref()
        && at.elapsed() < AGE_MAX
    {
        return Ok(Arc::clone(events));
    }
    let replication = status.replication().ok_or(Refusal::NotServing)?;
    let read = blocking(move || replication.recent(EVENTS_MAX as usize)).await;
    let events = Arc::from(read.map_err(Refusal::Read)?);
    *newest = Some((Instant::now(), Arc::clone(&events)));
    Ok(events)
}
