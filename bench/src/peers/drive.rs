//! The load on a peer: producers and workers on connections of their own, as the load generator
//! puts them on OmniRelay, with the same account of every item.

#[cfg(test)]
mod lying;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use omnirelay_loadgen::{Grant, Latencies, Ledger, latency_histogram};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::figures::{Figures, Meter};
use super::rows::{BACKLOG_FACTOR, Row, Timing};
use super::wire::{Body, Cursor, Cut, Seen, Wire};

/// What one read takes at most: a whole batch of items with room to spare.
const READ_BYTES: usize = 128 << 10;
const STEP: Duration = Duration::from_millis(5);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Producer,
    Worker,
}

/// A queue that is running somewhere.
pub(crate) trait Peer {
    type Wire: Wire + 'static;

    /// Opens a connection and says all that comes before items; `at` numbers those of its role.
    async fn connect(&self, role: Role, at: usize, row: Row) -> anyhow::Result<Link<Self::Wire>>;

    /// Items that are in the queue, in whatever state.
    async fn left(&self) -> anyhow::Result<u64>;

    /// Items that are in the queue once nobody is connected.
    async fn left_behind(&self) -> anyhow::Result<u64> {
        self.left().await
    }
}

/// Puts a load on a peer and measures it.
///
/// # Errors
/// If it fails, or an item that was acknowledged did not come and go exactly once.
pub(crate) async fn measure(
    peer: &impl Peer,
    server: u32,
    row: Row,
    size: usize,
    timing: Timing,
) -> anyhow::Result<Figures> {
    let load = Rc::new(Load::new(row, size));
    let mut tasks = JoinSet::new();
    for at in 0..row.connections {
        let link = peer.connect(Role::Worker, at, row).await?;
        tasks.spawn_local(work(Rc::clone(&load), link, row.in_flight));
    }
    for at in 0..row.connections {
        let link = peer.connect(Role::Producer, at, row).await?;
        tasks.spawn_local(produce(Rc::clone(&load), link, row.in_flight));
    }
    load.during(&mut tasks, timing.warm_up).await?;
    load.latencies.replace(no_latencies());
    let meter = Meter::start(server, load.ledger.borrow().completed());
    load.during(&mut tasks, timing.duration).await?;
    let measured = meter.stop(load.ledger.borrow().completed());
    let latencies = load.latencies.replace(no_latencies());
    load.stop.set(true);
    load.room.notify_waiters();
    load.drain(&mut tasks, timing.patience).await?;
    // Workers go on meanwhile, so that they meet second copies.
    let end = Instant::now() + timing.patience;
    loop {
        match peer.left().await? {
            0 => break,
            left if Instant::now() > end => bail!("{left} items are left in the queue"),
            _ => load.during(&mut tasks, STEP).await?,
        }
    }
    tasks.shutdown().await;
    match peer.left_behind().await? {
        0 => Ok(measured.with(latencies)),
        left => bail!("{left} items are left in the queue once its workers are gone"),
    }
}

/// What all connections share.
struct Load {
    start: Instant,
    body: RefCell<Body>,
    ledger: RefCell<Ledger>,
    latencies: RefCell<Latencies>,
    /// Items begun and not completed, and how many there may be.
    backlog: Cell<usize>,
    backlog_max: usize,
    /// Told whenever the backlog has room again.
    room: Notify,
    producers: Cell<usize>,
    stop: Cell<bool>,
}

impl Load {
    fn new(row: Row, size: usize) -> Self {
        Self {
            start: Instant::now(),
            body: RefCell::new(Body::new(size)),
            ledger: RefCell::default(),
            latencies: RefCell::new(no_latencies()),
            backlog: Cell::new(0),
            backlog_max: BACKLOG_FACTOR * row.connections * row.in_flight,
            room: Notify::new(),
            producers: Cell::new(row.connections),
            stop: Cell::new(false),
        }
    }

    fn us(&self, instant: Instant) -> u32 {
        let since = instant.saturating_duration_since(self.start);
        u32::try_from(since.as_micros()).unwrap_or(u32::MAX)
    }

