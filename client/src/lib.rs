//! The client of [OmniRelay](https://github.com/omnirelay/omnirelay), a durable lease queue: put
//! work in, take it for a time, say what became of it.
//!
//! It speaks RPC over QUIC and is for programs on [tokio](https://docs.rs/tokio), on whatever
//! kind of its runtimes. Handles are `Send`, `Sync` and cheap to clone; everything that runs beside
//! your code is a task of your runtime, and ends with the last handle.
//!
//! # A program that puts work in
//!
//! ```no_run
//! use omnirelay_client::{Client, Item, Tls};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder()
//!     .address("127.0.0.1:7420")
//!     .tls(Tls::ca("omnirelay-data/tls/server.crt"))
//!     .caller("billing")
//!     .connect()
//!     .await?;
//! let queue = client.default_namespace();
//! let item = Item::new("invoice", "2026-0042").body("application/json", r#"{"send": true}"#);
//! let put = queue.enqueue(item).await?;
//! println!("item {}, {:?}", put.sequence_id, put.receipt);
//! # Ok(())
//! # }
//! ```
//!
//! When [`Namespace::enqueue`] returns, the item is on the server's disk (its [`Receipt`] says
//! so). An item is about a *resource*, here an invoice: items of one resource live in one
//! shard, and in some namespaces are worked on one at a time and in order.
//!
//! Want a deed done once, whoever asks and however often? Give it a name with
//! [`Item::request_id`]: the same name within the namespace's dedupe window is the same item. Without
//! one the client makes up a name for each call, so that it can repeat a call whose reply was lost.
//!
//! # A program that does the work
//!
//! ```no_run
//! use omnirelay_client::{Failure, Job};
//!
//! async fn handle(job: Job) -> Result<(), Failure> {
//!     let what = std::str::from_utf8(job.body())?; // any error fails the item
//!     println!("{what} about {}", job.resource_id());
//!     Ok(()) // completes it
//! }
//!
//! # async fn example(queue: omnirelay_client::Namespace) -> Result<(), omnirelay_client::Error> {
//! let report = queue
//!     .worker()
//!     .concurrency(8)
//!     .run_until(tokio::signal::ctrl_c(), handle)
//!     .await?;
//! println!("{} done, {} failed", report.completed, report.failed);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Worker`] leases no more items than it can begin at once, runs the handler on each as a task,
//! and renews the lease at a third of its duration for as long as that runs. What the handler
//! returns completes or fails the item: a [`Failure`] says whether and when it is tried again, a
//! panic counts as one. At its end the worker takes nothing more, lets handlers finish for a while, and
//! gives back the items of those that do not.
//!
//! If you would rather do it yourself: [`Namespace::lease`], then [`Lease::heartbeat`],
//! [`Lease::complete`] or [`Lease::fail`]. A lease that is neither settled nor renewed ends by
//! itself, and the item goes to somebody else. A lease call that is dropped leaves none behind.
//!
//! # Twice, and how to live with it
//!
//! No item is lost, and each is completed once. But a handler may *run* more than once for the same
//! item: its machine dies after the work and before the completion, or it is stopped for so long
//! that its lease ends and somebody else begins. It may even wake up then, and write. Two defences:
//!
//! - **The lease tells.** [`Job::lost`] ends waiting as soon as the lease has, and a completion
//!   with an old token is refused for ever ([`Error::is_fenced`]).
//! - **The store refuses.** Write `(sequence_id, attempt)` of the lease's [`Token`] beside your
//!   data, and let the store refuse a write with a smaller pair. Only that closes the gap between
//!   looking and writing; `examples/fenced_sqlite.rs` does it in one statement.
//!
//! # When something fails
//!
//! Every call has a deadline ([`ClientBuilder::timeout`], [`Namespace::with_timeout`]) that holds for
//! everything: waiting for a connection, the call, its retries. The server knows it too and does not
//! work for nobody. An [`Error`] says three things:
//!
//! | | |
//! |---|---|
//! | [`Error::code`] | what happened, as a stable name: `resourcelease.lease.fenced` |
//! | [`Error::is_retryable`], [`Error::retry_after`] | whether the same call can succeed later, and when to try |
//! | [`Error::outcome`] | whether it certainly was not done, or nobody knows |
//!
//! ```no_run
//! # use omnirelay_client::{Item, Namespace, Outcome};
//! # async fn example(queue: Namespace, item: Item) {
//! match queue.enqueue(item).await {
//!     Ok(put) => println!("item {}", put.sequence_id),
//!     Err(error) if error.outcome() == Outcome::Unknown => println!("it may be there: {error}"),
//!     Err(error) if error.is_retryable() => println!("later: {error}"),
//!     Err(error) => println!("never: {error}"),
//! }
//! # }
//! ```
//!
//! You seldom see those that pass: the client repeats what a lost connection or a server that is
//! ending has cut off, with growing random pauses, until the deadline, as long as the
//! [`RetryBudget`] lasts. That is safe for every call: an enqueue has its request id, a settlement its
//! token (one that turns out to have been done is a success), and a lease that was granted and
//! not received is undone or expires.
//!
//! # The connection
//!
//! A client has one connection. If it ends, another is made at once, then with growing random
//! pauses, for ever; calls wait for it. [`ClientBuilder::address`] can be said several times: the
//! addresses are tried in turn. Nothing is heard for three seconds: the connection is given up.
//!
//! The server has to be the right one: [`Tls::ca`] says how to tell. [`Tls::identity`] shows a
//! certificate to servers that want one. Certificates that do not fit are a
//! [`ConnectError::Certificate`] at once. QUIC needs a network that carries UDP datagrams of 1,200
//! bytes: where none does, [`ConnectError::Unreachable`] says so, and HTTP and gRPC are the way.
//!
//! # Many calls
//!
//! Just make them, from as many tasks as you like. Enqueues, completions, failures and heartbeats that
//! are made at the same time go in one frame, and each has its own result; see [`Batching`]. Where
//! you have many items in one place, [`Namespace::enqueue_batch`], [`Namespace::lease_with`] and
//! [`Namespace::settle_batch`] say so.
//!
//! # Looking on
//!
//! Calls and jobs are [`tracing`] spans: `omnirelay.call` (debug; `namespace`, `procedure`) and
//! `omnirelay.job` (info; `sequence_id`, `attempt`), under which your handler runs. Lost leases and
//! connections are logged. [`Namespace::with_trace`] puts a call under a span of yours in the server's
//! traces.
#![forbid(unsafe_code)]

// The examples of the README are compiled with those of this documentation.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}

mod batch;
mod builder;
mod client;
mod connection;
mod error;
mod item;
mod lease;
mod namespace;
mod retry;
mod worker;

pub use omnirelay_net::rpc::{Code, TraceContext};
pub use omnirelay_net::tls::TlsError;

pub use crate::batch::Batching;
pub use crate::builder::{ClientBuilder, Tls};
pub use crate::client::Client;
pub use crate::error::{ConnectError, Error, Outcome};
pub use crate::item::{Enqueued, Item, Receipt, Stats};
pub use crate::lease::{Failure, Lease, NoToken, Settle, Settled, Token};
pub use crate::namespace::{LeaseOptions, Namespace};
pub use crate::retry::RetryBudget;
pub use crate::worker::{Job, Report, Worker, WorkerBuilder};
