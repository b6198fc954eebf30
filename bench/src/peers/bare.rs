//! This program as a server of bare QUIC.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::process::Process;
use super::sides::omnirelay::Running;
use crate::bare_quic::LISTENING;

/// A running one; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Bare {
    pub(crate) process: Process,
    pub(crate) running: Running,
}

impl Bare {
    /// Starts it in a directory, with options of `bare-quic`.
    ///
    /// # Errors
    /// If it does not come up; with the last that it said.
    pub(crate) async fn start(dir: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program does not know where it is")?;
        let mut command = Command::new(program);
        command.args(["bare-quic", "--listen", "127.0.0.1:0", "--dir", "."]);
        command.args(options);
        let mut process = Process::start(command, dir)?;
        let running = Running {
            address: process.says(LISTENING).await?,
            pid: process.pid(),
        };
        Ok(Self { process, running })
    }
}
