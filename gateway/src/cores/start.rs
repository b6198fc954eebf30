//! Starting and ending all cores of a node.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use omnirelay_net::http::{HttpLimits, serve};
use omnirelay_net::messages::ExplainResponse;
use omnirelay_net::quic::{self, Endpoint, Lanes, QuicKeys, QuicLimits, lanes};
use omnirelay_net::ring::ring;
use omnirelay_net::rpc;
use omnirelay_net::runtime::{self, CoreOptions, DriverChoice, DriverKind, Notifier};
use omnirelay_queue::Shard;
use omnirelay_wal::{Allocator, Appender, Cleaner, Disk, Reader, Writer};
use rustls::ServerConfig;
use thiserror::Error;
use tokio::sync::oneshot;

use super::clock::Clock;
use super::core_thread::{self, CoreSeed, Outbound, RING_MESSAGES};
use super::ending::Ending;
use super::inbox::{Event, ExplainAsk, Inbox, InboxReader, inbox};
use super::log_threads::{LogThreads, LogThreadsEnd};
use super::telemetry::CoreReport;
use crate::inbound::Inbound;
use crate::node::{Board, CoreId, Layout, LogId, LogParts, NamespaceId};
use crate::replication::Subscriptions;
use crate::telemetry::{Tracer, Tracing};

/// How long whoever asks waits for the cores.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);

/// A recovered log, with the shards that its records made.
pub struct OpenedLog<D: Disk> {
    /// Which log it is.
    pub id: LogId,
    /// For the core.
    pub appender: Appender,
    /// For the log thread.
    pub writer: Writer<D>,
    /// For the allocator thread.
    pub allocator: Allocator<D>,
    /// For the core and the reader thread.
    pub reader: Reader<D>,
    /// For the reader thread.
    pub cleaner: Cleaner<D>,
    /// In the order of their ids.
    pub shards: Vec<Shard>,
    /// The size of a segment.
    pub segment_bytes: u64,
    /// Bytes of log kept beyond what lives in them.
    pub history_bytes: u64,
}

/// What cores are started with.
pub struct Startup<D: Disk> {
    /// Namespaces, shards, logs and cores.
    pub layout: Arc<Layout>,
    /// The CPU of each core.
    pub cpus: Vec<usize>,
    /// How cores talk to the kernel.
    pub driver: DriverChoice,
    /// How long a core without work may look for more before it sleeps.
    pub spin_max: Duration,
    /// The node's clock.
    pub clock: Clock,
    /// All logs, in order.
    pub logs: Vec<OpenedLog<D>>,
    /// One for each core.
    pub listeners: Vec<TcpListener>,
    /// What the listeners speak, instead of plain text.
    pub tls: Option<Arc<ServerConfig>>,
    /// Bounds of connections.
    pub limits: HttpLimits,
    /// For QUIC, where it is served.
    pub quic: Option<QuicStartup>,
    /// The largest request body in bytes.
    pub body_bytes_max: usize,
    /// Where spans go, if anywhere, and which calls make some.
    pub tracing: Option<Arc<Tracing>>,
    /// Where subscribers of the replication stream are handed over.
    pub subscriptions: Subscriptions,
}

/// What QUIC on the cores is started with.
pub struct QuicStartup {
    /// One for each core.
    pub sockets: Vec<UdpSocket>,
    /// What clients are shown.
    pub tls: Arc<ServerConfig>,
    /// The node's.
    pub keys: QuicKeys,
    /// Bounds of connections.
    pub limits: QuicLimits,
}

/// Why cores did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The system refused a thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// A core could not be set up.
    #[error("core {core} (cpu {cpu}) cannot start: {why}")]
    Core {
        /// The core's position.
        core: u16,
        /// Its CPU.
        cpu: usize,
        /// What went wrong.
        why: String,
    },
}

