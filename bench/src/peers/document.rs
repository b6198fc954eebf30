//! The section of a document that a command writes.

use anyhow::{anyhow, bail};

const BEGIN: &str = "<!-- peers: begin";
const END: &str = "<!-- peers: end -->";
const FIRST_LINE: &str =
    "<!-- peers: begin. Written by `cargo run --release -p bench -- peers`; do not edit. -->";

/// The document with the section between its markers replaced. Without markers it goes to the end.
///
/// # Errors
/// If the markers are not one pair.
pub(crate) fn with_section(document: &str, section: &str) -> anyhow::Result<String> {
    let section = format!("{FIRST_LINE}\n\n{}\n\n{END}", section.trim());
    let (begins, ends) = (
        document.matches(BEGIN).count(),
        document.matches(END).count(),
    );
    if (begins, ends) == (0, 0) {
        return Ok(format!("{}\n\n{section}\n", document.trim_end()));
    }
    if (begins, ends) != (1, 1) {
        bail!(
            "it has {begins} lines `{BEGIN} … -->` and {ends} lines `{END}`: one of each, or none, is right"
        );
    }
    let (before, rest) = document.split_once(BEGIN).expect("it was counted");
    let (_, after) = rest
        .split_once(END)
        .ok_or_else(|| anyhow!("`{END}` is above `{BEGIN} … -->`"))?;
    Ok(format!("{before}{section}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_around_the_section_stays() {
        let first = with_section("# Title\n\nText.\n", "old\n").unwrap();
        assert!(first.starts_with("# Title\n\nText.\n\n<!-- peers: begin"));
        assert!(first.ends_with("-->\n\nold\n\n<!-- peers: end -->\n"));
        let document = format!("{first}\nMore.\n");
        let second = with_section(&document, "new").unwrap();
        assert_eq!(second, document.replace("old", "new"));
        assert_eq!(with_section(&second, "new").unwrap(), second);
    }

    #[test]
    fn markers_that_are_no_pair_are_refused() {
        let reversed = format!("{END}\n{FIRST_LINE}\n");
        let twice = format!("{FIRST_LINE}\n{END}\n{FIRST_LINE}\n");
        for document in [FIRST_LINE, END, &reversed, &twice] {
            assert!(with_section(document, "new").is_err(), "{document}");
        }
    }
}
