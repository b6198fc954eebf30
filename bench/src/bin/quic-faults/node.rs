//! The server of one row, and what it says of itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bench::server::{Addresses, Cpus, End, Launch, Server};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tokio_rustls::rustls::ClientConfig;

use crate::args::Place;

/// Between two looks at what the server says.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A server on a data directory of its own. Dropping it kills the one and removes the other.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) server: Server,
    home: TempDir,
}

/// What `/metrics` says, by name and labels as they are written there.
#[derive(Debug)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

/// Memory of a process, bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) now: u64,
    /// The most so far.
    pub(crate) peak: u64,
}

impl Node {
    pub(crate) async fn start(place: &Place, settings: &[&str]) -> anyhow::Result<Node> {
        Node::start_in(new_home()?, place, settings, None).await
    }

    /// In a directory that has what the settings name; `tls` is for its admin side.
    pub(crate) async fn start_in(
        home: TempDir,
        place: &Place,
        settings: &[&str],
        tls: Option<ClientConfig>,
    ) -> anyhow::Result<Node> {
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let cpus = Cpus {
            server: 1,
            client: place.client_cpu,
        };
        let mut launch = Launch::new(&home.path().join("data"), cpus, settings)?;
        if !place.pins() {
            launch = launch.on_any_cpu();
        }
        if let Some([rpc, admin]) = place.ports() {
            launch = launch.at(Addresses { rpc, admin });
        }
        if let Some(tls) = tls {
            launch = launch.over_tls(tls);
        }
        let server = launch.start().await?;
        Ok(Node { server, home })
    }

    /// The certificate that it shows where it was given none.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.home.path().join("data/tls/server.crt")
    }

    pub(crate) async fn metrics(&self) -> anyhow::Result<Metrics> {
        let text = self.server.admin("/metrics").await?;
        Ok(Metrics::read(&String::from_utf8_lossy(&text)))
    }

    /// Waits until the metrics are as they should be; how they were in the end.
    pub(crate) async fn settle(
        &self,
        within: Duration,
        is_settled: impl Fn(&Metrics) -> bool,
    ) -> anyhow::Result<Metrics> {
        let deadline = Instant::now() + within;
        loop {
            let metrics = self.metrics().await?;
            if is_settled(&metrics) || Instant::now() >= deadline {
                return Ok(metrics);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        let path = format!("/proc/{}/status", self.server.pid());
        let told = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let bytes = |name: &str| {
            let mut lines = told.lines();
            let value = lines.find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
            Some(kib << 10)
        };
        bytes("VmRSS:")
            .zip(bytes("VmHWM:"))
            .map(|(now, peak)| Memory { now, peak })
            .ok_or_else(|| anyhow!("{path} has no memory"))
    }

    /// All events that the server has on record, of all shards.
    pub(crate) async fn history(&self) -> anyhow::Result<Vec<Value>> {
        let base = "/omnirelay/control/replication";
        let told = self.server.admin(base).await?;
        let told: Value = serde_json::from_slice(&told).context(base)?;
        let mut events = Vec::new();
        for shard in told["shards"].as_array().into_iter().flatten() {
            let (number, last) = (&shard["shard"], shard["last"].as_u64().unwrap_or(0));
            let mut next = shard["oldest"].as_u64().unwrap_or(1);
            while next <= last {
                let path = format!("{base}?shard={number}&from={next}&limit=10000");
                let page: Value = serde_json::from_slice(&self.server.admin(&path).await?)?;
                let came = page["events"].as_array().cloned().unwrap_or_default();
                events.extend(came);
                let after = page["next"].as_u64().unwrap_or(0);
                if after <= next {
                    return Err(anyhow!("{path} does not go on"));
                }
                next = after;
            }
        }
        Ok(events)
    }

    /// Ends it as an operator does; what went wrong, if anything did.
    pub(crate) async fn end(self) -> Option<String> {
        let ended = self.server.end(End::Drain).await;
        ended.err().map(|error| format!("{error:#}"))
    }
}

/// A directory below the current one, so that it is on a disk and not in memory.
pub(crate) fn new_home() -> anyhow::Result<TempDir> {
    let here = std::env::current_dir()?;
    let home = tempfile::Builder::new()
        .prefix("quic-faults-")
        .tempdir_in(here);
    home.context("no directory can be made here")
}

impl Metrics {
    fn read(text: &str) -> Metrics {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Metrics(samples.filter_map(sample).collect())
    }

    /// The sum of all samples of a metric that have all these labels, e.g. `transport="quic"`.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let samples = self.0.iter().filter(|(key, _)| {
            let (of, its) = key.split_once('{').unwrap_or((key, ""));
            of == name && labels.iter().all(|label| its.contains(label))
        });
        samples.map(|(_, value)| value).sum()
    }

    /// Connections over QUIC that are open.
    pub(crate) fn connections(&self) -> f64 {
        self.sum("omnirelay_connections", &[r#"transport="quic""#])
    }

    /// Items that are not done.
    pub(crate) fn left(&self) -> f64 {
        ["pending", "active", "delayed", "dead_letters"]
            .iter()
            .map(|what| self.sum(&format!("omnirelay_resourcelease_{what}"), &[]))
            .sum()
    }

    /// Calls that are worked on.
    pub(crate) fn open_calls(&self) -> f64 {
        self.sum("omnirelay_open_calls", &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_their_labels() {
        let metrics = Metrics::read(
            "# TYPE omnirelay_connections gauge\n\
             omnirelay_connections{transport=\"quic\",core=\"0\"} 3\n\
             omnirelay_connections{transport=\"quic\",core=\"1\"} 4\n\
             omnirelay_connections{transport=\"http\",core=\"0\"} 1\n\
             omnirelay_open_calls{core=\"0\"} 2\n\
             omnirelay_resourcelease_pending{namespace=\"a\"} 5\n",
        );
        assert_eq!(metrics.connections(), 7.0);
        assert_eq!(metrics.open_calls(), 2.0);
        assert_eq!(metrics.left(), 5.0);
    }
}
