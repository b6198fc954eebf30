//! Whether the node should be sent work, and why not.

use serde_json::{Value, json};

use crate::cores::CoreReport;

/// How far the node is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Starting,
    Recovering(String),
    Ready,
    Draining,
    Failed(String),
}

/// The answer to a readiness probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    /// `starting`, `recovering`, `ready`, `degraded`, `draining` or `failed`.
    pub(super) phase: &'static str,
    /// Why it is not ready, or what is wrong although it is.
    pub(super) reason: Option<String>,
    pub(super) storage_full: bool,
}

impl Readiness {
    fn not(phase: &'static str, reason: impl Into<String>) -> Readiness {
        Readiness {
            ready: false,
            phase,
            reason: Some(reason.into()),
            storage_full: false,
        }
    }

    /// A serving node of which no core's answer came in time.
    pub(super) fn unanswered(after_ms: u128) -> Readiness {
        Readiness::not(
            "degraded",
            format!("a core did not answer within {after_ms} ms"),
        )
    }

    /// As probes and people read it.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "ready": self.ready,
            "phase": self.phase,
            "reason": self.reason,
            "storageFull": self.storage_full,
        })
    }
}

/// Judges the node by its phase and its cores' reports. A full disk leaves it ready: leases are
/// still granted and settled, which is what frees the disk.
pub(super) fn readiness(phase: &Phase, reports: &[Option<CoreReport>]) -> Readiness {
    match phase {
        Phase::Starting => Readiness::not("starting", "the node is starting"),
        Phase::Recovering(detail) => {
            Readiness::not("recovering", format!("reading the logs back: {detail}"))
        }
        Phase::Draining => Readiness::not(
            "draining",
            "the node finishes what is open and takes no more calls",
        ),
        Phase::Failed(why) => Readiness::not("failed", why),
        Phase::Ready => of_cores(reports),
    }
}

fn of_cores(reports: &[Option<CoreReport>]) -> Readiness {
    let failed = reports
        .iter()
        .flatten()
        .find_map(|report| report.log_failure.as_ref().map(|why| (report.core, why)));
    if let Some((core, why)) = failed {
        return Readiness::not("degraded", format!("a log of core {core} failed: {why}"));
    }
    if let Some(core) = reports.iter().position(Option::is_none) {
        return Readiness::not("degraded", format!("core {core} does not answer"));
    }
    let full: Vec<String> = reports
        .iter()
        .flatten()
        .filter(|r| r.storage_full)
        .map(|r| r.core.to_string())
        .collect();
    let storage_full = !full.is_empty();
    let reason = storage_full.then(|| {
        format!(
            "storage full: enqueues are refused on core {}",
            full.join(", ")
        )
    });
    Readiness {
        ready: true,
        phase: "ready",
        reason,
        storage_full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::fixture;

    #[test]
    fn a_node_whose_cores_all_answer_is_ready() {
        let answer = readiness(&Phase::Ready, &fixture::reports());
        assert_eq!(
            answer.to_json(),
            json!({"ready": true, "phase": "ready", "reason": null, "storageFull": false})
        );
    }

    #[test]
    fn a_node_that_is_recovering_says_how_far_it_is() {
        let answer = readiness(&Phase::Recovering("log 1 of 2".into()), &[]);
        assert!(!answer.ready);
        assert_eq!(
            answer.reason.as_deref(),
            Some("reading the logs back: log 1 of 2")
        );
    }

    #[test]
    fn a_core_that_does_not_answer_makes_the_node_not_ready() {
        let mut reports = fixture::reports().to_vec();
        reports[1] = None;
        let answer = readiness(&Phase::Ready, &reports);
        assert_eq!((answer.ready, answer.phase), (false, "degraded"));
        assert_eq!(answer.reason.as_deref(), Some("core 1 does not answer"));
    }

    #[test]
    fn a_failed_log_makes_the_node_not_ready() {
        let mut reports = fixture::reports().to_vec();
        reports[0].as_mut().unwrap().log_failure = Some("no space left".into());
        let answer = readiness(&Phase::Ready, &reports);
        assert_eq!((answer.ready, answer.phase), (false, "degraded"));
        assert_eq!(
            answer.reason.as_deref(),
            Some("a log of core 0 failed: no space left")
        );
    }

    #[test]
    fn full_storage_leaves_the_node_ready_and_is_said() {
        let mut reports = fixture::reports().to_vec();
        reports[1].as_mut().unwrap().storage_full = true;
        let answer = readiness(&Phase::Ready, &reports);
        assert!(answer.ready && answer.storage_full);
        assert_eq!(
            answer.reason.as_deref(),
            Some("storage full: enqueues are refused on core 1")
        );
    }

    #[test]
    fn a_draining_node_is_not_ready_however_well_its_cores_are() {
        assert!(!readiness(&Phase::Draining, &fixture::reports()).ready);
    }
}
