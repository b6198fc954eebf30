//! TLS: certificates and keys from files, and what servers and clients make of them.
//!
//! A server reads its files once and makes as many configurations from them as it has ports:
//!
//! ```no_run
//! use omnirelay_net::tls::{ClientAuth, ServerTls, TlsFiles};
//!
//! # fn main() -> Result<(), omnirelay_net::tls::TlsError> {
//! let tls = ServerTls::load(TlsFiles {
//!     cert: "server.crt".into(),
//!     key: "server.key".into(),
//!     client_ca: None,
//! })?;
//! let tcp = tls.over_tcp(&[b"h2", b"http/1.1"], ClientAuth::Required);
//! let quic = tls.over_quic(&[b"omnirelay/1"]);
//! let watch = tls.watch();
//! # Ok(())
//! # }
//! ```
//!
//! Each is an `Arc<rustls::ServerConfig>` that stays good for as long as the process lives:
//! [`ServerTls::reload`], which [`ServerTls::watch`] calls when a file has changed, replaces what
//! is behind it, and every later handshake uses the new certificate, key and client CA. Nobody
//! has to swap a configuration or to look for a new one; connections that are open go on.
//!
//! Without configured files, on loopback, [`self_signed`] makes some in a directory and keeps them
//! there. All cryptography is ring's, named explicitly, so that no process-wide provider need be
//! installed.

mod certificate;
mod client;
mod error;
mod files;
#[cfg(feature = "node")]
mod self_signed;
#[cfg(feature = "node")]
mod server;
#[cfg(feature = "node")]
mod stream;
#[cfg(feature = "node")]
mod watch;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

pub use certificate::{Certificate, Validity, fingerprint};
pub use client::{ClientFiles, ServerCheck, client_config};
pub use error::TlsError;
pub use files::{Identity, PEM_BYTES_MAX, TlsFiles, pem, read_certificates, read_key};
#[cfg(feature = "node")]
pub use self_signed::self_signed;
#[cfg(feature = "node")]
pub use server::{ClientAuth, ServerTls, TlsStatus};
#[cfg(feature = "node")]
pub use stream::{SEND_BYTES_MAX, TlsStream};
#[cfg(feature = "node")]
pub use watch::TlsWatch;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
