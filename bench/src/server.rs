//! The server as a child process, and its admin side.

#![allow(unsafe_code, reason = "system calls; each block says why it is sound")]

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use omnirelay_loadgen::cpu;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

/// Between two looks at whether the server is ready: the resolution of a restart.
const READY_STEP: Duration = Duration::from_millis(5);
/// How long a start may take. Ten million items are read back in seconds.
const READY_MAX: Duration = Duration::from_secs(600);
/// How long the drain of a stopping server may take: longer than its own limit.
const STOP_MAX: Duration = Duration::from_secs(60);
/// How long the admin side may take to answer.
const ADMIN_MAX: Duration = Duration::from_secs(5);

/// Lines of what a server said that an error shows, and bytes of each.
const WORDS: usize = 12;
const LINE: usize = 300;

/// Which CPUs the two sides get.
#[derive(Debug, Clone, Copy)]
pub struct Cpus {
    /// Cores of the server, which get the CPUs from 0 on.
    pub server: u16,
    /// The CPU of the thread that starts the server, and of those that it starts from then on.
    pub client: usize,
}

impl Cpus {
    /// Those of the server.
    #[must_use]
    pub fn of_server(self) -> Vec<usize> {
        (0..usize::from(self.server)).collect()
    }
}

/// How a server is to be started, each time alike.
#[derive(Debug)]
pub struct Launch {
    binary: PathBuf,
    dir: PathBuf,
    cores: u16,
    cpus: Option<Cpus>,
    tls: Option<Arc<ClientConfig>>,
    settings: Vec<String>,
    /// What the system picked for the first start, so that later ones need not be asked.
    addresses: Option<Addresses>,
}

/// Where a server listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// RPC, over TCP and QUIC.
    pub rpc: SocketAddr,
    /// Admin.
    pub admin: SocketAddr,
}

/// A running server; dropping it kills it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    tls: Option<Arc<ClientConfig>>,
    /// Where what it says on stderr goes.
    said: PathBuf,
    /// Where it listens.
    pub addresses: Addresses,
    /// From before the process was made until it answered calls.
    pub ready_after: Duration,
}

/// What a log says of itself, summed over all logs.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogSizes {
    /// How many there are.
    pub logs: u64,
    /// Bytes of their files.
    pub used_bytes: u64,
    /// Bytes that are still needed.
    pub live_bytes: u64,
    /// Their files.
    pub segments: u64,
    /// Files given up since the start.
    pub retired: u64,
}

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SIGTERM: it drains and closes its logs.
    Drain,
    /// SIGKILL.
    Kill,
}

