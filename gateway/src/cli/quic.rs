//! One call over QUIC: a connection of its own, a stream, a frame there and a frame back.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use omnirelay_net::frame::encode::{self, CallHead};
use omnirelay_net::frame::{ALPN, Frame, FrameReader, Hello, ReplyFrame, VERSION};
use omnirelay_net::rpc::{self, RequestHead, TraceContext};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, VarInt};
use rustls::{AlertDescription, CertificateError, Error};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::client::{CONNECT_TIMEOUT, REPLY_BYTES_MAX, REPLY_GRACE, resolve};
use super::failure::Failure;
use super::output;
use super::secure::Server;

/// How long taking leave of a server may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// QUIC's error codes for alerts of TLS (RFC 9001, 4.8).
const TLS_ALERTS: u64 = 0x100;

/// QUIC's error code of a server that takes no connection (RFC 9000, 20.1).
const CONNECTION_REFUSED: u64 = 0x2;

/// The only call of the stream.
const CALL_ID: u64 = 1;

/// Where there is no answer over UDP, there may be one over TCP.
const TRY_TCP: &str = "is the server running, and does UDP come through to it? start it with \
                       `omnirelay serve`, name another with --address, or go over TCP with the \
                       transport http or grpc";

/// What a reply says besides its body.
#[derive(Debug)]
pub(super) struct ReplyHead {
    is_error: bool,
    agent: String,
    shard: Option<u32>,
    traceresponse: String,
}

impl fmt::Display for ReplyHead {
    /// In the names that it has over HTTP.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = if self.is_error { "error" } else { "success" };
        writeln!(f, "{} {status}", String::from_utf8_lossy(ALPN))?;
        writeln!(f, "server: {}", output::printable(&self.agent))?;
        if let Some(shard) = self.shard {
            writeln!(f, "rpc-shard-key: {shard}")?;
        }
        if !self.traceresponse.is_empty() {
            let span = output::printable(&self.traceresponse);
            writeln!(f, "traceresponse: {span}")?;
        }
        Ok(())
    }
}

/// Makes one call, of that trace if of any; the reply's head, and its body or what the server
/// refused.
///
/// # Errors
/// `cli.unreachable` if nobody answers over UDP, `cli.tls` if one of the two does not trust the
/// other, `cli.protocol` if another protocol is spoken there, `cli.no_reply` if the connection or
/// the time ends before the reply.
pub(super) async fn call(
    server: &Server,
    head: &RequestHead<'_>,
    body: &[u8],
    trace: Option<TraceContext>,
) -> Result<(ReplyHead, Result<Bytes, rpc::Error>), Failure> {
    let config = config(server)?;
    let opened = timeout(CONNECT_TIMEOUT, first_that_answers(server, &config)).await;
    let (endpoint, connection) = opened.unwrap_or_else(|_| {
        let reason = format!("no answer over UDP within {} s", CONNECT_TIMEOUT.as_secs());
        Err(Failure::unreachable(&server.address, reason, TRY_TCP))
    })?;
    let limit = head.ttl + REPLY_GRACE;
    let answer = timeout(limit, exchange(server, &connection, head, body, trace)).await;
    connection.close(VarInt::from_u32(0), b"done");
    // A server that has gone takes no word.
    let _ = timeout(LEAVE_TIMEOUT, endpoint.wait_idle()).await;
    answer.unwrap_or_else(|_| {
        let reason = format!("none within {} s", limit.as_secs_f32());
        Err(Failure::no_reply(&server.address, reason))
    })
}

fn config(server: &Server) -> Result<ClientConfig, Failure> {
    let mut tls = server.tls().expect("QUIC always has TLS").clone();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| {
        Failure::usage(
            format!("TLS 1.3 cannot be spoken: {error}"),
            "use the transport http or grpc",
        )
    })?;
    Ok(ClientConfig::new(Arc::new(crypto)))
}

/// Connects to the first of a name's addresses that answers; else says why none of them did.
async fn first_that_answers(
    server: &Server,
    config: &ClientConfig,
) -> Result<(Endpoint, Connection), Failure> {
    let mut failure = None;
    for remote in resolve(&server.address).await? {
        match connect(server, config, remote).await {
            Ok(opened) => return Ok(opened),
            Err(why) => failure = Some(why),
        }
    }
    Err(failure.unwrap_or_else(|| {
        let reason = "the name has no address";
        Failure::unreachable(&server.address, reason, TRY_TCP)
    }))
}

