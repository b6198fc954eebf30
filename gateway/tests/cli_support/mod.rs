//! The command as a process, and what it said.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod scripted;

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The command with a clean environment, in the given directory.
pub(crate) fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_omnirelay"));
    command.env_clear().current_dir(dir).stdin(Stdio::null());
    command
}

/// How a command ended; displayed as a person would see it.
pub(crate) struct Outcome {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.stdout.lines().chain(self.stderr.lines()) {
            writeln!(f, "{}", line.trim_end())?;
        }
        match self.code {
            Some(0) => Ok(()),
            Some(code) => write!(f, "exit {code}"),
            None => f.write_str("ended by a signal"),
        }
    }
}

/// Runs a command line to its end.
pub(crate) fn run_in(dir: &Path, arguments: &[&str]) -> Outcome {
    outcome(command(dir).args(arguments))
}

/// Runs a command line that needs no directory of its own.
pub(crate) fn run(arguments: &[&str]) -> Outcome {
    run_in(Path::new("/"), arguments)
}

pub(crate) fn outcome(command: &mut Command) -> Outcome {
    let output = command.output().expect("the command starts");
    Outcome {
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        code: output.status.code(),
    }
}

/// A running process that serves, ended with the test at the latest.
pub(crate) struct Server {
    child: Child,
    /// Where it serves RPC.
    pub(crate) address: String,
    /// Where it serves the admin endpoints.
    pub(crate) admin_address: String,
    /// Every line it wrote on stderr until it was ready.
    pub(crate) greeting: Vec<String>,
    rest: Option<std::thread::JoinHandle<String>>,
}

impl Server {
    /// Starts a command that serves and waits until it says where.
    pub(crate) fn start(command: &mut Command) -> Server {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let mut greeting = Vec::new();
        let mut found: Vec<String> = Vec::new();
        while found.len() < 2 {
            let mut line = String::new();
            let read = stderr.read_line(&mut line).expect("stderr is readable");
            assert!(read > 0, "it ended before it served: {greeting:?}");
            found.extend(addresses(&line));
            greeting.push(line.trim_end().to_owned());
        }
        let rest = std::thread::spawn(move || std::io::read_to_string(stderr).unwrap_or_default());
        // The demo names the admin address first.
        if greeting.iter().any(|line| line.starts_with("Open")) {
            found.swap(0, 1);
        }
        let [address, admin_address] = <[String; 2]>::try_from(found).expect("two addresses");
        Server {
            child,
            address,
            admin_address,
            greeting,
            rest: Some(rest),
        }
    }

    /// Tells it to stop as a supervisor would; returns its exit code and what it said last.
    pub(crate) fn stop(mut self) -> (Option<i32>, String) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid fits");
        // SAFETY: kill has no memory effects, and the child is not yet waited for, so the pid is its own.
        let sent = unsafe { libc::kill(pid, libc::SIGTERM) };
        assert_eq!(sent, 0, "the child takes signals");
        let status = self.child.wait().expect("the child ends");
        let said = self
            .rest
            .take()
            .map(|rest| rest.join().expect("stderr is read"))
            .unwrap_or_default();
        (status.code(), said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The `127.0.0.1:port` addresses in a line, each once.
fn addresses(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("127.0.0.1:") {
        let address: String = line[at..]
            .chars()
            .take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':'))
            .collect();
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}
