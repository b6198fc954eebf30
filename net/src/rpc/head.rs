//! The head of a request: who calls what, how it is encoded, how long it may take.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::Error;
use super::validate::NAME_BYTES_MAX;
use crate::frame::CallFrame;
use crate::messages::OwnershipToken;

/// The time a call may take when its head does not say.
pub const TTL_DEFAULT: Duration = Duration::from_secs(30);

/// The longest time a call may take; a longer wish is cut to it.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The names of the headers, in the lower case that HTTP/2 wants.
pub mod headers {
    use http::HeaderName;

    macro_rules! names {
        ($($(#[$doc:meta])+ $constant:ident $name:literal;)+) => {
            $($(#[$doc])+ pub static $constant: HeaderName = HeaderName::from_static($name);)+
        };
    }

    names! {
        /// Who calls; required.
        CALLER "rpc-caller";
        /// The service called; required, echoed in the reply.
        SERVICE "rpc-service";
        /// The procedure called; required.
        PROCEDURE "rpc-procedure";
        /// How the body is encoded; required.
        ENCODING "rpc-encoding";
        /// YARPC's deadline, ms from now.
        CONTEXT_TTL_MS "context-ttl-ms";
        /// OmniRelay's deadline, ms from now.
        TTL_MS "rpc-ttl-ms";
        /// What decides the shard; in a reply, the shard that served.
        SHARD_KEY "rpc-shard-key";
        /// What decides the peer a call is relayed to.
        ROUTING_KEY "rpc-routing-key";
        /// The service that stands in for the one called.
        ROUTING_DELEGATE "rpc-routing-delegate";
        /// The peer that will own what is leased.
        PEER_ID "x-peer-id";
        /// The lease a call rests on: `sequenceId/attempt/leaseId`.
        LEASE_TOKEN "rpc-lease-token";
        /// The caller takes an error's message from its header and leaves the body to itself: `true`.
        ACCEPTS_BOTH_RESPONSE_ERROR "rpc-accepts-both-response-error";
        /// In a reply: that is done, `true`.
        BOTH_RESPONSE_ERROR "rpc-both-response-error";
        /// In a reply: `success` or `error`.
        STATUS "rpc-status";
        /// In a reply: YARPC's name of the status.
        ERROR_CODE "rpc-error-code";
        /// In a reply: the error's message.
        ERROR_MESSAGE "rpc-error-message";
        /// Which trace the call belongs to, as the W3C says it.
        TRACEPARENT "traceparent";
        /// What other systems that trace say beside it.
        TRACESTATE "tracestate";
        /// In a reply: the span that the server made of the call.
        TRACERESPONSE "traceresponse";
    }

    /// What application headers begin with.
    pub const APPLICATION_PREFIX: &str = "rpc-header-";
}

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `json` or `application/json`.
    Json,
    /// `proto` or `application/x-protobuf`.
    Proto,
    /// `raw`: bytes that only the service understands.
    Raw,
}

impl Encoding {
    /// The name in `Rpc-Encoding`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Proto => "proto",
            Self::Raw => "raw",
        }
    }

    /// The media type in `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Proto => "application/x-protobuf",
            Self::Raw => "application/octet-stream",
        }
    }

    /// The encoding of a name or a media type, whose parameters are ignored.
    ///
    /// # Errors
    /// `rpc.encoding.unsupported`.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let bare = name.split(';').next().unwrap_or_default().trim();
        let is = |known: &str| bare.eq_ignore_ascii_case(known);
        if is("json") || is("application/json") {
            Ok(Self::Json)
        } else if is("proto") || is("application/x-protobuf") {
            Ok(Self::Proto)
        } else if is("raw") {
            Ok(Self::Raw)
        } else {
            let shown: String = bare.chars().take(64).collect();
            Err(Error::encoding_unsupported(format!(
                "encoding `{shown}` is not supported; use json, proto or raw"
            )))
        }
    }
}

