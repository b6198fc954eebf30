//! The gRPC face of the wire: paths and metadata, framed messages, trailers; the two services
//! that every gRPC server is expected to have, [`health`] and [`reflection`]; and the messages of the
//! [`replication`] stream. No IO.
//!
//! A server reads a [`Head`], takes the [only message](only_message) out of a unary call's body,
//! or a stream's messages with a [`Deframer`], and answers with [`reply_response`] or
//! [`error_response`]. A caller does the reverse with [`client`].

pub mod client;
mod head;
pub mod health;
mod message;
pub mod reflection;
pub mod replication;
mod reply;

pub use head::{Head, LEASE_SERVICE, Method, REPLICATION_SERVICE, is_grpc};
pub use message::{
    Compression, Deframer, GZIP_RATIO_MAX, PREFIX_BYTES, announced_bytes, frame, only_message,
};
pub use reply::{Framed, error_response, error_trailers, ok_trailers, reply_response, stream_head};

/// The names of gRPC's own metadata.
pub mod metadata {
    use http::HeaderName;

    /// How messages that say so are compressed.
    pub static ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
    /// What the sender can decompress.
    pub static ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
    /// How long the caller waits.
    pub static TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
    /// The status number.
    pub static STATUS: HeaderName = HeaderName::from_static("grpc-status");
    /// The error's message, percent-encoded.
    pub static MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
    /// The error as a `google.rpc.Status` with a `google.rpc.ErrorInfo`.
    pub static STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
    /// The stable error code.
    pub static ERROR_CODE: HeaderName = HeaderName::from_static("omnirelay-error-code");
    /// The status by name.
    pub static STATUS_NAME: HeaderName = HeaderName::from_static("omnirelay-status");
}
