//! One connection and the calls on it.

mod dialer;
mod http;
mod quic;

use std::path::PathBuf;
use std::time::Duration;

use omnirelay_net::rpc::{Call, Encoding, Error, Procedure, Reply, RequestHead};
use omnirelay_net::tls::ClientFiles;

pub use self::dialer::{ConnectError, Dialer, Sockets};
use self::http::HttpCaller;
use self::quic::QuicConnection;

/// How long connections may take to end; on a busy machine very many need a while.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(5);

/// Connections that take their leave together, and the time until the next do.
const CLOSE_AT_ONCE: usize = 32;
const CLOSE_EVERY: Duration = Duration::from_millis(5);

/// The largest reply: a batch of leases with room to spare.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// How calls travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Over HTTP/2 with YARPC's headers.
    Http,
    /// As gRPC.
    Grpc,
    /// In frames over QUIC.
    Quic,
}

/// Where and how to call.
#[derive(Debug, Clone)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// How calls travel.
    pub transport: Transport,
    /// Who has signed the server's certificate. Without it HTTP and gRPC are in plain text, and
    /// over QUIC the server is believed to be who it says.
    pub ca: Option<PathBuf>,
    /// The certificate to show the server, where it asks for one.
    pub client: Option<ClientFiles>,
    /// The namespace to work in.
    pub namespace: String,
    /// How bodies are encoded.
    pub encoding: Encoding,
}

impl Target {
    /// The address without its port.
    fn host(&self) -> &str {
        let (host, _) = self.address.rsplit_once(':').unwrap_or((&self.address, ""));
        host.trim_matches(['[', ']'])
    }
}

/// An open connection; clones share it.
#[derive(Debug, Clone)]
pub struct Connection(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Http(http::Sender),
    Quic(QuicConnection),
}

/// Why a call gave no reply.
#[derive(Debug)]
pub enum CallError {
    /// The server refused it.
    Refused(Error),
    /// The connection failed: what became of the call is not known.
    Broken(String),
}

impl Connection {
    /// Opens one connection. Over QUIC it must be called on a [`tokio::task::LocalSet`].
    ///
    /// # Errors
    /// What kept it from being opened.
    pub async fn open(target: &Target) -> Result<Self, ConnectError> {
        Dialer::new(target, Sockets::Own)?.open().await
    }

    /// Why no call can be made any more; `None` while it is good, as far as this side knows.
    pub fn failure(&self) -> Option<String> {
        match &self.0 {
            Kind::Http(sender) => sender
                .is_closed()
                .then(|| "the connection has ended".to_owned()),
            Kind::Quic(connection) => connection.failure(),
        }
    }

    /// Ends connections with all calls on them, and sees that the server knows.
    pub async fn close_all(connections: Vec<Connection>) {
        let connections: Vec<_> = connections
            .iter()
            .filter_map(|connection| match &connection.0 {
                // The kernel tells of these.
                Kind::Http(_) => None,
                Kind::Quic(connection) => Some(connection),
            })
            .collect();
        let closed = async {
            // What takes its leave at once would overflow the buffer of a server's socket.
            for group in connections.chunks(CLOSE_AT_ONCE) {
                group.iter().for_each(|connection| connection.close());
                tokio::time::sleep(CLOSE_EVERY).await;
            }
            for connection in connections {
                connection.closed().await;
            }
        };
        // A server that has gone takes no word.
        let _ = tokio::time::timeout(CLOSE_TIME_MAX, closed).await;
    }
}

/// One procedure as it is called: all that stays the same from call to call.
#[derive(Debug, Clone)]
pub struct Caller {
    way: Way,
    procedure: Procedure,
    encoding: Encoding,
}

#[derive(Debug, Clone)]
enum Way {
    Http(Box<HttpCaller>),
    Quic {
        connection: QuicConnection,
        name: String,
    },
}

impl Caller {
    /// A caller of one procedure of the target's namespace.
    ///
    /// # Errors
    /// If the target has a name that no header can carry, or no address.
    pub fn new(
        connection: &Connection,
        target: &Target,
        procedure: Procedure,
    ) -> Result<Self, Error> {
        let name = format!("{}::{procedure}", target.namespace);
        let way = match &connection.0 {
            Kind::Http(sender) => {
                let head =
                    RequestHead::new("omnirelay-loadgen", "omnirelay", name, target.encoding);
                let caller = HttpCaller::new(sender, target, &head)?;
                Way::Http(Box::new(caller))
            }
            Kind::Quic(connection) => Way::Quic {
                connection: connection.clone(),
                name,
            },
        };
        Ok(Self {
            way,
            procedure,
            encoding: target.encoding,
        })
    }

    /// Makes one call.
    ///
    /// # Errors
    /// The server's refusal, or why the connection failed.
    pub async fn call(&mut self, call: &Call) -> Result<Reply, CallError> {
        debug_assert_eq!(call.procedure(), self.procedure);
        let (procedure, encoding) = (self.procedure, self.encoding);
        match &mut self.way {
            Way::Http(caller) => caller.call(procedure, encoding, call).await,
            Way::Quic { connection, name } => {
                connection.call(name, procedure, encoding, call).await
            }
        }
    }
}
