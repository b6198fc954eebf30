//! What the rest of the process tells the admin server: how far the node is, and its parts.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use omnirelay_net::runtime::DriverKind;
use omnirelay_queue::Nanos;
use serde_json::Value;

use super::live::LiveFeed;
use super::readiness::{Phase, Readiness, readiness};
use super::recent::RecentCache;
use super::reports::{CoreReports, ReportCache};
use crate::config::Config;
use crate::cores::{Clock, CoreReport, Reporter};
use crate::data_dir::LogRecovery;
use crate::logging;
use crate::node::{Board, Layout};
use crate::replication::Replication;
use crate::telemetry::Spans;
use crate::tls::NodeTls;

/// A node whose cores serve.
#[derive(Debug)]
pub struct RunningNode {
    /// Namespaces, shards, logs and cores.
    pub layout: Arc<Layout>,
    /// What the cores publish of their shards.
    pub board: Arc<Board>,
    /// Asks the cores for their reports.
    pub reporter: Reporter,
    /// How the cores talk to the kernel.
    pub driver: DriverKind,
    /// Where RPC is served.
    pub listen: SocketAddr,
    /// Where RPC over QUIC is served, if it is.
    pub quic_listen: Option<SocketAddr>,
    /// Where the admin endpoints are.
    pub admin_listen: SocketAddr,
    /// How each log was found.
    pub recoveries: Vec<LogRecovery>,
    /// Reads the logs for those who want their events.
    pub replication: Arc<Replication>,
    /// Recorded spans on their way to a collector, if there is one.
    pub spans: Option<Arc<Spans>>,
    /// The certificate that it shows.
    pub(crate) tls: Option<NodeTls>,
}

/// The parts of a running node that stay as they are.
#[derive(Debug, Clone)]
pub(super) struct NodeFacts {
    pub(super) layout: Arc<Layout>,
    pub(super) board: Arc<Board>,
    pub(super) driver: DriverKind,
    pub(super) listen: SocketAddr,
    pub(super) quic_listen: Option<SocketAddr>,
    pub(super) admin_listen: SocketAddr,
    pub(super) recoveries: Vec<LogRecovery>,
    pub(super) replication: Option<Arc<Replication>>,
    pub(super) spans: Option<Arc<Spans>>,
    pub(super) tls: Option<NodeTls>,
}

/// What a page is made from: the node at one moment.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) started: Nanos,
    pub(super) now: Nanos,
    pub(super) readiness: Readiness,
    /// Nothing before the cores serve.
    pub(super) node: Option<NodeFacts>,
    /// One for each core; empty before the cores serve.
    pub(super) reports: CoreReports,
    /// Lines that the process's log lacks.
    pub(super) log_lines_dropped: u64,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    node: Option<NodeFacts>,
    asks: Asks,
}

/// Where the cores' reports come from.
#[derive(Debug, Clone)]
enum Asks {
    /// There are no cores yet.
    Nobody,
    /// The cores.
    Cores(Reporter),
    /// Nobody any more: the cores have ended with these.
    Ended(CoreReports),
}

/// How the node is, as the admin server shows it. Shared by whoever starts and ends the node and
/// by the admin server.
#[derive(Debug)]
pub struct NodeStatus {
    configuration: Value,
    cpus: Vec<usize>,
    clock: Clock,
    started: Nanos,
    state: Mutex<State>,
    cache: ReportCache,
    live: LiveFeed,
    recent: RecentCache,
}

impl NodeStatus {
    /// A node that is starting.
    pub fn new(config: &Config) -> Arc<NodeStatus> {
        // The node's own clock is made after recovery, because it must not be behind the logs.
        let clock = Clock::start(Nanos(0));
        Arc::new(NodeStatus {
            configuration: config.to_json(),
            cpus: config.cores.clone(),
            clock,
            started: clock.now(),
            state: Mutex::new(State {
                phase: Phase::Starting,
                node: None,
                asks: Asks::Nobody,
            }),
            cache: ReportCache::default(),
            live: LiveFeed::default(),
            recent: RecentCache::default(),
        })
    }

