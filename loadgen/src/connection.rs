//! One HTTP/2 connection and the calls on it.

use std::time::Duration;

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
use tokio::net::TcpStream;

/// How long a connection may take to open.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// The largest reply: a batch of leases with room to spare.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// Bytes that may be on their way on a stream and on a connection without an update.
const STREAM_WINDOW_BYTES: u32 = 4 * 1_024 * 1_024;
const CONNECTION_WINDOW_BYTES: u32 = 64 * 1_024 * 1_024;

/// An open connection; clones share it.
#[derive(Debug, Clone)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

/// Why a call gave no reply.
#[derive(Debug)]
pub enum CallError {
    /// The server refused it.
    Refused(Error),
    /// The connection failed: what became of the call is not known.
    Broken(String),
}

/// One procedure as it is called: all that stays the same from call to call.
#[derive(Debug, Clone)]
pub struct Caller {
    connection: Connection,
    transport: Transport,
    procedure: Procedure,
    encoding: Encoding,
    uri: Uri,
    headers: HeaderMap,
}

/// How calls travel over HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// With YARPC's headers.
    Http,
    /// As gRPC.
    Grpc,
}

/// Where and how to call.
#[derive(Debug, Clone)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// How calls travel.
    pub transport: Transport,
    /// The namespace to work in.
    pub namespace: String,
    /// How bodies are encoded.
    pub encoding: Encoding,
}

impl Connection {
    /// Opens a connection.
    ///
    /// # Errors
    /// What kept it from being opened, in words.
    pub async fn open(address: &str) -> Result<Self, String> {
        let connecting = async {
            let stream = TcpStream::connect(address)
                .await
                .map_err(|error| error.to_string())?;
            stream
                .set_nodelay(true)
                .map_err(|error| error.to_string())?;
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
            let opening = builder.handshake::<_, Full<Bytes>>(TokioIo::new(stream));
            opening.await.map_err(|error| error.to_string())
        };
        let opened = tokio::time::timeout(CONNECT_TIME_MAX, connecting).await;
        let (sender, driver) = opened.map_err(|_| "timed out".to_owned())??;
        // Its end shows in the calls that fail with it.
        tokio::spawn(driver);
        Ok(Self { sender })
    }
}

impl Caller {
    /// A caller of one procedure of the target's namespace.
    ///
    /// # Errors
    /// If the target has a name that no header can carry, or no address.
    pub fn new(
        connection: &Connection,
        target: &Target,
        procedure: Procedure,
    ) -> Result<Self, Error> {
        let name = format!("{}::{procedure}", target.namespace);
        let head = RequestHead::new("omnirelay-loadgen", "omnirelay", name, target.encoding);
        let address = &target.address;
        let uri = |path: &str| {
            format!("http://{address}{path}").parse().map_err(|error| {
                Error::header_malformed(format!("`{address}` is not an address: {error}"))
            })
        };
        let request = match target.transport {
            Transport::Http => rpc::request(uri(rpc::PATH)?, &head, Bytes::new())?,
            Transport::Grpc => {
                let path = grpc::client::path(&head.procedure)?;
                grpc::client::request(uri(path.path())?, &head, &[])?
            }
        };
        Ok(Self {
            connection: connection.clone(),
            transport: target.transport,
            procedure,
            encoding: target.encoding,
            uri: request.uri().clone(),
            headers: request.into_parts().0.headers,
        })
    }

    /// Makes one call.
    ///
    /// # Errors
    /// The server's refusal, or why the connection failed.
    pub async fn call(&mut self, call: &Call) -> Result<Reply, CallError> {
        debug_assert_eq!(call.procedure(), self.procedure);
        let body = match self.transport {
            Transport::Http => encode_call(self.encoding, call),
            Transport::Grpc => grpc::client::encode_call(self.encoding, call),
        };
        let mut request = Request::new(Full::new(body.map_err(CallError::Refused)?));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let response = self
            .connection
            .sender
            .send_request(request)
            .await
            .map_err(broken)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(broken)?;
        let trailers = body.trailers().cloned();
        let body = body.to_bytes();
        let (procedure, encoding, status) = (self.procedure, self.encoding, head.status);
        let reply = match self.transport {
            Transport::Http => parse_response(procedure, encoding, status, &head.headers, &body),
            Transport::Grpc => {
                let (fields, trailers) = (&head.headers, trailers.as_ref());
                grpc::client::parse_response(status, fields, trailers, body, REPLY_BYTES_MAX)
                    .and_then(|message| decode_reply(procedure, encoding, &message))
            }
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
