//! A small HTTP client: one connection, one call at a time, every step within a time limit.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Request, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use omnirelay_net::grpc;
use omnirelay_net::http::TLS_ONLY;
use omnirelay_net::messages;
use omnirelay_net::rpc::{self, Call, Encoding, Reply, RequestHead, TraceContext};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::failure::{Failure, chain};
pub use super::secure::Server;

/// How long a connection may take to be made.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take to find out what else is spoken where a call failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A TLS handshake record with a `ClientHello` that is too short to be one.
const BROKEN_CLIENT_HELLO: [u8; 10] = [22, 3, 1, 0, 5, 1, 0, 0, 1, 0];

/// How a TLS alert record begins: its type and the version's first byte.
const TLS_ALERT: [u8; 2] = [21, 3];

/// How much longer than the call's own deadline a reply is waited for: the server answers before
/// the deadline, this is for the way back.
pub(super) const REPLY_GRACE: Duration = Duration::from_secs(2);

/// Largest reply that is read: the largest batch of leases with room to spare.
pub(super) const REPLY_BYTES_MAX: usize = 64 << 20;

/// Runs a command's future to its end on this thread.
///
/// # Panics
/// If the runtime cannot be built, which needs nothing but a file descriptor or two.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a current-thread runtime")
        .block_on(future)
}

/// A whole response.
#[derive(Debug)]
pub struct Response {
    /// HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// HTTP status.
    pub status: StatusCode,
    /// HTTP headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// What came behind it, in HTTP/2.
    pub trailers: Option<HeaderMap>,
}

