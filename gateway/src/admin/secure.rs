//! TLS on the admin port, and what clients without a certificate may see.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use omnirelay_net::http::TLS_ONLY;
use rustls::ServerConfig;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::server::document;

/// From the connection to the end of the handshake.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// What every client may see: a kubelet has no certificate to show.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// The TLS that the admin port speaks.
#[derive(Debug, Clone)]
pub(crate) struct AdminTls {
    pub(crate) config: Arc<ServerConfig>,
    /// Clients without a certificate see probes only.
    pub(crate) knows_clients: bool,
}

impl AdminTls {
    /// Makes the handshake; the stream, and whether the client is known. An error has been
    /// answered as far as it can be.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, bool)> {
        let accepted = timeout(HANDSHAKE_TIME_MAX, self.handshake(stream)).await;
        let stream = accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let is_known = !self.knows_clients || stream.get_ref().1.peer_certificates().is_some();
        Ok((stream, is_known))
    }

    async fn handshake(&self, mut stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let mut first = [0];
        stream.peek(&mut first).await?;
        // A method's first letter: HTTP without TLS.
        if first[0].is_ascii_alphabetic() {
            stream.write_all(TLS_ONLY).await?;
            return Err(io::Error::other("no TLS where only TLS is spoken"));
        }
        TlsAcceptor::from(Arc::clone(&self.config))
            .accept(stream)
            .await
    }
}

/// The routes, for a client that has shown no certificate.
pub(super) fn for_strangers(routes: Router) -> Router {
    routes.layer(from_fn(only_probes))
}

async fn only_probes(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if PROBES.contains(&path) {
        return next.run(request).await;
    }
    let message = format!(
        "{path} needs a client certificate that the node's tls.client_ca has signed; only {} do not",
        PROBES.join(" and ")
    );
    document(StatusCode::FORBIDDEN, &json!({"message": message}))
}
