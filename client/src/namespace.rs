//! The calls: enqueue, lease, settle.

use std::sync::Arc;
use std::time::Duration;

use omnirelay_net::messages::{
    EnqueueBatchRequest, LeaseBatchRequest, LeaseResponse, SettleItem, SettleRequest, SettleResult,
    StatsRequest,
};
use omnirelay_net::rpc::{Call, Reply, TraceContext};
use tokio::time::Instant;

use crate::batch::{Batcher, Batching, Enqueues, Joined, Settles};
use crate::client::Client;
use crate::connection::Route;
use crate::error::Error;
use crate::item::{Enqueued, Item, Receipt, Stats, millis};
use crate::lease::{Lease, Settle, Settled, Token};
use crate::retry::Tried;
use crate::worker::WorkerBuilder;

/// A namespace of the server: a queue with settings of its own. Cloning it is cheap; clones share
/// the frames that their calls are joined into.
#[derive(Debug, Clone)]
pub struct Namespace {
    client: Client,
    route: Arc<Route>,
    timeout: Duration,
    batching: Batching,
    enqueues: Arc<Batcher<Enqueues>>,
    settles: Arc<Batcher<Settles>>,
}

/// What a lease is asked for with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it is for `Namespace::lease_with`"]
pub struct LeaseOptions {
    wait: Duration,
    items_max: u32,
    lease_for: Option<Duration>,
    peer_id: Option<String>,
    partition_key: Option<String>,
}

impl Default for LeaseOptions {
    fn default() -> LeaseOptions {
        LeaseOptions {
            wait: Duration::ZERO,
            items_max: 1,
            lease_for: None,
            peer_id: None,
            partition_key: None,
        }
    }
}

impl LeaseOptions {
    /// How long to wait until an item is there; not at all unless said.
    pub fn wait(mut self, wait: Duration) -> LeaseOptions {
        self.wait = wait;
        self
    }

    /// The most items, 1 to 1,000; 1 unless said.
    pub fn items_max(mut self, items: u32) -> LeaseOptions {
        self.items_max = items;
        self
    }

    /// How long the leases last, 1 s to 12 h; the namespace's duration unless said.
    pub fn lease_for(mut self, duration: Duration) -> LeaseOptions {
        self.lease_for = Some(duration);
        self
    }

    /// The owner's name, for people who look; the client's caller unless said.
    pub fn peer_id(mut self, peer_id: impl Into<String>) -> LeaseOptions {
        self.peer_id = Some(peer_id.into());
        self
    }

    /// Only items of this partition key; `""` for those without one.
    pub fn partition_key(mut self, key: impl Into<String>) -> LeaseOptions {
        self.partition_key = Some(key.into());
        self
    }
}

impl Namespace {
    pub(crate) fn new(
        client: Client,
        route: Route,
        timeout: Duration,
        batching: Batching,
    ) -> Namespace {
        let route = Arc::new(route);
        Namespace {
            enqueues: Batcher::new(client.clone(), Arc::clone(&route), batching),
            settles: Batcher::new(client.clone(), Arc::clone(&route), batching),
            client,
            route,
            timeout,
            batching,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.route.namespace
    }

    /// The same, with another time for each call: the deadline is so long after it is made,
    /// whatever happens until then. The server is told how much of it is left.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Namespace {
        Namespace {
            timeout,
            ..self.clone()
        }
    }

