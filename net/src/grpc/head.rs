//! What a gRPC request says before its messages: the method by its path, the rest by metadata.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap};

use super::{Compression, metadata};
use crate::rpc::{Encoding, Error, Procedure, RequestHead};

/// The typed service of the lease queue.
pub const LEASE_SERVICE: &str = "omnirelay.resourcelease.v1.ResourceLease";
/// The service of the replication stream.
pub const REPLICATION_SERVICE: &str = "omnirelay.replication.v1.Replication";
pub(super) const HEALTH_SERVICE: &str = "grpc.health.v1.Health";
pub(super) const REFLECTION_SERVICES: [&str; 2] = [
    "grpc.reflection.v1.ServerReflection",
    // The same messages under the name they first had, which some clients still ask for.
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Who calls a typed method without saying so.
const ANONYMOUS: &str = "grpc";

/// The most digits of a timeout.
const TIMEOUT_DIGITS_MAX: usize = 8;

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A method of the typed service; its message names the namespace.
    Typed(Procedure),
    /// `/service/method` for YARPC's `service::method`.
    Yarpc,
    /// [`replication`](super::replication): a shard's events as they are committed.
    Subscribe,
    /// [`health`](super::health): the status now.
    HealthCheck,
    /// The status of each service.
    HealthList,
    /// The status now and as it changes.
    HealthWatch,
    /// [`reflection`](super::reflection).
    Reflection,
}

/// A request's path and metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct Head<'a> {
    /// What is called.
    pub method: Method,
    /// Who calls, how its messages are encoded, how long it may take.
    pub rpc: RequestHead<'a>,
    /// The deadline that the caller gave by `grpc-timeout`, if it did: a stream has no other.
    pub timeout: Option<Duration>,
    /// How the request's messages are compressed.
    pub compression: Compression,
    /// How the reply's may be: as the request's, if the caller reads that.
    pub reply_compression: Compression,
}

/// Whether a request is gRPC by its content type.
#[must_use]
pub fn is_grpc(found: &HeaderMap) -> bool {
    subtype(found).is_some()
}

/// What follows `application/grpc` in the content type: nothing, or `+` and the messages' encoding.
fn subtype(found: &HeaderMap) -> Option<&str> {
    let content_type = found.get(CONTENT_TYPE)?.to_str().ok()?;
    let bare = content_type.split(';').next().unwrap_or_default().trim();
    let rest = bare.strip_prefix("application/grpc")?;
    (rest.is_empty() || rest.starts_with('+')).then_some(rest)
}

impl<'a> Head<'a> {
    /// With texts of its own.
    #[must_use]
    pub fn into_owned(self) -> Head<'static> {
        Head {
            method: self.method,
            rpc: self.rpc.into_owned(),
            timeout: self.timeout,
            compression: self.compression,
            reply_compression: self.reply_compression,
        }
    }

    /// Reads a request's path and metadata.
    ///
    /// # Errors
    /// `rpc.procedure.unknown` for a path that names nothing, `rpc.header.missing` and
    /// `rpc.header.malformed` for metadata, `rpc.encoding.unsupported` for messages that nothing
    /// here reads.
    pub fn parse(path: &'a str, found: &'a HeaderMap) -> Result<Self, Error> {
        let encoding = match subtype(found).and_then(|rest| rest.strip_prefix('+')) {
            Some(name) => Encoding::parse(name)?,
            None => Encoding::Proto,
        };
        let Some((service, name)) = path.strip_prefix('/').and_then(|path| path.split_once('/'))
        else {
            return Err(unknown(path));
        };
        let method = match service {
            LEASE_SERVICE => {
                let procedures = Procedure::ALL.into_iter();
                let mut named = procedures.filter(|known| is_method_of(name, *known));
                Method::Typed(named.next().ok_or_else(|| unknown(path))?)
            }
            REPLICATION_SERVICE => match name {
                "Subscribe" => Method::Subscribe,
                _ => return Err(unknown(path)),
            },
            HEALTH_SERVICE => match name {
                "Check" => Method::HealthCheck,
                "List" => Method::HealthList,
                "Watch" => Method::HealthWatch,
                _ => return Err(unknown(path)),
            },
            _ if REFLECTION_SERVICES.contains(&service) => match name {
                "ServerReflectionInfo" => Method::Reflection,
                _ => return Err(unknown(path)),
            },
            _ if name.is_empty() || name.contains('/') => return Err(unknown(path)),
            _ => Method::Yarpc,
        };
        let procedure = format!("{service}::{name}");
        let stand_in = (method != Method::Yarpc).then_some((ANONYMOUS, service));
        let timeout = timeout(found)?;
        let rpc = RequestHead::parse_for_path(found, procedure, stand_in, encoding, timeout)?;
        let compression = compression(found)?;
        let accepts = found.get_all(&metadata::ACCEPT_ENCODING).iter();
        let accepts_it = accepts
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .any(|name| Compression::parse(name.trim_ascii()) == Some(compression));
        Ok(Self {
            method,
            rpc,
            timeout,
            compression,
            reply_compression: if accepts_it {
                compression
            } else {
                Compression::Identity
            },
        })
    }
}