impl Launch {
    /// With `settings` as `serve --set` takes them. The binary is the one that was built with this
    /// program.
    ///
    /// # Errors
    /// If it is not there.
    pub fn new(dir: &Path, cpus: Cpus, settings: Vec<String>) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("this program does not know where it is")?;
        let binary = own.with_file_name("omnirelay");
        if !binary.is_file() {
            bail!(
                "there is no server at {}\nhelp: build it first: cargo build --release",
                binary.display()
            );
        }
        Ok(Self {
            binary,
            dir: dir.to_owned(),
            cores: cpus.server,
            cpus: Some(cpus),
            tls: None,
            settings,
            addresses: None,
        })
    }

    /// Lets the system pick the CPUs.
    #[must_use]
    pub fn on_any_cpu(mut self) -> Self {
        self.cpus = None;
        self
    }

    /// Speaks TLS with its admin side, as it has to where the settings name certificates.
    #[must_use]
    pub fn over_tls(mut self, config: ClientConfig) -> Self {
        self.tls = Some(Arc::new(config));
        self
    }

    /// On these addresses instead of ones that the system picks.
    #[must_use]
    pub fn at(mut self, addresses: Addresses) -> Self {
        self.addresses = Some(addresses);
        self
    }

    /// Starts the server and waits until it answers calls.
    ///
    /// # Errors
    /// If it cannot be started, or does not come up; with the last that it said.
    pub async fn start(&mut self) -> anyhow::Result<Server> {
        let started = Instant::now();
        let mut child = self.spawn()?;
        let ready = self.wait_until_ready(&mut child, started).await;
        if ready.is_err() {
            // That it may be gone already is fine.
            let _ = child.kill();
            let _ = child.wait();
        }
        let (addresses, ready_after) = ready.with_context(|| {
            let said = last_words(&self.said());
            format!("the server did not start; it said: {said}")
        })?;
        self.addresses = Some(addresses);
        Ok(Server {
            child,
            tls: self.tls.clone(),
            said: self.said(),
            addresses,
            ready_after,
        })
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let said = File::options().create(true).append(true).open(self.said());
        let said = said.context("the server's log cannot be written")?;
        let addresses = self.addresses;
        let address = |of: fn(Addresses) -> SocketAddr| {
            addresses.map_or_else(|| "127.0.0.1:0".to_owned(), |it| of(it).to_string())
        };
        let mut command = Command::new(&self.binary);
        command
            .args(["serve", "--cores", &self.cores.to_string()])
            .arg("--data-dir")
            .arg(&self.dir)
            .args(["--listen", &address(|it| it.rpc)])
            .args(["--admin-listen", &address(|it| it.admin)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            // Ctrl-C is for this process, which then ends the server.
            .process_group(0);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OMNIRELAY_") {
                command.env_remove(name);
            }
        }
        // SAFETY: prctl only sets a flag of the new process; it allocates and locks nothing.
        unsafe { command.pre_exec(die_with_parent) };
        // The child keeps the CPUs of the thread that makes it.
        if let Some(cpus) = self.cpus {
            cpu::pin(&cpus.of_server())
                .with_context(|| format!("{} CPUs for the server", cpus.server))?;
        }
        let child = command.spawn();
        if let Some(cpus) = self.cpus {
            cpu::pin(&[cpus.client]).with_context(|| format!("CPU {}", cpus.client))?;
        }
        child.with_context(|| format!("{} cannot be started", self.binary.display()))
    }

    async fn wait_until_ready(
        &self,
        child: &mut Child,
        started: Instant,
    ) -> anyhow::Result<(Addresses, Duration)> {
        while started.elapsed() < READY_MAX {
            if let Some(status) = child.try_wait()? {
                bail!("it ended with {status}");
            }
            let addresses = self.addresses.or_else(|| self.addresses_of(child.id()));
            if let Some(addresses) = addresses
                && matches!(admin(addresses.admin, self.tls.as_ref(), "/readyz").await, Ok((status, _)) if status.is_success())
            {
                return Ok((addresses, started.elapsed()));
            }
            tokio::time::sleep(READY_STEP).await;
        }
        bail!("it was not ready after {READY_MAX:?}");
    }

    /// From the file in which the server says where it listens, once it is of this process.
    fn addresses_of(&self, pid: u32) -> Option<Addresses> {
        let told = std::fs::read(self.dir.join("node.json")).ok()?;
        let told: Value = serde_json::from_slice(&told).ok()?;
        let address = |key: &str| told[key].as_str()?.parse().ok();
        (told["pid"] == pid).then_some(Addresses {
            rpc: address("listen")?,
            admin: address("admin_listen")?,
        })
    }

    /// Where what the server says on stderr goes.
    #[must_use]
    pub fn said(&self) -> PathBuf {
        self.dir.with_extension("stderr")
    }
}

impl Server {
    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Bytes that the process has read from the device since it started.
    ///
    /// # Errors
    /// If it is gone.
    pub fn read_bytes(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/io", self.pid());
        let told = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let mut lines = told.lines();
        let value = lines.find_map(|line| line.strip_prefix("read_bytes: "));
        value
            .and_then(|value| value.parse().ok())
            .ok_or_else(|| anyhow!("{path} has no read_bytes"))
    }

