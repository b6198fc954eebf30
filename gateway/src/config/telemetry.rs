//! What a node tells an OpenTelemetry collector, and where that is.

use std::fmt;
use std::time::Duration;

use http::Uri;
use http::header::{HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use percent_encoding::percent_decode_str;

use super::error::ConfigError;
use super::namespace::{duration, number, secret, text};
use super::tree::{Entry, entry};

/// The shortest interval of metrics: each has the cores report.
const METRICS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Attributes of the node that go with everything it sends.
const ATTRIBUTES_MAX: usize = 64;

/// Headers of a request to a collector, and the bytes in which they are written.
const HEADERS_MAX: usize = 32;
const HEADERS_BYTES_MAX: usize = 8_192;
/// Headers that the request has anyway.
const HEADERS_TAKEN: [&str; 7] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "user-agent",
];

/// Samplers by their OpenTelemetry names.
pub(super) const SAMPLERS: &[&str] = &[
    "parentbased_traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "traceidratio",
    "always_on",
    "always_off",
];

/// Where OTLP over HTTP is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtlpEndpoint {
    /// Host, and port if it is not 80.
    pub authority: Authority,
    /// What comes before `/v1/traces`, without a slash at its end.
    pub prefix: String,
}

impl OtlpEndpoint {
    /// Reads `http://host:port`, with a path before `/v1/…` where there is one.
    pub(super) fn parse(text: &str) -> Option<OtlpEndpoint> {
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let is_plain = uri.scheme_str() == Some("http")
            && uri.query().is_none()
            && !authority.as_str().contains('@')
            && !authority.host().is_empty();
        is_plain.then(|| OtlpEndpoint {
            authority: authority.clone(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        let port = self.authority.port_u16().unwrap_or(80);
        format!("{}:{port}", self.authority.host())
    }

    /// Where a signal's requests are posted to, such as `traces`.
    ///
    /// # Panics
    /// If `signal` is no segment of a path.
    pub fn path(&self, signal: &str) -> PathAndQuery {
        let path = format!("{}/v1/{signal}", self.prefix);
        path.parse().expect("a path and a segment are a path")
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.prefix)
    }
}

/// What goes with every request to the collector, such as a token. The values are secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtlpHeaders(pub Vec<(HeaderName, HeaderValue)>);

impl OtlpHeaders {
    /// Reads `name=value,name=value`, with percent-encoding in the values, as
    /// `OTEL_EXPORTER_OTLP_HEADERS` has it.
    /// <https://opentelemetry.io/docs/specs/otel/protocol/exporter/#specifying-headers-via-environment-variables>
    pub(super) fn parse(text: &str) -> Option<OtlpHeaders> {
        if text.len() > HEADERS_BYTES_MAX {
            return None;
        }
        let mut headers = Vec::new();
        for pair in text.split(',').map(str::trim) {
            if pair.is_empty() {
                continue;
            }
            let (name, value) = pair.split_once('=')?;
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            if HEADERS_TAKEN.contains(&name.as_str()) || headers.len() == HEADERS_MAX {
                return None;
            }
            let value: Vec<u8> = percent_decode_str(value.trim()).collect();
            let mut value = HeaderValue::from_bytes(&value).ok()?;
            value.set_sensitive(true);
            headers.push((name, value));
        }
        Some(OtlpHeaders(headers))
    }
}

/// Which calls make spans.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// A call that comes with a trace is recorded if that is, and not otherwise.
    pub follows_caller: bool,
    /// The share of the other traces, from 0 to 1.
    pub ratio: f64,
}

/// What is told, and to whom.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    /// Where to; `None` tells nobody anything.
    pub endpoint: Option<OtlpEndpoint>,
    /// What the collector wants to see beside it.
    pub headers: OtlpHeaders,
    /// Which calls make spans.
    pub sampling: Sampling,
    /// How often metrics are sent; `None` is never.
    pub metrics_interval: Option<Duration>,
    /// `service.name`.
    pub service_name: String,
    /// Further attributes of the node.
    pub resource_attributes: Vec<(String, String)>,
}