/// The running cores of a node.
#[derive(Debug)]
pub struct Cores {
    inboxes: Vec<Inbox>,
    board: Arc<Board>,
    driver: DriverKind,
    threads: Vec<JoinHandle<Option<CoreReport>>>,
    logs: Vec<LogThreadsEnd>,
}

impl Cores {
    /// Starts a thread for each core and waits until the new epochs are on disk: from then on the
    /// node may answer.
    ///
    /// # Errors
    /// If a thread, a CPU, a driver or a log cannot be had. Cores that did start are ended.
    pub fn start<D>(startup: Startup<D>) -> Result<Cores, StartError>
    where
        D: Disk + Send + Sync + 'static,
    {
        let cores = startup.layout.cores();
        let board = Arc::new(Board::new(
            startup.layout.namespaces().len(),
            startup.layout.logs(),
            cores,
        ));
        let (inboxes, readers): (Vec<Inbox>, Vec<InboxReader>) =
            (0..cores).map(|_| inbox()).unzip();
        let (seeds, logs) = make_seeds(
            startup.layout,
            &board,
            startup.clock,
            startup.logs,
            &inboxes,
            readers,
        )?;
        let mut quic = core_quic(startup.quic).into_iter();
        let (ready, is_ready) = mpsc::channel();
        let mut threads = Vec::new();
        for ((seed, listener), &cpu) in seeds.into_iter().zip(startup.listeners).zip(&startup.cpus)
        {
            let core = Core {
                listener,
                tls: startup.tls.clone(),
                limits: startup.limits.clone(),
                quic: quic.next(),
                body_bytes_max: startup.body_bytes_max,
                tracing: startup.tracing.clone(),
                subscriptions: startup.subscriptions.clone(),
                ready: ready.clone(),
            };
            let options = CoreOptions {
                cpu: Some(cpu),
                driver: startup.driver,
                spin_max: startup.spin_max,
                ..CoreOptions::default()
            };
            let thread = thread::Builder::new()
                .name(format!("core-{}", seed.id.0))
                .spawn(move || core.run(seed, options))
                .map_err(StartError::Thread)?;
            threads.push(thread);
        }
        drop(ready);
        let mut started = Cores {
            inboxes,
            board,
            driver: DriverKind::Epoll,
            threads,
            logs,
        };
        for _ in 0..cores {
            match is_ready.recv() {
                Ok((_, Ok(driver))) => started.driver = driver,
                Ok((core, Err(why))) => {
                    started.drain();
                    started.join();
                    return Err(StartError::Core {
                        core,
                        cpu: startup.cpus[usize::from(core)],
                        why,
                    });
                }
                Err(_) => {
                    unreachable!("every core thread says how its start went, or aborts the process")
                }
            }
        }
        // A token must not leave before the epoch that it carries is on disk, on whichever core.
        for inbox in &started.inboxes {
            inbox.send(Event::Serve);
        }
        Ok(started)
    }

    /// What all cores may know of each other.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// What the cores talk to the kernel with.
    pub fn driver(&self) -> DriverKind {
        self.driver
    }

    /// A handle that asks cores for reports.
    pub fn reporter(&self) -> Reporter {
        Reporter {
            inboxes: self.inboxes.clone(),
        }
    }

    /// Has every core finish what is open and take nothing more.
    pub fn drain(&self) {
        for inbox in &self.inboxes {
            inbox.send(Event::Drain);
        }
    }

    /// Waits until all cores have ended and the logs are closed. Each core's last report; `None`
    /// for a core that never ran.
    pub fn join(self) -> Vec<Option<CoreReport>> {
        let ended = self.threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| {
                tracing::error!("a core's thread panicked");
                None
            })
        });
        let reports = ended.collect();
        for log in self.logs {
            log.join();
        }
        reports
    }
}

/// Asks cores how they are.
#[derive(Debug, Clone)]
pub struct Reporter {
    inboxes: Vec<Inbox>,
}