/// Everything a request says besides its body. Its texts are its own, or lie in what was read.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestHead<'a> {
    /// Who calls.
    pub caller: Cow<'a, str>,
    /// The service called.
    pub service: Cow<'a, str>,
    /// The procedure called, for the lease queue `<namespace>::<operation>`.
    pub procedure: Cow<'a, str>,
    /// How the body is encoded.
    pub encoding: Encoding,
    /// The time until the caller's deadline, at most [`TTL_MAX`].
    pub ttl: Duration,
    /// What decides the shard.
    pub shard_key: Option<Cow<'a, str>>,
    /// What decides the peer a call is relayed to.
    pub routing_key: Option<Cow<'a, str>>,
    /// The service that stands in for the one called.
    pub routing_delegate: Option<Cow<'a, str>>,
    /// The peer that will own what is leased.
    pub peer_id: Option<Cow<'a, str>>,
    /// The lease the call rests on.
    pub lease_token: Option<OwnershipToken>,
    /// The caller reads an error's message from its header, and its body as a body.
    pub accepts_both_response_error: bool,
    /// Application headers without their prefix, names in lower case, in no order.
    pub headers: Vec<(String, String)>,
}

impl<'a> RequestHead<'a> {
    /// A head with the default deadline and nothing optional.
    #[must_use]
    pub fn new(
        caller: impl Into<Cow<'a, str>>,
        service: impl Into<Cow<'a, str>>,
        procedure: impl Into<Cow<'a, str>>,
        encoding: Encoding,
    ) -> Self {
        Self {
            caller: caller.into(),
            service: service.into(),
            procedure: procedure.into(),
            encoding,
            ttl: TTL_DEFAULT,
            shard_key: None,
            routing_key: None,
            routing_delegate: None,
            peer_id: None,
            lease_token: None,
            accepts_both_response_error: false,
            headers: Vec::new(),
        }
    }