impl Telemetry {
    pub(super) fn read(node: &[Entry]) -> Result<Telemetry, ConfigError> {
        let endpoint = text(node, "telemetry.otlp_endpoint");
        if cfg!(not(feature = "otlp")) && !endpoint.is_empty() {
            let entry = entry(node, "telemetry.otlp_endpoint");
            return Err(ConfigError::Contradiction {
                message: format!(
                    "`{} = {}` ({}) is beyond this build, which has no OTLP",
                    entry.path,
                    entry.setting.to_toml(),
                    entry.origin
                ),
                help: "build with the Cargo feature `otlp`, or set it to \"\"".into(),
            });
        }
        let interval = duration(node, "telemetry.metrics_interval");
        if !interval.is_zero() && interval < METRICS_INTERVAL_MIN {
            let entry = entry(node, "telemetry.metrics_interval");
            return Err(ConfigError::Value {
                origin: entry.origin.clone(),
                key: entry.path.clone(),
                value: entry.setting.to_toml(),
                allowed: "at least \"100ms\", or \"0s\" for no metrics".into(),
            });
        }
        let ratio = number(node, "telemetry.traces_sample_ratio");
        let (follows_caller, ratio) = match text(node, "telemetry.traces_sampler") {
            "parentbased_traceidratio" => (true, ratio),
            "parentbased_always_on" => (true, 1.0),
            "parentbased_always_off" => (true, 0.0),
            "traceidratio" => (false, ratio),
            "always_on" => (false, 1.0),
            _ => (false, 0.0),
        };
        let attributes = text(node, "telemetry.resource_attributes");
        let mut attributes = parse_attributes(attributes).expect("its knob has read it");
        // A name among the attributes counts where no other is given.
        let named = attributes.iter().position(|(key, _)| key == "service.name");
        let named = named.map(|at| attributes.remove(at).1);
        let service_name = match named {
            Some(name) if entry(node, "telemetry.service_name").is_default => name,
            _ => text(node, "telemetry.service_name").to_owned(),
        };
        Ok(Telemetry {
            endpoint: OtlpEndpoint::parse(endpoint),
            headers: OtlpHeaders::parse(secret(node, "telemetry.otlp_headers"))
                .expect("its knob has read it"),
            sampling: Sampling {
                follows_caller,
                ratio,
            },
            metrics_interval: (!interval.is_zero()).then_some(interval),
            service_name,
            resource_attributes: attributes,
        })
    }
}

/// Reads `key=value,key=value`, with percent-encoding in the values, as `OTEL_RESOURCE_ATTRIBUTES`
/// has it.
pub(super) fn parse_attributes(text: &str) -> Option<Vec<(String, String)>> {
    let mut attributes = Vec::new();
    for pair in text.split(',').map(str::trim) {
        if pair.is_empty() {
            continue;
        }
        let (key, value) = pair.split_once('=')?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() || attributes.len() == ATTRIBUTES_MAX {
            return None;
        }
        let value = percent_decode_str(value).decode_utf8().ok()?;
        attributes.push((key.to_owned(), value.into_owned()));
    }
    Some(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_plain_url_of_a_host() {
        let endpoint = |text: &str| {
            let endpoint = OtlpEndpoint::parse(text)?;
            Some((endpoint.address(), endpoint.path("traces").to_string()))
        };
        let is = |address: &str, path: &str| Some((address.to_owned(), path.to_owned()));
        assert_eq!(
            endpoint("http://localhost:4318"),
            is("localhost:4318", "/v1/traces")
        );
        assert_eq!(
            endpoint("http://[::1]:4318/"),
            is("[::1]:4318", "/v1/traces")
        );
        assert_eq!(
            endpoint("http://otel/a/b/"),
            is("otel:80", "/a/b/v1/traces")
        );
        for refused in [
            "",
            "localhost:4318",
            "https://localhost:4318",
            "http://user@localhost",
            "http://localhost?a=b",
            "http://",
            "/v1/traces",
        ] {
            assert_eq!(endpoint(refused), None, "{refused}");
        }
    }

    #[test]
    fn headers_are_pairs_with_percent_encoding_and_are_not_shown() {
        let read = |text: &str| {
            let headers = OtlpHeaders::parse(text)?.0.into_iter();
            let text = |(name, value): (HeaderName, HeaderValue)| {
                format!("{name}: {}", value.to_str().unwrap())
            };
            Some(headers.map(text).collect::<Vec<_>>())
        };
        let is = |headers: &[&str]| Some(headers.iter().map(|&text| text.to_owned()).collect());
        assert_eq!(
            read("Authorization=Basic%20dXNlcjpwYXNz, x-tenant = a%2Cb+c%3D ,,x-empty=,x-raw=d=="),
            is(&[
                "authorization: Basic dXNlcjpwYXNz",
                "x-tenant: a,b+c=",
                "x-empty: ",
                "x-raw: d=="
            ])
        );
        assert_eq!(read(""), is(&[]));
        for refused in [
            "authorization",
            "=b",
            "no name=b",
            "x%2dy=z,a b=c",
            "line=a%0Ab",
            "Content-Type=text/plain",
            "host=elsewhere",
        ] {
            assert_eq!(read(refused), None, "{refused}");
        }
        assert_eq!(read(&"k=v,".repeat(HEADERS_MAX + 1)), None);
        assert_eq!(read(&format!("k={}", "v".repeat(HEADERS_BYTES_MAX))), None);
        let shown = format!("{:?}", OtlpHeaders::parse("authorization=hush").unwrap());
        assert!(!shown.contains("hush"), "{shown}");
    }

    #[test]
    fn attributes_are_pairs_with_percent_encoding() {
        let pairs = parse_attributes("deployment.environment = prod, team=a%2Cb%20c,,x=").unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            pairs,
            [
                pair("deployment.environment", "prod"),
                pair("team", "a,b c"),
                pair("x", "")
            ]
        );
        assert_eq!(parse_attributes(""), Some(Vec::new()));
        for refused in ["a", "=b", "a=%ff"] {
            assert_eq!(parse_attributes(refused), None, "{refused}");
        }
        let many = "k=v,".repeat(ATTRIBUTES_MAX + 1);
        assert_eq!(parse_attributes(&many), None);
    }
}
