use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;
use crate::admin::fixture;

struct Server {
    address: SocketAddr,
    status: Arc<NodeStatus>,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<io::Result<()>>,
}

async fn start() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let status = fixture::status();
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(serve(
        listener,
        None,
        Arc::clone(&status),
        Pages::default(),
        async { drop(stopped.await) },
    ));
    Server {
        address,
        status,
        stop,
        ended,
    }
}

impl Server {
    /// Sends one request on a connection of its own; gives status, head and body.
    async fn send(&self, method: &str, path: &str, headers: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, head.to_ascii_lowercase(), body.to_owned())
    }

    async fn json(&self, path: &str) -> (u16, Value) {
        let (code, head, body) = self.send("GET", path, "").await;
        assert!(head.contains("content-type: application/json"), "{head}");
        (code, serde_json::from_str(&body).unwrap())
    }
}

#[tokio::test]
async fn a_node_that_is_not_ready_lives() {
    let server = start().await;
    assert_eq!(
        server.json("/healthz").await,
        (200, json!({"status": "ok"}))
    );
    let (code, readiness) = server.json("/readyz").await;
    assert_eq!((code, &readiness["phase"]), (503, &json!("starting")));
    server.status.failed("log 0: input/output error".into());
    let (code, readiness) = server.json("/readyz").await;
    assert_eq!(
        (code, &readiness["reason"]),
        (503, &json!("log 0: input/output error"))
    );
    assert_eq!(server.json("/healthz").await.0, 200);
}

#[tokio::test]
async fn metrics_come_in_the_format_that_is_asked_for() {
    let server = start().await;
    let (code, head, text) = server.send("GET", "/metrics", "").await;
    assert_eq!(code, 200);
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(text.contains("omnirelay_build_info") && !text.contains("# EOF"));
    let (_, head, text) = server
        .send(
            "GET",
            "/metrics",
            "accept: application/openmetrics-text\r\n",
        )
        .await;
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn an_unknown_path_is_not_found_and_a_wrong_method_is_not_allowed() {
    let server = start().await;
    let (code, body) = server.json("/nowhere").await;
    assert_eq!(
        (code, &body["message"]),
        (404, &json!("no `/nowhere` here"))
    );
    for path in [
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/omnirelay/introspect",
    ] {
        let (code, head, _) = server.send("DELETE", path, "").await;
        assert_eq!(code, 405, "{path}");
        assert!(head.contains("allow: get,head"), "{head}");
        assert_ne!(server.send("HEAD", path, "").await.0, 405, "{path}");
    }
}

#[tokio::test]
async fn introspection_takes_only_the_views_there_are() {
    let server = start().await;
    assert_eq!(
        server.json("/omnirelay/introspect").await.1["phase"],
        "starting"
    );
    assert!(
        server
            .json("/omnirelay/introspect?view=live")
            .await
            .1
            .get("configuration")
            .is_none()
    );
    assert_eq!(server.json("/omnirelay/introspect?view=all").await.0, 400);
}

#[tokio::test]
async fn the_dashboard_needs_nothing_from_elsewhere_and_runs_only_what_is_served() {
    let server = start().await;
    let kinds = [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
    ];
    for (path, kind) in kinds {
        let (code, head, text) = server.send("GET", path, "").await;
        assert_eq!(code, 200, "{path}");
        assert!(head.contains(&format!("content-type: {kind}")), "{head}");
        assert!(head.contains("nosniff"), "{head}");
        for word in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
        ] {
            assert!(head.contains(word), "{head}");
        }
        assert!(!head.contains("unsafe"), "{head}");
        // The names of SVG's elements are no address.
        let text = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http://") && !text.contains("https://"));
        assert!(!text.contains("innerHTML") && !text.contains(" style="));
    }
}

