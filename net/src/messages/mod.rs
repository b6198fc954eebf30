//! The wire messages: one set of types, read and written as protobuf and as JSON.
//!
//! Both encodings carry the same fields. In JSON names are camelCase, bytes are padded base64,
//! times are RFC 3339 in UTC, integers stay within 2^53 − 1, optional fields that are not set are
//! left out, `null` counts as absent, and fields nobody knows are ignored.

pub(crate) mod json;
pub mod read;
pub mod reasons;
mod results;
pub mod view;
pub mod write;

/// What prost makes of `proto/`; the fields are described there.
#[allow(missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/omnirelay.resourcelease.v1.rs"));
}

pub use generated::*;
pub use prost_types::Timestamp;

/// The most entries one batch may hold, in either direction.
pub const BATCH_ITEMS_MAX: usize = 1_000;

/// The largest integer JSON carries exactly everywhere: 2^53 − 1.
pub const JSON_INTEGER_MAX: u64 = (1 << 53) - 1;
