//! Opening connections, all alike.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::time::Duration;

use omnirelay_net::frame::ALPN;
use omnirelay_net::tls::{ServerCheck, client_config};
use tokio::net::lookup_host;
use tokio_rustls::rustls;

use super::http::{self, Tls};
use super::quic::{self, QuicConnection};
use super::{Connection, Kind, Target, Transport};

/// How long a connection may take to open.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// UDP sockets that QUIC connections share: the server's cores are picked by the client's port, so
/// there are enough of them for the cores of any machine to get a like share.
const SHARED_SOCKETS: usize = 64;

/// How QUIC connections get their UDP sockets. Over TCP each has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sockets {
    /// One each; the server is soon to know if this process is killed.
    Own,
    /// A few for all, for very many connections that mostly wait.
    Shared,
}

/// Why a connection could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectError {
    /// A certificate or key cannot be used; nothing was tried.
    Files(String),
    /// Nobody answered, or not as expected.
    Unreachable {
        /// What the system said.
        cause: String,
        /// Whether it was tried over UDP.
        is_quic: bool,
    },
    /// The server was reached, and one of the two does not trust the other.
    Untrusted(String),
    /// This machine lacks what another connection takes.
    Exhausted(String),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(words)
            | Self::Unreachable { cause: words, .. }
            | Self::Untrusted(words)
            | Self::Exhausted(words) => out.write_str(words),
        }
    }
}

impl std::error::Error for ConnectError {}

impl ConnectError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Files(_) => "name PEM files with --ca, --cert and --key",
            Self::Unreachable { is_quic: false, .. } => {
                "is the server running? start it with `omnirelay serve`"
            }
            Self::Unreachable { is_quic: true, .. } => {
                "is the server running, and does UDP come through? start it with `omnirelay \
                 serve`; --transport http goes over TCP"
            }
            Self::Untrusted(_) => {
                "pass the CA of the server's certificate with --ca, and where it asks for one the \
                 certificate of a client with --cert and --key"
            }
            Self::Exhausted(_) => {
                "use fewer --connections, or allow more: `ulimit -n` for files, the sysctl \
                 net.ipv4.ip_local_port_range for ports"
            }
        }
    }

    pub(super) fn of_io(error: &io::Error) -> Self {
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let words = error.to_string();
        match (error.raw_os_error(), inner) {
            (Some(libc::EMFILE | libc::ENFILE | libc::EADDRNOTAVAIL), _) => Self::Exhausted(words),
            (_, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))) => {
                Self::Untrusted(words)
            }
            _ => Self::unreachable(words),
        }
    }

    pub(crate) fn broken(target: &Target, cause: String) -> Self {
        Self::Unreachable {
            cause,
            is_quic: target.transport == Transport::Quic,
        }
    }

    pub(super) fn unreachable(cause: impl Into<String>) -> Self {
        Self::Unreachable {
            cause: cause.into(),
            is_quic: false,
        }
    }
}

/// Opens connections to a target.
#[derive(Debug)]
pub struct Dialer {
    target: Target,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Tcp(Option<Tls>),
    Quic {
        config: quinn::ClientConfig,
        shared: Option<RefCell<Shared>>,
    },
}

/// Sockets, and which of them is next.
#[derive(Debug, Default)]
struct Shared {
    endpoints: Vec<quinn::Endpoint>,
    next: usize,
}

impl Dialer {
    /// Reads certificates and keys, where the target has any.
    ///
    /// # Errors
    /// [`ConnectError::Files`] if one cannot be used.
    pub fn new(target: &Target, sockets: Sockets) -> Result<Self, ConnectError> {
        let check = match &target.ca {
            Some(ca) => ServerCheck::Ca(ca.clone()),
            None => ServerCheck::Unverified,
        };
        let alpn = match target.transport {
            Transport::Quic => ALPN,
            Transport::Http | Transport::Grpc => b"h2",
        };
        let unusable = |words: String| ConnectError::Files(words);
        let tls = || {
            client_config(&check, target.client.as_ref(), &[alpn])
                .map_err(|error| unusable(error.to_string()))
        };
        let way = match (target.transport, &target.ca) {
            (Transport::Quic, _) => Way::Quic {
                config: quic::config(tls()?, sockets).map_err(unusable)?,
                shared: (sockets == Sockets::Shared).then(RefCell::default),
            },
            (_, Some(_)) => Way::Tcp(Some(Tls::new(tls()?, target.host()).map_err(unusable)?)),
            (_, None) => Way::Tcp(None),
        };
        Ok(Self {
            target: target.clone(),
            way,
        })
    }

    /// Opens a connection. Over QUIC it must be called on a [`tokio::task::LocalSet`].
    ///
    /// # Errors
    /// What kept it from being opened.
    pub async fn open(&self) -> Result<Connection, ConnectError> {
        let opened = tokio::time::timeout(CONNECT_TIME_MAX, self.connect()).await;
        let opened = opened.unwrap_or_else(|_| {
            let words = format!("no answer within {} s", CONNECT_TIME_MAX.as_secs());
            Err(ConnectError::unreachable(words))
        });
        opened.map_err(|error| match error {
            ConnectError::Unreachable { cause, .. } => ConnectError::broken(&self.target, cause),
            error => error,
        })
    }

    async fn connect(&self) -> Result<Connection, ConnectError> {
        let (config, shared) = match &self.way {
            Way::Tcp(tls) => {
                let sender = http::open(&self.target.address, tls.as_ref()).await?;
                return Ok(Connection(Kind::Http(sender)));
            }
            Way::Quic { config, shared } => (config, shared),
        };
        let mut found = lookup_host(&self.target.address)
            .await
            .map_err(|error| ConnectError::of_io(&error))?;
        let remote = found
            .next()
            .ok_or_else(|| ConnectError::unreachable("the name has no address"))?;
        let endpoint = match shared {
            Some(shared) => shared.borrow_mut().next(remote),
            None => quic::socket(remote),
        };
        let endpoint = endpoint.map_err(|error| ConnectError::of_io(&error))?;
        let host = self.target.host();
        let opened = QuicConnection::open(endpoint, config.clone(), remote, host).await?;
        Ok(Connection(Kind::Quic(opened)))
    }
}

impl Shared {
    fn next(&mut self, remote: std::net::SocketAddr) -> io::Result<quinn::Endpoint> {
        let at = self.next % SHARED_SOCKETS;
        self.next += 1;
        if at == self.endpoints.len() {
            self.endpoints.push(quic::socket(remote)?);
        }
        Ok(self.endpoints[at].clone())
    }
}
