//! Calls over HTTP/2: with YARPC's headers, or as gRPC.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use omnirelay_net::grpc;
use omnirelay_net::rpc::{
    self, Call, Encoding, Error, Procedure, Reply, RequestHead, decode_reply, encode_call,
    parse_response,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::dialer::ConnectError;
use super::{CallError, REPLY_BYTES_MAX, Target, Transport};

/// Bytes that may be on their way on a stream and on a connection without an update.
const STREAM_WINDOW_BYTES: u32 = 4 * 1_024 * 1_024;
const CONNECTION_WINDOW_BYTES: u32 = 64 * 1_024 * 1_024;

/// What sends requests on a connection; clones share it.
pub(super) type Sender = SendRequest<Full<Bytes>>;

/// How to speak TLS with a server.
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Tls").field("name", &self.name).finish()
    }
}

impl Tls {
    /// # Errors
    /// If no certificate can have the server's name.
    pub(super) fn new(config: ClientConfig, host: &str) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned());
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name: name.map_err(|_| format!("`{host}` is no name that a certificate can have"))?,
        })
    }
}

pub(super) async fn open(address: &str, tls: Option<&Tls>) -> Result<Sender, ConnectError> {
    let of_io = |error| ConnectError::of_io(&error);
    let stream = TcpStream::connect(address).await.map_err(of_io)?;
    stream.set_nodelay(true).map_err(of_io)?;
    match tls {
        None => greet(stream).await,
        Some(Tls { connector, name }) => {
            let secured = connector.connect(name.clone(), stream).await;
            greet(secured.map_err(of_io)?).await
        }
    }
}

/// Begins to speak HTTP/2.
async fn greet<S>(stream: S) -> Result<Sender, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let opening = builder.handshake::<_, Full<Bytes>>(TokioIo::new(stream));
    let (sender, driver) = opening
        .await
        .map_err(|error| ConnectError::unreachable(error.to_string()))?;
    // Its end shows in the calls that fail with it.
    tokio::spawn(driver);
    Ok(sender)
}

/// One procedure as it is called: all that stays the same from call to call.
#[derive(Debug, Clone)]
pub(super) struct HttpCaller {
    sender: Sender,
    is_grpc: bool,
    uri: Uri,
    headers: HeaderMap,
}

impl HttpCaller {
    pub(super) fn new(
        sender: &Sender,
        target: &Target,
        head: &RequestHead<'_>,
    ) -> Result<Self, Error> {
        let is_grpc = target.transport == Transport::Grpc;
        let address = &target.address;
        let scheme = match target.ca {
            Some(_) => "https",
            None => "http",
        };
        let uri = |path: &str| {
            let uri = format!("{scheme}://{address}{path}").parse();
            uri.map_err(|error| {
                Error::header_malformed(format!("`{address}` is not an address: {error}"))
            })
        };
        let request = if is_grpc {
            let path = grpc::client::path(&head.procedure)?;
            grpc::client::request(uri(path.path())?, head, &[])?
        } else {
            rpc::request(uri(rpc::PATH)?, head, Bytes::new())?
        };
        Ok(Self {
            sender: sender.clone(),
            is_grpc,
            uri: request.uri().clone(),
            headers: request.into_parts().0.headers,
        })
    }

    pub(super) async fn call(
        &mut self,
        procedure: Procedure,
        encoding: Encoding,
        call: &Call,
    ) -> Result<Reply, CallError> {
        let body = match self.is_grpc {
            false => encode_call(encoding, call),
            true => grpc::client::encode_call(encoding, call),
        };
        let mut request = Request::new(Full::new(body.map_err(CallError::Refused)?));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let response = self.sender.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(broken)?;
        let trailers = body.trailers().cloned();
        let body = body.to_bytes();
        let reply = if self.is_grpc {
            let (fields, trailers) = (&head.headers, trailers.as_ref());
            grpc::client::parse_response(head.status, fields, trailers, body, REPLY_BYTES_MAX)
                .and_then(|message| decode_reply(procedure, encoding, &message))
        } else {
            parse_response(procedure, encoding, head.status, &head.headers, &body)
        };
        reply.map_err(CallError::Refused)
    }
}

/// An error of the connection with its causes, which hyper's own words leave out.
fn broken(error: hyper::Error) -> CallError {
    use std::error::Error as _;

    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        words = format!("{words}: {inner}");
        cause = inner.source();
    }
    CallError::Broken(words)
}
