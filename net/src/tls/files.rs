//! Certificates and keys from PEM files.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::Certificate;
use super::error::TlsError;
use super::provider;

/// Most bytes of a file with certificates or a key: a bundle of all public CAs has a quarter of it.
pub const PEM_BYTES_MAX: u64 = 1 << 20;

/// Anybody but the owner and its group may read.
const READABLE_BY_ALL: u32 = 0o004;

/// Where a server's certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate in PEM, then those of the CAs between it and the root.
    pub cert: PathBuf,
    /// Its private key in PEM, not encrypted.
    pub key: PathBuf,
    /// Who signs the certificates of clients, in PEM; without it none is asked for.
    pub client_ca: Option<PathBuf>,
}

/// A certificate with its chain and key, found to belong together.
#[derive(Debug, Clone)]
pub struct Identity {
    /// What rustls serves.
    pub certified: Arc<CertifiedKey>,
    /// The first certificate of the chain, read.
    pub certificate: Certificate,
}

impl Identity {
    /// Reads a chain and its key. A certificate that has expired is no error: its
    /// [`Certificate::validity`] says so.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(cert: &Path, key: &Path) -> Result<Identity, TlsError> {
        let chain = read_certificates(cert)?;
        let content = |path: &Path, why: String| TlsError::Content {
            path: path.to_owned(),
            why,
        };
        let certificate = Certificate::parse(&chain[0]).map_err(|why| content(cert, why))?;
        let private = read_key(key)?;
        let certified =
            CertifiedKey::from_der(chain, private, &provider()).map_err(|error| match error {
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::KeyMismatch {
                    cert: cert.to_owned(),
                    key: key.to_owned(),
                },
                Error::InvalidCertificate(_) => content(
                    cert,
                    format!("the certificate cannot be served: {error}; it must be X.509 version 3"),
                ),
                _ => content(
                    key,
                    format!("the key cannot be used: {error}; make it ECDSA P-256 or P-384, Ed25519 or RSA from 2048 bits"),
                ),
            })?;
        Ok(Identity {
            certified: Arc::new(certified),
            certificate,
        })
    }
}

/// Reads all certificates of a PEM file; at least one.
///
/// # Errors
/// See [`TlsError`].
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path, |_| Ok(()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let why = match found {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) => "no certificate in it; it begins with -----BEGIN CERTIFICATE-----".to_owned(),
        Err(error) => format!("not PEM: {error}"),
    };
    Err(TlsError::Content {
        path: path.to_owned(),
        why,
    })
}

/// Reads a private key that nobody but its owner and its group may read.
///
/// # Errors
/// See [`TlsError`].
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path, |file| {
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        if mode & READABLE_BY_ALL == 0 {
            Ok(())
        } else {
            Err(ReadError::Exposed(mode))
        }
    })?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        let is_encrypted = bytes.windows(9).any(|part| part == b"ENCRYPTED");
        let why = match error {
            pem::Error::NoItemsFound if is_encrypted => {
                "the key is encrypted; decrypt it with `openssl pkey -in KEY -out PLAIN`".to_owned()
            }
            pem::Error::NoItemsFound => {
                "no private key in it; it begins with -----BEGIN PRIVATE KEY-----".to_owned()
            }
            error => format!("not PEM: {error}"),
        };
        TlsError::Content {
            path: path.to_owned(),
            why,
        }
    })
}

/// DER as PEM (RFC 7468).
pub fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.extend(line.iter().map(|&byte| char::from(byte)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// Why a file was not read.
pub(super) enum ReadError {
    Io(std::io::Error),
    Exposed(u32),
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> ReadError {
        ReadError::Io(error)
    }
}

/// Reads a whole file that passes the check.
pub(super) fn read(
    path: &Path,
    check: impl FnOnce(&File) -> Result<(), ReadError>,
) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let done = File::open(path)
        .map_err(ReadError::Io)
        .and_then(|file| check(&file).map(|()| file))
        .and_then(|file| Ok(file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes)?));
    let path = path.to_owned();
    match done {
        Ok(_) if bytes.len() as u64 > PEM_BYTES_MAX => Err(TlsError::TooLarge {
            path,
            max: PEM_BYTES_MAX,
        }),
        Ok(_) => Ok(bytes),
        Err(ReadError::Io(source)) => Err(TlsError::Io { path, source }),
        Err(ReadError::Exposed(mode)) => Err(TlsError::KeyExposed { path, mode }),
    }
}
