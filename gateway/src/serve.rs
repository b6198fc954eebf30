//! A node as a process: from its configuration to its end.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use omnirelay_net::http::HttpLimits;
use omnirelay_net::quic::{QuicKeys, QuicLimits};
use omnirelay_net::rpc::REQUEST_BYTES_MAX;
use omnirelay_net::runtime::{
    DriverChoice, DriverKind, bind_cores, bind_exclusive, bind_udp_cores,
};
use omnirelay_net::tls::{TlsError, TlsWatch};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::admin::{self, AdminTls, NodeStatus, Pages, RunningNode};
use crate::config::{Config, Driver};
use crate::cores::{Clock, CoreReport, Cores, QuicStartup, StartError, Startup};
use crate::data_dir::{
    Catalog, DataDir, DataDirError, LogRecovery, LogSettings, NodeFile, NodeFileTls, open_logs,
};
use crate::logging;
use crate::node::Layout;
use crate::replication::{self, Replication, Subscribers};
use crate::telemetry::Outlet;
use crate::tls::NodeTls;

/// Why a node did not start, or did not end well.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The machine's clock is wrong.
    #[error("the system's clock is, or once was, past the year 2099, beyond what the log can hold")]
    ClockTooLate,
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address cannot be listened on. The source names it.
    #[error("`{key}`: {source}")]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A core or one of its threads did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A thread of the control side did not start.
    #[error("cannot start the control side: {0}")]
    Control(#[source] io::Error),
    /// Calls were still open when the time to finish them was over.
    #[error(
        "the node was stopped before all open calls had ended; what was acknowledged is on disk"
    )]
    CutShort,
}

/// A running node.
#[derive(Debug)]
pub(crate) struct Node {
    listen: SocketAddr,
    quic_listen: Option<SocketAddr>,
    admin_listen: SocketAddr,
    driver: DriverKind,
    cores: Cores,
    status: Arc<NodeStatus>,
    admin: Admin,
    telemetry: Outlet,
    tls: Option<NodeTls>,
    /// Reloads the configured certificate.
    _watch: Option<TlsWatch>,
    /// Locked until the node has ended.
    _data_dir: DataDir,
}

/// What each core had counted when it ended.
type LastReports = Vec<Option<CoreReport>>;

#[derive(Debug)]
struct Admin {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Node {
    /// Recovers the data directory and starts all cores; returns when the node answers calls.
    /// `before_ready` is done after all that takes long and before anybody is told of that.
    ///
    /// # Errors
    /// See [`ServeError`]. Nothing that was acknowledged is touched.
    fn start<T>(
        config: &Config,
        pages: Pages,
        before_ready: impl FnOnce() -> io::Result<T>,
    ) -> Result<(Node, T), ServeError> {
        let data_dir = DataDir::open(&config.data_dir)?;
        let core_count = u16::try_from(config.cores.len()).expect("configuration bounds the cores");
        let catalog = Catalog::open(
            data_dir.path(),
            core_count,
            &config.namespaces,
            &mut entropy,
        )
        .map_err(DataDirError::from)?;
        let layout = Arc::new(Layout::new(
            catalog.namespaces(&config.namespaces),
            catalog.logs,
            core_count,
        ));

        let tls = NodeTls::open(config, data_dir.path())?;
        let watch = match &tls {
            Some(tls) if !tls.is_self_signed => {
                Some(tls.server.watch().map_err(ServeError::Control)?)
            }
            _ => None,
        };

        let listen_error = |key| move |source| ServeError::Listen { key, source };
        let (listen, listeners) =
            bind_cores(config.listen, config.cores.len()).map_err(listen_error("listen"))?;
        let quic = match &tls {
            Some(tls) => open_quic(config, listen, tls, &data_dir)?,
            None => None,
        };
        let quic_listen = quic.as_ref().map(|(address, _)| *address);
        let admin_listener =
            bind_exclusive(config.admin_listen).map_err(listen_error("admin_listen"))?;
        let admin_listen = admin_listener
            .local_addr()
            .map_err(listen_error("admin_listen"))?;
        let status = NodeStatus::new(config);
        let admin_tls = tls.as_ref().and_then(|tls| {
            Some(AdminTls {
                config: tls.admin()?,
                knows_clients: tls.knows_clients(),
            })
        });
        let (subscriptions, subscribers) = replication::subscriptions();
        let admin = start_admin(
            admin_listener,
            admin_tls,
            Arc::clone(&status),
            pages,
            subscribers,
        )
        .map_err(ServeError::Control)?;

        let logs = layout.logs();
        let opened = open_logs(
            data_dir.path(),
            &layout,
            LogSettings {
                segment_bytes: config.segment_bytes,
                history_bytes: config.history_bytes,
            },
            entropy,
            &|open| status.recovering(format!("{open} of {logs} logs")),
        )?;
        for recovery in &opened.recoveries {
            tell_recovery(recovery);
        }
        let clock = Clock::start(opened.last_at);
        if clock.is_too_late() {
            return Err(ServeError::ClockTooLate);
        }
        let replication = Replication::new(Arc::clone(&layout), opened.committed);
        let (telemetry, tracing) =
            Outlet::open(&config.telemetry, &status).map_err(ServeError::Control)?;
        let cores = Cores::start(Startup {
            layout: Arc::clone(&layout),
            cpus: config.cores.clone(),
            driver: match config.driver {
                Driver::Auto => DriverChoice::Auto,
                Driver::IoUring => DriverChoice::IoUring,
                Driver::Epoll => DriverChoice::Epoll,
                #[cfg(feature = "glommio")]
                Driver::Glommio => DriverChoice::Glommio,
            },
            spin_max: config.spin_max,
            clock,
            logs: opened.logs,
            listeners,
            tls: tls.as_ref().and_then(NodeTls::rpc),
            limits: HttpLimits {
                connections_max: config.limits.connections_max_per_core,
                ..HttpLimits::default()
            },
            quic: quic.map(|(_, startup)| startup),
            body_bytes_max: REQUEST_BYTES_MAX,
            tracing: tracing.clone(),
            subscriptions,
        })?;
        let driver = cores.driver();
        let done = before_ready().map_err(ServeError::Control)?;
        data_dir.write_node_file(&NodeFile {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION"),
            listen,
            quic_listen,
            admin_listen,
            tls: tls.as_ref().map(|tls| NodeFileTls {
                certificate: tls.server.files().cert.clone(),
                fingerprint: tls
                    .is_self_signed
                    .then(|| tls.server.status().certificate.fingerprint),
            }),
        })?;
        status.ready(RunningNode {
            layout,
            board: Arc::clone(cores.board()),
            reporter: cores.reporter(),
            driver,
            listen,
            quic_listen,
            admin_listen,
            recoveries: opened.recoveries,
            replication: Arc::new(replication),
            spans: tracing.map(|tracing| Arc::clone(&tracing.spans)),
            tls: tls.clone(),
        });
        let node = Node {
            listen,
            quic_listen,
            admin_listen,
            driver,
            cores,
            status,
            admin,
            telemetry,
            tls,
            _watch: watch,
            _data_dir: data_dir,
        };
        Ok((node, done))
    }

