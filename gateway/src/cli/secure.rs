//! How a command speaks to a server: in plain text, or over TLS.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use omnirelay_net::tls::{ClientFiles, ServerCheck, TlsError, client_config};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::{Address, Scheme};
use super::failure::{Exit, Failure};

/// The options of every command that talks to a server.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct TlsArgs {
    /// Speak TLS; the certificates to trust, in PEM: the CA's, or the server's own
    #[arg(
        long,
        env = "OMNIRELAY_CA",
        hide_env_values = true,
        value_name = "FILE",
        value_hint = clap::ValueHint::FilePath
    )]
    ca: Option<PathBuf>,
    /// Show this client certificate, in PEM
    #[arg(
        long,
        env = "OMNIRELAY_CERT",
        hide_env_values = true,
        value_name = "FILE",
        requires = "ca",
        requires = "key",
        value_hint = clap::ValueHint::FilePath
    )]
    cert: Option<PathBuf>,
    /// Its private key, in PEM
    #[arg(
        long,
        env = "OMNIRELAY_KEY",
        hide_env_values = true,
        value_name = "FILE",
        requires = "cert",
        value_hint = clap::ValueHint::FilePath
    )]
    key: Option<PathBuf>,
}

impl TlsArgs {
    /// Reads the files, where there are any.
    ///
    /// # Errors
    /// `cli.tls` if one cannot be used.
    pub(super) fn trust(&self) -> Result<Trust, Failure> {
        let Some(ca) = &self.ca else {
            return Ok(Trust(None));
        };
        let client = self.cert.clone().zip(self.key.clone());
        let client = client.map(|(cert, key)| ClientFiles { cert, key });
        let config =
            client_config(&ServerCheck::Ca(ca.clone()), client.as_ref(), &[]).map_err(unusable)?;
        Ok(Trust(Some(config)))
    }

    /// The server at an address, as these options have it.
    ///
    /// # Errors
    /// As [`TlsArgs::trust`] and [`Trust::server`].
    pub(super) fn server(&self, address: &Address) -> Result<Server, Failure> {
        self.trust()?.server(address)
    }
}

/// Whom a command trusts, if it speaks TLS at all.
#[derive(Debug, Clone)]
pub(super) struct Trust(Option<ClientConfig>);

impl Trust {
    /// The server at an address: over TLS if anybody is trusted, unless the address says otherwise.
    ///
    /// # Errors
    /// `cli.usage` for an https address without anybody to trust.
    pub(super) fn server(&self, address: &Address) -> Result<Server, Failure> {
        let config = match (&self.0, address.scheme) {
            (_, Some(Scheme::Http)) | (None, None) => None,
            (Some(config), _) => Some(config.clone()),
            (None, Some(Scheme::Https)) => {
                return Err(Failure::usage(
                    format!("https://{} without --ca", address.host_port),
                    NAME_THE_CA,
                ));
            }
        };
        Ok(Server {
            address: address.host_port.clone(),
            config: config.map(Arc::new),
        })
    }

    /// The server at an address, over QUIC, which is never in plain text: on loopback, where
    /// nobody is trusted, one is believed to be who it says.
    ///
    /// # Errors
    /// `cli.usage` for an address beyond loopback without anybody to trust, or of plain text.
    pub(super) fn quic_server(&self, address: &Address) -> Result<Server, Failure> {
        match (&self.0, address.scheme) {
            (_, Some(Scheme::Http)) => Err(Failure::usage(
                format!("http://{} over QUIC", address.host_port),
                "leave out http://: QUIC always speaks TLS",
            )),
            (None, None) if address.is_loopback() => Server::unverified(&address.host_port),
            (None, None) => Err(Failure::usage(
                format!("{} over QUIC without --ca", address.host_port),
                NAME_THE_CA,
            )),
            _ => self.server(address),
        }
    }
}

/// Whom to trust.
const NAME_THE_CA: &str = "name the CA of the server's certificate with --ca: a file of your own, a \
                           node's <data-dir>/tls/server.crt, or the system's, as \
                           /etc/ssl/certs/ca-certificates.crt";

