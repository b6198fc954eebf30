//! QUIC on the cores.

use crate::admin::families::{Families, Kind};
use crate::admin::status::NodeFacts;
use crate::cores::{CoreReport, QuicReport};

pub(super) fn render(out: &mut Families, facts: &NodeFacts, reports: &[&CoreReport]) {
    if facts.quic_listen.is_none() {
        return;
    }
    let datagrams = out.family(
        "omnirelay.quic.datagrams",
        Kind::Counter,
        "Datagrams received (in) and sent (out).",
    );
    for report in reports {
        let core = report.core.to_string();
        let both = [
            ("in", report.quic.datagrams_in),
            ("out", report.quic.datagrams_out),
        ];
        for (direction, count) in both {
            datagrams.sample(&[("core", &core), ("direction", direction)], count);
        }
    }
    let counters: [Counter; 7] = [
        (
            "omnirelay.quic.datagrams_passed_on",
            "Datagrams passed on to the core that they were for: clients' addresses have changed.",
            |quic| quic.passed_on,
        ),
        (
            "omnirelay.quic.datagrams_dropped",
            "Datagrams not passed on because that core did not keep up.",
            |quic| quic.dropped,
        ),
        (
            "omnirelay.quic.datagrams_stray",
            "Datagrams that are of no connection and begin none.",
            |quic| quic.stray,
        ),
        (
            "omnirelay.quic.handshakes_failed",
            "Handshakes that failed.",
            |quic| quic.handshakes_failed,
        ),
        (
            "omnirelay.quic.retries",
            "Clients that had to prove their address first, because many connected at once.",
            |quic| quic.retried,
        ),
        (
            "omnirelay.quic.streams_failed",
            "Streams ended because what came on them made no sense, or not in time.",
            |quic| quic.streams_failed,
        ),
        (
            "omnirelay.quic.socket_full",
            "Times that a core's socket took nothing more for a while.",
            |quic| quic.blocked,
        ),
    ];
    for (name, help, value) in counters {
        let family = out.family(name, Kind::Counter, help);
        for report in reports {
            family.sample(&[("core", &report.core.to_string())], value(&report.quic));
        }
    }
}

/// A counter's name, what it counts, and where it is.
type Counter = (&'static str, &'static str, fn(&QuicReport) -> u64);
