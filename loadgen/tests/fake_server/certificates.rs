//! A CA, and what it has signed.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// How many there have been.
static AUTHORITIES: AtomicUsize = AtomicUsize::new(1);

/// Files for a client, and a server's configuration that asks for them.
pub(crate) struct Certificates {
    /// Keeps the files.
    _dir: TempDir,
    /// Who has signed both certificates.
    pub(crate) ca: PathBuf,
    /// The client's certificate.
    pub(crate) cert: PathBuf,
    /// The client's key.
    pub(crate) key: PathBuf,
    pub(super) asking: ServerConfig,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Each has a name of its own, as CAs do.
        let nth = AUTHORITIES.fetch_add(1, Ordering::Relaxed);
        let name = &mut params.distinguished_name;
        name.push(rcgen::DnType::CommonName, format!("authority {nth}"));
        let ca_key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let issue = || {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
            (params.signed_by(&key, &issuer).unwrap(), key)
        };
        let (client, client_key) = issue();
        let write = |name: &str, label: &str, der: &[u8]| {
            let path = dir.path().join(name);
            let base64 = STANDARD.encode(der);
            let pem = format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n");
            std::fs::write(&path, pem).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            path
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let provider = Arc::new(default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .unwrap();
        let (server, server_key) = issue();
        let asking = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![server.der().clone()], private(&server_key))
            .unwrap();
        Self {
            ca: write("ca.crt", "CERTIFICATE", ca.der()),
            cert: write("client.crt", "CERTIFICATE", client.der()),
            key: write("client.key", "PRIVATE KEY", &client_key.serialize_der()),
            asking,
            _dir: dir,
        }
    }
}

/// A configuration that asks for nothing and is trusted by nobody.
pub(super) fn self_signed() -> ServerConfig {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], private(&made.signing_key))
        .unwrap()
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}
