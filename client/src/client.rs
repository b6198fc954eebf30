//! The client: a connection, and the way of every call.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use omnirelay_net::rpc::{self, Call, Encoding, Procedure, Reply};
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use crate::batch::Batching;
use crate::builder::ClientBuilder;
use crate::connection::{Outgoing, Route, Supervisor};
use crate::error::Error;
use crate::namespace::Namespace;
use crate::retry::{Bucket, Tried, retry};

/// A connection to OmniRelay. Cloning it is cheap; all clones share the connection, which ends
/// with the last of them.
#[derive(Debug, Clone)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    supervisor: Arc<Supervisor>,
    bucket: Bucket,
    timeout: Duration,
    batching: Batching,
}

impl Client {
    /// Begins to make one.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    pub(crate) fn new(
        supervisor: Arc<Supervisor>,
        bucket: Bucket,
        timeout: Duration,
        batching: Batching,
    ) -> Client {
        Client(Arc::new(Shared {
            supervisor,
            bucket,
            timeout,
            batching,
        }))
    }

    /// A namespace of the server. Whether it exists is found out by the first call.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Namespace {
        let route = Route {
            namespace: name.to_owned(),
            trace: None,
        };
        Namespace::new(self.clone(), route, self.0.timeout, self.0.batching)
    }

    /// The namespace that every server has, `resourcelease`.
    #[must_use]
    pub fn default_namespace(&self) -> Namespace {
        self.namespace(rpc::DEFAULT_NAMESPACE)
    }

    /// Ends the connection and waits until the server was told. Calls that wait for a reply get
    /// an error, and so does every later call, of all clones. Dropping the last clone ends the
    /// connection too, without waiting.
    pub async fn close(&self) {
        self.0.supervisor.close().await;
    }

    pub(crate) fn bucket(&self) -> &Bucket {
        &self.0.bucket
    }

    /// Makes a call, again where that is safe, until its deadline.
    pub(crate) async fn call(
        &self,
        route: &Arc<Route>,
        call: &Call,
        deadline: Instant,
    ) -> Tried<Reply> {
        let procedure = call.procedure();
        let span = tracing::debug_span!("omnirelay.call", namespace = route.namespace, %procedure);
        async {
            let body = match rpc::encode_call(Encoding::Proto, call) {
                Ok(body) => body,
                Err(error) => {
                    let result = Err(error.into());
                    let unknown = false;
                    return Tried { result, unknown };
                }
            };
            let attempt = || self.attempt(route, procedure, &body, deadline);
            let tried = retry(self.bucket(), deadline, attempt).await;
            if let Err(error) = &tried.result {
                tracing::debug!(%error, "failed");
            }
            tried
        }
        .instrument(span)
        .await
    }

    async fn attempt(
        &self,
        route: &Arc<Route>,
        procedure: Procedure,
        body: &Bytes,
        deadline: Instant,
    ) -> Result<Reply, Error> {
        let link = self.0.supervisor.link(deadline).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let call = Outgoing {
            route,
            procedure,
            body,
            ttl_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
        };
        let reply = timeout_at(deadline, link.call(call)).await;
        let body = reply.map_err(|_| {
            let message = "no reply within the call's time; the outcome is not known".to_owned();
            Error::deadline(message, true)
        })??;
        rpc::decode_reply(procedure, Encoding::Proto, &body)
            .map_err(|error| Error::malformed_reply(&error.to_string()))
    }
}
