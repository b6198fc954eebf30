//! The result of a run, for people and for programs.

use std::fmt::Write as _;
use std::time::Duration;

use omnirelay_loadgen::Latency;
use serde::Serialize;

/// What a run found. The fields are the JSON document's.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) cycles_per_s: f64,
    pub(crate) enqueue_us: Latency,
    pub(crate) lease_us: Latency,
    pub(crate) complete_us: Latency,
    pub(crate) errors: u64,
    pub(crate) duplicates: u64,
    pub(crate) lost: u64,
    pub(crate) client_cpu_s_per_m_cycles: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_cpu_s_per_m_cycles: Option<f64>,
    #[serde(skip)]
    pub(crate) acknowledged: u64,
    #[serde(skip)]
    pub(crate) first_error: Option<String>,
}

impl Report {
    /// Whether every acknowledged item was leased and completed once, and nothing went wrong.
    pub(crate) fn verified(&self) -> bool {
        self.errors == 0 && self.duplicates == 0 && self.lost == 0
    }

    /// What is wrong with a run that is not verified.
    pub(crate) fn complaint(&self) -> String {
        let counts = format!(
            "{} lost, {} duplicates, {} errors",
            self.lost, self.duplicates, self.errors
        );
        match &self.first_error {
            Some(first) => format!("{counts}; the first error: {first}"),
            None => counts,
        }
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers serialise")
    }

    pub(crate) fn to_table(&self) -> String {
        let mut out = format!("cycles/s {:>12.0}\n\n", self.cycles_per_s);
        out.push_str("latency µs      p50      p90      p99    p99.9      max\n");
        let steps = [
            ("enqueue", self.enqueue_us),
            ("lease", self.lease_us),
            ("complete", self.complete_us),
        ];
        for (step, latency) in steps {
            let Latency {
                p50,
                p90,
                p99,
                p999,
                max,
            } = latency;
            writeln!(
                out,
                "{step:<10} {p50:>8} {p90:>8} {p99:>8} {p999:>8} {max:>8}"
            )
            .expect("strings take all that is written");
        }
        let mut line = |name: &str, value: String| {
            writeln!(out, "{name:<30} {value:>10}").expect("strings take all that is written");
        };
        line("\nacknowledged items", self.acknowledged.to_string());
        line("lost", self.lost.to_string());
        line("duplicates", self.duplicates.to_string());
        line("errors", self.errors.to_string());
        line(
            "client CPU s / million cycles",
            format!("{:.2}", self.client_cpu_s_per_m_cycles),
        );
        if let Some(server) = self.server_cpu_s_per_m_cycles {
            line("server CPU s / million cycles", format!("{server:.2}"));
        }
        out
    }
}

/// CPU seconds per million cycles; 0 where there were none.
pub(crate) fn per_million(time: Duration, cycles: u64) -> f64 {
    if cycles == 0 {
        return 0.0;
    }
    time.as_secs_f64() * 1e6 / cycles as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let latency = Latency {
            p50: 1,
            p90: 2,
            p99: 3,
            p999: 4,
            max: 5,
        };
        Report {
            cycles_per_s: 1234.5,
            enqueue_us: latency,
            lease_us: latency,
            complete_us: latency,
            errors: 0,
            duplicates: 0,
            lost: 0,
            client_cpu_s_per_m_cycles: 6.5,
            server_cpu_s_per_m_cycles: None,
            acknowledged: 12_345,
            first_error: None,
        }
    }

    #[test]
    fn the_json_document_has_the_documented_fields() {
        let expected = concat!(
            r#"{"cycles_per_s":1234.5,"#,
            r#""enqueue_us":{"p50":1,"p90":2,"p99":3,"p999":4,"max":5},"#,
            r#""lease_us":{"p50":1,"p90":2,"p99":3,"p999":4,"max":5},"#,
            r#""complete_us":{"p50":1,"p90":2,"p99":3,"p999":4,"max":5},"#,
            r#""errors":0,"duplicates":0,"lost":0,"client_cpu_s_per_m_cycles":6.5}"#,
        );
        assert_eq!(report().to_json(), expected);
    }

    #[test]
    fn any_loss_duplicate_or_error_fails_the_run() {
        assert!(report().verified());
        assert!(
            !Report {
                lost: 1,
                ..report()
            }
            .verified()
        );
        assert!(
            !Report {
                duplicates: 1,
                ..report()
            }
            .verified()
        );
        let failed = Report {
            errors: 2,
            first_error: Some("lease: x".into()),
            ..report()
        };
        assert!(!failed.verified());
        assert_eq!(
            failed.complaint(),
            "0 lost, 0 duplicates, 2 errors; the first error: lease: x"
        );
    }
}
