//! What travels between OmniRelay's processes, and the per-core machinery that moves it.
//!
//! [`messages`] are the wire's types, [`rpc`] says calls, replies and errors over HTTP, [`grpc`]
//! over gRPC. All are without IO and all that a client needs. Runtime and transports are the server's, behind the
//! feature `node`. `tls` is for both, behind the feature of that name.

pub mod frame;
pub mod grpc;
pub mod messages;
pub mod rpc;

#[cfg(feature = "node")]
pub mod http;
#[cfg(feature = "node")]
pub mod quic;
#[cfg(feature = "node")]
pub mod ring;
#[cfg(feature = "node")]
pub mod runtime;
#[cfg(feature = "tls")]
pub mod tls;
mod wire;