    /// Lets the connections go on for a time; the first that fails ends it.
    async fn during(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        time: Duration,
    ) -> anyhow::Result<()> {
        let sleep = tokio::time::sleep(time);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = &mut sleep => return Ok(()),
                ended = tasks.join_next() => match ended {
                    Some(ended) => ended.context("a connection's task")??,
                    None => bail!("all connections have ended"),
                },
            }
        }
    }

    /// Waits until all that was begun is acknowledged, and all that was acknowledged is gone, as
    /// long as something is done within each `patience`.
    async fn drain(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let done = || self.ledger.borrow().acknowledged() + self.ledger.borrow().completed();
        let (mut last, mut end) = (done(), Instant::now() + patience);
        loop {
            self.during(tasks, STEP).await?;
            let unfinished = self.ledger.borrow().unfinished();
            if self.producers.get() == 0 && unfinished == 0 {
                return Ok(());
            }
            if done() > last {
                (last, end) = (done(), Instant::now() + patience);
            }
            if Instant::now() > end {
                let producers = self.producers.get();
                bail!(
                    "{unfinished} acknowledged items were lost, {producers} producers wait for \
                     replies: nothing came for {patience:?}"
                );
            }
        }
    }

    /// Takes up to so much of the backlog's room.
    fn take_room(&self, wanted: usize) -> usize {
        let room = self.backlog_max - self.backlog.get();
        let taken = match self.stop.get() {
            true => 0,
            false => room.min(wanted),
        };
        self.backlog.set(self.backlog.get() + taken);
        taken
    }

    fn grant(&self, item: u64, asked: Instant, now: Instant) -> anyhow::Result<()> {
        match self.ledger.borrow_mut().grant(item) {
            Grant::First { began_us } => {
                // A worker that waited before there was anything did not wait for this item.
                let from_us = began_us.max(self.us(asked));
                let took_us = self.us(now).saturating_sub(from_us).into();
                self.latencies.borrow_mut().lease.saturating_record(took_us);
                Ok(())
            }
            Grant::Again => bail!("item {item} came twice"),
            Grant::Impossible => bail!("item {item} came and was never sent"),
        }
    }

    fn complete(&self, items: impl Iterator<Item = u64>) {
        let mut count = 0;
        for item in items {
            self.ledger.borrow_mut().complete(item);
            count += 1;
        }
        self.backlog.set(self.backlog.get() - count);
        if count > 0 {
            self.room.notify_waiters();
        }
    }
}

fn no_latencies() -> Latencies {
    Latencies {
        enqueue: latency_histogram(),
        lease: latency_histogram(),
        complete: latency_histogram(),
    }
}

/// Keeps items in flight until the load is to stop.
async fn produce<W: Wire>(
    load: Rc<Load>,
    mut link: Link<W>,
    in_flight: usize,
) -> anyhow::Result<()> {
    // Puts on their way; `None` where a later one was acknowledged earlier.
    let mut puts: VecDeque<Option<(u64, Instant)>> = VecDeque::new();
    let mut first_put = 0;
    let mut waiting = 0;
    loop {
        let count = load.take_room(in_flight - waiting);
        if count > 0 {
            let began = Instant::now();
            let first = load.ledger.borrow_mut().begin(count, load.us(began));
            for item in first..first + count as u64 {
                link.wire
                    .put(load.body.borrow_mut().of(item), &mut link.out);
                puts.push_back(Some((item, began)));
            }
            waiting += count;
            link.flush().await?;
        }
        match (waiting, load.stop.get()) {
            (0, true) => break,
            (0, false) => load.room.notified().await,
            (waiting, stop) if stop || waiting == in_flight => link.read().await?,
            _ => tokio::select! {
                read = link.read() => read?,
                () = load.room.notified() => {}
            },
        }
        let now = Instant::now();
        for put in link.seen.stored.drain(..) {
            let place = put.checked_sub(first_put).map(|place| place as usize);
            let put = place.and_then(|place| puts.get_mut(place)?.take());
            let (item, began) = put.ok_or_else(|| anyhow!("a put was acknowledged twice"))?;
            load.ledger.borrow_mut().acknowledge(item);
            let took_us = u64::try_from((now - began).as_micros()).unwrap_or(u64::MAX);
            let mut latencies = load.latencies.borrow_mut();
            latencies.enqueue.saturating_record(took_us);
            waiting -= 1;
        }
        link.seen.clear();
        while let Some(None) = puts.front() {
            puts.pop_front();
            first_put += 1;
        }
    }
    load.producers.set(load.producers.get() - 1);
    Ok(())
}