impl Reporter {
    /// Each core's report; `None` for a core that did not answer in time.
    pub async fn reports(&self) -> Vec<Option<CoreReport>> {
        let asked: Vec<_> = self
            .inboxes
            .iter()
            .map(|inbox| {
                let (to, answer) = oneshot::channel();
                inbox.try_send(Event::Report(to)).ok().map(|()| answer)
            })
            .collect();
        let by = tokio::time::Instant::now() + ANSWER_TIME_MAX;
        let mut reports = Vec::with_capacity(asked.len());
        for answer in asked {
            let report = match answer {
                Some(answer) => tokio::time::timeout_at(by, answer)
                    .await
                    .ok()
                    .and_then(Result::ok),
                None => None,
            };
            reports.push(report);
        }
        reports
    }

    /// Where an item stands, as `explain` says it to clients; `None` if its core did not answer
    /// in time.
    pub async fn explain(
        &self,
        core: CoreId,
        namespace: NamespaceId,
        sequence_id: u64,
    ) -> Option<Result<ExplainResponse, rpc::Error>> {
        let (to, answer) = oneshot::channel();
        let ask = Event::Explain(ExplainAsk {
            namespace,
            sequence_id,
            time: ANSWER_TIME_MAX,
            to,
        });
        self.inboxes[usize::from(core.0)].try_send(ask).ok()?;
        let answer = tokio::time::timeout(ANSWER_TIME_MAX, answer).await;
        answer.ok()?.ok()
    }
}

/// Connects the cores with rings, gives each its logs, and starts the logs' threads.
fn make_seeds<D>(
    layout: Arc<Layout>,
    board: &Arc<Board>,
    clock: Clock,
    logs: Vec<OpenedLog<D>>,
    inboxes: &[Inbox],
    readers: Vec<InboxReader>,
) -> Result<(Vec<CoreSeed<D>>, Vec<LogThreadsEnd>), StartError>
where
    D: Disk + Send + Sync + 'static,
{
    let mut seeds = Vec::new();
    let mut notifiers: Vec<Notifier> = Vec::new();
    let ending = Arc::new(Ending::new(layout.cores()));
    for (number, inbox) in (0u16..).zip(readers) {
        let (notifier, messages) = Notifier::pair();
        notifiers.push(notifier.clone());
        seeds.push(CoreSeed {
            id: CoreId(number),
            layout: Arc::clone(&layout),
            board: Arc::clone(board),
            clock,
            logs: Vec::new(),
            threads: Vec::new(),
            inbox,
            inbound: Vec::new(),
            messages,
            notifier,
            outbound: Vec::new(),
            ending: Arc::clone(&ending),
        });
    }
    for from in 0..seeds.len() {
        for to in 0..seeds.len() {
            if from != to {
                let (producer, consumer) = ring(RING_MESSAGES);
                let notifier = notifiers[to].clone();
                let id = seeds[to].id;
                seeds[from].outbound.push(Outbound {
                    to: id,
                    ring: producer,
                    notifier,
                });
                seeds[to].inbound.push(consumer);
            }
        }
    }
    let mut ends = Vec::new();
    for log in logs {
        let core = usize::from(layout.core_of(log.id).0);
        let (threads, end) = LogThreads::start(
            log.id,
            log.writer,
            log.allocator,
            log.reader.clone(),
            log.cleaner,
            &inboxes[core],
        )
        .map_err(StartError::Thread)?;
        ends.push(end);
        seeds[core].threads.push((log.id, threads));
        seeds[core].logs.push(LogParts {
            id: log.id,
            appender: log.appender,
            reader: log.reader,
            shards: log.shards,
            segment_bytes: log.segment_bytes,
            history_bytes: log.history_bytes,
        });
    }
    Ok((seeds, ends))
}

/// What each core needs for QUIC; nothing where it is not served.
fn core_quic(startup: Option<QuicStartup>) -> Vec<CoreQuic> {
    let Some(startup) = startup else {
        return Vec::new();
    };
    let lanes = lanes(startup.sockets.len());
    let sockets = startup.sockets.into_iter().zip(lanes);
    sockets
        .map(|(socket, lanes)| CoreQuic {
            socket,
            lanes,
            tls: Arc::clone(&startup.tls),
            keys: startup.keys.clone(),
            limits: startup.limits.clone(),
        })
        .collect()
}

