//! Colours: on a terminal, unless the environment or `--color` says otherwise.
//!
//! `NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE` and `TERM=dumb` are honoured
//! (<https://no-color.org>, <https://bixense.com/clicolors>); `--color always|never` outweighs them.

use std::ffi::OsString;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use clap::builder::Styles;

pub(super) const HEADING: Style = AnsiColor::BrightGreen.on_default().bold();
pub(super) const LITERAL: Style = AnsiColor::BrightCyan.on_default().bold();
pub(super) const ERROR: Style = AnsiColor::BrightRed.on_default().bold();
pub(super) const GOOD: Style = AnsiColor::BrightGreen.on_default();
pub(super) const BAD: Style = AnsiColor::BrightRed.on_default();

/// How help is coloured: as cargo's.
pub(super) const HELP: Styles = Styles::styled()
    .header(HEADING)
    .usage(HEADING)
    .literal(LITERAL)
    .placeholder(AnsiColor::Cyan.on_default());

/// Makes `--color` hold for the whole process, before anything is said: help and usage errors come
/// out of the parser, which then tells nothing of what it has read.
pub(super) fn choose(arguments: &[OsString]) {
    let mut wanted = None;
    let mut arguments = arguments.iter().filter_map(|argument| argument.to_str());
    while let Some(argument) = arguments.next() {
        match argument.split_once('=') {
            Some(("--color", value)) => wanted = Some(value),
            _ if argument == "--color" => wanted = arguments.next(),
            _ if argument == "--" => break,
            _ => {}
        }
    }
    match wanted {
        Some("always") => ColorChoice::Always.write_global(),
        Some("never") => ColorChoice::Never.write_global(),
        _ => {}
    }
}

/// Whether what goes to stdout is coloured.
pub(super) fn on_stdout() -> bool {
    AutoStream::choice(&std::io::stdout()) != ColorChoice::Never
}

/// Whether what goes to stderr is coloured.
pub(crate) fn on_stderr() -> bool {
    AutoStream::choice(&std::io::stderr()) != ColorChoice::Never
}

/// The text in a style, or as it is.
pub(super) fn painted(text: &str, style: Style, is_coloured: bool) -> String {
    if is_coloured {
        format!("{style}{text}{style:#}")
    } else {
        text.to_owned()
    }
}
