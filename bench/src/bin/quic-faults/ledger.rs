//! What was promised, what was handled, and what the server has on record.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hdrhistogram::Histogram;
use omnirelay_client::{Error, Outcome, Report};
use serde_json::Value;

/// Longer than any call.
const LATENCY_US_MAX: u64 = 600_000_000;

/// What came of an item's enqueues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    /// It certainly was not taken.
    NotDone,
    /// It may be there.
    Perhaps,
    Acknowledged,
}

/// Everything that was seen from outside in a row.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// By request id.
    items: BTreeMap<String, Known>,
    /// Sequence ids that one request id was acknowledged with, or handled with.
    names: BTreeMap<String, BTreeSet<u64>>,
    /// Attempts with which each item was handled.
    handled: BTreeMap<String, Vec<u32>>,
    pub(crate) calls: u64,
    /// Calls that ended with the deadline.
    pub(crate) late: u64,
    /// Calls that were given up before it: no retry was worth it.
    pub(crate) given_up: u64,
    /// Codes that no call should end with.
    pub(crate) strange: BTreeMap<String, u64>,
    pub(crate) latency: Histogram<u64>,
    /// The longest time by which a call outlived its deadline.
    pub(crate) overrun: Duration,
}

/// What does not fit together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) acknowledged: u64,
    /// Acknowledged and not handled, or not on record as completed.
    pub(crate) lost: u64,
    /// Two items of one request, handed out twice with one attempt or after its completion was
    /// acknowledged, completed twice, or there although its enqueue "certainly was not done".
    pub(crate) doubled: u64,
    /// Handed out again because a lease was lost or its settlement uncertain.
    pub(crate) redelivered: u64,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger {
            items: BTreeMap::new(),
            names: BTreeMap::new(),
            handled: BTreeMap::new(),
            calls: 0,
            late: 0,
            given_up: 0,
            strange: BTreeMap::new(),
            latency: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
                .expect("the bounds are in order"),
            overrun: Duration::ZERO,
        }
    }
}

impl Ledger {
    /// A call has ended.
    pub(crate) fn ended(&mut self, took: Duration, deadline: Duration, error: Option<&Error>) {
        self.calls += 1;
        self.overrun = self.overrun.max(took.saturating_sub(deadline));
        let Some(error) = error else {
            let micros = u64::try_from(took.as_micros()).unwrap_or(LATENCY_US_MAX);
            self.latency.saturating_record(micros);
            return;
        };
        match error.code() {
            "rpc.deadline" => self.late += 1,
            "client.connection" | "rpc.peer.unavailable" => self.given_up += 1,
            other => *self.strange.entry(other.to_owned()).or_default() += 1,
        }
    }

    pub(crate) fn enqueued(&mut self, request_id: &str, result: Result<u64, Outcome>) {
        let known = match result {
            Ok(sequence_id) => {
                let names = self.names.entry(request_id.to_owned()).or_default();
                names.insert(sequence_id);
                Known::Acknowledged
            }
            Err(Outcome::Unknown) => Known::Perhaps,
            Err(Outcome::NotDone) => Known::NotDone,
        };
        let item = self.items.entry(request_id.to_owned()).or_insert(known);
        *item = known.max(*item);
    }

    pub(crate) fn handled(&mut self, request_id: &str, sequence_id: u64, attempt: u32) {
        let names = self.names.entry(request_id.to_owned()).or_default();
        names.insert(sequence_id);
        let attempts = self.handled.entry(request_id.to_owned()).or_default();
        attempts.push(attempt);
    }

