//! How far a long command has come, for a person who looks on.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Least time between two looks of a person.
const EVERY: Duration = Duration::from_millis(100);

/// One line on stderr that is written over, where that is a terminal, and gone at the end.
pub(super) struct Progress {
    said: Option<Instant>,
    is_terminal: bool,
}

impl Progress {
    /// Nothing is shown yet.
    pub(super) fn new() -> Progress {
        Progress {
            said: None,
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// Shows how far it is, unless it did so just now.
    pub(super) fn say(&mut self, how_far: fmt::Arguments<'_>) {
        let soon = self.said.is_some_and(|said| said.elapsed() < EVERY);
        if self.is_terminal && !soon {
            self.said = Some(Instant::now());
            // Nobody is left to be told where stderr is closed.
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K{how_far}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.said.is_some() {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