/// What one core needs for QUIC.
struct CoreQuic {
    socket: UdpSocket,
    lanes: Lanes,
    tls: Arc<ServerConfig>,
    keys: QuicKeys,
    limits: QuicLimits,
}

impl CoreQuic {
    fn open(self) -> io::Result<Endpoint> {
        Endpoint::new(self.socket, self.tls, &self.keys, self.lanes, self.limits)
    }
}

/// How a core's start went.
type Ready = (u16, Result<DriverKind, String>);

/// What a core's thread does beside driving the core.
struct Core {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    limits: HttpLimits,
    quic: Option<CoreQuic>,
    body_bytes_max: usize,
    tracing: Option<Arc<Tracing>>,
    subscriptions: Subscriptions,
    ready: mpsc::Sender<Ready>,
}

impl Core {
    fn run<D: Disk>(self, seed: CoreSeed<D>, options: CoreOptions) -> Option<CoreReport> {
        let (id, ready) = (seed.id.0, self.ready.clone());
        let ending = Arc::clone(&seed.ending);
        let others: Vec<Notifier> = seed
            .outbound
            .iter()
            .map(|lane| lane.notifier.clone())
            .collect();
        let has_run = Cell::new(false);
        let main = |driver| {
            has_run.set(true);
            self.main(seed, driver)
        };
        let error = match runtime::run(options, main) {
            Ok(report) => return Some(report),
            Err(error) => error,
        };
        if !has_run.get() {
            // The others must not wait for a core that never was.
            ending.core_is_done();
            others.iter().for_each(Notifier::notify);
        }
        // Nobody listens any more if the core had started before.
        let _ = ready.send((id, Err(error.to_string())));
        None
    }

    async fn main<D: Disk>(self, seed: CoreSeed<D>, driver: DriverKind) -> CoreReport {
        let id = seed.id.0;
        let cell = core_thread::start(seed, driver.name());
        cell.opened.wait().await;
        let failure = cell
            .core
            .borrow()
            .failure()
            .map(|(log, why)| format!("log {}: {why}", log.0));
        let listener = runtime::TcpListener::from_std(self.listener);
        let quic = self.quic.map(CoreQuic::open).transpose();
        match (failure, listener.and_then(|listener| Ok((listener, quic?)))) {
            (None, Ok((listener, quic))) => {
                let _ = self.ready.send((id, Ok(driver)));
                drop(self.ready);
                poll_fn(|cx| match cell.serve.poll(cx) {
                    Poll::Ready(()) => Poll::Ready(()),
                    Poll::Pending => cell.drain.poll(cx),
                })
                .await;
                let tracer = self.tracing.as_deref().map(Tracer::seeded);
                let inbound = Rc::new(Inbound::new(
                    Rc::clone(&cell),
                    self.body_bytes_max,
                    tracer,
                    self.subscriptions,
                ));
                if let Some(endpoint) = quic {
                    let (cell, inbound) = (Rc::clone(&cell), Rc::clone(&inbound));
                    runtime::spawn(async move {
                        let counters = Rc::clone(&cell.quic);
                        quic::serve(endpoint, inbound, counters, cell.drain.wait()).await;
                        // This may have been the last thing that the core waited for.
                        cell.dirty.set();
                    });
                }
                let counters = Rc::clone(&cell.http);
                let drained = cell.drain.wait();
                serve(listener, self.tls, inbound, self.limits, counters, drained).await;
            }
            (Some(why), _) => drop(self.ready.send((id, Err(why)))),
            (None, Err(error)) => drop(self.ready.send((id, Err(error.to_string())))),
        }
        cell.drain.wait().await;
        cell.dirty.set();
        cell.stop.wait().await;
        cell.report(id)
    }
}