/// Fetches items and removes them, until it is dropped.
async fn work<W: Wire>(load: Rc<Load>, mut link: Link<W>, in_flight: usize) -> anyhow::Result<()> {
    // Items that are being removed, and since when.
    let mut held: VecDeque<(u64, Instant)> = VecDeque::new();
    let mut asked = Instant::now();
    let mut fetching = false;
    loop {
        if !fetching && held.is_empty() {
            asked = Instant::now();
            link.wire.fetch(in_flight, &mut link.out);
            fetching = true;
        }
        link.flush().await?;
        link.read().await?;
        let now = Instant::now();
        fetching &= !link.seen.fetched;
        // Removals that are confirmed were asked for before the items of this read.
        let confirmed = link.seen.settled;
        let mut settled = confirmed;
        if settled > held.len() {
            bail!("more removals were confirmed than asked for");
        }
        for item in &link.seen.items {
            load.grant(*item, asked, now)?;
            held.push_back((*item, now));
        }
        if !link.seen.items.is_empty() {
            settled += link.wire.settle(&mut link.out);
        }
        link.seen.clear();
        let mut latencies = load.latencies.borrow_mut();
        // What needs no reply has no latency.
        for (_, began) in held.iter().take(confirmed) {
            let took_us = u64::try_from((now - *began).as_micros()).unwrap_or(u64::MAX);
            latencies.complete.saturating_record(took_us);
        }
        drop(latencies);
        load.complete(held.drain(..settled).map(|(item, _)| item));
    }
}

/// A connection and what is under way on it.
#[derive(Debug)]
pub(crate) struct Link<W> {
    stream: TcpStream,
    pub(crate) wire: W,
    /// To be sent.
    pub(crate) out: Vec<u8>,
    /// What has come and is not read yet, up to `filled`.
    arrived: Vec<u8>,
    filled: usize,
    pub(crate) seen: Seen,
}

impl<W: Wire> Link<W> {
    pub(crate) fn new(stream: TcpStream, wire: W) -> anyhow::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            wire,
            out: Vec::new(),
            arrived: vec![0; READ_BYTES],
            filled: 0,
            seen: Seen::default(),
        })
    }

    /// Sends all that is to be sent.
    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.stream.try_write(&self.out[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.stream.writable().await?;
                }
                Err(error) => return Err(error).context("the connection failed"),
            }
        }
        self.out.clear();
        Ok(())
    }

    /// Waits for bytes and takes the whole replies in them. May be dropped without loss.
    pub(crate) async fn read(&mut self) -> anyhow::Result<()> {
        let count = loop {
            self.stream.readable().await?;
            match self.stream.try_read(&mut self.arrived[self.filled..]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                read => break read.context("the connection failed")?,
            }
        };
        if count == 0 {
            bail!("the server has ended the connection");
        }
        self.filled += count;
        let mut used = 0;
        loop {
            let mut cursor = Cursor::new(&self.arrived[used..self.filled]);
            if used == self.filled {
                break;
            }
            match self.wire.take(&mut cursor, &mut self.seen) {
                Ok(()) => used += cursor.read(),
                Err(Cut::More) => break,
                Err(Cut::Wrong(error)) => return Err(error),
            }
        }
        self.out.append(&mut self.seen.answer);
        self.arrived.copy_within(used..self.filled, 0);
        self.filled -= used;
        if self.filled == self.arrived.len() {
            self.arrived.resize(2 * self.filled, 0);
        }
        Ok(())
    }
}