/// What a connection goes over.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Where requests go.
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn send(&mut self, request: Request<Bytes>) -> hyper::Result<http::Response<Incoming>> {
        let request = request.map(Full::new);
        match self {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// An open connection to one server.
pub struct Connection {
    server: Server,
    sender: Sender,
    /// Drives the connection, and knows why it ended; `None` once it has told.
    driver: Option<JoinHandle<hyper::Result<()>>>,
    trace: Option<TraceContext>,
}

impl Connection {
    /// Connects for HTTP/1.1.
    ///
    /// # Errors
    /// `cli.unreachable` if there is no such host, nobody listens, or it takes too long, `cli.tls`
    /// if one of the two does not trust the other.
    pub async fn open(server: &Server) -> Result<Connection, Failure> {
        let stream = Connection::connect(server, b"http/1.1").await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::no_reply(&server.address, error))?;
        Ok(Connection::driven(
            server,
            Sender::Http1(sender),
            connection,
        ))
    }

    /// Connects for HTTP/2, which is what will be spoken.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub async fn open_http2(server: &Server) -> Result<Connection, Failure> {
        let stream = Connection::connect(server, b"h2").await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| Failure::no_reply(&server.address, error))?;
        Ok(Connection::driven(
            server,
            Sender::Http2(sender),
            connection,
        ))
    }

    async fn connect(server: &Server, protocol: &[u8]) -> Result<Stream, Failure> {
        let connected = async {
            let stream = first_that_answers(&server.address).await?;
            // Best effort: without it small requests only take longer.
            let _ = stream.set_nodelay(true);
            if !server.is_secure() {
                return Ok(Stream::Plain(stream));
            }
            let stream = server.secure(stream, &[protocol]).await?;
            Ok(Stream::Tls(Box::new(stream)))
        };
        timeout(CONNECT_TIMEOUT, connected)
            .await
            .unwrap_or_else(|_| {
                Err(Failure::unreachable(
                    &server.address,
                    format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
                    "check --address, and that no firewall stands between",
                ))
            })
    }

    fn driven(
        server: &Server,
        sender: Sender,
        connection: impl Future<Output = hyper::Result<()>> + Send + 'static,
    ) -> Connection {
        Connection {
            server: server.clone(),
            sender,
            driver: Some(tokio::spawn(connection)),
            trace: None,
        }
    }

    /// Says in every request from now on which trace it belongs to.
    pub fn trace(&mut self, context: Option<TraceContext>) {
        self.trace = context;
    }

    /// Says in the request which server it is for, and which trace it belongs to.
    fn address_to(&self, request: &mut Request<Bytes>) {
        if let Some(context) = &self.trace {
            let fields = request.headers_mut();
            fields.insert(&rpc::headers::TRACEPARENT, context.to_header());
        }
        match &self.sender {
            Sender::Http1(_) => {
                if let Ok(host) = header::HeaderValue::from_str(&self.server.address) {
                    request.headers_mut().entry(header::HOST).or_insert(host);
                }
            }
            Sender::Http2(_) => {
                let mut parts = request.uri().clone().into_parts();
                parts.scheme = Some(match self.server.is_secure() {
                    true => Scheme::HTTPS,
                    false => Scheme::HTTP,
                });
                parts.authority = self.server.address.parse::<Authority>().ok();
                if let Ok(uri) = Uri::from_parts(parts) {
                    *request.uri_mut() = uri;
                }
            }
        }
    }

    /// Sends one request and reads the whole response.
    ///
    /// # Errors
    /// `cli.no_reply` if the connection ends or `limit` passes first, `cli.protocol` if what
    /// answers is no HTTP.
    pub async fn send(
        &mut self,
        mut request: Request<Bytes>,
        limit: Duration,
    ) -> Result<Response, Failure> {
        self.address_to(&mut request);
        let exchange = async {
            let response = match self.sender.send(request).await {
                Ok(response) => response,
                Err(error) => {
                    return Err(no_response(&self.server, self.driver.take(), error).await);
                }
            };
            let (head, body) = response.into_parts();
            let body = Limited::new(body, REPLY_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| Failure::no_reply(&self.server.address, error))?;
            let trailers = body.trailers().cloned();
            let body = body.to_bytes();
            let is_told_tls = head.status == StatusCode::BAD_REQUEST && is_tls_only(&body);
            if is_told_tls && !self.server.is_secure() {
                return Err(Failure::tls_only(&self.server.address));
            }
            Ok(Response {
                version: head.version,
                status: head.status,
                headers: head.headers,
                trailers,
                body,
            })
        };
        match timeout(limit, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::no_reply(
                &self.server.address,
                format!("none within {} s", limit.as_secs_f32()),
            )),
        }
    }

    /// Sends one request and leaves the response's body to be read as it comes.
    ///
    /// # Errors
    /// `cli.no_reply` if the connection ends or `limit` passes before the body begins.
    pub async fn stream(
        &mut self,
        mut request: Request<Bytes>,
        limit: Duration,
    ) -> Result<(StatusCode, Incoming), Failure> {
        self.address_to(&mut request);
        match timeout(limit, self.sender.send(request)).await {
            Ok(Ok(response)) => Ok((response.status(), response.into_body())),
            Ok(Err(error)) => Err(no_response(&self.server, self.driver.take(), error).await),
            Err(_) => Err(Failure::no_reply(
                &self.server.address,
                format!("none within {} s", limit.as_secs_f32()),
            )),
        }
    }

    /// Sends one RPC and reads the whole response, whatever it says.
    ///
    /// # Errors
    /// As [`Connection::send`]; `cli.usage` if the head holds what no header can carry,
    /// `cli.protocol` if nobody takes calls there.
    pub async fn rpc(
        &mut self,
        path: &Uri,
        head: &RequestHead<'_>,
        body: Bytes,
    ) -> Result<Response, Failure> {
        let request = rpc::request(path.clone(), head, body).map_err(unsayable)?;
        let response = self.send(request, head.ttl + REPLY_GRACE).await?;
        let is_elsewhere = matches!(
            response.status,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
        );
        if is_elsewhere && !response.headers.contains_key(&rpc::headers::STATUS) {
            let what = format!("answered HTTP {} to an RPC", response.status);
            return Err(Failure::other_protocol(&self.server.address, what));
        }
        Ok(response)
    }

    /// Makes one unary gRPC call, over HTTP/2; the reply's message, or what the server refused.
    ///
    /// # Errors
    /// As [`Connection::send`]; `cli.usage` if the head holds what no metadata can carry, or a
    /// procedure that is no path.
    pub async fn grpc(
        &mut self,
        head: &RequestHead<'_>,
        message: &[u8],
    ) -> Result<(Response, Result<Bytes, rpc::Error>), Failure> {
        let path = grpc::client::path(&head.procedure).map_err(|error| {
            let help = "procedures are named <namespace>::<operation>, as in resourcelease::stats";
            Failure::usage(error.message, help)
        })?;
        let request = grpc::client::request(path, head, message).map_err(unsayable)?;
        let response = self.send(request, head.ttl + REPLY_GRACE).await?;
        let reply = grpc::client::parse_response(
            response.status,
            &response.headers,
            response.trailers.as_ref(),
            response.body.clone(),
            REPLY_BYTES_MAX,
        );
        Ok((response, reply))
    }
}