#[tokio::test]
async fn a_browser_that_has_the_page_is_told_so() {
    let server = start().await;
    let (_, head, _) = server.send("GET", "/page.js", "").await;
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: "));
    let tag = tag.expect("a tag");
    let known = format!("if-none-match: \"other\", W/{tag}\r\n");
    let (code, head, body) = server.send("GET", "/page.js", &known).await;
    assert_eq!((code, body.as_str()), (304, ""));
    assert!(head.contains(tag), "{head}");
    let (code, _, _) = server.send("GET", "/page.css", &known).await;
    assert_eq!(code, 200, "another file");
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_in_words() {
    let server = start().await;
    let refused = [
        ("introspect?view=all", "full"),
        ("introspect?what=1", "interval_ms"),
        ("introspect?watch=5", "no value"),
        ("introspect?watch&view=full", "only view=live"),
        ("introspect?watch&interval_ms=10", "1000 to 60000"),
        ("introspect?interval_ms=2000", "for `watch` only"),
        ("control/explain", "sequenceId"),
        ("control/explain?sequenceId=-1", "sequenceId"),
        ("control/explain?sequenceId=1&sequenceId=2", "duplicate"),
        ("control/replication/recent?limit=0", "1 to 500"),
        ("control/replication/recent?from=1", "limit"),
    ];
    for (path, word) in refused {
        let (code, body) = server.json(&format!("/omnirelay/{path}")).await;
        assert_eq!(
            (code, &body["status"]),
            (400, &json!("INVALID_ARGUMENT")),
            "{path}: {body}"
        );
        let message = body["message"].as_str().unwrap();
        assert!(message.contains(word), "{path}: {message}");
    }
    // What is asked well, before the cores serve.
    for path in ["control/explain?sequenceId=1", "control/replication/recent"] {
        let (code, body) = server.json(&format!("/omnirelay/{path}")).await;
        assert_eq!(
            (code, &body["status"]),
            (503, &json!("UNAVAILABLE")),
            "{path}: {body}"
        );
    }
}

#[tokio::test]
async fn so_many_watch_and_no_more_until_one_goes() {
    let server = start().await;
    let mut watchers = Vec::new();
    for _ in 0..live::WATCHERS_MAX {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = b"GET /omnirelay/introspect?watch HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut told = Vec::new();
        while !String::from_utf8_lossy(&told).contains("data: {") {
            assert!(stream.read_buf(&mut told).await.unwrap() > 0);
        }
        watchers.push(stream);
    }
    let (code, body) = server.json("/omnirelay/introspect?watch").await;
    assert_eq!((code, &body["code"]), (503, &json!("introspect.busy")));
    watchers.pop();
    timeout(Duration::from_secs(10), async {
        loop {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            let request = b"GET /omnirelay/introspect?watch HTTP/1.1\r\nhost: x\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut told = [0; 12];
            stream.read_exact(&mut told).await.unwrap();
            if told.ends_with(b"200") {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a place is given back");

    // At the end all are told, within the grace.
    server.stop.send(()).unwrap();
    let ended = timeout(GRACE, server.ended).await;
    ended.expect("in time").unwrap().unwrap();
    let mut told = Vec::new();
    watchers[0].read_to_end(&mut told).await.unwrap();
    let told = String::from_utf8_lossy(&told);
    assert!(
        told.contains("event: end") && told.contains("introspect.ended"),
        "{told}"
    );
}

#[tokio::test]
async fn the_server_ends_although_a_client_stays_connected() {
    let server = start().await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(server.json("/healthz").await.0, 200);
    server.stop.send(()).unwrap();
    timeout(Duration::from_secs(5), server.ended)
        .await
        .expect("it ends in time")
        .unwrap()
        .unwrap();
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn an_endless_head_is_refused() {
    let server = start().await;
    let header = format!("x-long: {}\r\n", "a".repeat(2 * HEAD_BYTES_MAX));
    assert_eq!(server.send("GET", "/healthz", &header).await.0, 431);
    assert_eq!(server.json("/healthz").await.0, 200);
}
