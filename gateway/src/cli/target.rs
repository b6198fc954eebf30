//! Where one RPC goes, and how it travels.

use bytes::Bytes;
use http::Uri;
use omnirelay_net::rpc::{self, Encoding, RequestHead, TraceContext};
use serde::Deserialize;

use super::address::{Address, Scheme};
use super::client::{Connection, Response};
use super::failure::Failure;
use super::quic::{self, ReplyHead};
use super::secure::Trust;

/// How a call travels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Transport {
    /// HTTP/1.1 with YARPC's headers
    #[default]
    Http,
    /// gRPC, with the procedure as YARPC maps it to a path
    Grpc,
    /// A frame over QUIC
    Quic,
}

/// Where a call goes.
#[derive(Debug, Clone)]
pub(super) enum Target {
    /// Posted to a path.
    Http { address: Address, path: Uri },
    /// The procedure is the path.
    Grpc { address: Address },
    /// The procedure is in the frame.
    Quic { address: Address },
}

/// A reply as it came, and what it means.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: AnswerHead,
    pub(super) reply: Result<Bytes, rpc::Error>,
}

/// What a reply says besides its body.
#[derive(Debug)]
pub(super) enum AnswerHead {
    Http(Response),
    Quic(ReplyHead),
}

impl Target {
    /// What the URL names, where there is one, else the address.
    ///
    /// # Errors
    /// `cli.usage` for a URL that cannot be used.
    pub(super) fn new(
        transport: Transport,
        address: &Address,
        url: Option<&str>,
    ) -> Result<Target, Failure> {
        match (transport, url) {
            (Transport::Http, Some(url)) => {
                let (address, path) = split_url("the URL", url, rpc::PATH)?;
                Ok(Target::Http { address, path })
            }
            (Transport::Http, None) => Ok(Target::Http {
                address: address.clone(),
                path: Uri::from_static(rpc::PATH),
            }),
            (Transport::Grpc, None) => Ok(Target::Grpc {
                address: address.clone(),
            }),
            (Transport::Quic, None) => Ok(Target::Quic {
                address: address.clone(),
            }),
            (Transport::Grpc, Some(_)) => Err(Failure::usage(
                "a URL is for transport http: gRPC's path is the procedure's",
                "say where the server is by its address",
            )),
            (Transport::Quic, Some(_)) => Err(Failure::usage(
                "a URL is for transport http: frames over QUIC have no path",
                "say where the server is by its address",
            )),
        }
    }

    /// Sends one call, of that trace if of any, over a connection of its own.
    ///
    /// # Errors
    /// `cli.unreachable`, `cli.no_reply` and the like: what a server refuses is in the answer.
    pub(super) async fn call(
        &self,
        trust: &Trust,
        head: &RequestHead<'_>,
        body: Bytes,
        trace: Option<TraceContext>,
    ) -> Result<Answer, Failure> {
        match self {
            Target::Http { address, path } => {
                let mut connection = Connection::open(&trust.server(address)?).await?;
                connection.trace(trace);
                let response = connection.rpc(path, head, body).await?;
                let reply = match rpc_error(&response) {
                    Some(error) => Err(error),
                    None => Ok(response.body.clone()),
                };
                let head = AnswerHead::Http(response);
                Ok(Answer { head, reply })
            }
            Target::Grpc { address } => {
                let mut connection = Connection::open_http2(&trust.server(address)?).await?;
                connection.trace(trace);
                let (response, reply) = connection.grpc(head, &body).await?;
                let head = AnswerHead::Http(response);
                Ok(Answer { head, reply })
            }
            Target::Quic { address } => {
                let server = trust.quic_server(address)?;
                let (head, reply) = quic::call(&server, head, &body, trace).await?;
                let head = AnswerHead::Quic(head);
                Ok(Answer { head, reply })
            }
        }
    }
}

/// An empty message in the encoding.
pub(super) fn empty_body(encoding: Encoding) -> Bytes {
    match encoding {
        Encoding::Json => Bytes::from_static(b"{}"),
        Encoding::Proto | Encoding::Raw => Bytes::new(),
    }
}

/// The error that a response carries, of whatever procedure it answers.
fn rpc_error(response: &Response) -> Option<rpc::Error> {
    let refused = response
        .headers
        .get(&rpc::headers::STATUS)
        .is_some_and(|status| status == "error");
    if response.status.is_success() && !refused {
        return None;
    }
    // The procedure only matters for replies that succeeded.
    rpc::parse_response(
        rpc::Procedure::Stats,
        Encoding::Json,
        response.status,
        &response.headers,
        &response.body,
    )
    .err()
}

/// Splits `http://host:port/path` or `https://…`, which `option` gave; the scheme's port and the
/// given path where it says neither.
///
/// # Errors
/// `cli.usage`, with the form.
pub(super) fn split_url(
    option: &str,
    url: &str,
    path_default: &'static str,
) -> Result<(Address, Uri), Failure> {
    let refuse = |reason: String| {
        Failure::usage(
            format!("{option} {url}: {reason}"),
            format!("write it as http://127.0.0.1:7420{path_default}"),
        )
    };
    let uri: Uri = url.parse().map_err(|error| refuse(format!("{error}")))?;
    let (scheme, port) = match uri.scheme_str() {
        Some("http") => (Scheme::Http, 80),
        Some("https") => (Scheme::Https, 443),
        _ => {
            return Err(refuse(
                "it begins neither with https:// nor with http://".into(),
            ));
        }
    };
    let host = uri
        .host()
        .filter(|host| !host.is_empty())
        .ok_or_else(|| refuse("it names no host".into()))?;
    let address = Address {
        scheme: Some(scheme),
        host_port: format!("{host}:{}", uri.port_u16().unwrap_or(port)),
    };
    let path = match uri.path_and_query() {
        Some(path) if path.as_str() != "/" => Uri::from(path.clone()),
        _ => Uri::from_static(path_default),
    };
    Ok((address, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_an_address_and_a_path() {
        let split = |url| {
            split_url("--url", url, rpc::PATH)
                .map(|(address, path)| (address.scheme, address.host_port, path.to_string()))
        };
        assert_eq!(
            split("http://h:1/a?b").unwrap(),
            (Some(Scheme::Http), "h:1".into(), "/a?b".into())
        );
        assert_eq!(
            split("http://h").unwrap(),
            (Some(Scheme::Http), "h:80".into(), "/yarpc/v1".into())
        );
        assert_eq!(
            split("http://[::1]:7420/").unwrap(),
            (Some(Scheme::Http), "[::1]:7420".into(), "/yarpc/v1".into())
        );
        assert_eq!(
            split("https://h").unwrap(),
            (Some(Scheme::Https), "h:443".into(), "/yarpc/v1".into())
        );
        for refused in ["h:1", "quic://h/", "http://", "not a url"] {
            assert!(split(refused).is_err(), "{refused}");
        }
    }
}