/// What a port answers that speaks nothing but TLS.
fn is_tls_only(body: &[u8]) -> bool {
    !body.is_empty() && TLS_ONLY.ends_with(body)
}

/// The addresses of a name.
pub(super) async fn resolve(address: &str) -> Result<impl Iterator<Item = SocketAddr>, Failure> {
    lookup_host(address).await.map_err(|error| {
        let help = "check the name in --address, or write an IP address: 127.0.0.1:7420";
        Failure::unreachable(address, error, help)
    })
}

/// Connects to the first of a name's addresses that answers; else says why none of them did.
async fn first_that_answers(address: &str) -> Result<TcpStream, Failure> {
    let found = resolve(address).await?;
    let mut reasons = Vec::new();
    for candidate in found {
        match TcpStream::connect(candidate).await {
            Ok(stream) => return Ok(stream),
            // An address that was typed need not be said twice.
            Err(error) if candidate.to_string() == address => reasons.push(error.to_string()),
            Err(error) => reasons.push(format!("{candidate}: {error}")),
        }
    }
    Err(Failure::unreachable(
        address,
        reasons.join("; "),
        "is the server running? start it with `omnirelay serve`, or name another with --address",
    ))
}

/// Why no response came, told apart: another protocol is spoken there, or the connection ended.
async fn no_response(
    server: &Server,
    driver: Option<JoinHandle<hyper::Result<()>>>,
    error: hyper::Error,
) -> Failure {
    // The sender often knows no more than that the connection is gone.
    let ended = async { driver?.await.ok()?.err() };
    let cause = timeout(PROBE_TIMEOUT, ended).await.ok().flatten();
    let error = cause.unwrap_or(error);
    let address = &server.address;
    if let Some(distrust) = server.distrust(&error) {
        distrust
    } else if !server.is_secure() && speaks_tls(address).await {
        Failure::tls_only(address)
    } else if error.is_parse() {
        let what = format!("does not answer in HTTP: {}", chain(&error));
        Failure::other_protocol(address, what)
    } else {
        Failure::no_reply(address, chain(&error))
    }
}

/// Whether a broken TLS greeting is answered with a TLS alert.
async fn speaks_tls(address: &str) -> bool {
    let probe = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&BROKEN_CLIENT_HELLO).await?;
        let mut start = [0; 2];
        stream.read_exact(&mut start).await?;
        Ok::<_, std::io::Error>(start == TLS_ALERT)
    };
    matches!(timeout(PROBE_TIMEOUT, probe).await, Ok(Ok(true)))
}

fn unsayable(error: rpc::Error) -> Failure {
    Failure::usage(
        error.message,
        "header values are printable text without line breaks",
    )
}