    /// How long its logs are.
    ///
    /// # Errors
    /// If it does not say.
    pub async fn log_sizes(&self) -> anyhow::Result<LogSizes> {
        let path = "/omnirelay/introspect";
        let (_, body) = self.ask(path).await?;
        let told: Value = serde_json::from_slice(&body).context(path)?;
        let cores = told["cores"].as_array().into_iter().flatten();
        let mut sum = LogSizes::default();
        for log in cores.filter_map(|core| core["logs"].as_array()).flatten() {
            let number = |key: &str| {
                log[key]
                    .as_u64()
                    .ok_or_else(|| anyhow!("{path} has no {key}"))
            };
            if let Some(why) = log["trimBlocked"].as_str() {
                bail!("the server cannot trim its log any more: {why}");
            }
            sum.logs += 1;
            sum.used_bytes += number("usedBytes")?;
            sum.live_bytes += number("liveBytes")?;
            sum.segments += number("segments")?;
            sum.retired += number("segmentsRetired")?;
        }
        if sum.logs == 0 {
            bail!("{path}: no core told of its logs");
        }
        Ok(sum)
    }

    /// What a page of its admin side says.
    ///
    /// # Errors
    /// If it does not answer, or refuses.
    pub async fn admin(&self, path: &str) -> anyhow::Result<Bytes> {
        let (status, body) = self.ask(path).await?;
        if !status.is_success() {
            bail!("{path}: {status}");
        }
        Ok(body)
    }

    async fn ask(&self, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let answered = admin(self.addresses.admin, self.tls.as_ref(), path).await;
        answered.with_context(|| {
            let said = last_words(&self.said);
            format!("the server does not answer {path}; it said: {said}")
        })
    }

    /// Ends the server; how long that took.
    ///
    /// # Errors
    /// If it does not end, or says that it failed.
    pub async fn end(mut self, how: End) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let signal = match how {
            End::Drain => libc::SIGTERM,
            End::Kill => libc::SIGKILL,
        };
        let pid = libc::pid_t::try_from(self.pid()).expect("a pid fits");
        // SAFETY: no memory is touched; the child has not been waited for, so the pid is its own.
        if unsafe { libc::kill(pid, signal) } != 0 {
            return Err(io::Error::last_os_error()).context("the server takes no signal");
        }
        while began.elapsed() < STOP_MAX {
            match self.child.try_wait()? {
                Some(status) if how == End::Drain && !status.success() => {
                    bail!("the server ended with {status} when told to stop")
                }
                Some(_) => return Ok(began.elapsed()),
                None => tokio::time::sleep(READY_STEP).await,
            }
        }
        bail!("the server did not stop within {STOP_MAX:?}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been waited for; std knows and does nothing then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last that a server said on stderr, and from where it panicked on if it did.
fn last_words(said: &Path) -> String {
    let said = std::fs::read_to_string(said).unwrap_or_default();
    let lines: Vec<&str> = said.lines().collect();
    let panicked = lines.iter().rposition(|line| line.contains("panicked at"));
    let from = panicked.unwrap_or_else(|| lines.len().saturating_sub(WORDS));
    let lines = lines[from..].iter().take(WORDS);
    let words = lines.map(|line| line.get(..LINE).unwrap_or(line));
    words.collect::<Vec<_>>().join("\n")
}

/// So that no server outlives a measurement that is killed.
fn die_with_parent() -> io::Result<()> {
    // SAFETY: takes numbers only.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Asks an admin endpoint.
async fn admin(
    address: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
    path: &str,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let asking = async {
        let stream = TcpStream::connect(address).await?;
        match tls {
            None => ask(stream, address, path).await,
            Some(config) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(address.ip().into(), stream).await?;
                ask(stream, address, path).await
            }
        }
    };
    let answered = tokio::time::timeout(ADMIN_MAX, asking).await;
    answered.with_context(|| format!("{path} did not answer within {ADMIN_MAX:?}"))?
}

async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    path: &str,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(driver);
    let request = Request::get(path).header("host", address.to_string());
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?);
    let (head, body) = response.await?.into_parts();
    let body = body.collect().await?.to_bytes();
    driver.abort();
    Ok((head.status, body))
}
