//! Clients that cannot connect: they are told why, in time.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use omnirelay_client::{Client, ConnectError, Tls};
use omnirelay_net::tls::{ClientFiles, ServerCheck, client_config, pem};
use rcgen::{CertificateParams, DnType, KeyPair};
use serde::Serialize;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::args::Args;
use crate::node::{Node, new_home};
use crate::proxy::{Path, Proxy};

/// What a client is given to connect, and what it may take beyond.
const CONNECT: Duration = Duration::from_secs(5);
const SLACK: Duration = Duration::from_secs(2);
/// Until the server has counted a handshake.
const COUNTED_MAX: Duration = Duration::from_secs(15);
/// Last years of certificates.
const EXPIRED: i32 = 2024;
const GOOD: i32 = 4_000;
const FAILED: &str = "omnirelay_quic_handshakes_failed_total";

/// What came of one client.
#[derive(Debug, Serialize)]
pub(crate) struct Refused {
    pub(crate) row: &'static str,
    pub(crate) what: &'static str,
    pub(crate) variant: &'static str,
    pub(crate) error: String,
    pub(crate) after_ms: u128,
    pub(crate) metric: &'static str,
    pub(crate) counted: f64,
    pub(crate) broken: Vec<String>,
}

/// What a client should be told.
struct Expected {
    what: &'static str,
    variant: &'static str,
    says: &'static str,
    is_counted: bool,
}

/// Over a path that carries only datagrams that QUIC cannot begin with.
pub(crate) async fn small_path(args: &Args, row: &'static str) -> anyhow::Result<Vec<Refused>> {
    let node = Node::start(&args.place, &[]).await?;
    let path = Path {
        bytes_max: Some(1_199),
        ..Path::default()
    };
    let server = node.server.addresses.rpc;
    let proxy = Proxy::start(args.place.address(), server, path, args.seed)?;
    let expected = Expected {
        what: "no datagram of 1,200 bytes gets through",
        variant: "Unreachable",
        says: "over TCP",
        is_counted: false,
    };
    let tls = Tls::ca(node.certificate());
    let address = proxy.address.to_string();
    let mut refused = refused(&node, row, expected, &address, tls).await?;
    refused.broken.extend(node.end().await);
    Ok(vec![refused])
}

/// Without the right certificates.
pub(crate) async fn certificates(args: &Args, row: &'static str) -> anyhow::Result<Vec<Refused>> {
    let (home, files) = certified(EXPIRED)?;
    let node = start(args, home, &files, &files.server()).await?;
    let address = node.server.addresses.rpc.to_string();
    let expired = Expected {
        what: "the server's certificate has expired",
        variant: "Certificate",
        says: "expired",
        is_counted: true,
    };
    let tls = Tls::ca(&files.server.cert);
    let mut all = vec![refused(&node, row, expired, &address, tls).await?];
    ended(&mut all, node).await;

    let (home, files) = certified(GOOD)?;
    let settings = [&files.server()[..], &[files.client_ca()]].concat();
    let node = start(args, home, &files, &settings).await?;
    let address = node.server.addresses.rpc.to_string();
    let stranger = Expected {
        what: "the server's certificate is another CA's",
        variant: "Certificate",
        says: "UnknownIssuer",
        is_counted: true,
    };
    let tls = Tls::ca(&files.stranger.cert);
    all.push(refused(&node, row, stranger, &address, tls).await?);
    let nobody = Expected {
        what: "the client shows no certificate",
        variant: "Certificate",
        says: "certificate",
        is_counted: true,
    };
    all.push(refused(&node, row, nobody, &address, Tls::ca(&files.server.cert)).await?);
    let unknown = Expected {
        what: "the client's certificate is another CA's",
        variant: "Certificate",
        says: "certificate",
        is_counted: true,
    };
    let tls = Tls::ca(&files.server.cert).identity(&files.stranger.cert, &files.stranger.key);
    all.push(refused(&node, row, unknown, &address, tls).await?);
    ended(&mut all, node).await;
    Ok(all)
}

