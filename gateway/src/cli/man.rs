//! `omnirelay man`: the manual, a page for each command.

use std::path::{Path, PathBuf};

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::failure::Failure;
use super::output;

/// Exit codes, as every page tells them.
const EXIT_STATUS: [(&str, &str); 5] = [
    ("0", "It succeeded."),
    (
        "1",
        "The operation failed: the server refused it, or this machine did.",
    ),
    (
        "2",
        "The command line, the configuration or a script is wrong; nothing was tried.",
    ),
    (
        "3",
        "No server could be reached, or it went away before it answered.",
    ),
    (
        "141",
        "Whoever read standard output went away before the end.",
    ),
];

/// Print a manual page, or write all of them
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE:\n  omnirelay man lease take | man -l -\n  omnirelay man --out ~/.local/share/man/man1"
)]
pub(super) struct ManArgs {
    /// The command that the page is about [default: omnirelay itself]
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Write the pages of all commands to this directory
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath, conflicts_with = "command")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: &ManArgs, root: clap::Command) -> Result<(), Failure> {
    let mut root = root.disable_help_subcommand(true);
    root.build();
    if let Some(dir) = &args.out {
        return write_all(&root, dir).map_err(|error| {
            Failure::failed(
                "cli.output",
                format!("cannot write the manual to {}: {error}", dir.display()),
                "name a directory that you may write to with --out",
            )
        });
    }
    let mut command = &root;
    for name in &args.command {
        command = command.find_subcommand(name).ok_or_else(|| {
            Failure::usage(
                format!("there is no command `{name}` in `{}`", spoken(command)),
                "`omnirelay --help` lists the commands",
            )
        })?;
    }
    output::write(&page(command))
}

/// The command as it is typed.
fn spoken(command: &clap::Command) -> &str {
    command.get_bin_name().unwrap_or(command.get_name())
}

/// The page's name: the command as one word.
fn title(command: &clap::Command) -> String {
    spoken(command).replace(' ', "-")
}

fn write_all(command: &clap::Command, dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join(format!("{}.1", title(command))), page(command))?;
    for inner in command.get_subcommands() {
        write_all(inner, dir)?;
    }
    Ok(())
}

/// A command's page in roff.
fn page(command: &clap::Command) -> Vec<u8> {
    let name = title(command);
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let man = Man::new(command.clone().display_name(&name).override_usage(usage))
        .title(name.to_uppercase())
        .date(" ")
        .source(format!("OmniRelay {}", env!("CARGO_PKG_VERSION")))
        .manual("OmniRelay Manual");
    let mut out = Vec::new();
    let rendered = man
        .render_title(&mut out)
        .and_then(|()| man.render_name_section(&mut out))
        .and_then(|()| man.render_synopsis_section(&mut out))
        .and_then(|()| man.render_description_section(&mut out));
    rendered.expect("a vector takes everything");
    if command.has_subcommands() {
        commands(command)
            .to_writer(&mut out)
            .expect("a vector takes everything");
    }
    man.render_options_section(&mut out)
        .expect("a vector takes everything");
    let mut rest = Roff::new();
    examples(command, &mut rest);
    rest.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_STATUS {
        rest.control("TP", []);
        rest.text([bold(code)]);
        rest.text([roman(meaning)]);
    }
    see_also(command, &mut rest);
    rest.to_writer(&mut out).expect("a vector takes everything");
    out
}

fn commands(command: &clap::Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for inner in command.get_subcommands() {
        roff.control("TP", []);
        roff.text([bold(spoken(inner))]);
        let about = inner
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        roff.text([roman(about)]);
    }
    roff
}

/// What stands behind `EXAMPLE:` in a command's help, as it is typed.
fn examples(command: &clap::Command, roff: &mut Roff) {
    let help = command.get_after_help().map(ToString::to_string);
    let Some(lines) = help
        .as_deref()
        .and_then(|help| help.strip_prefix("EXAMPLE:\n"))
    else {
        return;
    };
    roff.control("SH", ["EXAMPLES"]);
    roff.control("nf", []);
    for line in lines.lines() {
        roff.text([roman(line.trim())]);
    }
    roff.control("fi", []);
}

/// The pages of the command above and of those below.
fn see_also(command: &clap::Command, roff: &mut Roff) {
    let name = title(command);
    let above = name.rsplit_once('-').map(|(above, _)| above.to_owned());
    let below = command.get_subcommands().map(title);
    let mut pages = above.into_iter().chain(below).peekable();
    if pages.peek().is_none() {
        return;
    }
    roff.control("SH", ["SEE ALSO"]);
    // A page's name is searched for as it stands.
    roff.control("nh", []);
    let mut words = Vec::new();
    while let Some(page) = pages.next() {
        words.push(bold(page));
        words.push(roman(if pages.peek().is_some() {
            "(1), "
        } else {
            "(1)"
        }));
    }
    roff.text(words);
}
