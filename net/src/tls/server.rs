//! A server's certificate, which is replaced while connections go on.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};

use super::certificate::{Certificate, Validity};
use super::error::TlsError;
use super::files::{Identity, TlsFiles, read_certificates};
use super::provider;
use super::watch::{self, Content, TlsWatch};

/// Clients that may resume a session instead of making a full handshake.
const SESSIONS_MAX: usize = 1_024;

/// What a port makes of clients without a certificate, where [`TlsFiles::client_ca`] is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are refused.
    Required,
    /// They are let in, and whoever serves them looks at what they may do. A certificate that is
    /// shown must be good all the same.
    Optional,
}

/// A server's certificate, key and client CA; a handle of what is in use.
///
/// The configurations that it makes stay good when the files change: see [`ServerTls::reload`].
#[derive(Debug, Clone)]
pub struct ServerTls {
    files: TlsFiles,
    live: Arc<Live>,
    /// What the files held when they were first read.
    content: Content,
}

/// What is in use, and how it came to be.
#[derive(Debug, Clone)]
pub struct TlsStatus {
    /// The certificate that new connections are shown.
    pub certificate: Certificate,
    /// Times that changed files were taken into use.
    pub reloads: u64,
    /// Times that changed files were of no use, and the old ones stayed.
    pub reloads_failed: u64,
    /// Why the newest change was of no use; nothing once a later one was.
    pub failure: Option<String>,
}

/// What handshakes ask for. Locked for a moment in each handshake, never for a call.
#[derive(Debug)]
struct Live {
    current: RwLock<Arc<Loaded>>,
    failure: RwLock<Option<String>>,
    reloads: AtomicU64,
    reloads_failed: AtomicU64,
}

#[derive(Debug)]
struct Loaded {
    identity: Identity,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl ServerTls {
    /// Reads and checks the files. Warns of a certificate that is not good now or not for long.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(files: TlsFiles) -> Result<ServerTls, TlsError> {
        let content = watch::content(&files);
        let loaded = Loaded::read(&files)?;
        warn_of(&loaded.identity.certificate, &files);
        Ok(ServerTls {
            files,
            live: Arc::new(Live {
                current: RwLock::new(Arc::new(loaded)),
                failure: RwLock::new(None),
                reloads: AtomicU64::new(0),
                reloads_failed: AtomicU64::new(0),
            }),
            content,
        })
    }

    /// For TCP: TLS 1.3 and 1.2, protocols by preference. Good for ever, see the type.
    pub fn over_tcp(&self, alpn: &[&[u8]], clients: ClientAuth) -> Arc<ServerConfig> {
        self.config(&[&TLS13, &TLS12], alpn, clients)
    }

    /// For QUIC: TLS 1.3, without early data, which could be replayed. Clients need a certificate
    /// where a client CA is given. Good for ever, see the type.
    pub fn over_quic(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        self.config(&[&TLS13], alpn, ClientAuth::Required)
    }

    fn config(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&[u8]],
        clients: ClientAuth,
    ) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("ring has suites for both versions");
        let builder = if self.files.client_ca.is_some() {
            builder.with_client_cert_verifier(Arc::new(LiveClients {
                live: Arc::clone(&self.live),
                clients,
            }))
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_cert_resolver(Arc::new(LiveCertificate(self.live.clone())));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.max_early_data_size = 0;
        if self.files.client_ca.is_some() {
            // A resumed session is not asked for its certificate again: one that was made under a
            // client CA that has been replaced since must not go on.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else {
            config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
        }
        Arc::new(config)
    }

    /// Reads the files again and takes them into use; open connections stay as they are.
    ///
    /// # Errors
    /// See [`TlsError`]: then everything stays as it is, and is counted.
    pub fn reload(&self) -> Result<(), TlsError> {
        let read = Loaded::read(&self.files);
        let live = &self.live;
        let why = read.as_ref().err().map(ToString::to_string);
        *live.failure.write().unwrap_or_else(PoisonError::into_inner) = why;
        match read {
            Ok(loaded) => {
                warn_of(&loaded.identity.certificate, &self.files);
                *live.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
                live.reloads.fetch_add(1, Relaxed);
                Ok(())
            }
            Err(error) => {
                live.reloads_failed.fetch_add(1, Relaxed);
                Err(error)
            }
        }
    }

    /// Looks at the files every second from a thread of its own, and reloads them when they have
    /// changed.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn watch(&self) -> std::io::Result<TlsWatch> {
        TlsWatch::start(self.clone())
    }

    /// Where the certificate comes from.
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// What the files held when they were first read.
    pub(super) fn content(&self) -> &Content {
        &self.content
    }

    /// The certificate in use, and how reloading went.
    pub fn status(&self) -> TlsStatus {
        let failure = self.live.failure.read();
        TlsStatus {
            certificate: self.live.current().identity.certificate.clone(),
            reloads: self.live.reloads.load(Relaxed),
            reloads_failed: self.live.reloads_failed.load(Relaxed),
            failure: failure.unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl Live {
    fn current(&self) -> Arc<Loaded> {
        // The content is replaced whole, so a panic elsewhere cannot have left it half written.
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }
}

impl Loaded {
    fn read(files: &TlsFiles) -> Result<Loaded, TlsError> {
        let identity = Identity::load(&files.cert, &files.key)?;
        let Some(path) = &files.client_ca else {
            return Ok(Loaded {
                identity,
                clients: None,
            });
        };
        let unusable = |why: String| TlsError::Content {
            path: path.clone(),
            why: format!("no client CA: {why}"),
        };
        let mut roots = RootCertStore::empty();
        for certificate in read_certificates(path)? {
            let added = roots.add(certificate);
            added.map_err(|error| unusable(error.to_string()))?;
        }
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        Ok(Loaded {
            identity,
            clients: Some(clients),
        })
    }
}

/// Says loudly that a certificate is not good now, or not for long.
pub(super) fn warn_of(certificate: &Certificate, files: &TlsFiles) {
    let file = files.cert.display();
    let until = certificate.not_after;
    match certificate.validity_now() {
        Validity::Good => {}
        Validity::NotYet => {
            tracing::warn!(%file, "the TLS certificate is not good yet, clients will refuse it: check the system's clock");
        }
        Validity::Expiring => {
            tracing::warn!(%file, until, "the TLS certificate expires soon: replace the file, it is reloaded by itself");
        }
        Validity::Expired => {
            tracing::error!(%file, until, "the TLS certificate has expired, clients refuse it: replace the file, it is reloaded by itself");
        }
    }
}

/// Shows the certificate in use.
#[derive(Debug)]
struct LiveCertificate(Arc<Live>);

impl ResolvesServerCert for LiveCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.current().identity.certified))
    }
}

/// Verifies clients by the CA in use.
#[derive(Debug)]
struct LiveClients {
    live: Arc<Live>,
    clients: ClientAuth,
}

impl LiveClients {
    fn current(&self) -> Arc<dyn ClientCertVerifier> {
        let clients = self.live.current().clients.clone();
        clients.expect("made only with a client CA, which every reload has")
    }
}

impl ClientCertVerifier for LiveClients {
    fn client_auth_mandatory(&self) -> bool {
        self.clients == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Hints are optional, and could not be lent out of what may be replaced.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.current()
            .verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current().supported_verify_schemes()
    }
}
