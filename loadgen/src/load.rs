//! Load: producers and workers on connections of their own.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use omnirelay_net::rpc::{self, Procedure};
use tokio::task::JoinSet;

use crate::connection::{Caller, ConnectError, Connection, Dialer, Sockets, Target};
use crate::pacer;
use crate::producer::{fill, produce};
use crate::run::{Pace, Present, Run};
use crate::worker::work;

/// Items to a call that fills a queue, and bytes of their bodies; the largest body fits twice.
const FILL_BATCH_MAX: usize = 500;
const FILL_BYTES_MAX: usize = 4 << 20;
const _: () = assert!(2 * rpc::BODY_BYTES_MAX <= rpc::BATCH_BYTES_MAX);

/// Calls that fill a queue, on each connection.
const FILL_CALLS: usize = 2;

/// How much is in flight, and what.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Producer connections, and as many worker connections.
    pub connections: usize,
    /// Calls that each connection keeps in flight.
    pub calls_in_flight: usize,
    /// Items to a call; 1 uses enqueue, lease and complete, more their batch forms.
    pub batch: usize,
    /// Bytes of an item's body.
    pub size: usize,
    /// Enqueue calls that take longer are remembered one by one; [`Duration::MAX`]: none.
    pub slow_after: Duration,
}

/// Why a load could not be put on.
#[derive(Debug)]
pub enum OpenError {
    /// There is no connection.
    Connect {
        /// Where the server should be.
        address: String,
        /// Why.
        error: ConnectError,
    },
    /// The server, or the protocol, does not allow it.
    Refused(rpc::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { address, error } => {
                match error {
                    ConnectError::Files(words) => write!(out, "{words}"),
                    error => write!(out, "cannot reach {address}: {error}"),
                }?;
                write!(out, "\nhelp: {}", error.help())
            }
            Self::Refused(error) => write!(out, "the server refused: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl OpenError {
    /// A connection to the target that ended at once, for this reason.
    pub fn broken(target: &Target, cause: String) -> Self {
        Self::connect(target, ConnectError::broken(target, cause))
    }

    /// No connection to the target, for this reason.
    pub fn connect(target: &Target, error: ConnectError) -> Self {
        Self::Connect {
            address: target.address.clone(),
            error,
        }
    }
}

impl From<rpc::Error> for OpenError {
    fn from(error: rpc::Error) -> Self {
        Self::Refused(error)
    }
}

/// Load on a server. Whoever drops it cuts its calls short.
#[derive(Debug)]
pub struct Load {
    run: Rc<Run>,
    shape: Shape,
    target: Target,
    producers: Vec<Connection>,
    workers: Vec<Connection>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Opens the connections; nothing is sent yet. The run's clock starts here.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub async fn open(target: &Target, shape: Shape, pace: Pace) -> Result<Self, OpenError> {
        let no_connection = |error| OpenError::connect(target, error);
        let dialer = Dialer::new(target, Sockets::Own).map_err(no_connection)?;
        let mut connections = Vec::with_capacity(2 * shape.connections);
        for _ in 0..2 * shape.connections {
            connections.push(dialer.open().await.map_err(no_connection)?);
        }
        let workers = connections.split_off(shape.connections);
        Ok(Self {
            run: Rc::new(Run::new(shape.batch, shape.size, pace, shape.slow_after)),
            shape,
            target: target.clone(),
            producers: connections,
            workers,
            tasks: JoinSet::new(),
        })
    }

    /// What has become of it so far.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Sets the producers going, and the clock of an open loop. Must be called on a
    /// [`tokio::task::LocalSet`].
    ///
    /// # Errors
    /// If the target has a name that no header can carry.
    pub fn start_producers(&mut self) -> Result<(), OpenError> {
        let procedure = self.procedures()[0];
        for connection in &self.producers {
            let enqueue = Caller::new(connection, &self.target, procedure)?;
            for _ in 0..self.shape.calls_in_flight {
                let task = produce(Present::producer(&self.run), enqueue.clone());
                self.tasks.spawn_local(task);
            }
        }
        if let Pace::Period(period) = self.run.pace {
            let run = Rc::clone(&self.run);
            self.tasks.spawn_local(async move {
                if let Err(error) = pacer::pace(&run.permits, run.start, period).await {
                    run.error(|| format!("the clock of the open loop failed: {error}"));
                    run.permits.close();
                }
            });
        }
        Ok(())
    }

    /// Sets the producers' connections to enqueue so many items as fast as the server takes them,
    /// whatever the pace. Must be called on a [`tokio::task::LocalSet`].
    ///
    /// # Errors
    /// If the target has a name that no header can carry.
    pub fn start_filling(&mut self, items: u64) -> Result<(), OpenError> {
        let batch = (FILL_BYTES_MAX / self.shape.size.max(1)).clamp(2, FILL_BATCH_MAX);
        let left = Rc::new(Cell::new(items));
        for connection in &self.producers {
            let enqueue = Caller::new(connection, &self.target, Procedure::EnqueueBatch)?;
            for _ in 0..FILL_CALLS {
                let (producer, left) = (Present::producer(&self.run), Rc::clone(&left));
                self.tasks
                    .spawn_local(fill(producer, enqueue.clone(), left, batch));
            }
        }
        Ok(())
    }

    /// Sets the workers going. Must be called on a [`tokio::task::LocalSet`].
    ///
    /// # Errors
    /// If the target has a name that no header can carry.
    pub fn start_workers(&mut self) -> Result<(), OpenError> {
        let [_, lease, complete] = self.procedures();
        for connection in &self.workers {
            let lease = Caller::new(connection, &self.target, lease)?;
            let complete = Caller::new(connection, &self.target, complete)?;
            for _ in 0..self.shape.calls_in_flight {
                let task = work(Present::worker(&self.run), lease.clone(), complete.clone());
                self.tasks.spawn_local(task);
            }
        }
        Ok(())
    }

    /// Lets producers begin no more calls; those in flight are still answered.
    pub fn stop_producers(&self) {
        self.run.permits.close();
    }

    /// Lets workers begin no more calls: what they hold is completed.
    pub fn stop_workers(&self) {
        self.run.workers_stop.set(true);
    }

    /// Ends all calls, and tells the server.
    pub async fn close(self) {
        let Self {
            producers,
            workers,
            mut tasks,
            ..
        } = self;
        tasks.abort_all();
        Connection::close_all([producers, workers].concat()).await;
    }

    fn procedures(&self) -> [Procedure; 3] {
        match self.shape.batch {
            1 => [Procedure::Enqueue, Procedure::Lease, Procedure::Complete],
            _ => [
                Procedure::EnqueueBatch,
                Procedure::LeaseBatch,
                Procedure::Settle,
            ],
        }
    }
}