/// Whether a method of the typed service is a procedure: the same name, with a capital.
fn is_method_of(name: &str, procedure: Procedure) -> bool {
    let (method, procedure) = (name.as_bytes(), procedure.name().as_bytes());
    method.len() == procedure.len()
        && method[0] == procedure[0].to_ascii_uppercase()
        && method[1..] == procedure[1..]
}

fn compression(found: &HeaderMap) -> Result<Compression, Error> {
    let Some(name) = found.get(&metadata::ENCODING) else {
        return Ok(Compression::Identity);
    };
    Compression::parse(name.as_bytes()).ok_or_else(|| {
        let shown: String = String::from_utf8_lossy(name.as_bytes())
            .chars()
            .take(64)
            .collect();
        Error::compression_unsupported(format!(
            "grpc-encoding `{shown}` is not supported; use gzip or identity"
        ))
    })
}

/// `grpc-timeout`: up to eight digits and a unit.
fn timeout(found: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = found.get(&metadata::TIMEOUT) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    let parsed = text.split_at_checked(text.len().saturating_sub(1));
    let parsed = parsed.and_then(|(digits, unit)| {
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number || digits.len() > TIMEOUT_DIGITS_MAX {
            return None;
        }
        let number: u64 = digits.parse().ok()?;
        Some(match unit {
            "H" => Duration::from_secs(number * 3_600),
            "M" => Duration::from_secs(number * 60),
            "S" => Duration::from_secs(number),
            "m" => Duration::from_millis(number),
            "u" => Duration::from_micros(number),
            "n" => Duration::from_nanos(number),
            _ => return None,
        })
    });
    parsed.map(Some).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        Error::header_malformed(format!(
            "grpc-timeout is `{shown}`; it takes up to {TIMEOUT_DIGITS_MAX} digits and one of H, \
             M, S, m, u, n"
        ))
    })
}

