//! Opening a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use omnirelay_net::frame::encode;
use omnirelay_net::frame::{ALPN, DATAGRAM_BYTES_MAX, Hello, NO_HANDSHAKE, VERSION};
use omnirelay_net::tls::client_config;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, ConnectionError, Endpoint, EndpointConfig, MtuDiscoveryConfig, TokioRuntime,
    TransportConfig, TransportErrorCode, VarInt,
};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::Link;
use crate::builder::Tls;
use crate::error::{ConnectError, Down};

/// Bytes of replies that may be on their way without an update.
const WINDOW_BYTES: u32 = 32 << 20;
/// A first packet is repeated after three of these: a server that is being restarted is found soon.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// A connection of which nothing was heard for so long is given up.
const IDLE: Duration = Duration::from_secs(3);
/// Something is said after so long a silence, so that a server that has forgotten the connection
/// can say so.
const KEEP_ALIVE: Duration = Duration::from_millis(500);
/// One address has so long to answer before the next is tried.
const ATTEMPT: Duration = Duration::from_millis(1_500);

/// Knows how to open connections, and where to.
#[derive(Debug)]
pub(crate) struct Dialer {
    addresses: Vec<String>,
    server_name: Option<String>,
    config: ClientConfig,
    hello: Hello,
}

impl Dialer {
    pub(crate) fn new(
        addresses: Vec<String>,
        tls: &Tls,
        caller: String,
    ) -> Result<Dialer, ConnectError> {
        let rustls = client_config(&tls.check, tls.identity.as_ref(), &[ALPN])?;
        let crypto = QuicClientConfig::try_from(rustls)
            .map_err(|error| ConnectError::Invalid(format!("TLS cannot be used: {error}")))?;
        let mut path = MtuDiscoveryConfig::default();
        path.upper_bound(DATAGRAM_BYTES_MAX);
        let mut transport = TransportConfig::default();
        transport
            .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
            .receive_window(VarInt::from_u32(WINDOW_BYTES))
            .initial_rtt(INITIAL_RTT)
            .mtu_discovery_config(Some(path))
            .max_idle_timeout(Some(IDLE.try_into().map_err(|_| {
                ConnectError::Invalid("the idle timeout is too long".into())
            })?))
            .keep_alive_interval(Some(KEEP_ALIVE));
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport));
        Ok(Dialer {
            addresses,
            server_name: tls.server_name.clone(),
            config,
            hello: Hello {
                version_min: VERSION,
                version_max: VERSION,
                caller,
                service: "omnirelay".into(),
                agent: concat!("omnirelay-client/", env!("CARGO_PKG_VERSION")).into(),
                ..Hello::default()
            },
        })
    }

    /// Tries each address in turn. The error tells what came of each.
    pub(crate) async fn dial(&self) -> Result<Arc<Link>, Down> {
        let mut failures = Vec::new();
        let mut is_certificate = true;
        for address in &self.addresses {
            let mut stage = Stage::LookUp;
            let opened = timeout(ATTEMPT, self.open(address, &mut stage)).await;
            match opened.unwrap_or_else(|_| Err(stage.no_answer().into())) {
                Ok(link) => return Ok(link),
                Err(down) => {
                    failures.push(format!("{address}: {}", down.why));
                    is_certificate &= down.is_certificate;
                }
            }
        }
        Err(Down {
            why: failures.join("; "),
            is_certificate,
        })
    }

    async fn open(&self, address: &str, stage: &mut Stage) -> Result<Arc<Link>, Down> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_matches(['[', ']']);
        let name = self.server_name.as_deref().unwrap_or(host);
        let found = lookup_host(address).await;
        let mut found = found.map_err(|error| error.to_string())?;
        let remote = found.next().ok_or("the name has no address")?;
        // Each connection has a socket of its own: a server's core is picked by the client's port.
        let endpoint = endpoint(remote).map_err(|error| error.to_string())?;
        let connecting = endpoint
            .connect_with(self.config.clone(), remote, name)
            .map_err(|error| error.to_string())?;
        *stage = Stage::Handshake;
        let connection = connecting.await.map_err(|error| lost(&error))?;
        *stage = Stage::Greeting;
        let started = async {
            let (mut out, back) = connection.open_bi().await.map_err(|e| e.to_string())?;
            let hello = encode::hello(&self.hello);
            out.write_all(&hello).await.map_err(|e| e.to_string())?;
            Link::start(endpoint, connection.clone(), out, back).await
        };
        let started: Result<_, String> = started.await;
        // A server looks at the client's certificate when the client is done with the handshake.
        started.map_err(|why| match connection.close_reason() {
            Some(error) if is_certificate(&error) => lost(&error),
            _ => why.into(),
        })
    }
}

/// A UDP socket from which a server can be reached.
fn endpoint(remote: SocketAddr) -> std::io::Result<Endpoint> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut config = EndpointConfig::default();
    let taken = config.max_udp_payload_size(DATAGRAM_BYTES_MAX);
    taken.expect("more than QUIC's least");
    let socket = UdpSocket::bind((any, 0))?;
    Endpoint::new(config, None, socket, Arc::new(TokioRuntime))
}

/// How far an attempt has come.
#[derive(Debug, Clone, Copy)]
enum Stage {
    LookUp,
    Handshake,
    Greeting,
}

impl Stage {
    /// What it means that nothing more came of it in time.
    fn no_answer(self) -> String {
        match self {
            Stage::LookUp => "the name was not resolved in time".into(),
            Stage::Handshake => {
                let ms = ATTEMPT.as_millis();
                format!("no QUIC handshake came through in {ms} ms: {NO_HANDSHAKE}")
            }
            Stage::Greeting => "the server did not answer the hello in time".into(),
        }
    }
}

fn lost(error: &ConnectionError) -> Down {
    let why = match error {
        ConnectionError::TimedOut => Stage::Handshake.no_answer(),
        error => error.to_string(),
    };
    Down {
        why,
        is_certificate: is_certificate(error),
    }
}

/// TLS ends a connection with an alert, and some of those are about certificates.
/// <https://www.rfc-editor.org/rfc/rfc8446.html#section-6>
fn is_certificate(error: &ConnectionError) -> bool {
    let code = match error {
        ConnectionError::TransportError(error) => error.code,
        ConnectionError::ConnectionClosed(close) => close.error_code,
        _ => return false,
    };
    // bad_certificate to certificate_unknown, unknown_ca, access_denied,
    // decrypt_error (another CA of the same name), certificate_required.
    let alerts = (42..=46).chain([48, 49, 51, 116]);
    alerts
        .into_iter()
        .any(|alert| code == TransportErrorCode::crypto(alert))
}
