//! A collector on the other end of a connection: OTLP over HTTP, in protobuf.
//! <https://opentelemetry.io/docs/specs/otlp/#otlphttp>

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use prost::Message;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::{OtlpEndpoint, OtlpHeaders};

/// How long a request may take, connecting included.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of a collector's answer that are read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The longest wait that a collector is believed to want.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Why a collector did not take a request.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    /// It may take it later.
    #[error("{why}")]
    NotNow {
        /// What went wrong.
        why: String,
        /// When it wants to be asked again, if it said so.
        retry_after: Option<Duration>,
    },
    /// It never will.
    #[error("it answered {0}")]
    Never(String),
}

impl Refusal {
    fn not_now(why: impl ToString) -> Refusal {
        Refusal::NotNow {
            why: why.to_string(),
            retry_after: None,
        }
    }
}

/// A collector, and the connection to it while there is one.
#[derive(Debug)]
pub(super) struct Collector {
    endpoint: OtlpEndpoint,
    headers: OtlpHeaders,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Collector {
    pub(super) fn new(endpoint: OtlpEndpoint, headers: OtlpHeaders) -> Collector {
        Collector {
            endpoint,
            headers,
            connection: None,
        }
    }

    /// Sends one request of a signal, such as `traces`; what the collector answered.
    pub(super) async fn post<R: Message + Default>(
        &mut self,
        signal: &str,
        message: Bytes,
    ) -> Result<R, Refusal> {
        let posted = timeout(REQUEST_TIME_MAX, self.exchange(signal, message)).await;
        let (status, retry_after, body) = match posted {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => return Err(Refusal::not_now(why)),
            Err(_) => {
                let seconds = REQUEST_TIME_MAX.as_secs();
                return Err(Refusal::not_now(format!("no answer within {seconds} s")));
            }
        };
        match status {
            // What it says besides is of no account.
            _ if status.is_success() => Ok(R::decode(body).unwrap_or_default()),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(Refusal::NotNow {
                why: format!("it answered {status}"),
                retry_after,
            }),
            _ => Err(Refusal::Never(status.to_string())),
        }
    }

    async fn exchange(
        &mut self,
        signal: &str,
        message: Bytes,
    ) -> Result<(StatusCode, Option<Duration>, Bytes), String> {
        // Taken out while it is used: one whose exchange was given up is of no use any more.
        let mut kept = self.connection.take();
        if let Some(connection) = &mut kept
            && connection.ready().await.is_err()
        {
            kept = None;
        }
        let mut connection = match kept {
            Some(connection) => connection,
            None => connect(&self.endpoint).await?,
        };
        let mut request = Request::post(self.endpoint.path(signal).as_str())
            .header(HOST, self.endpoint.authority.as_str())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("omnirelay/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(message))
            .map_err(|error| error.to_string())?;
        for (name, value) in &self.headers.0 {
            request.headers_mut().append(name, value.clone());
        }
        let answer = connection.send_request(request).await;
        let (head, body) = answer.map_err(|error| error.to_string())?.into_parts();
        let seconds = head.headers.get(RETRY_AFTER);
        let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = seconds.map(|s| Duration::from_secs(s).min(RETRY_AFTER_MAX));
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        self.connection = Some(connection);
        Ok((head.status, retry_after, body))
    }
}

async fn connect(endpoint: &OtlpEndpoint) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(endpoint.address()).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let _ = stream.set_nodelay(true);
    let made = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = made.map_err(|error| error.to_string())?;
    // Its end reaches the sender; there is nobody else to tell.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}
