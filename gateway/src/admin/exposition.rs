//! The text that Prometheus reads: its own format 0.0.4, or OpenMetrics 1.0.

use std::fmt::{self, Write as _};

use super::latency::{BOUNDS_US, Buckets};

/// Which of the two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus text 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What a client gets that sent this `Accept`: OpenMetrics if it asks for it by name and does
    /// not like plain text better.
    pub(super) fn accepted_by(accept: &str) -> Format {
        let (mut open_metrics, mut text) = (0.0_f32, 0.0_f32);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            let (mut quality, mut is_known) = (1.0_f32, true);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = value.trim().parse().unwrap_or(0.0),
                    "version" => {
                        is_known = matches!(value.trim().trim_matches('"'), "1.0.0" | "0.0.4")
                    }
                    _ => {}
                }
            }
            if !is_known {
                continue;
            }
            match media_type.to_ascii_lowercase().as_str() {
                "application/openmetrics-text" => open_metrics = open_metrics.max(quality),
                "text/plain" => text = text.max(quality),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= text {
            Format::OpenMetrics
        } else {
            Format::Text
        }
    }

    /// The response's media type.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a family's numbers mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A sample's value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Number {
        Number::Whole(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Number {
        Number::Real(value)
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Number {
        Number::Whole(u64::from(value))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Number::Whole(value) => write!(f, "{value}"),
            Number::Real(value) if value.is_nan() => f.write_str("NaN"),
            Number::Real(value) if value.is_infinite() => {
                f.write_str(if value > 0.0 { "+Inf" } else { "-Inf" })
            }
            Number::Real(value) => write!(f, "{value}"),
        }
    }
}

/// A name and its value.
pub(super) type Label<'a> = (&'static str, &'a str);

/// An exposition as it is written, family by family.
#[derive(Debug)]
pub(super) struct Exposition {
    format: Format,
    out: String,
}

impl Exposition {
    /// An empty one.
    pub(super) fn new(format: Format) -> Exposition {
        Exposition {
            format,
            out: String::new(),
        }
    }

    /// Begins a family; its samples follow. `name` is without the `_total` that a counter's
    /// samples get, and a family is begun once only.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let is_counter = kind == Kind::Counter;
        // Text 0.0.4 knows a counter by its sample's name, OpenMetrics by the name without the suffix.
        let suffix = if is_counter && self.format == Format::Text {
            "_total"
        } else {
            ""
        };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = write!(self.out, "# HELP {name}{suffix} ");
        escape(&mut self.out, help, self.format == Format::OpenMetrics);
        let _ = write!(self.out, "\n# TYPE {name}{suffix} {kind}\n");
        Family {
            out: &mut self.out,
            name,
            suffix: if is_counter { "_total" } else { "" },
        }
    }

    /// A family of one sample without labels.
    pub(super) fn single(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &str,
        value: impl Into<Number>,
    ) {
        self.family(name, kind, help).sample(&[], value);
    }

    /// The finished text.
    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }
}

/// A family whose samples are being written.
#[derive(Debug)]
pub(super) struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
    suffix: &'static str,
}

impl Family<'_> {
    /// Writes a counter's or a gauge's value.
    pub(super) fn sample(&mut self, labels: &[Label<'_>], value: impl Into<Number>) {
        self.line(self.suffix, labels, None, value.into());
    }

    /// Writes a histogram of seconds.
    pub(super) fn histogram(&mut self, labels: &[Label<'_>], buckets: &Buckets) {
        for (&bound_us, &count) in BOUNDS_US.iter().zip(&buckets.cumulative) {
            self.line(
                "_bucket",
                labels,
                Some(&Bound(bound_us).to_string()),
                count.into(),
            );
        }
        self.line("_bucket", labels, Some("+Inf"), buckets.count.into());
        self.line("_sum", labels, None, seconds(buckets.sum_us).into());
        self.line("_count", labels, None, buckets.count.into());
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], le: Option<&str>, value: Number) {
        let _ = write!(self.out, "{}{suffix}", self.name);
        let bound = le.map(|le| ("le", le));
        let mut open = '{';
        for (name, value) in labels.iter().copied().chain(bound) {
            let _ = write!(self.out, "{open}{name}=\"");
            escape(self.out, value, true);
            self.out.push('"');
            open = ',';
        }
        if open == ',' {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 285 years of microseconds"
)]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// A bucket's bound in seconds, always with a decimal point as OpenMetrics wants it.
struct Bound(u64);

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = seconds(self.0).to_string();
        let point = if text.contains('.') { "" } else { ".0" };
        write!(f, "{text}{point}")
    }
}

fn escape(out: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
pub(super) mod reading;

#[cfg(test)]
mod tests;
