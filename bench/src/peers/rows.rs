//! How much is in flight, and for how long.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Items that are enqueued and not completed, as a multiple of what the workers hold at most: what
/// the load generator keeps too.
pub(crate) const BACKLOG_FACTOR: usize = 4;

/// A row of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    /// Producer connections, and as many worker connections.
    pub(crate) connections: usize,
    /// Items in flight on each.
    pub(crate) in_flight: usize,
}

/// The rows, from much in flight to little.
pub(crate) const ROWS: [Row; 4] = [
    Row::new(16, 64),
    Row::new(8, 16),
    Row::new(8, 1),
    Row::new(1, 1),
];

/// The row in which every side takes part.
pub(crate) const WIDEST: Row = ROWS[0];

impl Row {
    pub(crate) const fn new(connections: usize, in_flight: usize) -> Self {
        Self {
            connections,
            in_flight,
        }
    }

    /// As the command line and file names have it.
    pub(crate) fn key(self) -> String {
        format!("{}x{}", self.connections, self.in_flight)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} × {}", self.connections, self.in_flight)
    }
}

impl FromStr for Row {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = ROWS.into_iter().find(|row| row.key() == text);
        known.ok_or_else(|| {
            let keys = ROWS.map(Row::key).join(", ");
            format!("there is no such row; there are {keys}")
        })
    }
}

/// How long the parts of a run take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// Before anything counts.
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
    /// At most, for what is unfinished at the end.
    pub(crate) patience: Duration,
}

impl Timing {
    pub(crate) fn of(duration: Duration) -> Self {
        Self {
            warm_up: (duration / 4).min(Duration::from_millis(500)),
            duration,
            patience: Duration::from_secs(20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_named_as_it_is_told() {
        for row in ROWS {
            assert_eq!(row.key().parse(), Ok(row));
        }
        let refused = "3x3".parse::<Row>().unwrap_err();
        assert!(refused.contains("16x64, 8x16, 8x1, 1x1"), "{refused}");
    }
}
