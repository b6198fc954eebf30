//! Errors as callers see them: a status, a stable code, a message and metadata.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use super::Code;
use crate::messages;

/// A stable error code of the protocol and the status it comes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode {
    /// The name on the wire, e.g. `resourcelease.lease.fenced`.
    pub name: &'static str,
    /// The status it always comes with.
    pub code: Code,
}

/// A call that was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The status.
    pub code: Code,
    /// The stable code; one of [`codes`] unless it came from a server of another version.
    pub error_code: Cow<'static, str>,
    /// What happened, in words its reader can act on.
    pub message: String,
    /// More for programs, e.g. `reason` of a fenced lease.
    pub metadata: BTreeMap<String, String>,
}

/// Defines the table of codes, and a constructor of [`Error`] for each.
macro_rules! error_codes {
    ($($(#[$doc:meta])+ $constant:ident $constructor:ident $name:literal $code:ident;)+) => {
        /// The error codes of the protocol.
        pub mod codes {
            use super::{Code, ErrorCode};

            $($(#[$doc])+
            pub const $constant: ErrorCode = ErrorCode { name: $name, code: Code::$code };)+

            /// Every error code.
            pub const ALL: &[ErrorCode] = &[$($constant),+];
        }

        impl Error {
            $($(#[$doc])+
            #[must_use]
            pub fn $constructor(message: impl Into<String>) -> Self {
                Self::new(codes::$constant, message)
            })+
        }
    };
}

error_codes! {
    /// A call that needs a payload came without one.
    PAYLOAD_REQUIRED payload_required
        "resourcelease.payload.required" InvalidArgument;
    /// `payload.resourceType` is blank.
    RESOURCE_TYPE_REQUIRED resource_type_required
        "resourcelease.payload.resource_type_required" InvalidArgument;
    /// `payload.resourceId` is blank.
    RESOURCE_ID_REQUIRED resource_id_required
        "resourcelease.payload.resource_id_required" InvalidArgument;
    /// `payload.payloadEncoding` is blank.
    ENCODING_REQUIRED encoding_required
        "resourcelease.payload.encoding_required" InvalidArgument;
    /// A field, a body or a batch is above its limit.
    PAYLOAD_TOO_LARGE payload_too_large
        "resourcelease.payload.too_large" InvalidArgument;
    /// A restore came without items.
    PENDING_ITEM_REQUIRED pending_item_required
        "resourcelease.restore.pending_item_required" InvalidArgument;
    /// Required headers are missing; the message names them all.
    HEADER_MISSING header_missing "rpc.header.missing" InvalidArgument;
    /// A header's value cannot be understood.
    HEADER_MALFORMED header_malformed "rpc.header.malformed" InvalidArgument;
    /// The body, or a field in it, cannot be understood; the message says where.
    BODY_MALFORMED body_malformed "rpc.body.malformed" InvalidArgument;
    /// A frame of a stream cannot be understood, or has no place there; the stream ends.
    FRAME_MALFORMED frame_malformed "rpc.frame.malformed" InvalidArgument;
    /// No version of the frames that both sides speak.
    VERSION_UNSUPPORTED version_unsupported "rpc.version.unsupported" FailedPrecondition;
    /// The procedure does not speak this encoding.
    ENCODING_UNSUPPORTED encoding_unsupported "rpc.encoding.unsupported" InvalidArgument;
    /// No namespace of this name.
    NAMESPACE_UNKNOWN namespace_unknown "resourcelease.namespace.unknown" NotFound;
    /// The token was never issued.
    UNKNOWN_TOKEN unknown_token "resourcelease.lease.unknown_token" NotFound;
    /// The namespace has no item of this sequence id.
    ITEM_NOT_FOUND item_not_found "resourcelease.item.not_found" NotFound;
    /// The item is not a dead letter.
    ITEM_NOT_DEAD item_not_dead "resourcelease.item.not_dead" FailedPrecondition;
    /// The item has had as many attempts as can be counted.
    ITEM_ATTEMPTS_USED_UP item_attempts_used_up
        "resourcelease.item.attempts_used_up" FailedPrecondition;
    /// Nothing to lease until the wait or the deadline ended.
    NONE_AVAILABLE none_available "resourcelease.lease.none_available" DeadlineExceeded;
    /// The deadline passed first.
    DEADLINE deadline "rpc.deadline" DeadlineExceeded;
    /// The lease ended; metadata `reason` says how.
    FENCED fenced "resourcelease.lease.fenced" Aborted;
    /// The namespace is full.
    BACKPRESSURE backpressure "resourcelease.backpressure" ResourceExhausted;
    /// The disk is full.
    STORAGE_FULL storage_full "resourcelease.storage.full" ResourceExhausted;
    /// The caller's rate is above its limit.
    RATE_LIMITED rate_limited "rpc.rate_limited" ResourceExhausted;
    /// Another node owns the shard; metadata `owner` names it.
    NOT_OWNER not_owner "resourcelease.shard.not_owner" Unavailable;
    /// The log cannot be written any more; what was not acknowledged may be lost.
    DURABILITY_LOST durability_lost "resourcelease.durability.lost" Unavailable;
    /// The peer to ask cannot be reached.
    PEER_UNAVAILABLE peer_unavailable "rpc.peer.unavailable" Unavailable;
    /// No procedure of this name.
    PROCEDURE_UNKNOWN procedure_unknown "rpc.procedure.unknown" Unimplemented;
    /// A message is compressed in a way that is not known here.
    COMPRESSION_UNSUPPORTED compression_unsupported "rpc.compression.unsupported" Unimplemented;
    /// No service of this name.
    SERVICE_UNKNOWN service_unknown "rpc.service.unknown" NotFound;
    /// The caller did not prove who it is.
    UNAUTHENTICATED unauthenticated "rpc.unauthenticated" Unauthenticated;
    /// The caller may not do this.
    FORBIDDEN forbidden "rpc.forbidden" PermissionDenied;
    /// The server is at fault.
    INTERNAL internal "rpc.internal" Internal;
}

impl Error {
    /// An error of the table, without metadata.
    #[must_use]
    pub fn new(error_code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code: error_code.code,
            error_code: Cow::Borrowed(error_code.name),
            message: message.into(),
            metadata: BTreeMap::new(),
        }
    }

    /// Adds one entry of metadata.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Whether this is the given error of the table.
    #[must_use]
    pub fn is(&self, error_code: ErrorCode) -> bool {
        self.error_code == error_code.name
    }

    /// The error as a JSON body: `{"message","status","code","metadata"}`.
    ///
    /// # Panics
    /// Never: strings and maps of strings always serialise.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        /// Unlike in a batch's entries, `metadata` is always there.
        #[derive(serde::Serialize)]
        struct Body<'a> {
            message: &'a str,
            status: &'a str,
            code: &'a str,
            metadata: &'a BTreeMap<String, String>,
        }

        serde_json::to_vec(&Body {
            message: &self.message,
            status: self.code.grpc_name(),
            code: &self.error_code,
            metadata: &self.metadata,
        })
        .expect("strings serialise")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.error_code, self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for messages::Error {
    fn from(error: Error) -> Self {
        Self {
            message: error.message,
            status: error.code.grpc_name().to_owned(),
            code: error.error_code.into_owned(),
            metadata: error.metadata,
        }
    }
}

impl From<messages::Error> for Error {
    /// A status nobody knows becomes [`Code::Unknown`]; a code nobody knows is kept.
    fn from(error: messages::Error) -> Self {
        let known = codes::ALL.iter().find(|known| known.name == error.code);
        Self {
            code: Code::from_grpc_name(&error.status).unwrap_or(Code::Unknown),
            error_code: known.map_or(Cow::Owned(error.code), |known| Cow::Borrowed(known.name)),
            message: error.message,
            metadata: error.metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_the_protocol_says() {
        let table: Vec<String> = codes::ALL
            .iter()
            .map(|known| format!("{} {}", known.name, known.code))
            .collect();
        let expected = [
            "resourcelease.payload.required invalid-argument",
            "resourcelease.payload.resource_type_required invalid-argument",
            "resourcelease.payload.resource_id_required invalid-argument",
            "resourcelease.payload.encoding_required invalid-argument",
            "resourcelease.payload.too_large invalid-argument",
            "resourcelease.restore.pending_item_required invalid-argument",
            "rpc.header.missing invalid-argument",
            "rpc.header.malformed invalid-argument",
            "rpc.body.malformed invalid-argument",
            "rpc.frame.malformed invalid-argument",
            "rpc.version.unsupported failed-precondition",
            "rpc.encoding.unsupported invalid-argument",
            "resourcelease.namespace.unknown not-found",
            "resourcelease.lease.unknown_token not-found",
            "resourcelease.item.not_found not-found",
            "resourcelease.item.not_dead failed-precondition",
            "resourcelease.item.attempts_used_up failed-precondition",
            "resourcelease.lease.none_available deadline-exceeded",
            "rpc.deadline deadline-exceeded",
            "resourcelease.lease.fenced aborted",
            "resourcelease.backpressure resource-exhausted",
            "resourcelease.storage.full resource-exhausted",
            "rpc.rate_limited resource-exhausted",
            "resourcelease.shard.not_owner unavailable",
            "resourcelease.durability.lost unavailable",
            "rpc.peer.unavailable unavailable",
            "rpc.procedure.unknown unimplemented",
            "rpc.compression.unsupported unimplemented",
            "rpc.service.unknown not-found",
            "rpc.unauthenticated unauthenticated",
            "rpc.forbidden permission-denied",
            "rpc.internal internal",
        ];
        assert_eq!(table, expected);
    }

    #[test]
    fn a_json_body_says_message_status_code_and_metadata() {
        let error = Error::fenced("the lease was completed").with("reason", "completed");
        let json = String::from_utf8(error.to_json()).unwrap();
        assert_eq!(
            json,
            r#"{"message":"the lease was completed","status":"ABORTED","code":"resourcelease.lease.fenced","metadata":{"reason":"completed"}}"#
        );
    }

    #[test]
    fn a_code_from_a_newer_server_is_kept() {
        let wire = messages::Error {
            message: "m".into(),
            status: "ABORTED".into(),
            code: "resourcelease.lease.novel".into(),
            metadata: BTreeMap::new(),
        };
        let error = Error::from(wire.clone());
        assert_eq!(error.code, Code::Aborted);
        assert_eq!(messages::Error::from(error), wire);
    }
}