async fn connect(
    server: &Server,
    config: &ClientConfig,
    remote: SocketAddr,
) -> Result<(Endpoint, Connection), Failure> {
    let unreachable = |reason: String| Failure::unreachable(&server.address, reason, TRY_TCP);
    let endpoint =
        Endpoint::client(any_port(remote)).map_err(|error| unreachable(error.to_string()))?;
    let connecting = endpoint
        .connect_with(config.clone(), remote, server.host())
        .map_err(|error| {
            Failure::usage(
                format!("{}: {error}", server.address),
                "name the server with --address by a DNS name or an IP address",
            )
        })?;
    tokio::select! {
        connected = connecting => match connected {
            Ok(connection) => Ok((endpoint, connection)),
            Err(ConnectionError::TimedOut) => Err(unreachable("no answer over UDP".into())),
            Err(error) => Err(not_connected(server, &error)),
        },
        reason = turned_away(remote) => Err(unreachable(format!("over UDP: {reason}"))),
    }
}

fn any_port(remote: SocketAddr) -> SocketAddr {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    (any, 0).into()
}

/// Waits until the network says that nobody listens there, which QUIC's own socket is not told. A
/// byte that is no packet of QUIC is passed over by whoever does.
async fn turned_away(remote: SocketAddr) -> std::io::Error {
    let asked = async {
        let socket = UdpSocket::bind(any_port(remote)).await?;
        socket.connect(remote).await?;
        socket.send(&[0]).await?;
        socket.recv(&mut [0]).await
    };
    match asked.await {
        Err(error) => error,
        Ok(_) => std::future::pending().await,
    }
}

/// Sends the call and waits for its reply.
async fn exchange(
    server: &Server,
    connection: &Connection,
    head: &RequestHead<'_>,
    body: &[u8],
    trace: Option<TraceContext>,
) -> Result<(ReplyHead, Result<Bytes, rpc::Error>), Failure> {
    let ended = |error: ConnectionError| no_reply(server, &error);
    let (mut out, mut back) = connection.open_bi().await.map_err(ended)?;
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        agent: concat!("omnirelay-cli/", env!("CARGO_PKG_VERSION")).into(),
        ..Hello::default()
    };
    let mut frames = [encode::hello(&hello), frame(head, body, trace)];
    // What keeps it from being sent shows in what comes back, in the server's own words.
    let _ = out.write_all_chunks(&mut frames).await;
    let _ = out.finish();
    let mut frames = Frames {
        reader: FrameReader::default(),
        back: &mut back,
    };
    let mut agent = String::new();
    loop {
        match frames.next(server).await? {
            Frame::Welcome(welcome) => agent = welcome.agent,
            Frame::Reply(reply) => return Ok(answer(agent, reply)),
            Frame::Farewell(error) => {
                let head = ReplyHead {
                    is_error: true,
                    agent,
                    shard: None,
                    traceresponse: String::new(),
                };
                return Ok((head, Err(error)));
            }
            _ => {}
        }
    }
}

fn frame(head: &RequestHead<'_>, body: &[u8], trace: Option<TraceContext>) -> Bytes {
    let traceparent = trace.map(|trace| trace.to_header());
    let traceparent = traceparent.as_ref().and_then(|value| value.to_str().ok());
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let frame_head = CallHead {
        id: CALL_ID,
        procedure: &head.procedure,
        ttl_ms: Some(u32::try_from(head.ttl.as_millis()).unwrap_or(u32::MAX)),
        caller: &head.caller,
        service: &head.service,
        shard_key: head.shard_key.as_deref().unwrap_or_default(),
        peer_id: head.peer_id.as_deref().unwrap_or_default(),
        traceparent: traceparent.unwrap_or_default(),
        headers: &headers,
    };
    encode::raw_call(&frame_head, head.encoding, body)
}

fn answer(agent: String, reply: ReplyFrame) -> (ReplyHead, Result<Bytes, rpc::Error>) {
    let head = ReplyHead {
        is_error: reply.outcome.is_err(),
        agent,
        shard: reply.shard,
        traceresponse: reply.traceresponse,
    };
    (head, reply.outcome)
}

/// What comes back on a stream.
struct Frames<'a> {
    reader: FrameReader,
    back: &'a mut RecvStream,
}

