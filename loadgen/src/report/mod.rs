//! The result of a run, for people and for programs.

mod histogram;
mod plot;
mod table;

use std::fmt;
use std::io;
use std::path::PathBuf;

use hdrhistogram::Histogram;
use omnirelay_loadgen::Latency;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

pub(crate) use self::histogram::HistogramFiles;
pub(crate) use self::plot::PlotFile;
use crate::args::OutputArgs;

/// What a run found. As JSON it is one document with the figures' keys in this order.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// How much was done in the time.
    pub(crate) rates: Vec<Figure>,
    /// How long it took.
    pub(crate) steps: Vec<Step>,
    /// What became of it.
    pub(crate) verdict: Verdict,
    /// What it cost.
    pub(crate) costs: Vec<Figure>,
}

/// A number with its names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    pub(crate) key: &'static str,
    pub(crate) label: &'static str,
    pub(crate) number: Number,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    Count(u64),
    /// Shown to people to so many decimals.
    Real(f64, usize),
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u64(*count),
            Self::Real(value, _) => serializer.serialize_f64(*value),
        }
    }
}

/// The latencies of one kind of call, µs.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) histogram: Histogram<u64>,
}

/// Whether the server did what it should.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdict {
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Where items were sent.
    pub(crate) items: Option<ItemCounts>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ItemCounts {
    pub(crate) acknowledged: u64,
    pub(crate) duplicates: u64,
    pub(crate) lost: u64,
}

impl Figure {
    pub(crate) fn count(key: &'static str, label: &'static str, count: u64) -> Self {
        let number = Number::Count(count);
        Self { key, label, number }
    }

    pub(crate) fn real(
        key: &'static str,
        label: &'static str,
        value: f64,
        decimals: usize,
    ) -> Self {
        let number = Number::Real(value, decimals);
        Self { key, label, number }
    }
}

impl Verdict {
    /// Whether every acknowledged item was leased and completed once, and nothing went wrong.
    pub(crate) fn is_good(&self) -> bool {
        let items = self.items.unwrap_or_default();
        self.errors == 0 && items.duplicates == 0 && items.lost == 0
    }

    /// What is wrong with a run that is not good.
    pub(crate) fn complaint(&self) -> String {
        let items = self.items.map_or_else(String::new, |items| {
            format!("{} lost, {} duplicates, ", items.lost, items.duplicates)
        });
        let counts = format!("{items}{} errors", self.errors);
        match &self.first_error {
            Some(first) => format!("{counts}; the first error: {first}"),
            None => counts,
        }
    }

    fn figures(&self) -> Vec<Figure> {
        let errors = Figure::count("errors", "errors", self.errors);
        let Some(items) = self.items else {
            return vec![errors];
        };
        vec![
            Figure::count("acknowledged", "acknowledged items", items.acknowledged),
            errors,
            Figure::count("duplicates", "duplicates", items.duplicates),
            Figure::count("lost", "lost", items.lost),
        ]
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut document = serializer.serialize_map(None)?;
        for figure in &self.rates {
            document.serialize_entry(figure.key, &figure.number)?;
        }
        for step in &self.steps {
            let key = format!("{}_us", step.name.replace(' ', "_"));
            document.serialize_entry(&key, &Latency::from(&step.histogram))?;
        }
        for figure in self.verdict.figures().iter().chain(&self.costs) {
            document.serialize_entry(figure.key, &figure.number)?;
        }
        document.end()
    }
}

/// Where a report goes besides the screen.
#[derive(Debug)]
pub(crate) struct Files {
    histogram: Option<HistogramFiles>,
    plot: Option<PlotFile>,
}

impl Files {
    /// Sees that the files can be written, before anything is measured for them.
    ///
    /// # Errors
    /// Which file cannot, and why.
    pub(crate) fn open(output: &OutputArgs) -> Result<Self, FileError> {
        Ok(Self {
            histogram: output
                .histogram
                .as_deref()
                .map(HistogramFiles::open)
                .transpose()?,
            plot: output.plot.as_deref().map(PlotFile::open).transpose()?,
        })
    }

    /// Writes the report's latencies; `title` and `settings` say of what.
    ///
    /// # Errors
    /// Which file cannot be written, and why.
    pub(crate) fn write(
        &self,
        report: &Report,
        title: &str,
        settings: &str,
    ) -> Result<(), FileError> {
        if let Some(files) = &self.histogram {
            files.write(&report.steps)?;
        }
        if let Some(file) = &self.plot {
            file.write(&report.steps, title, settings)?;
        }
        Ok(())
    }
}

/// A file that cannot be written.
#[derive(Debug)]
pub(crate) struct FileError {
    option: &'static str,
    path: PathBuf,
    cause: io::Error,
}

impl fmt::Display for FileError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} {}: {}",
            self.option,
            self.path.display(),
            self.cause
        )
    }
}

#[cfg(test)]
mod tests {
    use omnirelay_loadgen::latency_histogram;

    use super::*;

    pub(super) fn report() -> Report {
        let step = |name| {
            let mut histogram = latency_histogram();
            (1..=5).for_each(|us| histogram.record(us).unwrap());
            Step { name, histogram }
        };
        Report {
            rates: vec![Figure::real("cycles_per_s", "cycles/s", 1234.5, 0)],
            steps: ["enqueue", "lease", "complete"].map(step).into(),
            verdict: Verdict {
                items: Some(ItemCounts {
                    acknowledged: 12_345,
                    ..ItemCounts::default()
                }),
                ..Verdict::default()
            },
            costs: vec![Figure::real(
                "client_cpu_s_per_m_cycles",
                "client CPU s / million cycles",
                6.5,
                2,
            )],
        }
    }

    #[test]
    fn the_json_document_has_the_documented_fields() {
        let expected = concat!(
            r#"{"cycles_per_s":1234.5,"#,
            r#""enqueue_us":{"p50":3,"p90":5,"p99":5,"p999":5,"max":5},"#,
            r#""lease_us":{"p50":3,"p90":5,"p99":5,"p999":5,"max":5},"#,
            r#""complete_us":{"p50":3,"p90":5,"p99":5,"p999":5,"max":5},"#,
            r#""acknowledged":12345,"errors":0,"duplicates":0,"lost":0,"#,
            r#""client_cpu_s_per_m_cycles":6.5}"#,
        );
        assert_eq!(serde_json::to_string(&report()).unwrap(), expected);
    }

    #[test]
    fn any_loss_duplicate_or_error_fails_the_run() {
        assert!(report().verdict.is_good());
        let items = |lost, duplicates| Verdict {
            items: Some(ItemCounts {
                acknowledged: 9,
                duplicates,
                lost,
            }),
            ..Verdict::default()
        };
        assert!(!items(1, 0).is_good());
        assert!(!items(0, 1).is_good());
        let failed = Verdict {
            errors: 2,
            first_error: Some("lease: x".into()),
            ..items(0, 0)
        };
        assert!(!failed.is_good());
        assert_eq!(
            failed.complaint(),
            "0 lost, 0 duplicates, 2 errors; the first error: lease: x"
        );
        let without_items = Verdict {
            items: None,
            ..failed
        };
        assert_eq!(
            without_items.complaint(),
            "2 errors; the first error: lease: x"
        );
    }
}
