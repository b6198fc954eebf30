//! Calls over QUIC: one stream a connection, all its calls in flight on it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use omnirelay_net::frame::encode::{self, CallHead};
use omnirelay_net::frame::{
    DATAGRAM_BYTES_MAX, Frame, FrameReader, Hello, NO_HANDSHAKE, ReplyFrame, VERSION,
};
use omnirelay_net::rpc::{Call, Encoding, Procedure, Reply, decode_reply};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, ConnectionError, EndpointConfig, MtuDiscoveryConfig, RecvStream, SendStream,
    TokioRuntime, TransportConfig, VarInt,
};
use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_local;
use tokio_rustls::rustls;

use super::dialer::{ConnectError, Sockets};
use super::{CallError, REPLY_BYTES_MAX};

/// Bytes that may be on their way to this side without an update.
const WINDOW_BYTES: u32 = 64 * 1_024 * 1_024;

/// How long a server may go on giving leases to a run that was killed, and how often a connection
/// that only waits says that it is there.
const IDLE_MAX: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// The same for connections of which there are very many, and which never wait for leases: what
/// keeps them alive must not be a load of its own.
const SHARED_IDLE_MAX: Duration = Duration::from_secs(60);
const SHARED_KEEP_ALIVE: Duration = Duration::from_secs(20);

/// QUIC's error codes for alerts of TLS (RFC 9001, 4.8).
const TLS_ALERTS: std::ops::Range<u64> = 0x100..0x200;

/// An open connection; clones share it.
#[derive(Debug, Clone)]
pub(super) struct QuicConnection(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    state: RefCell<State>,
    /// There is something to send, or nobody will send any more.
    woken: Rc<Notify>,
    connection: quinn::Connection,
    /// Without it the connection has no socket.
    endpoint: quinn::Endpoint,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    outbox: Vec<Bytes>,
    waiting: HashMap<u64, oneshot::Sender<ReplyFrame>>,
    /// Why no call can be made any more.
    failure: Option<String>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"done");
        self.woken.notify_one();
    }
}

/// What all connections of a run are opened with.
pub(super) fn config(tls: rustls::ClientConfig, sockets: Sockets) -> Result<ClientConfig, String> {
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
    let (idle_max, keep_alive) = match sockets {
        Sockets::Own => (IDLE_MAX, KEEP_ALIVE),
        Sockets::Shared => (SHARED_IDLE_MAX, SHARED_KEEP_ALIVE),
    };
    let mut path = MtuDiscoveryConfig::default();
    path.upper_bound(DATAGRAM_BYTES_MAX);
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(u64::from(WINDOW_BYTES))
        .mtu_discovery_config(Some(path))
        .keep_alive_interval(Some(keep_alive));
    transport.max_idle_timeout(Some(idle_max.try_into().map_err(|_| "too long")?));
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// A UDP socket from which a server can be reached.
pub(super) fn socket(remote: SocketAddr) -> std::io::Result<quinn::Endpoint> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut config = EndpointConfig::default();
    let taken = config.max_udp_payload_size(DATAGRAM_BYTES_MAX);
    taken.expect("more than QUIC's least");
    let socket = UdpSocket::bind((any, 0))?;
    quinn::Endpoint::new(config, None, socket, Arc::new(TokioRuntime))
}

/// Why the handshake came to nothing.
fn refused(error: &ConnectionError) -> ConnectError {
    let code = match error {
        ConnectionError::TransportError(error) => Some(error.code),
        ConnectionError::ConnectionClosed(close) => Some(close.error_code),
        _ => None,
    };
    match code {
        Some(code) if TLS_ALERTS.contains(&u64::from(code)) => {
            ConnectError::Untrusted(error.to_string())
        }
        _ => ConnectError::unreachable(no_connection(error)),
    }
}

fn no_connection(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TimedOut => format!("no QUIC handshake came through: {NO_HANDSHAKE}"),
        error => error.to_string(),
    }
}

