//! The text that Prometheus reads: its own format 0.0.4, or OpenMetrics 1.0.

use std::fmt::{self, Write as _};

use super::families::{Families, Family, Kind, Number, Series, Value};
use super::latency::{BOUNDS_US, Buckets, seconds};

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

/// All families as text.
pub(super) fn render(format: Format, families: &Families) -> String {
    let mut out = String::new();
    for family in families.iter() {
        write_family(&mut out, format, family);
    }
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn write_family(out: &mut String, format: Format, family: &Family) {
    let name = family.name.replace('.', "_");
    let is_counter = family.kind == Kind::Counter;
    // Text 0.0.4 knows a counter by its sample's name, OpenMetrics by the name without the suffix.
    let suffix = if is_counter && format == Format::Text {
        "_total"
    } else {
        ""
    };
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let _ = write!(out, "# HELP {name}{suffix} ");
    escape(out, &family.help, format == Format::OpenMetrics);
    let _ = write!(out, "\n# TYPE {name}{suffix} {kind}\n");
    let mut lines = Lines { out, name: &name };
    for series in &family.series {
        match &series.value {
            Value::Number(number) => {
                let suffix = if is_counter { "_total" } else { "" };
                lines.line(suffix, series, None, *number);
            }
            Value::Histogram(buckets) => lines.histogram(series, buckets),
        }
    }
}

/// A family's samples as they are written.
struct Lines<'a> {
    out: &'a mut String,
    name: &'a str,
}

impl Lines<'_> {
    fn histogram(&mut self, series: &Series, buckets: &Buckets) {
        for (&bound_us, &count) in BOUNDS_US.iter().zip(&buckets.cumulative) {
            let bound = Bound(bound_us).to_string();
            self.line("_bucket", series, Some(&bound), count.into());
        }
        self.line("_bucket", series, Some("+Inf"), buckets.count.into());
        self.line("_sum", series, None, seconds(buckets.sum_us).into());
        self.line("_count", series, None, buckets.count.into());
    }

    fn line(&mut self, suffix: &str, series: &Series, le: Option<&str>, value: Number) {
        let _ = write!(self.out, "{}{suffix}", self.name);
        let labels = series.labels.iter().map(|(name, text)| (*name, &**text));
        let mut open = '{';
        for (name, value) in labels.chain(le.map(|le| ("le", le))) {
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
