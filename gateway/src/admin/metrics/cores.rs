//! What each core does with its time, and what waits on it.

use omnirelay_net::runtime::LONG_TURN;

use super::{Families, Kind, each_core};
use crate::admin::status::NodeFacts;
use crate::cores::{CoreReport, RING_MESSAGES};
use crate::node::{CoreId, NamespaceId};

pub(super) fn render(out: &mut Families, facts: &NodeFacts, reports: &[&CoreReport]) {
    time(out, reports);
    rings(out, reports);
    waiting(out, facts, reports);
}

fn time(out: &mut Families, reports: &[&CoreReport]) {
    let mut seconds = |name, help, value: fn(&CoreReport) -> std::time::Duration| {
        let family = out.family(name, Kind::Counter, help);
        for report in reports {
            let labels = [("core", &*report.core.to_string())];
            family.sample(&labels, value(report).as_secs_f64());
        }
    };
    seconds(
        "omnirelay.core.awake_seconds",
        "Time that the core did not sleep: its rate is how busy the core is, spinning included.",
        |r| r.run.awake,
    );
    seconds(
        "omnirelay.core.spin_seconds",
        "Of that, time that it looked for work which had not come yet.",
        |r| r.run.spun,
    );
    seconds(
        "omnirelay.core.cpu_seconds",
        "CPU time of the core's thread; where it is less than the time awake, others had its CPU.",
        |r| r.run.cpu,
    );
    let mut counter = |name, help: &str, value| {
        each_core(out, name, Kind::Counter, help, reports, value);
    };
    counter(
        "omnirelay.core.turns",
        "Turns of the core's loop.",
        |r: &CoreReport| r.run.turns,
    );
    counter(
        "omnirelay.core.sleeps",
        "Times that the core had nothing to do.",
        |r| r.run.sleeps,
    );
    let long_ms = LONG_TURN.as_millis();
    counter(
        "omnirelay.core.long_turns",
        &format!("Turns of {long_ms} ms and more, in which everything else on the core waited."),
        |r| r.run.long_turns,
    );
    each_core(
        out,
        "omnirelay.core.tasks",
        Kind::Gauge,
        "Tasks on the core: connections, calls, and what drives the core.",
        reports,
        |r| r.run.tasks as u64,
    );
}

fn rings(out: &mut Families, reports: &[&CoreReport]) {
    each_core(
        out,
        "omnirelay.core.messages",
        Kind::Counter,
        "Messages taken from other cores.",
        reports,
        |r| r.telemetry.rings.messages,
    );
    each_core(
        out,
        "omnirelay.core.ring_full",
        Kind::Counter,
        "Times that the core could not send because another's ring was full.",
        reports,
        |r| r.telemetry.rings.full,
    );
    each_core(
        out,
        "omnirelay.core.ring_waiting_max",
        Kind::Gauge,
        &format!(
            "The most messages from one core that ever waited for this one, of {RING_MESSAGES}."
        ),
        reports,
        |r| r.telemetry.rings.waiting_max,
    );
}

fn waiting(out: &mut Families, facts: &NodeFacts, reports: &[&CoreReport]) {
    let workers = out.family(
        "omnirelay.resourcelease.waiting_workers",
        Kind::Gauge,
        "Lease calls that wait for an item.",
    );
    for core in 0..facts.layout.cores() {
        for (id, namespace) in (0u16..).zip(facts.layout.namespaces()) {
            let labels = [
                ("namespace", namespace.name.as_str()),
                ("core", &core.to_string()),
            ];
            let waiting = facts.board.workers_on(CoreId(core), NamespaceId(id));
            workers.sample(&labels, waiting);
        }
    }
    each_core(
        out,
        "omnirelay.resourcelease.waiting_enqueues",
        Kind::Gauge,
        "Enqueue and restore calls that wait for their namespace to have room.",
        reports,
        |r| r.held_back as u64,
    );
}