/// Ends a server; if that goes wrong, its last client has to answer for it.
async fn ended(all: &mut [Refused], node: Node) {
    if let Some(last) = all.last_mut() {
        last.broken.extend(node.end().await);
    }
}

async fn start(
    args: &Args,
    home: TempDir,
    files: &Files,
    settings: &[String],
) -> anyhow::Result<Node> {
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let operator = ClientFiles {
        cert: files.operator.cert.clone(),
        key: files.operator.key.clone(),
    };
    let tls = client_config(&ServerCheck::Unverified, Some(&operator), &[])?;
    Node::start_in(home, &args.place, &settings, Some(tls)).await
}

async fn refused(
    node: &Node,
    row: &'static str,
    expected: Expected,
    address: &str,
    tls: Tls,
) -> anyhow::Result<Refused> {
    let before = node.metrics().await?.sum(FAILED, &[]);
    let began = Instant::now();
    let client = Client::builder()
        .address(address)
        .tls(tls)
        .connect_timeout(CONNECT);
    let connected = client.connect().await;
    let took = began.elapsed();
    let is_counted = |now: &crate::node::Metrics| now.sum(FAILED, &[]) > before;
    let within = if expected.is_counted {
        COUNTED_MAX
    } else {
        Duration::ZERO
    };
    let counted = node.settle(within, is_counted).await?.sum(FAILED, &[]) - before;

    let mut broken = Vec::new();
    let (variant, error) = match connected {
        Ok(_) => ("", "it connected".to_owned()),
        Err(error) => (variant(&error), error.to_string()),
    };
    if variant != expected.variant || !error.contains(expected.says) {
        broken.push(format!("the client was told: {error}"));
    }
    if took > CONNECT + SLACK {
        broken.push(format!("the client was told only after {took:?}"));
    }
    if expected.is_counted && counted == 0.0 {
        broken.push(format!("{FAILED} does not count it"));
    }
    Ok(Refused {
        row,
        what: expected.what,
        variant,
        error,
        after_ms: took.as_millis(),
        metric: if expected.is_counted { FAILED } else { "" },
        counted,
        broken,
    })
}

fn variant(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Invalid(_) => "Invalid",
        ConnectError::Tls(_) => "Tls",
        ConnectError::Certificate { .. } => "Certificate",
        ConnectError::Unreachable { .. } => "Unreachable",
    }
}

/// A certificate, which is its own CA, and its key.
struct Pair {
    cert: PathBuf,
    key: PathBuf,
}

/// Who there is.
struct Files {
    server: Pair,
    /// Whose certificate the server wants of clients.
    operator: Pair,
    stranger: Pair,
}

impl Files {
    fn server(&self) -> [String; 2] {
        let Pair { cert, key } = &self.server;
        [
            format!("tls.cert='{}'", cert.display()),
            format!("tls.key='{}'", key.display()),
        ]
    }

    fn client_ca(&self) -> String {
        format!("tls.client_ca='{}'", self.operator.cert.display())
    }
}

/// With a server's certificate that is good until a year.
fn certified(until: i32) -> anyhow::Result<(TempDir, Files)> {
    let home = new_home()?;
    let files = Files {
        server: write(home.path(), "server", until)?,
        operator: write(home.path(), "operator", GOOD)?,
        stranger: write(home.path(), "stranger", GOOD)?,
    };
    Ok((home, files))
}

fn write(dir: &FilePath, name: &str, until: i32) -> anyhow::Result<Pair> {
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2023, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let pair = KeyPair::generate()?;
    let made = params.self_signed(&pair)?;
    let path = |kind: &str| std::path::absolute(dir.join(format!("{name}.{kind}")));
    let (cert, key) = (path("crt")?, path("key")?);
    fs::write(&cert, pem("CERTIFICATE", made.der()))?;
    fs::write(&key, pem("PRIVATE KEY", &pair.serialize_der()))?;
    fs::set_permissions(&key, Permissions::from_mode(0o600))?;
    Ok(Pair { cert, key })
}
