//! What a node shows of itself where TLS is spoken.

use std::path::Path;
use std::sync::Arc;

use omnirelay_net::frame::ALPN;
use omnirelay_net::tls::{ClientAuth, ServerTls, TlsError, self_signed};
use rustls::ServerConfig;

use crate::config::Config;

/// Where a self-signed certificate is kept, in the data directory.
const DIR: &str = "tls";

/// A node's certificate.
#[derive(Debug, Clone)]
pub(crate) struct NodeTls {
    pub(crate) server: ServerTls,
    /// It is the node's own, because none is configured.
    pub(crate) is_self_signed: bool,
}

impl NodeTls {
    /// The configured certificate; on loopback, where none is, one that is made once and kept.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub(crate) fn open(config: &Config, data_dir: &Path) -> Result<Option<NodeTls>, TlsError> {
        let (files, is_self_signed) = match &config.tls {
            Some(files) => (files.clone(), false),
            None if config.quic_address().is_some() => (self_signed(&data_dir.join(DIR))?, true),
            None => return Ok(None),
        };
        let server = ServerTls::load(files)?;
        Ok(Some(NodeTls {
            server,
            is_self_signed,
        }))
    }

    /// What RPC over TCP speaks, if it is not plain text. A self-signed certificate is for
    /// transports that know nothing but TLS.
    pub(crate) fn rpc(&self) -> Option<Arc<ServerConfig>> {
        let alpn: [&[u8]; 2] = [b"h2", b"http/1.1"];
        (!self.is_self_signed).then(|| self.server.over_tcp(&alpn, ClientAuth::Required))
    }

    /// What the admin endpoints speak, if it is not plain text. A client without a certificate
    /// gets in, and is shown no more than a probe needs.
    pub(crate) fn admin(&self) -> Option<Arc<ServerConfig>> {
        (!self.is_self_signed).then(|| self.server.over_tcp(&[b"http/1.1"], ClientAuth::Optional))
    }

    /// What RPC over QUIC speaks.
    pub(crate) fn quic(&self) -> Arc<ServerConfig> {
        self.server.over_quic(&[ALPN])
    }

    /// Whether clients need a certificate.
    pub(crate) fn knows_clients(&self) -> bool {
        self.server.files().client_ca.is_some()
    }
}
