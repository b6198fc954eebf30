//! The certificate in use, and who could agree on TLS.

use crate::admin::families::{Families, Kind};
use crate::admin::status::NodeFacts;
use crate::cores::CoreReport;

pub(super) fn render(out: &mut Families, facts: &NodeFacts, reports: &[&CoreReport]) {
    let Some(tls) = &facts.tls else { return };
    let status = tls.server.status();
    out.single(
        "omnirelay.tls.certificate.expiry_timestamp_seconds",
        Kind::Gauge,
        "When the certificate in use expires, in seconds since 1970.",
        status.certificate.not_after as f64,
    );
    let reloads = out.family(
        "omnirelay.tls.reloads",
        Kind::Counter,
        "Times that changed certificate files were taken into use (ok), or could not be (failed).",
    );
    reloads.sample(&[("result", "ok")], status.reloads);
    reloads.sample(&[("result", "failed")], status.reloads_failed);
    let handshakes = out.family(
        "omnirelay.tls.handshakes",
        Kind::Counter,
        "TLS handshakes of RPC over TCP by how they ended; plain_text: none began.",
    );
    for report in reports {
        let ended = report.http.handshakes;
        for (result, count) in [
            ("ok", ended.ok),
            ("failed", ended.failed),
            ("timed_out", ended.timed_out),
            ("plain_text", ended.plain_text),
        ] {
            let core = report.core.to_string();
            handshakes.sample(&[("core", &core), ("result", result)], count);
        }
    }
}
