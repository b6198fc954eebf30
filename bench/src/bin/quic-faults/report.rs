//! What was found, for people, programs and the documentation.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::abuse::Abuse;
use crate::idle::Idle;
use crate::network::Network;
use crate::refused::Refused;
use crate::rows::ROWS;

/// What came of a row.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Found {
    Network(Network),
    Refused(Refused),
    Abuse(Abuse),
    Idle(Idle),
}

const BEGIN: &str = "<!-- quic-faults -->";
const END: &str = "<!-- /quic-faults -->";

impl Found {
    /// Which row it is of, and which promises it breaks.
    pub(crate) fn broken(&self) -> (&'static str, &[String]) {
        match self {
            Found::Network(it) => (it.row, &it.broken),
            Found::Refused(it) => (it.row, &it.broken),
            Found::Abuse(it) => (it.row, &it.broken),
            Found::Idle(it) => (it.row, &it.broken),
        }
    }

    /// Names of the table's columns.
    fn head(&self) -> &'static [&'static str] {
        match self {
            Found::Network(_) => &[
                "Row",
                "Network",
                "Calls",
                "Frames retried",
                "Reconnects",
                "Failed by deadline",
                "Given up before",
                "p50, ms",
                "p99, ms",
                "Longest overrun, ms",
                "Items",
                "Redelivered",
                "Doubled",
                "Lost",
                "Server's growth, MiB",
            ],
            Found::Refused(_) => &[
                "Row",
                "What is wrong",
                "`ConnectError`",
                "after, ms",
                "Counted in",
            ],
            Found::Abuse(_) => &[
                "Row",
                "Attack",
                "Sent",
                "Calls beside it",
                "p99 alone, ms",
                "p99 beside it, ms",
                "Ratio",
                "A new client connects in, ms",
                "Counted in",
                "Server's growth, MiB",
            ],
            Found::Idle(_) => &[
                "Row",
                "Connections",
                "Made a second",
                "Server's memory before, with and after, MiB",
                "Bytes a connection",
            ],
        }
    }

    fn cells(&self) -> Vec<String> {
        match self {
            Found::Network(it) => vec![
                format!("`{}`", it.row),
                what(it.row).to_owned(),
                it.calls.to_string(),
                it.retried.to_string(),
                it.reconnects.to_string(),
                it.failed_by_deadline.to_string(),
                it.given_up_before.to_string(),
                ms(it.p50_us),
                ms(it.p99_us),
                ms(it.overrun_us),
                it.items.to_string(),
                it.redelivered.to_string(),
                it.doubled.to_string(),
                it.lost.to_string(),
                mib(it.server_growth_bytes),
            ],
            Found::Refused(it) => vec![
                format!("`{}`", it.row),
                it.what.to_owned(),
                format!("`{}`: {}", it.variant, it.error),
                it.after_ms.to_string(),
                counted(it.metric, it.counted),
            ],
            Found::Abuse(it) => vec![
                format!("`{}`", it.row),
                it.pace.to_owned(),
                it.sent.to_string(),
                it.calls.to_string(),
                ms(it.p99_alone_us),
                ms(it.p99_beside_us),
                format!("{:.2}", it.ratio),
                ms(it.new_client_us),
                counted(it.metric, it.counted),
                mib(it.server_growth_bytes),
            ],
            Found::Idle(it) => vec![
                format!("`{}`", it.row),
                it.connections.to_string(),
                format!("{:.0}", it.connects_per_s),
                format!(
                    "{}, {}, {}",
                    mib(it.server_bytes_before),
                    mib(it.server_bytes_with),
                    mib(it.server_bytes_after)
                ),
                format!("{:.0}", it.bytes_per_connection),
            ],
        }
    }
}

fn what(row: &str) -> &'static str {
    let found = ROWS.iter().find(|one| one.name == row);
    found.map_or("", |row| row.what)
}

fn ms(micros: u64) -> String {
    format!("{:.1}", micros as f64 / 1_000.0)
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

fn counted(metric: &str, count: f64) -> String {
    if metric.is_empty() {
        return "nothing: the server hears nothing of it".to_owned();
    }
    format!("`{metric}` +{count}")
}

/// The tables, in Markdown.
pub(crate) fn markdown(found: &[Found]) -> String {
    let mut out = String::new();
    let mut last: &[&str] = &[];
    for one in found {
        if one.head() != last {
            last = one.head();
            let _ = writeln!(out, "\n| {} |", last.join(" | "));
            let _ = writeln!(out, "|{}", "---|".repeat(last.len()));
        }
        let _ = writeln!(out, "| {} |", one.cells().join(" | "));
    }
    out
}

/// Puts the tables into a document, between its marks.
pub(crate) fn write(path: &Path, found: &[Found]) -> anyhow::Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let text = replaced(&text, &markdown(found)).with_context(|| path.display().to_string())?;
    fs::write(path, text).with_context(|| path.display().to_string())
}

fn replaced(text: &str, tables: &str) -> anyhow::Result<String> {
    let Some((before, rest)) = text.split_once(BEGIN) else {
        bail!("there is no line {BEGIN}");
    };
    let Some((_, after)) = rest.split_once(END) else {
        bail!("there is no line {END} behind {BEGIN}");
    };
    Ok(format!("{before}{BEGIN}\n{tables}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle() -> Found {
        Found::Idle(Idle {
            row: "idle",
            connections: 10,
            connects_per_s: 5.0,
            bytes_per_connection: 1_000.4,
            server_bytes_before: 1 << 20,
            server_bytes_with: 2 << 20,
            server_bytes_after: 1 << 20,
            broken: vec!["too much".into()],
        })
    }

    #[test]
    fn tables_replace_those_that_were_there() {
        let before = format!("a\n{BEGIN}\nold\n{END}\nb");
        let after = replaced(&before, "new").unwrap();
        assert_eq!(after, format!("a\n{BEGIN}\nnew\n{END}\nb"));
        assert_eq!(replaced(&after, "new").unwrap(), after);
        assert!(replaced("nothing", "new").is_err());
        assert!(replaced(BEGIN, "new").is_err());
    }

    #[test]
    fn a_table_has_one_head_and_a_line_for_each() {
        let tables = markdown(&[idle(), idle()]);
        let lines: Vec<&str> = tables.trim().lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[3], "| `idle` | 10 | 5 | 1.0, 2.0, 1.0 | 1000 |");
    }
}
