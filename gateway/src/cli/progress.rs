//! How far a long command has come, for a person who looks on.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Least time between two looks of a person.
const EVERY: Duration = Duration::from_millis(100);

/// One line on stderr that is written over, where that is a terminal.
pub(super) struct Progress {
    what: &'static str,
    shown: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    /// Nothing is shown yet; `what` follows the count.
    pub(super) fn new(what: &'static str) -> Progress {
        Progress {
            what,
            shown: None,
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Shows the count, unless it did so just now.
    pub(super) fn show(&mut self, count: u64) {
        let soon = self.shown.is_some_and(|shown| shown.elapsed() < EVERY);
        if self.is_terminal && !soon {
            self.shown = Some(Instant::now());
            // Nobody is left to be told where stderr is closed.
            let _ = write!(std::io::stderr().lock(), "\r{count} {}", self.what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
