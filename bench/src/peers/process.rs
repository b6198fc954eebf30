//! A server as a child process on a CPU of its own, which no measurement leaves behind.

#![allow(unsafe_code, reason = "system calls; each block says why it is sound")]

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use omnirelay_loadgen::cpu;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::cpu_time;

/// The server's CPU and that of its client.
pub(crate) const SERVER_CPU: usize = 0;
pub(crate) const CLIENT_CPU: usize = 1;

/// How long a server may take to start; Erlang's takes several seconds on a busy CPU.
const START_MAX: Duration = Duration::from_secs(90);
const START_STEP: Duration = Duration::from_millis(10);
/// Lines that are shown of what a server said that did not start.
const LAST_LINES: usize = 5;

/// A running server; dropping it kills it with everything that it has started.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
    said: PathBuf,
}

impl Process {
    /// Starts a program on the server's CPU; what it says goes to a file in `dir`.
    pub(crate) fn start(mut command: Command, dir: &Path) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let said = dir.join("said");
        let file = File::options().create(true).append(true).open(&said);
        let file = file.with_context(|| format!("{} cannot be written", said.display()))?;
        command
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Ctrl-C is for this process, which then ends the server.
            .process_group(0);
        // SAFETY: both calls only change the new process; they allocate and lock nothing.
        unsafe { command.pre_exec(|| die_with_parent().and_then(|()| cpu::pin(&[SERVER_CPU]))) };
        let child = command
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { child, name, said })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it takes connections.
    pub(crate) async fn listens(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let end = Instant::now() + START_MAX;
        while TcpStream::connect(address).await.is_err() {
            self.check()?;
            if Instant::now() > end {
                bail!("{} does not listen after {START_MAX:?}", self.name);
            }
            tokio::time::sleep(START_STEP).await;
        }
        Ok(())
    }

    /// Waits until it says a line that begins so; the rest of the line.
    pub(crate) async fn says(&mut self, beginning: &str) -> anyhow::Result<String> {
        let end = Instant::now() + START_MAX;
        loop {
            let said = std::fs::read_to_string(&self.said).unwrap_or_default();
            let mut lines = said
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            if let Some(rest) = lines.find_map(|line| line.strip_prefix(beginning)) {
                return Ok(rest.trim_end().to_owned());
            }
            self.check()?;
            if Instant::now() > end {
                bail!(
                    "{} does not say `{beginning}` after {START_MAX:?}",
                    self.name
                );
            }
            tokio::time::sleep(START_STEP).await;
        }
    }

    /// Sees that it still runs.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        let said = std::fs::read_to_string(&self.said).unwrap_or_default();
        let lines: Vec<_> = said.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        bail!("{} ended with {status}; it said:\n{last}", self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let tree = cpu_time::tree(self.pid());
        tree.into_iter().for_each(kill);
        // It may have been waited for; std knows.
        let _ = self.child.wait();
    }
}

/// Ends a process. That it may be gone already is fine.
pub(crate) fn kill(pid: u32) {
    // SAFETY: takes numbers only.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
}

/// So that no server outlives a measurement that is killed.
fn die_with_parent() -> io::Result<()> {
    // SAFETY: takes numbers only.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An address on loopback that nobody listens on.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_ends_is_told_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such option; exit 3"]);
        let mut process = Process::start(command, dir.path()).unwrap();
        let error = process.listens(free_address().unwrap()).await.unwrap_err();
        let error = error.to_string();
        assert!(error.contains("no such option"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
    }

    #[tokio::test]
    async fn what_a_server_says_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; echo at 7; sleep 60"]);
        let mut process = Process::start(command, dir.path()).unwrap();
        assert_eq!(process.says("at ").await.unwrap(), "7");
        let mut command = Command::new("sh");
        command.args(["-c", "echo something else"]);
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start(command, dir.path()).unwrap();
        let error = process.says("at ").await.unwrap_err().to_string();
        assert!(error.contains("something else"), "{error}");
    }

    #[test]
    fn what_a_server_has_started_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & wait"]);
        let process = Process::start(command, dir.path()).unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(10);
        let tree = loop {
            let tree = cpu_time::tree(process.pid());
            assert!(std::time::Instant::now() < end, "{tree:?}");
            if tree.len() == 2 {
                break tree;
            }
        };
        drop(process);
        while Path::new(&format!("/proc/{}", tree[1])).exists() {
            // Who takes orphans in has to wait for it.
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", tree[1]));
            if stat.is_ok_and(|stat| stat.contains(") Z ")) {
                break;
            }
            assert!(std::time::Instant::now() < end);
        }
    }
}
