//! `/omnirelay/control/replication`: the events of a shard, a page at a time or as they come, and
//! how far each shard's events reach.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use omnirelay_queue::ShardId;
use omnirelay_wal::{Position, RealDisk};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::outgoing::StreamLife;
use super::server::{document, json_bytes};
use super::status::NodeStatus;
use super::stream::{self, Framing};
use crate::replication::{Chunk, CommittedLog, Feed, Place, Refusal, Replication, Start};

/// Events on a page that does not say how many it takes.
const PAGE_EVENTS: usize = 1_000;
/// The most events on a page.
const PAGE_EVENTS_MAX: usize = 10_000;
/// A page with this many bytes of payload takes no further event.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// The longest that a page waits for its first event.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How often a reader that waits looks whether the log has grown: a few loads from memory.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A refusal as the body of an answer, or the data of a stream's last event.
pub(super) fn to_json(refusal: &Refusal) -> Value {
    let mut document = json!({
        "message": refusal.message(),
        "status": refusal.status().grpc_name(),
        "code": refusal.code(),
    });
    if let Some(oldest) = refusal.oldest() {
        document["oldestLsn"] = oldest.into();
    }
    document
}

/// A refusal as an answer.
pub(crate) fn refuse(refusal: &Refusal) -> Response {
    refusal.log();
    document(refusal.status().http_status(), &to_json(refusal))
}

/// `GET /omnirelay/control/replication`.
pub(super) async fn page(
    State(status): State<Arc<NodeStatus>>,
    Extension(life): Extension<Arc<StreamLife>>,
    RawQuery(query): RawQuery,
) -> Response {
    let answer = match query.as_deref() {
        None | Some("") => overview(&status).await,
        Some(query) => read_page(&status, &life, query).await,
    };
    answer.unwrap_or_else(|refusal| refuse(&refusal))
}

/// `GET /omnirelay/control/replication/stream`.
pub(super) async fn stream(
    State(status): State<Arc<NodeStatus>>,
    Extension(life): Extension<Arc<StreamLife>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let opened = async {
        let mut wish = Wish::parse(
            query.as_deref().unwrap_or(""),
            &["shard", "from", "snapshot"],
        )?;
        if let Some(last) = headers.get("last-event-id") {
            let last = last.to_str().ok().and_then(|text| text.parse().ok());
            let last: u64 = last.ok_or_else(|| {
                Refusal::Request("Last-Event-ID is not the number of an event".into())
            })?;
            wish.start.from = Some(last.saturating_add(1));
        }
        begin(&status, wish.shard, wish.start).await
    };
    match opened.await {
        Ok((feed, place)) => stream::respond(status, life, feed, place, Framing::Sse),
        Err(refusal) => refuse(&refusal),
    }
}

/// What a query asks for.
struct Wish {
    shard: ShardId,
    start: Start,
    limit: usize,
    wait: Duration,
}

impl Wish {
    fn parse(query: &str, known: &[&str]) -> Result<Wish, Refusal> {
        let refuse = |message: String| Err(Refusal::Request(message));
        let mut shard = None;
        let mut wish = Wish {
            shard: ShardId(0),
            start: Start {
                from: None,
                snapshot: false,
            },
            limit: PAGE_EVENTS,
            wait: Duration::ZERO,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&name) {
                let known = known.join(", ");
                return refuse(format!(
                    "`{name}` is not understood; the query takes {known}"
                ));
            }
            if name == "snapshot" {
                wish.start.snapshot = match value {
                    "true" => true,
                    "false" => false,
                    _ => return refuse(format!("snapshot is `{value}`; it is true or false")),
                };
                continue;
            }
            let Ok(number) = value.parse::<u64>() else {
                return refuse(format!("{name} is `{value}`; it is a whole number"));
            };
            match name {
                "shard" => shard = Some(number),
                "from" => wish.start.from = Some(number),
                "limit" if (1..=PAGE_EVENTS_MAX as u64).contains(&number) => {
                    wish.limit = usize::try_from(number).expect("at most the maximum");
                }
                "limit" => {
                    return refuse(format!("limit is {number}; it is 1 to {PAGE_EVENTS_MAX}"));
                }
                _ => wish.wait = Duration::from_millis(number).min(WAIT_MAX),
            }
        }
        let Some(shard) = shard else {
            return refuse("the query says no shard, as in ?shard=0".into());
        };
        let unknown = Refusal::UnknownShard(u32::try_from(shard).unwrap_or(u32::MAX));
        wish.shard = ShardId(u32::try_from(shard).map_err(|_| unknown)?);
        Ok(wish)
    }
}

/// Finds a reader a place and its beginning.
async fn begin(
    status: &NodeStatus,
    shard: ShardId,
    start: Start,
) -> Result<(Feed<RealDisk>, Place), Refusal> {
    let (replication, place) = place_for(status, shard)?;
    let feed = open(replication, &place, shard, start).await?;
    Ok((feed, place))
}

/// Finds a reader of a shard a place.
pub(super) fn place_for(
    status: &NodeStatus,
    shard: ShardId,
) -> Result<(Arc<Replication>, Place), Refusal> {
    let replication = status.replication().ok_or(Refusal::NotServing)?;
    if !status.is_serving() {
        return Err(Refusal::NotServing);
    }
    if !replication.has(shard) {
        return Err(Refusal::UnknownShard(shard.0));
    }
    let place = replication.places().take(shard).map_err(Refusal::Busy)?;
    Ok((replication, place))
}