    /// With texts of its own.
    #[must_use]
    pub fn into_owned(self) -> RequestHead<'static> {
        let own = |text: Cow<'a, str>| Cow::Owned(text.into_owned());
        RequestHead {
            caller: own(self.caller),
            service: own(self.service),
            procedure: own(self.procedure),
            shard_key: self.shard_key.map(own),
            routing_key: self.routing_key.map(own),
            routing_delegate: self.routing_delegate.map(own),
            peer_id: self.peer_id.map(own),
            encoding: self.encoding,
            ttl: self.ttl,
            lease_token: self.lease_token,
            accepts_both_response_error: self.accepts_both_response_error,
            headers: self.headers,
        }
    }

    /// Reads a head. Where a header comes twice, the first counts.
    ///
    /// # Errors
    /// `rpc.header.missing` names every required header that is missing or blank;
    /// `rpc.header.malformed` and `rpc.encoding.unsupported` say what cannot be understood.
    pub fn parse(found: &'a HeaderMap) -> Result<Self, Error> {
        let fields = Fields::collect(found)?;
        let required = [
            (&headers::CALLER, fields.caller),
            (&headers::SERVICE, fields.service),
            (&headers::PROCEDURE, fields.procedure),
            (&headers::ENCODING, fields.encoding),
        ];
        let [Some(caller), Some(service), Some(procedure), Some(encoding)] =
            required.map(|(_, text)| text)
        else {
            return Err(missing(&required));
        };
        let encoding = Encoding::parse(encoding)?;
        fields.head(caller, service, procedure.into(), encoding, None)
    }

    /// Reads a head whose procedure the path says. `caller` stands in for a caller that does not
    /// say who it is, `service` for a service that is not named, where there is such a stand-in;
    /// `encoding` for an encoding that is not. `timeout` is one more deadline, of the transport's.
    ///
    /// # Errors
    /// As [`RequestHead::parse`].
    pub fn parse_for_path(
        found: &'a HeaderMap,
        procedure: impl Into<Cow<'a, str>>,
        stand_in: Option<(&'a str, &'a str)>,
        encoding: Encoding,
        timeout: Option<Duration>,
    ) -> Result<Self, Error> {
        let fields = Fields::collect(found)?;
        let encoding = fields.encoding.map_or(Ok(encoding), Encoding::parse)?;
        let required = [
            (
                &headers::CALLER,
                fields.caller.or(stand_in.map(|(caller, _)| caller)),
            ),
            (
                &headers::SERVICE,
                fields.service.or(stand_in.map(|(_, service)| service)),
            ),
        ];
        let [Some(caller), Some(service)] = required.map(|(_, text)| text) else {
            return Err(missing(&required));
        };
        fields.head(caller, service, procedure.into(), encoding, timeout)
    }

    /// The head of a call in a frame. What the call leaves out, `caller` and `service` stand in for,
    /// unless they are empty.
    ///
    /// # Errors
    /// As [`RequestHead::parse`].
    pub fn from_frame(
        call: &'a CallFrame,
        caller: &'a str,
        service: &'a str,
    ) -> Result<Self, Error> {
        let Some(encoding) = call.encoding else {
            return Err(Error::encoding_unsupported(
                "the call's encoding is unknown; use 0 (proto), 1 (json) or 2 (raw)",
            ));
        };
        let required = [
            (&headers::CALLER, said(call.caller()).or(said(caller))),
            (&headers::SERVICE, said(call.service()).or(said(service))),
            (&headers::PROCEDURE, said(call.procedure())),
        ];
        let [Some(caller), Some(service), Some(procedure)] = required.map(|(_, text)| text) else {
            return Err(missing(&required));
        };
        let application = call.headers();
        let fields = Fields {
            shard_key: said(call.shard_key()),
            routing_key: said(call.routing_key()),
            routing_delegate: said(call.routing_delegate()),
            peer_id: said(call.peer_id()),
            lease_token: said(call.lease_token()),
            application: application
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            ..Fields::default()
        };
        fields.head(
            caller,
            service,
            procedure.into(),
            encoding,
            Some(call.ttl()),
        )
    }

    /// The headers that say this head.
    ///
    /// # Errors
    /// `rpc.header.malformed` for a value that no header can carry.
    pub fn to_headers(&self) -> Result<HeaderMap, Error> {
        let mut out = HeaderMap::with_capacity(8 + self.headers.len());
        let mut put = |name: &HeaderName, text: &str| -> Result<(), Error> {
            out.insert(name.clone(), value(name.as_str(), text)?);
            Ok(())
        };
        put(&headers::CALLER, &self.caller)?;
        put(&headers::SERVICE, &self.service)?;
        put(&headers::PROCEDURE, &self.procedure)?;
        put(&headers::ENCODING, self.encoding.name())?;
        put(&headers::CONTEXT_TTL_MS, &self.ttl.as_millis().to_string())?;
        let optional = [
            (&headers::SHARD_KEY, &self.shard_key),
            (&headers::ROUTING_KEY, &self.routing_key),
            (&headers::ROUTING_DELEGATE, &self.routing_delegate),
            (&headers::PEER_ID, &self.peer_id),
        ];
        for (name, text) in optional {
            if let Some(text) = text {
                put(name, text)?;
            }
        }
        if self.accepts_both_response_error {
            put(&headers::ACCEPTS_BOTH_RESPONSE_ERROR, "true")?;
        }
        if let Some(token) = &self.lease_token {
            let text = format!("{}/{}/{}", token.sequence_id, token.attempt, token.lease_id);
            put(&headers::LEASE_TOKEN, &text)?;
        }
        for (name, text) in &self.headers {
            let full = format!("{}{name}", headers::APPLICATION_PREFIX);
            let full = HeaderName::try_from(full).map_err(|_| {
                Error::header_malformed(format!("`{name}` is not the name of a header"))
            })?;
            let text = value(full.as_str(), text)?;
            out.append(full, text);
        }
        Ok(out)
    }
}

/// Turns text into a header value.
fn value(name: &str, text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_bytes(text.as_bytes())
        .map_err(|_| Error::header_malformed(format!("the value of {name} has control characters")))
}