impl Frames<'_> {
    async fn next(&mut self, server: &Server) -> Result<Frame, Failure> {
        let malformed = |error: omnirelay_net::frame::FrameError| {
            Failure::other_protocol(&server.address, format!("sends no frames: {error}"))
        };
        loop {
            if let Some(frame) = self.reader.next(REPLY_BYTES_MAX).map_err(malformed)? {
                return Frame::decode(&frame).map_err(malformed);
            }
            match self.back.read_chunk(usize::MAX, true).await {
                Ok(Some(chunk)) => self.reader.push(chunk.bytes),
                Ok(None) => {
                    let reason = "the server ended the stream";
                    return Err(Failure::no_reply(&server.address, reason));
                }
                Err(quinn::ReadError::ConnectionLost(error)) => {
                    return Err(no_reply(server, &error));
                }
                Err(error) => return Err(Failure::no_reply(&server.address, error)),
            }
        }
    }
}

/// Why the handshake came to nothing.
fn not_connected(server: &Server, error: &ConnectionError) -> Failure {
    if let Some(distrust) = distrust(server, error) {
        return distrust;
    }
    match error {
        ConnectionError::ConnectionClosed(close)
            if u64::from(close.error_code) == CONNECTION_REFUSED =>
        {
            let reason = "the server takes no connection over QUIC now";
            let help = "it has as many as it may, or is ending: try again in a moment";
            Failure::unreachable(&server.address, reason, help)
        }
        error => Failure::unreachable(&server.address, format!("over UDP: {error}"), TRY_TCP),
    }
}

/// Why a connection ended before the reply came. A server says only after the handshake that it
/// wants a certificate.
fn no_reply(server: &Server, error: &ConnectionError) -> Failure {
    distrust(server, error).unwrap_or_else(|| Failure::no_reply(&server.address, error))
}

/// What an error of TLS means here; nothing if it is none.
fn distrust(server: &Server, error: &ConnectionError) -> Option<Failure> {
    let alert = |code: u64| {
        let alert = u8::try_from(code.checked_sub(TLS_ALERTS)?).ok()?;
        Some(AlertDescription::from(alert))
    };
    let error = match error {
        // The server's word.
        ConnectionError::ConnectionClosed(close) => match alert(u64::from(close.error_code))? {
            AlertDescription::NoApplicationProtocol => {
                let what = "speaks QUIC, and not omnirelay/1";
                return Some(Failure::other_protocol(&server.address, what));
            }
            alert => Error::AlertReceived(alert),
        },
        ConnectionError::TransportError(error) => {
            alert(u64::from(error.code))?;
            distrusted(&error.reason)
        }
        _ => return None,
    };
    Some(server.no_trust(&error))
}

/// Why this side does not trust the server: of rustls's error QUIC keeps no more than its words.
fn distrusted(reason: &str) -> Error {
    let why = reason.split_once("invalid peer certificate: ");
    let why = why.map_or("", |(_, why)| why);
    if why.starts_with("UnknownIssuer") {
        CertificateError::UnknownIssuer.into()
    } else if why.starts_with("BadSignature") {
        CertificateError::BadSignature.into()
    } else if why.contains("not valid for name") {
        CertificateError::NotValidForName.into()
    } else if why.contains("expired") {
        CertificateError::Expired.into()
    } else {
        Error::General(reason.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustls_says_in_these_words_why_it_does_not_trust() {
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let of_another = CertificateError::NotValidForNameContext {
            expected: name,
            presented: vec!["elsewhere".to_owned()],
        };
        for (error, found) in [
            (
                CertificateError::UnknownIssuer,
                CertificateError::UnknownIssuer,
            ),
            (
                CertificateError::BadSignature,
                CertificateError::BadSignature,
            ),
            (of_another, CertificateError::NotValidForName),
            (expired(), CertificateError::Expired),
        ] {
            let reason = format!("unexpected error: {}", Error::from(error));
            assert_eq!(distrusted(&reason), Error::from(found), "{reason}");
        }
        let other = Error::General("something else".into());
        assert_eq!(distrusted("something else"), other);
    }

    fn expired() -> CertificateError {
        use rustls::pki_types::UnixTime;

        CertificateError::ExpiredContext {
            time: UnixTime::since_unix_epoch(Duration::from_secs(2)),
            not_after: UnixTime::since_unix_epoch(Duration::from_secs(1)),
        }
    }
}