    /// Where RPC is served.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where the admin endpoints are.
    pub(crate) fn admin_listen(&self) -> SocketAddr {
        self.admin_listen
    }

    /// `https` where the ports speak TLS.
    pub(crate) fn scheme(&self) -> &'static str {
        match &self.tls {
            Some(tls) if !tls.is_self_signed => "https",
            _ => "http",
        }
    }

    /// One line about the certificate, if there is one.
    fn certificate_line(&self) -> Option<String> {
        let tls = self.tls.as_ref()?;
        let certificate = tls.server.status().certificate;
        Some(format!(
            "{} {}, good until {}, SHA-256 {}",
            match tls.is_self_signed {
                true => "self-signed TLS certificate",
                false => "TLS certificate",
            },
            tls.server.files().cert.display(),
            admin::rfc3339_seconds(certificate.not_after),
            certificate.fingerprint
        ))
    }

    /// Finishes what is open, closes the logs and ends. Gives up when `wait` does.
    ///
    /// # Errors
    /// [`ServeError::CutShort`] if it gave up: the caller should end the process.
    pub(crate) fn stop(
        self,
        wait: impl FnOnce(oneshot::Receiver<LastReports>) -> Option<LastReports>,
    ) -> Result<(), ServeError> {
        self.status.draining();
        self.cores.drain();
        let (ended, has_ended) = oneshot::channel();
        let cores = self.cores;
        thread::Builder::new()
            .name("drain".into())
            .spawn(move || {
                // The waiting side may have given up.
                let _ = ended.send(cores.join());
            })
            .map_err(ServeError::Control)?;
        let Some(reports) = wait(has_ended) else {
            // The logs' threads may still write: nobody else may have the directory meanwhile.
            std::mem::forget(self._data_dir);
            return Err(ServeError::CutShort);
        };
        self.status.ended(reports);
        self.telemetry.close();
        // The admin side answers until the very end.
        drop(self.admin.stop);
        if self.admin.thread.join().is_err() {
            tracing::error!("the admin thread panicked");
        }
        Ok(())
    }
}