/// The headers that matter, trimmed, found in one pass: looking each up costs more than reading
/// them all. A blank one is absent.
#[derive(Default)]
struct Fields<'a> {
    caller: Option<&'a str>,
    service: Option<&'a str>,
    procedure: Option<&'a str>,
    encoding: Option<&'a str>,
    context_ttl_ms: Option<&'a str>,
    ttl_ms: Option<&'a str>,
    shard_key: Option<&'a str>,
    routing_key: Option<&'a str>,
    routing_delegate: Option<&'a str>,
    peer_id: Option<&'a str>,
    lease_token: Option<&'a str>,
    accepts_both: Option<&'a str>,
    application: Vec<(String, String)>,
}

impl<'a> Fields<'a> {
    fn collect(found: &'a HeaderMap) -> Result<Self, Error> {
        let mut fields = Self::default();
        for (name, value) in found {
            let field = match name.as_str() {
                "rpc-caller" => &mut fields.caller,
                "rpc-service" => &mut fields.service,
                "rpc-procedure" => &mut fields.procedure,
                "rpc-encoding" => &mut fields.encoding,
                "context-ttl-ms" => &mut fields.context_ttl_ms,
                "rpc-ttl-ms" => &mut fields.ttl_ms,
                "rpc-shard-key" => &mut fields.shard_key,
                "rpc-routing-key" => &mut fields.routing_key,
                "rpc-routing-delegate" => &mut fields.routing_delegate,
                "x-peer-id" => &mut fields.peer_id,
                "rpc-lease-token" => &mut fields.lease_token,
                "rpc-accepts-both-response-error" => &mut fields.accepts_both,
                other => {
                    if let Some(bare) = other.strip_prefix(headers::APPLICATION_PREFIX)
                        && !bare.is_empty()
                    {
                        let text = utf8(name, value)?.to_owned();
                        fields.application.push((bare.to_owned(), text));
                    }
                    continue;
                }
            };
            let text = utf8(name, value)?.trim();
            if field.is_none() && !text.is_empty() {
                *field = Some(text);
            }
        }
        Ok(fields)
    }
}

impl<'a> Fields<'a> {
    /// The head, the required of its fields given.
    fn head(
        self,
        caller: &'a str,
        service: &'a str,
        procedure: Cow<'a, str>,
        encoding: Encoding,
        timeout: Option<Duration>,
    ) -> Result<RequestHead<'a>, Error> {
        Ok(RequestHead {
            caller: bounded(&headers::CALLER, caller.into())?,
            service: bounded(&headers::SERVICE, service.into())?,
            procedure: bounded(&headers::PROCEDURE, procedure)?,
            encoding,
            ttl: ttl(&self, timeout)?,
            shard_key: key(&headers::SHARD_KEY, self.shard_key)?,
            routing_key: key(&headers::ROUTING_KEY, self.routing_key)?,
            routing_delegate: key(&headers::ROUTING_DELEGATE, self.routing_delegate)?,
            peer_id: key(&headers::PEER_ID, self.peer_id)?,
            lease_token: self.lease_token.map(lease_token).transpose()?,
            accepts_both_response_error: self.accepts_both == Some("true"),
            headers: self.application,
        })
    }
}

/// A text of a frame without the blanks around it, which hardly any has; none if that is empty.
fn said(text: &str) -> Option<&str> {
    let is_bare = |byte: &u8| byte.is_ascii_graphic();
    let text = match text.as_bytes() {
        [] => return None,
        bytes if bytes.first().is_some_and(is_bare) && bytes.last().is_some_and(is_bare) => text,
        _ => text.trim(),
    };
    Some(text).filter(|text| !text.is_empty())
}

/// A header's value as text.
fn utf8<'a>(name: &HeaderName, value: &'a HeaderValue) -> Result<&'a str, Error> {
    std::str::from_utf8(value.as_bytes())
        .map_err(|error| Error::header_malformed(format!("{name} is not UTF-8: {error}")))
}

/// A header that may name something.
fn key<'a>(name: &HeaderName, text: Option<&'a str>) -> Result<Option<Cow<'a, str>>, Error> {
    text.map(|text| bounded(name, text.into())).transpose()
}

