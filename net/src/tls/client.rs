//! What a client needs: whom it trusts, and who it is.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::error::TlsError;
use super::files::{Identity, read_certificates};
use super::provider;

/// How a client tells that it talks to the right server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerCheck {
    /// By a certificate that one in this PEM file has signed, or is.
    Ca(PathBuf),
    /// Not at all: to look at what a server shows.
    Unverified,
}

/// Who a client is, in PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// Its certificate, then those of the CAs between it and the root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A client's configuration, for TLS 1.3 and 1.2 and the given protocols by preference.
///
/// # Errors
/// See [`TlsError`].
pub fn client_config(
    check: &ServerCheck,
    client: Option<&ClientFiles>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has suites for all versions");
    let builder = match check {
        ServerCheck::Ca(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in read_certificates(path)? {
                roots.add(certificate).map_err(|error| TlsError::Content {
                    path: path.clone(),
                    why: format!("no CA: {error}"),
                })?;
            }
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
                .build()
                .map_err(|error| TlsError::Content {
                    path: path.clone(),
                    why: format!("no CA: {error}"),
                })?;
            builder.with_webpki_verifier(verifier)
        }
        ServerCheck::Unverified => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified)),
    };
    let mut config = match client {
        Some(files) => {
            let identity = Identity::load(&files.cert, &files.key)?;
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                identity.certified,
            )))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}

/// Takes every server for the right one, but holds it to having the key of what it shows.
#[derive(Debug)]
struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