impl QuicConnection {
    pub(super) async fn open(
        endpoint: quinn::Endpoint,
        config: ClientConfig,
        remote: SocketAddr,
        host: &str,
    ) -> Result<Self, ConnectError> {
        let connecting = endpoint
            .connect_with(config, remote, host)
            .map_err(|error| ConnectError::unreachable(error.to_string()))?;
        let connection = connecting.await.map_err(|error| refused(&error))?;
        let (mut out, back) = connection
            .open_bi()
            .await
            .map_err(|error| refused(&error))?;
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            caller: "omnirelay-loadgen".into(),
            service: "omnirelay".into(),
            agent: concat!("omnirelay-loadgen/", env!("CARGO_PKG_VERSION")).into(),
            ..Hello::default()
        };
        out.write_all(&encode::hello(&hello))
            .await
            .map_err(|error| ConnectError::unreachable(error.to_string()))?;
        let woken = Rc::new(Notify::new());
        let shared = Rc::new(Shared {
            state: RefCell::default(),
            woken: Rc::clone(&woken),
            connection,
            endpoint,
        });
        spawn_local(write(Rc::downgrade(&shared), woken, out));
        spawn_local(read(Rc::downgrade(&shared), back));
        Ok(Self(shared))
    }

    /// Tells the server that nothing more comes. [`QuicConnection::closed`] waits until it is told.
    pub(super) fn close(&self) {
        self.0.connection.close(VarInt::from_u32(0), b"done");
    }

    pub(super) async fn closed(&self) {
        self.0.endpoint.wait_idle().await;
    }

    /// Why no call can be made any more.
    pub(super) fn failure(&self) -> Option<String> {
        let said = self.0.state.borrow().failure.clone();
        said.or_else(|| Some(self.0.connection.close_reason()?.to_string()))
    }

    pub(super) async fn call(
        &self,
        name: &str,
        procedure: Procedure,
        encoding: Encoding,
        call: &Call,
    ) -> Result<Reply, CallError> {
        let reply = {
            let mut state = self.0.state.borrow_mut();
            if let Some(why) = &state.failure {
                return Err(CallError::Broken(why.clone()));
            }
            state.last += 1;
            let head = CallHead {
                id: state.last,
                procedure: name,
                ..CallHead::default()
            };
            let frame = encode::call(&head, encoding, call).map_err(CallError::Refused)?;
            let (sender, reply) = oneshot::channel();
            state.waiting.insert(head.id, sender);
            state.outbox.push(frame);
            reply
        };
        self.0.woken.notify_one();
        let Ok(reply) = reply.await else {
            let why = self.0.state.borrow().failure.clone();
            return Err(CallError::Broken(why.unwrap_or_default()));
        };
        reply
            .outcome
            .and_then(|body| decode_reply(procedure, encoding, &body))
            .map_err(CallError::Refused)
    }
}

/// Sends what is in the outbox, all of it at once.
async fn write(shared: Weak<Shared>, woken: Rc<Notify>, mut out: SendStream) {
    loop {
        woken.notified().await;
        let Some(frames) = shared.upgrade().map(|shared| {
            let mut state = shared.state.borrow_mut();
            std::mem::take(&mut state.outbox)
        }) else {
            return;
        };
        let mut frames = frames;
        if let Err(error) = out.write_all_chunks(&mut frames).await {
            return fail(&shared, error.to_string());
        }
    }
}

/// Hands replies to those who wait for them.
async fn read(shared: Weak<Shared>, mut back: RecvStream) {
    let mut reader = FrameReader::default();
    loop {
        let frame = match reader.next(REPLY_BYTES_MAX) {
            Ok(Some(frame)) => frame,
            Ok(None) => match back.read_chunk(usize::MAX, true).await {
                Ok(Some(chunk)) => {
                    reader.push(chunk.bytes);
                    continue;
                }
                Ok(None) => return fail(&shared, "the server ended the stream".into()),
                Err(error) => return fail(&shared, error.to_string()),
            },
            Err(error) => return fail(&shared, error.to_string()),
        };
        match Frame::decode(&frame) {
            Ok(Frame::Reply(reply)) => {
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                let waiting = shared.state.borrow_mut().waiting.remove(&reply.id);
                if let Some(waiting) = waiting {
                    // Whoever asked may have given up.
                    let _ = waiting.send(reply);
                }
            }
            Ok(Frame::Farewell(error)) => return fail(&shared, error.to_string()),
            Ok(_) => {}
            Err(error) => return fail(&shared, error.to_string()),
        }
    }
}

fn fail(shared: &Weak<Shared>, why: String) {
    if let Some(shared) = shared.upgrade() {
        let mut state = shared.state.borrow_mut();
        state.failure.get_or_insert(why);
        state.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use omnirelay_net::frame::ALPN;
    use omnirelay_net::tls::{ServerCheck, client_config};

    use super::*;

    #[tokio::test]
    async fn a_network_that_carries_no_quic_is_named_with_the_way_around_it() {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let remote = silent.local_addr().unwrap();
        let tls = client_config(&ServerCheck::Unverified, None, &[ALPN]).unwrap();
        let config = config(tls, Sockets::Own).unwrap();
        let endpoint = socket(remote).unwrap();
        let opened = QuicConnection::open(endpoint, config, remote, "127.0.0.1").await;
        let error = opened.unwrap_err().to_string();
        assert!(
            error.starts_with("no QUIC handshake came through"),
            "{error}"
        );
        assert!(
            error.contains("1,200 bytes; HTTP/2 and gRPC are served over TCP"),
            "{error}"
        );
    }
}