/// A name within its limit: some are kept as long as an item lives.
fn bounded<'a>(name: &HeaderName, text: Cow<'a, str>) -> Result<Cow<'a, str>, Error> {
    if text.len() <= NAME_BYTES_MAX {
        return Ok(text);
    }
    Err(Error::header_malformed(format!(
        "{name} has {} bytes; at most {NAME_BYTES_MAX} are allowed",
        text.len()
    )))
}

/// The error for required headers of which at least one is missing.
fn missing(required: &[(&HeaderName, Option<&str>)]) -> Error {
    let absent = required.iter().filter(|(_, text)| text.is_none());
    let names: Vec<String> = absent.map(|(name, _)| title(name.as_str())).collect();
    let list = names.join(", ");
    Error::header_missing(format!("missing required headers: {list}")).with("headers", list)
}

/// A header's name as people write it: `rpc-caller` is `Rpc-Caller`.
fn title(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    words.collect::<Vec<_>>().join("-")
}

/// The deadline: the smallest of both headers and the transport's, else the default.
fn ttl(fields: &Fields<'_>, timeout: Option<Duration>) -> Result<Duration, Error> {
    let yarpc = ttl_ms(&headers::CONTEXT_TTL_MS, fields.context_ttl_ms)?;
    let own = ttl_ms(&headers::TTL_MS, fields.ttl_ms)?;
    let said = [yarpc, own].map(|ttl_ms| ttl_ms.map(Duration::from_millis));
    let smallest = said.into_iter().chain([timeout]).flatten().min();
    Ok(smallest.map_or(TTL_DEFAULT, |ttl| ttl.min(TTL_MAX)))
}

/// A non-negative integer of milliseconds; one that overflows is as good as the maximum.
fn ttl_ms(name: &HeaderName, text: Option<&str>) -> Result<Option<u64>, Error> {
    let Some(text) = text else {
        return Ok(None);
    };
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Some(text.parse().unwrap_or(u64::MAX)));
    }
    let shown: String = text.chars().take(64).collect();
    Err(Error::header_malformed(format!(
        "{name} is `{shown}`; it takes a non-negative integer of milliseconds"
    )))
}