/// Binds the port of QUIC, if it is to be served.
fn open_quic(
    config: &Config,
    listen: SocketAddr,
    tls: &NodeTls,
    data_dir: &DataDir,
) -> Result<Option<(SocketAddr, QuicStartup)>, ServeError> {
    let Some(mut address) = config.quic_address() else {
        return Ok(None);
    };
    let listen_error = |source| ServeError::Listen {
        key: "quic_listen",
        source,
    };
    let cores = config.cores.len();
    let picks_port = address.port() == 0;
    if picks_port && config.quic_listen.is_none() {
        address.set_port(listen.port());
    }
    let mut bound = bind_udp_cores(address, cores);
    // The port that TCP picked may be in use for UDP.
    if picks_port && matches!(&bound, Err(error) if error.kind() == io::ErrorKind::AddrInUse) {
        address.set_port(0);
        bound = bind_udp_cores(address, cores);
    }
    let (address, sockets) = bound.map_err(listen_error)?;
    let secret = data_dir.quic_secret(entropy)?;
    let startup = QuicStartup {
        sockets,
        tls: tls.quic(),
        keys: QuicKeys::new(&secret, entropy() as u16),
        limits: QuicLimits {
            connections_max: config.limits.connections_max_per_core,
            ..QuicLimits::default()
        },
    };
    Ok(Some((address, startup)))
}

/// A node together with the signals that end it.
pub(crate) struct Served {
    pub(crate) node: Node,
    runtime: tokio::runtime::Runtime,
    signals: Signals,
    drain_timeout: Duration,
}

impl Served {
    /// Starts a node. Until it is ready a signal simply ends the process, because there is nothing
    /// to finish; whoever knows it to be ready can have it drained.
    pub(crate) fn start(config: &Config, pages: Pages) -> Result<Served, ServeError> {
        // A core that panicked may have left its state half changed: the whole process ends, and
        // what is on disk is recovered by the next.
        logging::abort_on_panic();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ServeError::Control)?;
        let (node, signals) =
            Node::start(config, pages, || runtime.block_on(async { Signals::new() }))?;
        Ok(Served {
            node,
            runtime,
            signals,
            drain_timeout: config.drain_timeout,
        })
    }

    /// Waits for SIGTERM or SIGINT.
    pub(crate) fn wait(&mut self) -> &'static str {
        self.runtime.block_on(self.signals.next())
    }

    /// Finishes what is open and ends, or ends at once when told again or when it takes too long.
    pub(crate) fn drain(self) -> Result<(), ServeError> {
        let Served {
            node,
            runtime,
            mut signals,
            drain_timeout,
        } = self;
        node.stop(|ended| {
            runtime.block_on(async {
                tokio::select! {
                    reports = ended => reports.ok(),
                    name = signals.next() => {
                        tracing::warn!(signal = name, "told again to stop: ending now");
                        None
                    }
                    () = tokio::time::sleep(drain_timeout) => {
                        tracing::warn!(after = ?drain_timeout, "open calls did not end in time: ending now");
                        None
                    }
                }
            })
        })
    }
}

/// Runs a node until SIGTERM or SIGINT, then drains it.
///
/// # Errors
/// See [`ServeError`].
pub fn run(config: &Config) -> Result<(), ServeError> {
    let mut served = Served::start(config, Pages::default())?;
    let scheme = served.node.scheme();
    logging::say(&format!(
        "omnirelay {} is ready: RPC on {scheme}://{}{}, admin on {scheme}://{}, data in {}, {} core(s) on {}\n",
        env!("CARGO_PKG_VERSION"),
        served.node.listen,
        served
            .node
            .quic_listen
            .map_or_else(String::new, |it| format!(" and QUIC on {it}")),
        served.node.admin_listen,
        config.data_dir.display(),
        config.cores.len(),
        served.node.driver,
    ));
    if let Some(line) = served.node.certificate_line() {
        logging::say(&format!("{line}\n"));
    }
    let name = served.wait();
    tracing::info!(signal = name, "stopping: finishing open calls");
    served.drain()
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn start_admin(
    listener: TcpListener,
    tls: Option<AdminTls>,
    status: Arc<NodeStatus>,
    pages: Pages,
    subscribers: Subscribers,
) -> io::Result<Admin> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(replication::READERS_MAX)
        .build()?;
    listener.set_nonblocking(true)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = thread::Builder::new().name("admin".into()).spawn(move || {
        let served = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(admin::serve_subscriptions(Arc::clone(&status), subscribers));
            // Ends when the sender is dropped.
            admin::serve(listener, tls, status, pages, async { drop(stopped.await) }).await
        });
        if let Err(error) = served {
            tracing::error!(%error, "the admin endpoints are gone");
        }
    })?;
    Ok(Admin { stop, thread })
}

fn tell_recovery(found: &LogRecovery) {
    let recovery = &found.recovery;
    if recovery.fresh {
        return;
    }
    let took_ms = found.took.as_secs_f64() * 1e3;
    tracing::info!(
        log = found.log.0,
        records = recovery.records,
        segments = recovery.segments,
        clean = recovery.clean,
        took_ms,
        "log recovered"
    );
    if let Some(torn) = &recovery.torn {
        tracing::info!(
            log = found.log.0,
            segment = torn.segment,
            offset = torn.offset,
            bytes = torn.bytes,
            "left out a torn tail: writes that were never acknowledged"
        );
    }
}

/// Random numbers from the system.
///
/// # Panics
/// If the system has none: keys must not be made without.
fn entropy() -> u64 {
    getrandom::u64().expect("the system gives random numbers")
}