fn unknown(path: &str) -> Error {
    let shown: String = path.chars().take(128).collect();
    Error::procedure_unknown(format!(
        "no method `{shown}`; there are /{LEASE_SERVICE}/Enqueue and the like, \
         /{REPLICATION_SERVICE}/Subscribe, /<namespace>/<operation> with rpc-caller and \
         rpc-service, health and reflection"
    ))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::rpc::{TTL_DEFAULT, TTL_MAX, codes};

    fn head(path: &str, lines: &[(&'static str, &str)]) -> Result<Head<'static>, Error> {
        let mut found = HeaderMap::new();
        found.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        for (name, value) in lines {
            let value = HeaderValue::from_str(value).unwrap();
            found.insert(HeaderName::from_static(name), value);
        }
        assert!(is_grpc(&found));
        Head::parse(path, &found).map(Head::into_owned)
    }

    #[test]
    fn a_path_names_a_method() {
        let method = |path: &str| head(path, &[]).map(|head| head.method);
        let typed = |name: &str| method(&format!("/{LEASE_SERVICE}/{name}"));
        assert_eq!(typed("Enqueue"), Ok(Method::Typed(Procedure::Enqueue)));
        assert_eq!(
            typed("DeadLetters"),
            Ok(Method::Typed(Procedure::DeadLetters))
        );
        for name in ["enqueue", "", "Enqueue/", "ENQUEUE"] {
            assert!(typed(name).unwrap_err().is(codes::PROCEDURE_UNKNOWN));
        }
        let replication = |name: &str| method(&format!("/{REPLICATION_SERVICE}/{name}"));
        assert_eq!(replication("Subscribe"), Ok(Method::Subscribe));
        let error = replication("Publish").unwrap_err();
        assert!(error.is(codes::PROCEDURE_UNKNOWN), "{error}");
        assert_eq!(
            method("/grpc.health.v1.Health/Watch"),
            Ok(Method::HealthWatch)
        );
        for service in REFLECTION_SERVICES {
            assert_eq!(
                method(&format!("/{service}/ServerReflectionInfo")),
                Ok(Method::Reflection)
            );
        }
        for path in ["", "/", "/one", "/a/b/c", "/a/"] {
            let error = method(path).unwrap_err();
            assert!(error.is(codes::PROCEDURE_UNKNOWN), "{path}: {error}");
        }
    }

    #[test]
    fn a_yarpc_call_says_who_calls_whom() {
        let error = head("/resourcelease/stats", &[]).unwrap_err();
        assert!(error.is(codes::HEADER_MISSING), "{error}");
        let said = head(
            "/resourcelease/stats",
            &[
                ("rpc-caller", "tests"),
                ("rpc-service", "queue"),
                ("rpc-encoding", "json"),
                ("rpc-shard-key", "7"),
            ],
        )
        .unwrap();
        assert_eq!(said.method, Method::Yarpc);
        assert_eq!(said.rpc.procedure, "resourcelease::stats");
        assert_eq!(said.rpc.encoding, Encoding::Json);
        assert_eq!(said.rpc.shard_key.as_deref(), Some("7"));
    }

    #[test]
    fn the_smallest_deadline_wins() {
        let path = format!("/{LEASE_SERVICE}/Stats");
        let ttl = |lines: &[_]| head(&path, lines).map(|head| head.rpc.ttl);
        assert_eq!(ttl(&[]), Ok(TTL_DEFAULT));
        for (text, ms) in [("1H", 3_600_000), ("2M", 120_000), ("3S", 3_000), ("4m", 4)] {
            assert_eq!(
                ttl(&[("grpc-timeout", text)]),
                Ok(Duration::from_millis(ms))
            );
        }
        assert_eq!(ttl(&[("grpc-timeout", "5u")]), Ok(Duration::from_micros(5)));
        assert_eq!(ttl(&[("grpc-timeout", "99999999H")]), Ok(TTL_MAX));
        assert_eq!(
            ttl(&[("grpc-timeout", "9S"), ("context-ttl-ms", "50")]),
            Ok(Duration::from_millis(50))
        );
        for text in ["", "S", "1", "1s", "-1S", "123456789S", "1.5S"] {
            let error = ttl(&[("grpc-timeout", text)]).unwrap_err();
            assert!(error.is(codes::HEADER_MALFORMED), "{text}: {error}");
        }
    }

    #[test]
    fn replies_are_compressed_as_the_request_is_if_its_sender_reads_that() {
        let path = format!("/{LEASE_SERVICE}/Stats");
        let said = |lines: &[_]| head(&path, lines).map(|head| head.reply_compression);
        let gzip = ("grpc-encoding", "gzip");
        assert_eq!(said(&[gzip]), Ok(Compression::Identity));
        let accepts = ("grpc-accept-encoding", "identity, deflate, gzip");
        assert_eq!(said(&[gzip, accepts]), Ok(Compression::Gzip));
        assert_eq!(said(&[accepts]), Ok(Compression::Identity));
        let error = said(&[("grpc-encoding", "zstd")]).unwrap_err();
        assert!(error.is(codes::COMPRESSION_UNSUPPORTED), "{error}");
    }
}