    /// Compares with what the workers say of themselves and with the server's history.
    pub(crate) fn judge(&self, report: &Report, history: &[Value]) -> Verdict {
        let completions = completions(history);
        let mut verdict = Verdict::default();
        for (id, known) in &self.items {
            let attempts = self.handled.get(id).map_or(&[][..], Vec::as_slice);
            let names = self.names.get(id);
            let completed: u64 = names
                .into_iter()
                .flatten()
                .filter_map(|name| completions.get(name))
                .sum();
            let distinct: BTreeSet<u32> = attempts.iter().copied().collect();
            verdict.acknowledged += u64::from(*known == Known::Acknowledged);
            let is_lost = attempts.is_empty() || completed == 0;
            verdict.lost += u64::from(*known == Known::Acknowledged && is_lost);
            let is_doubled = names.is_some_and(|names| names.len() > 1)
                || distinct.len() < attempts.len()
                || completed > 1
                || (*known == Known::NotDone && !attempts.is_empty());
            verdict.doubled += u64::from(is_doubled);
            verdict.redelivered += distinct.len().saturating_sub(1) as u64;
        }
        // Every lease that a handler began with and that did not end in an acknowledged
        // completion may bring the item again, once.
        let uncertain = report.lost + report.unsettled + report.failed + report.given_back;
        verdict.doubled += verdict.redelivered.saturating_sub(uncertain);
        let unknown = self
            .handled
            .keys()
            .filter(|id| !self.items.contains_key(*id));
        verdict.doubled += unknown.count() as u64;
        verdict
    }
}

/// How often each item is on record as completed.
fn completions(history: &[Value]) -> BTreeMap<u64, u64> {
    let mut completions = BTreeMap::new();
    for event in history {
        let name = event["metadata"]["item.sequenceId"].as_str();
        if event["eventType"] == "Completed"
            && let Some(name) = name.and_then(|name| name.parse().ok())
        {
            *completions.entry(name).or_default() += 1;
        }
    }
    completions
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn completed(sequence_ids: &[u64]) -> Vec<Value> {
        let event = |id: &u64| json!({"eventType": "Completed", "metadata": {"item.sequenceId": id.to_string()}});
        sequence_ids.iter().map(event).collect()
    }

    fn judged(ledger: &Ledger, sequence_ids: &[u64]) -> (u64, u64) {
        let verdict = ledger.judge(&Report::default(), &completed(sequence_ids));
        (verdict.lost, verdict.doubled)
    }

    #[test]
    fn what_was_acknowledged_is_handled_and_completed_once() {
        let mut ledger = Ledger::default();
        ledger.enqueued("a", Err(Outcome::Unknown));
        ledger.enqueued("a", Ok(16));
        assert_eq!(judged(&ledger, &[]), (1, 0), "nobody had it");
        ledger.handled("a", 16, 1);
        assert_eq!(judged(&ledger, &[]), (1, 0), "it is not on record");
        assert_eq!(judged(&ledger, &[16]), (0, 0));
        assert_eq!(judged(&ledger, &[16, 16]), (0, 1), "completed twice");
    }

    #[test]
    fn an_item_comes_again_only_where_a_lease_is_uncertain() {
        let mut ledger = Ledger::default();
        ledger.enqueued("a", Ok(16));
        ledger.handled("a", 16, 1);
        ledger.handled("a", 16, 2);
        assert_eq!(judged(&ledger, &[16]), (0, 1), "no lease was uncertain");
        let mut report = Report::default();
        report.unsettled = 1;
        let verdict = ledger.judge(&report, &completed(&[16]));
        assert_eq!((verdict.doubled, verdict.redelivered), (0, 1));
        ledger.handled("a", 16, 2);
        let verdict = ledger.judge(&report, &completed(&[16]));
        assert_eq!(verdict.doubled, 1, "the same attempt twice");
    }

    #[test]
    fn two_items_of_one_request_and_what_was_not_done_are_doubles() {
        let mut ledger = Ledger::default();
        ledger.enqueued("a", Ok(16));
        ledger.handled("a", 16, 1);
        ledger.handled("a", 32, 2);
        assert!(judged(&ledger, &[16]).1 >= 1);
        let mut ledger = Ledger::default();
        ledger.enqueued("a", Err(Outcome::NotDone));
        assert_eq!(judged(&ledger, &[]), (0, 0));
        ledger.handled("a", 16, 1);
        assert_eq!(judged(&ledger, &[16]), (0, 1));
        let mut ledger = Ledger::default();
        ledger.handled("stranger", 16, 1);
        assert_eq!(judged(&ledger, &[16]), (0, 1));
    }

    #[test]
    fn calls_are_counted_by_how_they_ended() {
        let mut ledger = Ledger::default();
        let ms = Duration::from_millis;
        ledger.ended(ms(5), ms(100), None);
        ledger.ended(ms(130), ms(100), None);
        assert_eq!((ledger.calls, ledger.overrun), (2, ms(30)));
        assert_eq!(ledger.latency.len(), 2);
    }
}
