//! What goes to stdout: tables for people, JSON for programs, one document a line.

use std::io::Write;
use std::os::fd::AsFd;

use serde::Serialize;
use serde_json::Value;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

use super::colour;
use super::failure::Failure;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    /// For people
    Table,
    /// For programs: one JSON document a line
    Json,
}

/// The option of every command that prints data.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct OutputArgs {
    /// How data is printed
    #[arg(long, short, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    pub(super) output: Output,
}

/// Writes bytes to stdout as they are.
///
/// # Errors
/// `cli.output`; a reader that went away ends the command quietly.
pub(super) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::reader_gone()),
        Err(error) => Err(Failure::failed(
            "cli.output",
            format!("cannot write to stdout: {error}"),
            "check where the output goes",
        )),
    }
}

/// Ends when whoever reads stdout goes away, so that a command that waits for more to say ends
/// too; never where that cannot be told, as of a file.
pub(super) async fn reader_gone() -> Failure {
    // Unchecked leaves the pipe blocking, as everything that is written to it expects.
    let pipe = std::io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .and_then(Sender::from_owned_fd_unchecked);
    if let Ok(pipe) = pipe
        && pipe.ready(Interest::ERROR).await.is_ok()
    {
        return Failure::reader_gone();
    }
    std::future::pending().await
}

/// Writes one JSON document and ends its line.
pub(super) fn json(document: &impl Serialize) -> Result<(), Failure> {
    let mut bytes = serde_json::to_vec(document).expect("what is printed has string keys");
    bytes.push(b'\n');
    write(&bytes)
}

/// Writes rows under headings, in columns without borders.
pub(super) fn table(
    headings: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> Result<(), Failure> {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table.set_header(headings.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        let line = line.trim_end();
        if text.is_empty() {
            text.push_str(&heading(line));
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    write(text.as_bytes())
}

/// The line of headings, told from the rows below where there are colours.
pub(super) fn heading(line: &str) -> String {
    colour::painted(line, colour::HEADING, colour::on_stdout())
}

/// A document as rows of a table: one for each value, keyed by its path.
pub(super) fn rows_of(document: &Value) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    flatten("", document, &mut rows);
    rows
}

fn flatten(path: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let join = |key: &str| {
        let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let key = if key.chars().all(is_bare) {
            key.to_owned()
        } else {
            Value::from(key).to_string()
        };
        if path.is_empty() {
            key
        } else {
            format!("{path}.{key}")
        }
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                flatten(&join(key), value, rows);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, value) in items.iter().enumerate() {
                flatten(&join(&at.to_string()), value, rows);
            }
        }
        Value::String(text) => rows.push(vec![path.to_owned(), text.clone()]),
        other => rows.push(vec![path.to_owned(), other.to_string()]),
    }
}

/// Text that cannot steer a terminal: control characters are replaced.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// The beginning of a body where it is text, else its length.
pub(super) fn preview(body: &[u8]) -> String {
    const PREVIEW_CHARS: usize = 48;
    match std::str::from_utf8(body) {
        Ok(text) if text.contains(|c: char| c.is_control() && !c.is_whitespace()) => {
            format!("<{} bytes>", body.len())
        }
        Ok(text) => match text.char_indices().nth(PREVIEW_CHARS) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text.to_owned(),
        },
        Err(_) => format!("<{} bytes>", body.len()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_becomes_one_row_for_each_value() {
        let rows = rows_of(&json!({"a": {"b": 1, "c.d": []}, "d": ["x", null]}));
        assert_eq!(
            rows,
            [
                ["a.b", "1"],
                ["a.\"c.d\"", "[]"],
                ["d.0", "x"],
                ["d.1", "null"]
            ]
        );
    }

    #[test]
    fn a_cell_cannot_steer_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn a_preview_is_short_and_cut_between_characters() {
        assert_eq!(preview(b"{}"), "{}");
        assert_eq!(preview(&[0xff, 0]), "<2 bytes>");
        assert_eq!(preview(&[0, 1, 2]), "<3 bytes>");
        assert_eq!(preview("é".repeat(60).as_bytes()).chars().count(), 49);
    }
}
