//! What `/metrics` shows, for those who send it elsewhere.

use omnirelay_queue::Nanos;

use super::families::Families;
use super::metrics;
use super::process::Process;
use super::status::NodeStatus;

/// The node in numbers, at one moment.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// From when counters and histograms count.
    pub(crate) started: Nanos,
    pub(crate) now: Nanos,
    pub(crate) families: Families,
}

/// Asks the cores how they are, as a scrape does.
pub(crate) async fn numbers(status: &NodeStatus) -> Numbers {
    let moment = status.moment().await;
    Numbers {
        started: moment.started,
        now: moment.now,
        families: metrics::families(&moment, &Process::read()),
    }
}
