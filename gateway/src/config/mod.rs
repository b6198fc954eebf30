//! The node's configuration: defaults < TOML file < environment < flags < `--set`, checked once
//! into a type that cannot be wrong.
//!
//! An unknown key, a value out of range or two values that contradict each other is refused with
//! one [`ConfigError`]; nothing is repaired or ignored. The keys, their bounds, defaults and costs
//! are one table in [`knob`].

mod error;
pub mod knob;
mod namespace;
mod show;
mod source;
mod telemetry;
mod tree;
pub mod value;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use error::ConfigError;
pub use namespace::Namespace;
use namespace::{contradiction, duration, flag, integer, text};
use omnirelay_net::tls::TlsFiles;
pub use source::{Flag, Sources};
pub use telemetry::{OtlpEndpoint, OtlpHeaders, Sampling, Telemetry};
use tree::{Entry, Settings, entry, optional_entry};
use value::{CoreChoice, Setting};
pub(crate) use value::{is_log_filter, parse_duration};

/// How the cores do IO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// io_uring, and epoll where the kernel forbids it.
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// epoll.
    Epoll,
    /// glommio, or no start.
    #[cfg(feature = "glommio")]
    Glommio,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How lines are written.
    pub format: LogFormat,
    /// A level, or a comma-separated list with `target=level`.
    pub level: String,
}

/// What one client may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections a core keeps open.
    pub connections_max_per_core: usize,
}

/// A checked configuration. Only [`load`] makes one.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where RPC over TCP is served; port 0 picks one.
    pub listen: SocketAddr,
    /// Where RPC over QUIC is served, if that is not as `listen` says.
    pub quic_listen: Option<SocketAddr>,
    /// Where probes, metrics and introspection are served; port 0 picks one.
    pub admin_listen: SocketAddr,
    /// The directory of logs and node.json.
    pub data_dir: PathBuf,
    /// The CPU of each core thread: not empty, no repeats, all usable by this process.
    pub cores: Vec<usize>,
    /// How the cores do IO; `require_io_uring` is folded in.
    pub driver: Driver,
    /// What is logged.
    pub log: Log,
    /// What an OpenTelemetry collector is told.
    pub telemetry: Telemetry,
    /// The certificate, key and client CA; without them nothing speaks TLS.
    pub tls: Option<TlsFiles>,
    /// Whether listening beyond loopback without TLS is allowed.
    pub insecure: bool,
    /// How long a stopping node lets calls finish.
    pub drain_timeout: Duration,
    /// How long a core without work may look for more before it sleeps.
    pub spin_max: Duration,
    /// Size of one log segment in bytes.
    pub segment_bytes: u32,
    /// What each log keeps of what has ended, in bytes.
    pub history_bytes: u64,
    /// What one client may ask for.
    pub limits: Limits,
    /// By name; `resourcelease` is always there.
    pub namespaces: BTreeMap<String, Namespace>,
    settings: Settings,
}

/// Merges the sources and checks the result.
///
/// # Errors
/// The first thing that is wrong, named with its source, key, value and what is allowed.
pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
    let figment = sources.merge()?;
    let mut settings = Settings::read(&figment)?;
    let mut namespaces = BTreeMap::new();
    for (name, section) in &mut settings.namespaces {
        let path = format!("namespaces.{}", tree::segment(name));
        namespaces.insert(name.clone(), Namespace::read(&path, section)?);
    }
    check_shards_total(&namespaces)?;
    let node = &settings.node;
    let size = |key| usize::try_from(integer(node, key)).expect("its knob's bound fits");
    let config = Config {
        listen: address(node, "listen"),
        admin_listen: address(node, "admin_listen"),
        quic_listen: optional_entry(node, "quic_listen").map(|_| address(node, "quic_listen")),
        data_dir: PathBuf::from(text(node, "data_dir")),
        cores: resolve_cores(entry(node, "cores"), sources)?,
        driver: resolve_driver(node)?,
        log: Log {
            format: if text(node, "log.format") == "json" {
                LogFormat::Json
            } else {
                LogFormat::Text
            },
            level: text(node, "log.level").to_owned(),
        },
        telemetry: Telemetry::read(node)?,
        tls: tls_files(node)?,
        insecure: flag(node, "insecure"),
        drain_timeout: duration(node, "drain_timeout"),
        spin_max: Duration::from_micros(integer(node, "spin_us_max")),
        segment_bytes: u32::try_from(integer(node, "segment_bytes"))
            .expect("its knob's bound is 1 GiB"),
        history_bytes: integer(node, "history_bytes"),
        limits: Limits {
            connections_max_per_core: size("limits.connections_max_per_core"),
        },
        namespaces,
        settings,
    };
    config.check_addresses()?;
    Ok(config)
}