/// Who calls which namespace of which server, and how long a call may take.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The server.
    pub server: Server,
    /// The namespace called.
    pub namespace: String,
    /// The name that calls.
    pub caller: String,
}

impl Caller {
    /// Makes one lease call over an open connection.
    ///
    /// # Errors
    /// What the server refused, or as [`Connection::rpc`].
    pub async fn call(
        &self,
        connection: &mut Connection,
        ttl: Duration,
        call: &Call,
    ) -> Result<Reply, Failure> {
        let procedure = call.procedure();
        let name = format!("{}::{procedure}", self.namespace);
        let mut head = RequestHead::new(&self.caller, "resourcelease", name, Encoding::Proto);
        head.ttl = ttl;
        let body =
            rpc::encode_call(Encoding::Proto, call).expect("lease calls have a protobuf form");
        let response = connection
            .rpc(&Uri::from_static(rpc::PATH), &head, body)
            .await?;
        let reply = rpc::parse_response(
            procedure,
            Encoding::Proto,
            response.status,
            &response.headers,
            &response.body,
        );
        Ok(reply?)
    }
}

/// Writes a token as `sequenceId/attempt/leaseId`, the form that `--token` takes.
pub fn token_text(token: &messages::OwnershipToken) -> String {
    format!("{}/{}/{}", token.sequence_id, token.attempt, token.lease_id)
}

/// Reads `sequenceId/attempt/leaseId`.
///
/// # Errors
/// What the form is, for a person.
pub fn parse_token(text: &str) -> Result<messages::OwnershipToken, String> {
    const FORM: &str =
        "a token has the form SEQUENCE/ATTEMPT/LEASE-ID, as `omnirelay lease take` prints it";
    let parts: Vec<_> = text.trim().split('/').collect();
    let [sequence_id, attempt, lease_id] = parts[..] else {
        return Err(FORM.into());
    };
    let number =
        |name: &str, text: &str| format!("{FORM}; its {name} `{text}` is not a whole number");
    let is_uuid = lease_id.len() == 36
        && lease_id.char_indices().all(|(at, c)| match at {
            8 | 13 | 18 | 23 => c == '-',
            _ => c.is_ascii_hexdigit(),
        });
    if !is_uuid {
        return Err(format!(
            "{FORM}; its lease id `{lease_id}` is not a UUID such as 01020304-0506-8708-890a-0b0c0d0e0f10"
        ));
    }
    Ok(messages::OwnershipToken {
        sequence_id: sequence_id
            .parse()
            .map_err(|_| number("sequence", sequence_id))?,
        attempt: attempt.parse().map_err(|_| number("attempt", attempt))?,
        lease_id: lease_id.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_broke_says_so_every_time() {
        block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let mut connection = Connection::open(&Server::plain(&address)).await.unwrap();
            drop(listener.accept().await.unwrap());
            drop(listener);
            for _ in 0..2 {
                let request = Request::get("/").body(Bytes::new()).unwrap();
                let limit = Duration::from_secs(10);
                let failure = connection.send(request, limit).await.unwrap_err();
                assert_eq!(failure.code, "cli.no_reply", "{failure:?}");
            }
        });
    }

    #[test]
    fn a_token_reads_back_as_it_was_written() {
        let text = "4097/2/01020304-0506-8708-890a-0b0c0d0e0f10";
        assert_eq!(token_text(&parse_token(text).unwrap()), text);
        for refused in [
            "".to_owned(),
            "1/2".into(),
            "1/2/".into(),
            "1/2/3/4".into(),
            text.replacen("4097", "x", 1),
            text.replacen("/2/", "/-1/", 1),
            text.replacen("-", "", 1),
            text.replacen("0f10", "0g10", 1),
        ] {
            let why = parse_token(&refused).unwrap_err();
            assert!(
                why.contains("SEQUENCE/ATTEMPT/LEASE-ID"),
                "{refused}: {why}"
            );
        }
    }
}