/// Finds a reader that has a place its beginning.
pub(super) async fn open(
    replication: Arc<Replication>,
    place: &Place,
    shard: ShardId,
    start: Start,
) -> Result<Feed<RealDisk>, Refusal> {
    let turn = replication.places().turn(start.snapshot).await;
    let turn = turn.map_err(Refusal::Busy)?;
    let feed = blocking(move || Feed::open(replication, shard, start, turn)).await;
    let feed = feed.map_err(Refusal::Read)?;
    place.at(feed.position());
    Ok(feed)
}

async fn read_page(
    status: &Arc<NodeStatus>,
    life: &Arc<StreamLife>,
    query: &str,
) -> Result<Response, Refusal> {
    let known = ["shard", "from", "limit", "snapshot", "wait_ms"];
    let wish = Wish::parse(query, &known)?;
    let (mut feed, place) = begin(status, wish.shard, wish.start).await?;
    if feed.is_snapshot() {
        // However many items there are, they come in one answer.
        let (status, life) = (Arc::clone(status), Arc::clone(life));
        return Ok(stream::respond(status, life, feed, place, Framing::Page));
    }
    let wait_until = Instant::now() + wish.wait;
    let log = feed.log();
    let (mut events, mut bytes) = (Vec::new(), 0);
    loop {
        let end = log.end();
        let max = wish.limit - events.len();
        let chunk;
        (feed, chunk) = advance(feed, max, PAGE_BYTES_MAX - bytes).await?;
        bytes += chunk.payload_bytes();
        events.extend(chunk.events);
        if events.len() >= wish.limit || bytes >= PAGE_BYTES_MAX {
            break;
        }
        if chunk.at_end {
            let waits = events.is_empty() && Instant::now() < wait_until && status.is_serving();
            if !waits {
                break;
            }
            wait_for_growth(status, &log, end, Some(wait_until)).await;
        }
    }
    feed.leave();
    let mut body = br#"{"events":"#.to_vec();
    serde_json::to_writer(&mut body, &events).expect("events have a JSON form");
    body.extend_from_slice(format!(",\"next\":{}}}\n", feed.position()).as_bytes());
    Ok(json_bytes(StatusCode::OK, body))
}

/// Waits until the log is longer than `end`, the time is over, if it is bounded, or the node ends.
pub(super) async fn wait_for_growth(
    status: &NodeStatus,
    log: &CommittedLog<RealDisk>,
    end: Position,
    until: Option<Instant>,
) {
    let is_over = || until.is_some_and(|until| Instant::now() >= until);
    while log.end() == end && !is_over() && status.is_serving() {
        sleep(LOOK_EVERY).await;
    }
}

/// The next events, read on a thread that may wait for the disk.
pub(super) async fn advance(
    mut feed: Feed<RealDisk>,
    max: usize,
    max_bytes: usize,
) -> Result<(Feed<RealDisk>, Chunk), Refusal> {
    let (feed, chunk) = blocking(move || {
        let chunk = feed.next(max, max_bytes);
        (feed, chunk)
    })
    .await;
    Ok((feed, chunk.map_err(Refusal::Read)?))
}

/// How far each shard's events reach, and who reads them.
async fn overview(status: &NodeStatus) -> Result<Response, Refusal> {
    let replication = status.replication().ok_or(Refusal::NotServing)?;
    let readers = replication.places().positions();
    let moment = status.moment_now().await;
    let facts = moment.node.as_ref().ok_or(Refusal::NotServing)?;
    let known = Arc::clone(&replication);
    let oldest = blocking(move || Replication::oldest(&known)).await;
    let oldest = oldest.map_err(Refusal::Read)?;
    let mut last = std::collections::BTreeMap::new();
    for shard in moment
        .reports
        .iter()
        .flatten()
        .flat_map(|core| &core.shards)
    {
        last.insert(shard.shard, shard.last_lsn);
    }
    let shards: Vec<Value> = replication
        .shards()
        .map(|shard| {
            let namespace = facts.layout.namespace_of(shard);
            let namespace = namespace.map(|id| &facts.layout.namespace(id).name);
            let last = last.get(&shard.0).copied();
            let reading = readers
                .iter()
                .filter(|(of, next)| *of == shard && *next > 0);
            // How many events the slowest has yet to take.
            let lag = reading
                .clone()
                .map(|(_, next)| (last.unwrap_or(0) + 1).saturating_sub(*next));
            json!({
                "shard": shard.0,
                "namespace": namespace,
                "log": facts.layout.log_of(shard).0,
                "oldest": oldest.get(&shard),
                "last": last,
                "readers": reading.count(),
                "lag": lag.max(),
            })
        })
        .collect();
    let answer = json!({
        "shards": shards,
        "readers": readers.len(),
        "readersDropped": replication.places().dropped(),
        "events": replication.events(),
    });
    Ok(document(StatusCode::OK, &answer))
}

/// Does what blocks on the disk on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.expect("a panic there ends the process")
}