/// Reads `sequenceId/attempt/leaseId`.
fn lease_token(text: &str) -> Result<OwnershipToken, Error> {
    let mut parts = text.split('/');
    let token = (|| {
        let sequence_id = parts.next()?.parse().ok()?;
        let attempt = parts.next()?.parse().ok()?;
        let lease_id = parts
            .next()
            .filter(|id| !id.is_empty() && id.len() <= NAME_BYTES_MAX)?;
        parts.next().is_none().then(|| OwnershipToken {
            sequence_id,
            attempt,
            lease_id: lease_id.to_owned(),
        })
    })();
    token.ok_or_else(|| {
        let shown: String = text.chars().take(128).collect();
        Error::header_malformed(format!(
            "{} is `{shown}`; it takes sequenceId/attempt/leaseId",
            headers::LEASE_TOKEN
        ))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rpc::codes;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        map
    }

    /// A whole head with some lines added.
    fn whole(lines: &[(&str, &str)]) -> HeaderMap {
        let mut all = vec![
            ("Rpc-Caller", "tests"),
            ("Rpc-Service", "queue"),
            ("Rpc-Procedure", "resourcelease::lease"),
            ("Rpc-Encoding", "json"),
        ];
        all.extend_from_slice(lines);
        map(&all)
    }

    fn refusal(found: &HeaderMap) -> (String, String) {
        let error = RequestHead::parse(found).unwrap_err();
        (error.error_code.into_owned(), error.message)
    }

    #[test]
    fn every_missing_header_is_named() {
        let (code, message) = refusal(&HeaderMap::new());
        assert_eq!(code, codes::HEADER_MISSING.name);
        assert_eq!(
            message,
            "missing required headers: Rpc-Caller, Rpc-Service, Rpc-Procedure, Rpc-Encoding"
        );
        let (_, message) = refusal(&map(&[("rpc-service", "queue"), ("rpc-caller", "  ")]));
        assert_eq!(
            message,
            "missing required headers: Rpc-Caller, Rpc-Procedure, Rpc-Encoding"
        );
    }

    #[test]
    fn a_head_without_options_has_the_defaults() {
        let expected = RequestHead::new("tests", "queue", "resourcelease::lease", Encoding::Json);
        assert_eq!(RequestHead::parse(&whole(&[])), Ok(expected));
    }

    #[test]
    fn every_optional_header_is_read() {
        let found = whole(&[
            ("Rpc-Shard-Key", "s"),
            ("Rpc-Routing-Key", "k"),
            ("Rpc-Routing-Delegate", "d"),
            ("x-peer-id", "worker-1"),
            (
                "Rpc-Lease-Token",
                "17/2/0190a6f2-0000-8000-8000-000000000000",
            ),
            ("Rpc-Header-Trace", "abc"),
            ("Rpc-Header-", "no name, so left out"),
            ("accept", "*/*"),
        ]);
        let head = RequestHead::parse(&found).unwrap();
        assert_eq!(head.shard_key.as_deref(), Some("s"));
        assert_eq!(head.routing_key.as_deref(), Some("k"));
        assert_eq!(head.routing_delegate.as_deref(), Some("d"));
        assert_eq!(head.peer_id.as_deref(), Some("worker-1"));
        let token = head.lease_token.unwrap();
        assert_eq!((token.sequence_id, token.attempt), (17, 2));
        assert_eq!(token.lease_id, "0190a6f2-0000-8000-8000-000000000000");
        assert_eq!(head.headers, [("trace".to_owned(), "abc".to_owned())]);
    }

    #[test]
    fn the_smaller_deadline_wins() {
        let ttl = |lines: &[(&str, &str)]| RequestHead::parse(&whole(lines)).map(|head| head.ttl);
        let millis = Duration::from_millis;
        assert_eq!(ttl(&[]), Ok(TTL_DEFAULT));
        assert_eq!(ttl(&[("Context-TTL-MS", "1500")]), Ok(millis(1500)));
        assert_eq!(ttl(&[("Rpc-Ttl-Ms", "0")]), Ok(Duration::ZERO));
        assert_eq!(
            ttl(&[("Context-TTL-MS", "90"), ("Rpc-Ttl-Ms", "80")]),
            Ok(millis(80))
        );
        assert_eq!(
            ttl(&[("Context-TTL-MS", "70"), ("Rpc-Ttl-Ms", "80")]),
            Ok(millis(70))
        );
        assert_eq!(
            ttl(&[("Context-TTL-MS", "99999999999999999999999")]),
            Ok(TTL_MAX)
        );
    }

    #[test]
    fn a_header_that_makes_no_sense_is_refused_by_name() {
        let refusals = [
            (
                ("context-ttl-ms", "-1"),
                codes::HEADER_MALFORMED,
                "context-ttl-ms is `-1`; it takes a non-negative integer of milliseconds",
            ),
            (
                ("rpc-ttl-ms", "1.5"),
                codes::HEADER_MALFORMED,
                "rpc-ttl-ms is `1.5`; it takes a non-negative integer of milliseconds",
            ),
            (
                ("rpc-lease-token", "17/2"),
                codes::HEADER_MALFORMED,
                "rpc-lease-token is `17/2`; it takes sequenceId/attempt/leaseId",
            ),
            (
                ("rpc-lease-token", "17/2/a/b"),
                codes::HEADER_MALFORMED,
                "rpc-lease-token is `17/2/a/b`; it takes sequenceId/attempt/leaseId",
            ),
        ];
        for (line, code, message) in refusals {
            assert_eq!(
                refusal(&whole(&[line])),
                (code.name.to_owned(), message.to_owned())
            );
        }
        let long = "k".repeat(513);
        let (code, message) = refusal(&whole(&[("rpc-shard-key", &long)]));
        assert_eq!(code, codes::HEADER_MALFORMED.name);
        assert_eq!(
            message,
            "rpc-shard-key has 513 bytes; at most 512 are allowed"
        );
        let mut found = whole(&[]);
        found.insert(&headers::CALLER, HeaderValue::from_bytes(b"\xff").unwrap());
        let (code, message) = refusal(&found);
        assert_eq!(code, codes::HEADER_MALFORMED.name);
        assert!(message.starts_with("rpc-caller is not UTF-8"), "{message}");
    }

    #[test]
    fn encodings_go_by_name_and_by_media_type() {
        let names = [
            ("json", Encoding::Json),
            ("application/json", Encoding::Json),
            ("application/json; charset=utf-8", Encoding::Json),
            ("proto", Encoding::Proto),
            ("application/x-protobuf", Encoding::Proto),
            ("raw", Encoding::Raw),
        ];
        for (name, encoding) in names {
            assert_eq!(Encoding::parse(name), Ok(encoding));
        }
        let error = Encoding::parse("thrift").unwrap_err();
        assert!(error.is(codes::ENCODING_UNSUPPORTED));
        assert_eq!(
            error.message,
            "encoding `thrift` is not supported; use json, proto or raw"
        );
    }

    #[test]
    fn a_value_no_header_can_carry_is_not_sent() {
        let head = RequestHead::new("two\nlines", "queue", "a::b", Encoding::Json);
        assert!(head.to_headers().unwrap_err().is(codes::HEADER_MALFORMED));
    }

    prop_compose! {
        fn word()(word in "[!-~]([ -~]{0,20}[!-~])?") -> String { word }
    }

    prop_compose! {
        fn any_head()(
            (caller, service, procedure) in (word(), word(), word()),
            encoding in prop_oneof![Just(Encoding::Json), Just(Encoding::Proto), Just(Encoding::Raw)],
            ttl_ms in 0_u64..=86_400_000,
            shard_key in proptest::option::of(word()),
            routing_key in proptest::option::of(word()),
            routing_delegate in proptest::option::of(word()),
            peer_id in proptest::option::of(word()),
            token in proptest::option::of((any::<u64>(), any::<u32>(), "[a-f0-9-]{1,36}")),
            headers in proptest::collection::btree_map("[a-z][a-z0-9-]{0,9}", word(), 0..3),
        ) -> RequestHead<'static> {
            RequestHead {
                ttl: Duration::from_millis(ttl_ms),
                shard_key: shard_key.map(Into::into),
                routing_key: routing_key.map(Into::into),
                routing_delegate: routing_delegate.map(Into::into),
                peer_id: peer_id.map(Into::into),
                lease_token: token.map(|(sequence_id, attempt, lease_id)| OwnershipToken {
                    sequence_id,
                    attempt,
                    lease_id,
                }),
                headers: headers.into_iter().collect(),
                ..RequestHead::new(caller, service, procedure, encoding)
            }
        }
    }

    proptest! {
        #[test]
        fn a_head_survives_its_headers(head in any_head()) {
            let found = head.to_headers().unwrap();
            let mut read = RequestHead::parse(&found).unwrap();
            read.headers.sort();
            prop_assert_eq!(read, head);
        }

        #[test]
        fn no_header_value_panics(
            values in proptest::collection::vec(
                proptest::collection::vec(prop_oneof![0x20_u8..0x7f, 0x80_u8..], 0..40), 14
            ),
        ) {
            let names = [
                "rpc-caller", "rpc-service", "rpc-procedure", "rpc-encoding", "context-ttl-ms",
                "rpc-ttl-ms", "rpc-shard-key", "rpc-routing-key", "rpc-routing-delegate",
                "x-peer-id", "rpc-lease-token", "rpc-header-a", "rpc-header-", "accept",
            ];
            let mut found = HeaderMap::new();
            for (name, value) in names.into_iter().zip(&values) {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    found.append(name, value);
                }
            }
            if let Ok(head) = RequestHead::parse(&found) {
                let _ = crate::rpc::Procedure::parse(&head.procedure);
            }
        }
    }
}
