//! Keeps one connection there, and makes a new one when it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Dialer, Link};
use crate::error::{Down, Error};
use crate::retry::Backoff;

/// How long to wait between tries to connect: random between nothing and a most that doubles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reconnect {
    pub(crate) first: Duration,
    pub(crate) max: Duration,
}

/// Where calls find a connection. With it the connection ends.
#[derive(Debug)]
pub(crate) struct Supervisor {
    status: watch::Receiver<Status>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone)]
enum Status {
    /// No connection now, and why.
    Down(Down),
    Up(Arc<Link>),
    Closed,
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Supervisor {
    pub(crate) fn start(dialer: Dialer, reconnect: Reconnect) -> Supervisor {
        let (sender, status) = watch::channel(Status::Down("connecting".into()));
        let task = tokio::spawn(supervise(dialer, reconnect, sender));
        Supervisor { status, task }
    }

    /// The connection that a call is to take, as soon as there is one. Every call passes here, so
    /// this is where one for the shard's own node would be picked.
    pub(crate) async fn link(&self, deadline: Instant) -> Result<Arc<Link>, Error> {
        let mut status = self.status.clone();
        let there = status.wait_for(|status| !matches!(status, Status::Down(_)));
        match timeout_at(deadline, there).await {
            Ok(Ok(status)) => match &*status {
                Status::Up(link) => Ok(Arc::clone(link)),
                _ => Err(Error::closed()),
            },
            Ok(Err(_)) => Err(Error::closed()),
            Err(_) => {
                let why = self.why_down();
                let message = format!("no connection within the call's time: {why}");
                Err(Error::deadline(message, false))
            }
        }
    }

    /// Waits for the first connection; what stands in its way if time is up, or if it is about
    /// certificates, which time does not mend.
    pub(crate) async fn connected(&self, deadline: Instant) -> Result<(), Down> {
        let mut status = self.status.clone();
        let decided = status.wait_for(|status| match status {
            Status::Down(down) => down.is_certificate,
            Status::Up(_) | Status::Closed => true,
        });
        // The supervisor outlives this.
        let _ = timeout_at(deadline, decided).await;
        match &*self.status.borrow() {
            Status::Up(_) => Ok(()),
            Status::Down(down) => Err(down.clone()),
            Status::Closed => Err("the client was closed".into()),
        }
    }

    /// What stands in the way of a connection.
    pub(crate) fn why_down(&self) -> String {
        match &*self.status.borrow() {
            Status::Down(down) => down.why.clone(),
            Status::Up(_) => "it has just come up".into(),
            Status::Closed => "the client was closed".into(),
        }
    }

    /// Closes the connection for good and waits until the server was told.
    pub(crate) async fn close(&self) {
        let link = match &*self.status.borrow() {
            Status::Up(link) => Some(Arc::clone(link)),
            _ => None,
        };
        self.task.abort();
        if let Some(link) = link {
            link.close().await;
        }
    }
}

/// Says at its end that there will be no connection any more, however it ends.
struct Sender(watch::Sender<Status>);

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.send_replace(Status::Closed);
    }
}

async fn supervise(dialer: Dialer, reconnect: Reconnect, status: watch::Sender<Status>) {
    let status = Sender(status);
    loop {
        let mut backoff = Backoff::new(reconnect.first, reconnect.max);
        let link = loop {
            match dialer.dial().await {
                Ok(link) => break link,
                Err(down) => {
                    tracing::debug!(why = %down.why, "cannot connect");
                    status.0.send_replace(Status::Down(down));
                    sleep(backoff.next()).await;
                }
            }
        };
        tracing::debug!("connected");
        status.0.send_replace(Status::Up(Arc::clone(&link)));
        let why = link.ended().await;
        tracing::info!(%why, "the connection ended; connecting again");
        status.0.send_replace(Status::Down(why.into()));
        // A server that takes connections and ends them at once is not asked in a tight loop.
        sleep(backoff.next()).await;
    }
}