/// A server, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Server {
    /// `host:port`.
    pub address: String,
    config: Option<Arc<ClientConfig>>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl Server {
    /// One that is spoken to in plain text.
    pub fn plain(address: impl Into<String>) -> Server {
        Server {
            address: address.into(),
            config: None,
        }
    }

    /// One that shows its certificate to whoever asks, good or not.
    ///
    /// # Errors
    /// `cli.tls`, which does not happen.
    pub(super) fn unverified(address: &str) -> Result<Server, Failure> {
        let config = client_config(&ServerCheck::Unverified, None, &[]).map_err(unusable)?;
        Ok(Server {
            address: address.to_owned(),
            config: Some(Arc::new(config)),
        })
    }

    /// The host that the server's certificate has to name.
    pub(super) fn host(&self) -> &str {
        let host = self.address.rsplit_once(':').map_or("", |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// How TLS is spoken with it, where it is.
    pub(super) fn tls(&self) -> Option<&ClientConfig> {
        self.config.as_deref()
    }

    pub(super) fn is_secure(&self) -> bool {
        self.config.is_some()
    }

    /// Speaks TLS over the stream.
    ///
    /// # Errors
    /// `cli.tls` if there is no trust between the two, `cli.protocol` if no TLS is spoken there.
    ///
    /// # Panics
    /// If the server is spoken to in plain text.
    pub(super) async fn secure(
        &self,
        stream: TcpStream,
        alpn: &[&[u8]],
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let config = self.config.as_deref().expect("it is spoken to over TLS");
        let mut config = config.clone();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let host = self.host();
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            Failure::usage(
                format!("{host} is no name that a certificate can have"),
                "name the server with --address by a DNS name or an IP address",
            )
        })?;
        let connector = TlsConnector::from(Arc::new(config));
        let connected = connector.connect(name, stream).await;
        connected.map_err(|error| self.refused(&error))
    }

    /// What a TLS error means here; nothing if it is none.
    pub(super) fn distrust(&self, error: &(dyn std::error::Error + 'static)) -> Option<Failure> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let tls = match error.downcast_ref::<std::io::Error>() {
                Some(io) => io.get_ref().and_then(|inner| inner.downcast_ref::<Error>()),
                None => error.downcast_ref::<Error>(),
            };
            if let Some(tls) = tls {
                return Some(self.no_trust(tls));
            }
            cause = error.source();
        }
        None
    }

    fn refused(&self, error: &std::io::Error) -> Failure {
        self.distrust(error)
            .unwrap_or_else(|| Failure::no_tls(&self.address, error))
    }

    /// What it means that there is no trust between the two.
    pub(super) fn no_trust(&self, error: &Error) -> Failure {
        let address = &self.address;
        let no_client = format!(
            "pass the certificate and key of a client with --cert and --key; `omnirelay cert issue \
             --client` makes them, of the CA that {address} has as tls.client_ca"
        );
        let (message, help) = match error {
            Error::InvalidMessage(_) => return Failure::no_tls(address, error),
            Error::InvalidCertificate(why) => {
                let help = match why {
                    CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                        "pass the CA that signed it with --ca"
                    }
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. } => {
                        "name the server by a name that its certificate has, or issue it with this \
                         one: `omnirelay cert issue --dns NAME --ip ADDRESS`"
                    }
                    CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                        "replace the server's certificate; it is reloaded by itself"
                    }
                    _ => "replace the server's certificate",
                };
                (
                    format!("the certificate of {address} is not trusted: {why}"),
                    format!("{help}; `omnirelay cert inspect {address}` shows it"),
                )
            }
            Error::AlertReceived(AlertDescription::CertificateRequired) => {
                (format!("{address} wants a client certificate"), no_client)
            }
            Error::AlertReceived(alert) => (
                format!("{address} refused the TLS handshake: {alert:?}"),
                format!("it may not trust this client: {no_client}"),
            ),
            other => (
                format!("no TLS with {address}: {other}"),
                format!("`omnirelay cert inspect {address}` shows what it has"),
            ),
        };
        Failure {
            exit: Exit::Unreachable,
            code: "cli.tls".into(),
            message,
            help,
        }
    }
}

/// A file that cannot be used.
pub(super) fn unusable(error: TlsError) -> Failure {
    Failure {
        exit: Exit::Usage,
        code: "cli.tls".into(),
        message: error.to_string(),
        help: "`omnirelay cert inspect FILE` shows what a file holds; `omnirelay cert` makes \
               certificates and keys"
            .into(),
    }
}
