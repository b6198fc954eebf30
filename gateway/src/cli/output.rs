//! What goes to stdout: tables for people, JSON for programs, one document a line.

use std::io::Write;

use serde::Serialize;

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

/// Writes bytes to stdout as they are. A reader that went away is no failure.
pub(super) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::failed(
            "cli.output",
            format!("cannot write to stdout: {error}"),
            "check where the output goes",
        )),
        _ => Ok(()),
    }
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
        text.push_str(line.trim_end());
        text.push('\n');
    }
    write(text.as_bytes())
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
    use super::*;

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