    /// The node reads its logs back; `detail` says how far it is, such as "log 1 of 2". A node that
    /// already drains or has failed stays so.
    pub fn recovering(&self, detail: String) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Starting | Phase::Recovering(_)) {
            state.phase = Phase::Recovering(detail);
        }
    }

    /// The cores serve. A node that was told to drain meanwhile, or has failed, does not become
    /// ready, but its cores are shown.
    pub fn ready(&self, node: RunningNode) {
        let RunningNode {
            layout,
            board,
            reporter,
            driver,
            listen,
            quic_listen,
            admin_listen,
            recoveries,
            replication,
            spans,
            tls,
        } = node;
        self.serves(
            NodeFacts {
                layout,
                board,
                driver,
                listen,
                quic_listen,
                admin_listen,
                recoveries,
                replication: Some(replication),
                spans,
                tls,
            },
            Asks::Cores(reporter),
        );
    }

    fn serves(&self, node: NodeFacts, asks: Asks) {
        let mut state = self.state();
        state.node = Some(node);
        state.asks = asks;
        if matches!(state.phase, Phase::Starting | Phase::Recovering(_)) {
            state.phase = Phase::Ready;
        }
    }

    /// The node takes no more calls and finishes what is open. A failed node stays failed.
    pub fn draining(&self) {
        let mut state = self.state();
        if !matches!(state.phase, Phase::Failed(_)) {
            state.phase = Phase::Draining;
        }
    }

    /// The cores have ended; what they had counted is shown from now on.
    pub fn ended(&self, reports: Vec<Option<CoreReport>>) {
        self.state().asks = Asks::Ended(reports.into());
    }

    /// The node cannot serve any more; it stays so.
    pub fn failed(&self, why: String) {
        self.state().phase = Phase::Failed(why);
    }

    /// The effective configuration and where its values came from.
    pub(super) fn configuration(&self) -> &Value {
        &self.configuration
    }

    /// The CPU of each core.
    pub(super) fn cpus(&self) -> &[usize] {
        &self.cpus
    }

    /// Asks the cores how they are, or takes what they said a moment ago.
    pub(super) async fn moment(&self) -> Moment {
        let reporter = match self.asks() {
            Asks::Cores(reporter) => reporter,
            Asks::Nobody => return self.moment_with(CoreReports::default()),
            Asks::Ended(reports) => return self.moment_with(reports),
        };
        let (at, reports) = self.cache.get(reporter.reports()).await;
        let mut moment = self.moment_with(reports);
        // The moment is that of the reports, so that rates between two of them come out right.
        let age = u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX);
        moment.now = Nanos(moment.now.0.saturating_sub(age));
        moment
    }

    /// Asks the cores how they are now: for what must not be behind what a caller has been told.
    pub(super) async fn moment_now(&self) -> Moment {
        match self.asks() {
            Asks::Cores(reporter) => self.moment_with(reporter.reports().await.into()),
            Asks::Nobody => self.moment_with(CoreReports::default()),
            Asks::Ended(reports) => self.moment_with(reports),
        }
    }

    /// The node's moment with the given reports.
    pub(super) fn moment_with(&self, reports: CoreReports) -> Moment {
        let state = self.state();
        Moment {
            started: self.started,
            now: self.clock.now(),
            readiness: readiness(&state.phase, &reports),
            node: state.node.clone(),
            reports,
            log_lines_dropped: logging::lines_dropped(),
        }
    }

    /// The parts of the node, once its cores serve.
    pub(super) fn facts(&self) -> Option<NodeFacts> {
        self.state().node.clone()
    }

    /// Where RPC is served, while it is.
    pub(crate) fn listen(&self) -> Option<SocketAddr> {
        let state = self.state();
        let node = state
            .node
            .as_ref()
            .filter(|_| matches!(state.phase, Phase::Ready));
        node.map(|node| node.listen)
    }

    /// Reads the logs, once there is something to read.
    pub(super) fn replication(&self) -> Option<Arc<Replication>> {
        self.state().node.as_ref()?.replication.clone()
    }

    /// Who watches the node.
    pub(super) fn live(&self) -> &LiveFeed {
        &self.live
    }

    /// The newest events.
    pub(super) fn recent(&self) -> &RecentCache {
        &self.recent
    }

    /// The node, and who asks its cores; nothing unless they serve.
    pub(super) fn asked(&self) -> Option<(NodeFacts, Reporter)> {
        let state = self.state();
        let serves = matches!(state.phase, Phase::Ready);
        let reporter = match &state.asks {
            Asks::Cores(reporter) => Some(reporter.clone()),
            Asks::Nobody | Asks::Ended(_) => None,
        };
        let asked = state.node.clone().zip(reporter);
        asked.filter(|_| serves)
    }

    fn asks(&self) -> Asks {
        self.state().asks.clone()
    }

    /// Whether it is worth asking the cores: before they serve and after they were told to end,
    /// readiness does not depend on them.
    pub(super) fn is_serving(&self) -> bool {
        matches!(self.state().phase, Phase::Ready)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is replaced whole, so a panic elsewhere cannot have left it half written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fixture;

    fn phase(status: &NodeStatus) -> (bool, &'static str) {
        let readiness = status.moment_with(fixture::reports()).readiness;
        (readiness.ready, readiness.phase)
    }

    #[test]
    fn a_node_starts_recovers_serves_and_drains() {
        let status = fixture::status();
        assert_eq!(phase(&status), (false, "starting"));
        status.recovering("log 1 of 2".into());
        assert_eq!(phase(&status), (false, "recovering"));
        status.recovering("log 2 of 2".into());
        status.serves(fixture::facts(), Asks::Nobody);
        assert_eq!(phase(&status), (true, "ready"));
        assert!(status.is_serving());
        status.draining();
        assert_eq!(phase(&status), (false, "draining"));
        assert!(
            status.moment_with(fixture::reports()).node.is_some(),
            "a draining node is still shown"
        );
    }

    #[test]
    fn a_node_told_to_drain_while_it_recovers_never_becomes_ready() {
        let status = fixture::status();
        status.recovering("log 1 of 2".into());
        status.draining();
        status.recovering("log 2 of 2".into());
        status.serves(fixture::facts(), Asks::Nobody);
        assert_eq!(phase(&status), (false, "draining"));
    }

    #[test]
    fn a_failed_node_stays_failed() {
        let status = fixture::status();
        status.failed("the data directory is in use".into());
        status.draining();
        status.serves(fixture::facts(), Asks::Nobody);
        assert_eq!(phase(&status), (false, "failed"));
        let reason = status.moment_with(fixture::reports()).readiness.reason;
        assert_eq!(reason.as_deref(), Some("the data directory is in use"));
    }
}