impl Config {
    /// Where RPC over QUIC is to be served, if anywhere.
    pub fn quic_address(&self) -> Option<SocketAddr> {
        let address = self.quic_listen.unwrap_or(self.listen);
        (address.ip().is_loopback() || self.tls.is_some()).then_some(address)
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        let node = &self.settings.node;
        let (listen, admin) = (entry(node, "listen"), entry(node, "admin_listen"));
        if overlap(self.listen, self.admin_listen) {
            return Err(contradiction(
                listen,
                "is the same address as",
                admin,
                "give one of them another port",
            ));
        }
        if let (Some(address), None) = (self.quic_listen, self.quic_address()) {
            let entry = entry(node, "quic_listen");
            return Err(ConfigError::Contradiction {
                message: format!(
                    "`{} = {}` ({}) is beyond loopback and has no TLS",
                    entry.path,
                    entry.setting.to_toml(),
                    entry.origin
                ),
                help: format!(
                    "set tls.cert and tls.key (`omnirelay cert` makes them), or serve QUIC on \
                     127.0.0.1:{}",
                    address.port()
                ),
            });
        }
        for (address, entry) in [(self.listen, listen), (self.admin_listen, admin)] {
            if !address.ip().is_loopback() && !self.insecure && self.tls.is_none() {
                return Err(ConfigError::Contradiction {
                    message: format!(
                        "`{} = {}` ({}) is beyond loopback and has no TLS",
                        entry.path,
                        entry.setting.to_toml(),
                        entry.origin
                    ),
                    help: "set tls.cert and tls.key (`omnirelay cert` makes them), listen on \
                           127.0.0.1 or [::1], or accept that anyone who reaches the port may use \
                           it: --insecure"
                        .into(),
                });
            }
        }
        Ok(())
    }
}

/// The TLS files, which are given together or not at all.
fn tls_files(node: &[Entry]) -> Result<Option<TlsFiles>, ConfigError> {
    let [cert, key, client_ca] =
        ["tls.cert", "tls.key", "tls.client_ca"].map(|key| optional_entry(node, key));
    let path = |entry: &Entry| PathBuf::from(text(node, entry.knob.key));
    let alone = |given: &Entry, missing: &str| {
        Err(ConfigError::Contradiction {
            message: format!(
                "`{} = {}` ({}) needs `{missing}`, and that is not set",
                given.path,
                given.setting.to_toml(),
                given.origin
            ),
            help: format!("set `{missing}`, too; `omnirelay cert` makes certificates and keys"),
        })
    };
    match (cert, key, client_ca) {
        (Some(cert), Some(key), client_ca) => Ok(Some(TlsFiles {
            cert: path(cert),
            key: path(key),
            client_ca: client_ca.map(path),
        })),
        (Some(cert), None, _) => alone(cert, "tls.key"),
        (None, Some(key), _) => alone(key, "tls.cert"),
        (None, None, Some(client_ca)) => alone(client_ca, "tls.cert"),
        (None, None, None) => Ok(None),
    }
}

fn check_shards_total(namespaces: &BTreeMap<String, Namespace>) -> Result<(), ConfigError> {
    let total: u64 = namespaces
        .values()
        .map(|namespace| u64::from(namespace.shards))
        .sum();
    if total <= knob::SHARDS_TOTAL_MAX {
        return Ok(());
    }
    Err(ConfigError::Contradiction {
        message: format!(
            "the namespaces' shards sum to {total}, at most {} are allowed on a node",
            knob::SHARDS_TOTAL_MAX
        ),
        help: "give namespaces with little traffic fewer shards".into(),
    })
}

fn resolve_driver(node: &[Entry]) -> Result<Driver, ConfigError> {
    match (text(node, "driver"), flag(node, "require_io_uring")) {
        ("epoll", true) => Err(contradiction(
            entry(node, "driver"),
            "contradicts",
            entry(node, "require_io_uring"),
            "leave one of them out",
        )),
        ("epoll", false) => Ok(Driver::Epoll),
        #[cfg(feature = "glommio")]
        ("glommio", _) => Ok(Driver::Glommio),
        ("io_uring", _) | (_, true) => Ok(Driver::IoUring),
        (_, false) => Ok(Driver::Auto),
    }
}

/// The CPU of each core, in the order that was asked for.
fn resolve_cores(entry: &Entry, sources: &Sources) -> Result<Vec<usize>, ConfigError> {
    let Sources { cpus, cpus_max, .. } = sources;
    let usable = &cpus[..cpus.len().min(*cpus_max)];
    let refuse = |why: String| {
        let quota = match usable.len() < cpus.len() {
            true => format!(", and has time for {} of them", usable.len()),
            false => String::new(),
        };
        Err(ConfigError::Contradiction {
            message: format!(
                "`cores = {}` ({}) {why}",
                entry.setting.to_toml(),
                entry.origin
            ),
            help: format!("this process may use {} CPUs: {cpus:?}{quota}", cpus.len()),
        })
    };
    let list = match &entry.setting {
        Setting::Cores(CoreChoice::All) => return Ok(usable.to_vec()),
        Setting::Cores(CoreChoice::Count(count)) if *count > usable.len() => {
            return refuse("is more than the CPUs there are".into());
        }
        Setting::Cores(CoreChoice::Count(count)) => return Ok(usable[..*count].to_vec()),
        Setting::Cores(CoreChoice::List(list)) => list,
        other => panic!("cores are cores, found {other:?}"),
    };
    for (at, cpu) in list.iter().enumerate() {
        if !cpus.contains(cpu) {
            return refuse(format!("names CPU {cpu}, which this process may not use"));
        }
        if list[..at].contains(cpu) {
            return refuse(format!("names CPU {cpu} twice"));
        }
    }
    Ok(list.clone())
}

fn address(section: &[Entry], key: &str) -> SocketAddr {
    match entry(section, key).setting {
        Setting::Address(address) => address,
        ref other => panic!("{key} is an address, found {other:?}"),
    }
}

/// Whether binding one address leaves none for the other.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let covers =
        |a: IpAddr, b: IpAddr| a == b || (a.is_unspecified() && (a.is_ipv6() || b.is_ipv4()));
    a.port() != 0 && a.port() == b.port() && (covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}

#[cfg(test)]
mod tests;
