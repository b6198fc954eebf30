//! Names and values in two columns.

use std::fmt;

use omnirelay_loadgen::Latency;

/// Lines for eyes.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<(String, String)>);

impl Table {
    pub(crate) fn line(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    pub(crate) fn latency(&mut self, name: &str, latency: Latency) {
        let Latency {
            p50,
            p90: _,
            p99,
            p999,
            max,
        } = latency;
        let value = format!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {max}");
        self.line(format!("{name}, µs"), value);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(name, _)| name.chars().count()).max();
        let width = width.unwrap_or(0) + 2;
        for (name, value) in &self.0 {
            writeln!(out, "{name:<width$}{value}")?;
        }
        Ok(())
    }
}

/// Bytes as people read them.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
