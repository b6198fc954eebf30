//! What a client is told before it connects.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use omnirelay_net::tls::{ClientFiles, ServerCheck};
use tokio::time::Instant;

use crate::batch::Batching;
use crate::client::Client;
use crate::connection::{Dialer, Reconnect, Supervisor};
use crate::error::ConnectError;
use crate::retry::{Bucket, RetryBudget};

/// Whom the client trusts, and who it is.
#[derive(Debug, Clone)]
pub struct Tls {
    pub(crate) check: ServerCheck,
    pub(crate) identity: Option<ClientFiles>,
    pub(crate) server_name: Option<String>,
}

impl Tls {
    /// Trusts servers whose certificate one in this PEM file has signed, or is. A node without
    /// certificates of its own writes one for loopback to `<data-dir>/tls/server.crt`.
    #[must_use]
    pub fn ca(path: impl Into<PathBuf>) -> Tls {
        Tls::new(ServerCheck::Ca(path.into()))
    }

    /// Takes every server for the right one. Whoever is between the two can then read and change
    /// everything: for looking around on a machine of your own.
    #[must_use]
    pub fn unverified() -> Tls {
        Tls::new(ServerCheck::Unverified)
    }

    /// Shows a certificate to servers that ask for one: PEM files, the key not encrypted.
    #[must_use]
    pub fn identity(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Tls {
        self.identity = Some(ClientFiles {
            cert: cert.into(),
            key: key.into(),
        });
        self
    }

    /// The name that the server's certificate has to have, where it is not that of the address.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Tls {
        self.server_name = Some(name.into());
        self
    }

    fn new(check: ServerCheck) -> Tls {
        Tls {
            check,
            identity: None,
            server_name: None,
        }
    }
}

/// Makes a [`Client`]; from [`Client::builder`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `connect`"]
pub struct ClientBuilder {
    addresses: Vec<String>,
    tls: Option<Tls>,
    caller: String,
    timeout: Duration,
    connect_timeout: Duration,
    batching: Batching,
    retry_budget: RetryBudget,
    reconnect: Reconnect,
}

impl ClientBuilder {
    pub(crate) fn new() -> ClientBuilder {
        ClientBuilder {
            addresses: Vec::new(),
            tls: None,
            caller: "omnirelay-client".into(),
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            batching: Batching::default(),
            retry_budget: RetryBudget::default(),
            reconnect: Reconnect {
                first: Duration::from_millis(20),
                max: Duration::from_millis(500),
            },
        }
    }

    /// Where a node serves QUIC, as `host:port`: 7420 on UDP unless it was told otherwise. Said
    /// several times, they are tried in turn, the first one first, until one answers.
    pub fn address(mut self, address: impl Into<String>) -> ClientBuilder {
        self.addresses.push(address.into());
        self
    }

    /// Whom to trust. Has to be said.
    pub fn tls(mut self, tls: Tls) -> ClientBuilder {
        self.tls = Some(tls);
        self
    }

    /// Who calls, for the server's logs and limits: the name of your service.
    pub fn caller(mut self, caller: impl Into<String>) -> ClientBuilder {
        self.caller = caller.into();
        self
    }

    /// The time that a call has, waiting for a connection and retries included; 30 s. See also
    /// [`crate::Namespace::with_timeout`].
    pub fn timeout(mut self, timeout: Duration) -> ClientBuilder {
        self.timeout = timeout;
        self
    }

    /// How long [`ClientBuilder::connect`] tries; 10 s. Later reconnects are tried for ever.
    pub fn connect_timeout(mut self, timeout: Duration) -> ClientBuilder {
        self.connect_timeout = timeout;
        self
    }

    /// How calls that are made at the same time are joined.
    pub fn batching(mut self, batching: Batching) -> ClientBuilder {
        self.batching = batching;
        self
    }

    /// How many retries all calls may make together.
    pub fn retry_budget(mut self, budget: RetryBudget) -> ClientBuilder {
        self.retry_budget = budget;
        self
    }

    /// The pause between tries to connect is random between nothing and a most, which is `first`
    /// (20 ms), doubles with each try, and does not exceed `max` (500 ms).
    pub fn reconnect_pauses(mut self, first: Duration, max: Duration) -> ClientBuilder {
        self.reconnect = Reconnect { first, max };
        self
    }

    /// Connects. The client then keeps a connection there by itself until the last handle is
    /// dropped.
    ///
    /// # Errors
    /// [`ConnectError`]: what was said makes no sense, a file cannot be used, one side does not
    /// accept the other's certificate, or no server answered in time.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        self.check()?;
        let tls = self.tls.ok_or_else(|| {
            ConnectError::Invalid(
                "no `tls`: say whom to trust, e.g. `Tls::ca(\"<data-dir>/tls/server.crt\")`".into(),
            )
        })?;
        let dialer = Dialer::new(self.addresses, &tls, self.caller)?;
        let supervisor = Supervisor::start(dialer, self.reconnect);
        let deadline = Instant::now() + self.connect_timeout;
        supervisor.connected(deadline).await.map_err(|down| {
            let (why, within) = (down.why, self.connect_timeout);
            match down.is_certificate {
                true => ConnectError::Certificate { why },
                false => ConnectError::Unreachable { within, why },
            }
        })?;
        let bucket = Bucket::new(self.retry_budget, Instant::now());
        Ok(Client::new(
            Arc::new(supervisor),
            bucket,
            self.timeout,
            self.batching,
        ))
    }

    fn check(&self) -> Result<(), ConnectError> {
        let invalid = |why: String| Err(ConnectError::Invalid(why));
        if self.addresses.is_empty() {
            return invalid("no `address`: say where a node is, e.g. `127.0.0.1:7420`".into());
        }
        for address in &self.addresses {
            let port = address
                .rsplit_once(':')
                .map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(_))) {
                return invalid(format!("`{address}` is no address: it is `host:port`"));
            }
        }
        if self.caller.is_empty() || self.caller.len() > CALLER_BYTES_MAX {
            return invalid(format!("`caller` has 1 to {CALLER_BYTES_MAX} bytes"));
        }
        self.batching.check().map_err(ConnectError::Invalid)
    }
}

const CALLER_BYTES_MAX: usize = omnirelay_net::rpc::NAME_BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_is_refused_before_anything_is_sent() {
        let builder = ClientBuilder::new;
        let told = |built: ClientBuilder| async { built.connect().await.unwrap_err().to_string() };
        assert!(told(builder()).await.contains("no `address`"));
        assert!(
            told(builder().address("here"))
                .await
                .contains("`here` is no address")
        );
        let here = || builder().address("127.0.0.1:1");
        assert!(told(here()).await.contains("no `tls`"));
        assert!(
            told(here().caller(""))
                .await
                .contains("`caller` has 1 to 512 bytes")
        );
        let missing = told(here().tls(Tls::ca("/nowhere/ca.pem"))).await;
        assert!(missing.contains("/nowhere/ca.pem"), "{missing}");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named() {
        let client = ClientBuilder::new()
            .address("127.0.0.1:1")
            .tls(Tls::unverified())
            .connect_timeout(Duration::from_millis(1_800));
        let error = client.connect().await.unwrap_err().to_string();
        assert_eq!(
            error,
            "no server answered within 1800 ms: 127.0.0.1:1: no QUIC handshake came through in \
             1500 ms: nobody serves QUIC there, or the network carries no UDP datagrams of 1,200 \
             bytes; HTTP/2 and gRPC are served over TCP, by default on the same port"
        );
    }
}
