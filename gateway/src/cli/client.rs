//! A small HTTP/1.1 client: one connection, one call at a time, every step within a time limit.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use omnirelay_net::messages;
use omnirelay_net::rpc::{self, Call, Encoding, Reply, RequestHead};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::failure::Failure;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer than the call's own deadline a reply is waited for: the server answers before
/// the deadline, this is for the way back.
const REPLY_GRACE: Duration = Duration::from_secs(2);

/// Largest reply that is read: the largest batch of leases with room to spare.
const REPLY_BYTES_MAX: usize = 64 << 20;

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
    /// HTTP status.
    pub status: StatusCode,
    /// HTTP headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// An open connection to one server.
pub struct Connection {
    address: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// `cli.unreachable` if there is no such host, nobody listens, or it takes too long.
    pub async fn open(address: &str) -> Result<Connection, Failure> {
        let unreachable = |reason: String| Failure::unreachable(address, reason);
        let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => {
                return Err(unreachable(format!(
                    "no answer within {} s",
                    CONNECT_TIMEOUT.as_secs()
                )));
            }
        };
        // Best effort: without it small requests only take longer.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        // The connection's end reaches the sender; there is nobody else to tell.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Connection {
            address: address.to_owned(),
            sender,
        })
    }

    /// Sends one request and reads the whole response.
    ///
    /// # Errors
    /// `cli.no_reply` if the connection ends or `limit` passes first.
    pub async fn send(
        &mut self,
        mut request: Request<Bytes>,
        limit: Duration,
    ) -> Result<Response, Failure> {
        if let Ok(host) = header::HeaderValue::from_str(&self.address) {
            request.headers_mut().entry(header::HOST).or_insert(host);
        }
        let exchange = async {
            self.sender
                .ready()
                .await
                .map_err(|error| error.to_string())?;
            let response = self
                .sender
                .send_request(request.map(Full::new))
                .await
                .map_err(|error| error.to_string())?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, REPLY_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| error.to_string())?;
            Ok::<_, String>(Response {
                status: head.status,
                headers: head.headers,
                body: body.to_bytes(),
            })
        };
        match timeout(limit, exchange).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(reason)) => Err(Failure::no_reply(&self.address, reason)),
            Err(_) => Err(Failure::no_reply(
                &self.address,
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
        if let Ok(host) = header::HeaderValue::from_str(&self.address) {
            request.headers_mut().entry(header::HOST).or_insert(host);
        }
        let sent = self.sender.send_request(request.map(Full::new));
        match timeout(limit, sent).await {
            Ok(Ok(response)) => Ok((response.status(), response.into_body())),
            Ok(Err(error)) => Err(Failure::no_reply(&self.address, error)),
            Err(_) => Err(Failure::no_reply(
                &self.address,
                format!("none within {} s", limit.as_secs_f32()),
            )),
        }
    }

    /// Sends one RPC and reads the whole response, whatever it says.
    ///
    /// # Errors
    /// As [`Connection::send`]; `cli.usage` if the head holds what no header can carry.
    pub async fn rpc(
        &mut self,
        path: &Uri,
        head: &RequestHead,
        body: Bytes,
    ) -> Result<Response, Failure> {
        let request = rpc::request(path.clone(), head, body).map_err(|error| {
            Failure::usage(
                error.message,
                "header values are printable text without line breaks",
            )
        })?;
        self.send(request, head.ttl + REPLY_GRACE).await
    }
}

/// Who calls which namespace of which server, and how long a call may take.
#[derive(Debug, Clone)]
pub struct Caller {
    /// `host:port`.
    pub address: String,
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
    let parts: Vec<_> = text.trim().split('/').collect();
    let [sequence_id, attempt, lease_id] = parts[..] else {
        return Err(
            "a token has the form SEQUENCE/ATTEMPT/LEASE-ID, as `omnirelay lease take` prints it"
                .into(),
        );
    };
    let number = |name: &str, text: &str| format!("its {name} `{text}` is not a whole number");
    if lease_id.is_empty() {
        return Err("its lease id is empty".into());
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
    fn a_token_reads_back_as_it_was_written() {
        let text = "4097/2/01020304-0506-8708-890a-0b0c0d0e0f10";
        assert_eq!(token_text(&parse_token(text).unwrap()), text);
        for refused in ["", "1/2", "1/2/", "x/1/y", "1/-1/y", "1/2/3/4"] {
            assert!(parse_token(refused).is_err(), "{refused}");
        }
    }
}
