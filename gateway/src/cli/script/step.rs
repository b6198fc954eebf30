//! What a step of a script can say.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use omnirelay_net::rpc::{Code, Encoding};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::super::target::Transport;
use super::variables::is_name;

/// Longest a script waits in one step.
const DELAY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// One RPC.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Request {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) transport: Transport,
    #[serde(default)]
    pub(super) address: Option<String>,
    #[serde(default)]
    pub(super) url: Option<String>,
    pub(super) service: String,
    pub(super) procedure: String,
    #[serde(default)]
    pub(super) caller: Option<String>,
    #[serde(default = "json", deserialize_with = "encoding")]
    pub(super) encoding: Encoding,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) shard_key: Option<String>,
    /// A text is sent as it is, anything else as JSON.
    #[serde(default)]
    pub(super) body: Option<Value>,
    #[serde(default)]
    pub(super) body_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) body_base64: Option<String>,
    #[serde(default = "half_a_minute", deserialize_with = "duration")]
    pub(super) timeout: Duration,
    #[serde(default)]
    pub(super) expect: Expect,
    #[serde(default)]
    pub(super) capture: BTreeMap<Name, Pointer>,
}

/// A node's own document.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Introspect {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) url: Option<String>,
    #[serde(default = "half_a_minute", deserialize_with = "duration")]
    pub(super) timeout: Duration,
    #[serde(default)]
    pub(super) expect: ExpectDocument,
    #[serde(default)]
    pub(super) capture: BTreeMap<Name, Pointer>,
}

/// A pause.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Delay {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(deserialize_with = "duration")]
    pub(super) duration: Duration,
}

/// What an RPC's reply has to be; success if it does not say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    #[serde(default, deserialize_with = "status")]
    pub(super) status: Option<Code>,
    #[serde(default)]
    pub(super) code: Option<String>,
    #[serde(default)]
    pub(super) body: BTreeMap<Pointer, Value>,
}

/// What a document has to hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectDocument {
    #[serde(default)]
    pub(super) body: BTreeMap<Pointer, Value>,
}

/// A variable's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Name(pub(super) String);

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Name, String> {
        if is_name(&text) {
            return Ok(Name(text));
        }
        Err(format!(
            "`{text}` is no name: it has letters, digits and _, and does not begin with a digit"
        ))
    }
}

/// A place in a JSON document (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Pointer(pub(super) String);

impl TryFrom<String> for Pointer {
    type Error = String;

    fn try_from(text: String) -> Result<Pointer, String> {
        if text.is_empty() || text.starts_with('/') {
            return Ok(Pointer(text));
        }
        Err(format!(
            "`{text}` is no JSON pointer: write /{}, or \"\" for the whole document",
            text.replace('.', "/")
        ))
    }
}

fn json() -> Encoding {
    Encoding::Json
}

fn half_a_minute() -> Duration {
    Duration::from_secs(30)
}

fn encoding<'de, D: Deserializer<'de>>(from: D) -> Result<Encoding, D::Error> {
    let text = String::deserialize(from)?;
    Encoding::parse(&text).map_err(|error| D::Error::custom(error.message))
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let duration = super::super::body::parse_duration(&text).map_err(D::Error::custom)?;
    if duration > DELAY_MAX {
        return Err(D::Error::custom("it is longer than a day"));
    }
    Ok(duration)
}

/// A status as YARPC or as gRPC names it.
fn status<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Code>, D::Error> {
    let text = String::deserialize(from)?;
    let found = Code::from_name(&text).or_else(|| Code::from_grpc_name(&text));
    let refuse = || {
        let nearest = Code::ALL
            .into_iter()
            .map(Code::name)
            .max_by(|a, b| strsim::jaro(a, &text).total_cmp(&strsim::jaro(b, &text)))
            .unwrap_or_default();
        D::Error::custom(format!("`{text}` is no status; is it `{nearest}`?"))
    };
    found.map(Some).ok_or_else(refuse)
}
