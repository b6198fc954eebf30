//! The admin server's sockets and routes.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::exposition::{self, Format};
use super::introspect::{self, View};
use super::live::{self, INTERVAL_MAX, INTERVAL_MIN};
use super::outgoing::StreamLife;
use super::own_page::Site;
use super::process::Process;
use super::readiness::Readiness;
use super::secure::{AdminTls, for_strangers};
use super::status::NodeStatus;
use super::{assets, backpressure, explain, log_level, metrics, own_page, recent, replication};

/// Connections served at once; further ones wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 128;
/// How long a connection may take to send a request's head, idle time before it included.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a connection lives, so that a reader that takes nothing gives its place back.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(600);
/// How long an open answer may take to leave once its connection has to end.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Wait after the system had no file descriptor or memory for a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Cores are given this long to answer a readiness probe; probes commonly wait a second.
const READY_TIME_MAX: Duration = Duration::from_millis(800);

const LOG_LEVEL: &str = "/omnirelay/control/log-level";

/// Pages that a node has beside those of every node.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pub(crate) router: Router<Arc<NodeStatus>>,
    /// What a reader who is lost is told of.
    pub(crate) paths: &'static [&'static str],
}

/// Serves the admin endpoints until `shutdown` is ready, then ends open connections, at the latest
/// after two seconds.
///
/// # Errors
/// If the listener has no address. A connection that fails ends alone.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<AdminTls>,
    status: Arc<NodeStatus>,
    pages: Pages,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    tracing::debug!(%address, "the admin server listens");
    let site = Site {
        is_on_loopback: address.ip().is_loopback(),
        is_secure: tls.is_some(),
    };
    let routes = routes(status, pages, site);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (end, ended) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accept = async {
            let place = Arc::clone(&places)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            (place, accepted) = accept => match accepted {
                Ok((stream, _)) => {
                    let (routes, ended) = (routes.clone(), ended.clone());
                    let tls = tls.clone();
                    connections.spawn(async move {
                        secured(stream, tls, routes, ended).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin server cannot accept a connection");
                    sleep(ACCEPT_RETRY).await;
                }
            },
        }
    }
    drop(listener);
    let _ = end.send(true);
    // Connections give up after the same time; what is left then is dropped with the set.
    let _ = timeout(GRACE, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    Ok(())
}

async fn secured(
    stream: TcpStream,
    tls: Option<AdminTls>,
    routes: Router,
    mut ended: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else {
        return connection(stream, routes, ended).await;
    };
    let accepted = tokio::select! {
        accepted = tls.accept(stream) => accepted,
        _ = ended.wait_for(|ended| *ended) => return,
    };
    match accepted {
        Ok((stream, true)) => connection(stream, routes, ended).await,
        Ok((stream, false)) => connection(stream, for_strangers(routes), ended).await,
        Err(error) => tracing::debug!(%error, "no TLS handshake on the admin port"),
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    routes: Router,
    mut ended: watch::Receiver<bool>,
) {
    let life = Arc::new(StreamLife::new(ended.clone()));
    let routes = routes.layer(Extension(Arc::clone(&life)));
    // A stream is ended by whoever fills it.
    let old = async {
        sleep(CONNECTION_TIME_MAX).await;
        life.closed().await;
    };
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let mut serving = pin!(serving);
    let result = tokio::select! {
        result = &mut serving => result,
        () = async {
            tokio::select! {
                _ = ended.wait_for(|ended| *ended) => {}
                () = old => {}
                () = life.given_up() => {}
            }
        } => {
            serving.as_mut().graceful_shutdown();
            timeout(GRACE, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an admin connection ended");
    }
}

fn routes(status: Arc<NodeStatus>, pages: Pages, site: Site) -> Router {
    let own_page = from_fn(move |request, next| own_page::only(site, request, next));
    let log_level = get(log_level::show)
        .put(log_level::change)
        .layer(DefaultBodyLimit::max(log_level::BODY_BYTES_MAX))
        .layer(own_page);
    Router::new()
        .route("/", get(assets::html))
        .route("/page.css", get(assets::css))
        .route("/page.js", get(assets::js))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/omnirelay/introspect", get(introspect))
        .route("/omnirelay/control/backpressure", get(backpressure::page))
        .route(
            "/omnirelay/control/backpressure/stream",
            get(backpressure::stream),
        )
        .route("/omnirelay/control/explain", get(explain::explain))
        .route(LOG_LEVEL, log_level)
        .route("/omnirelay/control/replication", get(replication::page))
        .route("/omnirelay/control/replication/recent", get(recent::recent))
        .route(
            "/omnirelay/control/replication/stream",
            get(replication::stream),
        )
        .merge(pages.router)
        .fallback(move |uri| not_found(uri, pages.paths))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(status)
}

async fn healthz() -> Response {
    document(StatusCode::OK, &json!({"status": "ok"}))
}

async fn readyz(State(status): State<Arc<NodeStatus>>) -> Response {
    let readiness = if status.is_serving() {
        match timeout(READY_TIME_MAX, status.moment()).await {
            Ok(moment) => moment.readiness,
            Err(_) => Readiness::unanswered(READY_TIME_MAX.as_millis()),
        }
    } else {
        status.moment_with(Arc::default()).readiness
    };
    let code = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    document(code, &readiness.to_json())
}

async fn metrics(State(status): State<Arc<NodeStatus>>, headers: HeaderMap) -> Response {
    let accept: Vec<&str> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let format = Format::accepted_by(&accept.join(","));
    let families = metrics::families(&status.moment().await, &Process::read());
    let text = exposition::render(format, &families);
    (
        [
            (CONTENT_TYPE, format.content_type()),
            (CACHE_CONTROL, "no-store"),
        ],
        text,
    )
        .into_response()
}

async fn introspect(
    State(status): State<Arc<NodeStatus>>,
    Extension(life): Extension<Arc<StreamLife>>,
    uri: Uri,
) -> Response {
    let refuse = |code, message: String, name: &str, status: &str| {
        document(
            code,
            &json!({"message": message, "status": status, "code": name}),
        )
    };
    match Wish::of(&uri) {
        Err(message) => refuse(
            StatusCode::BAD_REQUEST,
            message,
            "introspect.request",
            "INVALID_ARGUMENT",
        ),
        Ok(Wish::Once(view)) => {
            let moment = status.moment().await;
            let view = introspect::render(view, &status, &moment, &Process::read());
            document(StatusCode::OK, &view)
        }
        Ok(Wish::Watch(every)) => live::watch(&status, life, every).unwrap_or_else(|| {
            refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                format!(
                    "{} watch already; come back later, or ask without `watch`",
                    live::WATCHERS_MAX
                ),
                "introspect.busy",
                "UNAVAILABLE",
            )
        }),
    }
}

/// What an introspection is to be.
enum Wish {
    Once(View),
    /// The live view again and again.
    Watch(Duration),
}

/// A query as it is said.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    view: Option<View>,
    watch: Option<String>,
    interval_ms: Option<u64>,
}

impl Wish {
    fn of(uri: &Uri) -> Result<Wish, String> {
        let Asked {
            view,
            watch,
            interval_ms,
        } = query(uri, "view, watch and interval_ms")?;
        match watch.as_deref() {
            None if interval_ms.is_some() => Err("interval_ms is for `watch` only".into()),
            None => Ok(Wish::Once(view.unwrap_or(View::Full))),
            Some("" | "true") if view == Some(View::Full) => {
                Err("only view=live can be watched".into())
            }
            Some("" | "true") => {
                let every = interval_ms.map_or(INTERVAL_MIN, Duration::from_millis);
                if (INTERVAL_MIN..=INTERVAL_MAX).contains(&every) {
                    return Ok(Wish::Watch(every));
                }
                let (min, max) = (INTERVAL_MIN.as_millis(), INTERVAL_MAX.as_millis());
                let ms = every.as_millis();
                Err(format!("interval_ms is {ms}; it is {min} to {max}"))
            }
            Some(other) => Err(format!("watch is `{other}`; it has no value")),
        }
    }
}

async fn not_found(uri: Uri, more: &'static [&'static str]) -> Response {
    let mut paths = vec![
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/omnirelay/introspect",
        "/omnirelay/control/backpressure",
        "/omnirelay/control/backpressure/stream",
        "/omnirelay/control/explain",
        LOG_LEVEL,
        "/omnirelay/control/replication",
        "/omnirelay/control/replication/recent",
        "/omnirelay/control/replication/stream",
    ];
    paths.extend(more);
    document(
        StatusCode::NOT_FOUND,
        &json!({"message": format!("no `{}` here", uri.path()), "paths": paths}),
    )
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let message = format!("`{}` is not {method}", uri.path());
    let allowed: &[&str] = match uri.path() {
        LOG_LEVEL => &["GET", "HEAD", "PUT"],
        _ => &["GET", "HEAD"],
    };
    document(
        StatusCode::METHOD_NOT_ALLOWED,
        &json!({"message": message, "allowed": allowed}),
    )
}

/// What a query says, or what is wrong with it, in words that end with what it takes.
pub(super) fn query<T: DeserializeOwned>(uri: &Uri, takes: &str) -> Result<T, String> {
    let parsed = Query::<T>::try_from_uri(uri);
    parsed.map(|Query(said)| said).map_err(|rejection| {
        let text = rejection.body_text();
        let why = text.strip_prefix("Failed to deserialize query string: ");
        format!("{}; the query takes {takes}", why.unwrap_or(&text))
    })
}

pub(crate) fn document(code: StatusCode, value: &Value) -> Response {
    json_bytes(code, format!("{value}\n").into_bytes())
}

pub(crate) fn json_bytes(code: StatusCode, json: Vec<u8>) -> Response {
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (code, headers, json).into_response()
}

#[cfg(test)]
mod tests;