    /// The same, with every call part of a trace: the server's spans go under the caller's span
    /// that `trace` names, as [W3C Trace Context](https://www.w3.org/TR/trace-context/) has it.
    /// Calls that are made with the handle at the same time share frames with each other only.
    ///
    /// ```no_run
    /// # async fn example(queue: omnirelay_client::Namespace) -> Result<(), Box<dyn std::error::Error>> {
    /// let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse()?;
    /// let lease = queue.with_trace(trace).lease(std::time::Duration::from_secs(5)).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_trace(&self, trace: TraceContext) -> Namespace {
        let route = Route {
            namespace: self.route.namespace.clone(),
            trace: Some(trace),
        };
        Namespace::new(self.client.clone(), route, self.timeout, self.batching)
    }

    /// Puts an item in. When it returns, the item is as safe as its receipt says.
    ///
    /// Enqueues that are made at the same time go in one frame. One whose reply is lost is
    /// repeated with the same request id, and so adds the item once.
    ///
    /// # Errors
    /// With [`crate::Outcome::Unknown`] the item may be there: enqueue it again with the same request id.
    pub async fn enqueue(&self, item: Item) -> Result<Enqueued, Error> {
        let item = item.into_request()?;
        let tried = self.enqueues.put(item, self.deadline()).await;
        tried.result.map(Enqueued::from)
    }

    /// Puts up to 1,000 items in, in one frame. Each has a result of its own, in order.
    ///
    /// # Errors
    /// If the frame failed as a whole; with [`crate::Outcome::Unknown`] any of the items may be
    /// there.
    pub async fn enqueue_batch(
        &self,
        items: impl IntoIterator<Item = Item>,
    ) -> Result<Vec<Result<Enqueued, Error>>, Error> {
        let items = items.into_iter().map(Item::into_request);
        let items = items.collect::<Result<_, _>>()?;
        let call = Call::EnqueueBatch(EnqueueBatchRequest {
            items,
            namespace: None,
        });
        let reply = self.call(&call).await.result?;
        let results = Enqueues::results(reply).ok_or_else(|| unexpected(&call))?;
        let result = |result: Result<_, omnirelay_net::messages::Error>| {
            result.map(Enqueued::from).map_err(entry_error)
        };
        Ok(results.into_iter().map(result).collect())
    }

    /// Takes an item, waiting for one up to so long; `None` if none came.
    ///
    /// A call that is dropped leaves no lease behind: what had been granted meanwhile is given
    /// back.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn lease(&self, wait: Duration) -> Result<Option<Lease>, Error> {
        let leases = self.lease_with(LeaseOptions::default().wait(wait)).await?;
        Ok(leases.into_iter().next())
    }

    /// Takes items: as many as there are, up to the most that is asked for, waiting for the first;
    /// none if none came.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn lease_with(&self, options: LeaseOptions) -> Result<Vec<Lease>, Error> {
        let call = Call::LeaseBatch(LeaseBatchRequest {
            peer_id: options.peer_id,
            wait_ms: Some(millis(options.wait)),
            lease_ms: options.lease_for.map(millis),
            partition_key: options.partition_key,
            max_items: options.items_max,
            namespace: None,
        });
        // A grant whose reply was lost expires, or has been undone: asking again harms nobody.
        let deadline = self.deadline() + options.wait;
        let tried = self.client.call(&self.route, &call, deadline).await;
        match tried.result {
            Ok(Reply::LeaseBatch(batch)) => {
                let lease = |response: LeaseResponse| Lease::new(self.clone(), response);
                batch.leases.into_iter().map(lease).collect()
            }
            Ok(_) => Err(unexpected(&call)),
            Err(error) if error.is(omnirelay_net::rpc::codes::NONE_AVAILABLE) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Ends a lease by its token. [`Lease::complete`] and its like do the same.
    ///
    /// Settlements that are made at the same time go in one frame. One whose reply is lost is
    /// repeated; if it turns out to have been done, that is success.
    ///
    /// # Errors
    /// [`Error::is_fenced`] if the lease had ended.
    pub async fn settle(&self, token: &Token, settle: Settle) -> Result<Settled, Error> {
        let reason = settle.fenced_reason();
        let item = settle.of(token);
        let tried = self.settles.put(item, self.deadline()).await;
        settled(tried.result, tried.unknown, reason)
    }

    /// Ends up to 1,000 leases in one frame. Each has a result of its own, in order.
    ///
    /// # Errors
    /// If the frame failed as a whole.
    pub async fn settle_batch(
        &self,
        settles: impl IntoIterator<Item = (Token, Settle)>,
    ) -> Result<Vec<Result<Settled, Error>>, Error> {
        let (items, reasons): (Vec<SettleItem>, Vec<&str>) = settles
            .into_iter()
            .map(|(token, settle)| {
                let reason = settle.fenced_reason();
                (settle.of(&token), reason)
            })
            .unzip();
        let call = Call::Settle(SettleRequest {
            items,
            namespace: None,
        });
        let Tried { result, unknown } = self.call(&call).await;
        let results = Settles::results(result?).ok_or_else(|| unexpected(&call))?;
        let outcome = |(result, reason): (Result<_, _>, _)| {
            settled(result.map_err(entry_error), unknown, reason)
        };
        Ok(results.into_iter().zip(reasons).map(outcome).collect())
    }

    /// Renews a lease by its token; see [`Lease::heartbeat`].
    ///
    /// # Errors
    /// [`Error::is_fenced`] if the lease had ended.
    pub async fn heartbeat(
        &self,
        token: &Token,
        extend: Option<Duration>,
    ) -> Result<Duration, Error> {
        self.heartbeat_until(token, extend, self.deadline()).await
    }

    pub(crate) async fn heartbeat_until(
        &self,
        token: &Token,
        extend: Option<Duration>,
        deadline: Instant,
    ) -> Result<Duration, Error> {
        let item = SettleItem {
            ownership_token: Some(token.into()),
            action: "heartbeat".into(),
            extend_ms: extend.map(millis),
            ..SettleItem::default()
        };
        let result = self.settles.put(item, deadline).await.result?;
        let lasts = result.lease_for_ms.map(Duration::from_millis);
        lasts.ok_or_else(|| Error::malformed_reply("a heartbeat without a duration"))
    }

    /// Counts its items.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn stats(&self) -> Result<Stats, Error> {
        let call = Call::Stats(StatsRequest::default());
        match self.call(&call).await.result? {
            Reply::Stats(stats) => Ok(stats.stats.unwrap_or_default().into()),
            _ => Err(unexpected(&call)),
        }
    }

    /// Begins to make a worker: it leases items and runs a closure on each.
    pub fn worker(&self) -> WorkerBuilder {
        WorkerBuilder::new(self.clone())
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    async fn call(&self, call: &Call) -> Tried<Reply> {
        let deadline = self.deadline();
        self.client.call(&self.route, call, deadline).await
    }
}

fn settled(
    result: Result<SettleResult, Error>,
    unknown: bool,
    reason: &str,
) -> Result<Settled, Error> {
    match result {
        Ok(result) => Ok(Settled {
            receipt: result.receipt.map(Receipt::from),
        }),
        // The first try was done, and its reply lost.
        Err(error) if unknown && error.fenced_reason() == Some(reason) => {
            Ok(Settled { receipt: None })
        }
        Err(error) => Err(error),
    }
}

fn entry_error(error: omnirelay_net::messages::Error) -> Error {
    omnirelay_net::rpc::Error::from(error).into()
}

fn unexpected(call: &Call) -> Error {
    Error::malformed_reply(&format!("it is no reply to {}", call.procedure()))
}
