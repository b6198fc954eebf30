//! `omnirelay lease restore`: reads items as `lease drain` writes them and puts them in.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::time::Duration;

use omnirelay_net::messages::{BATCH_ITEMS_MAX, PendingItem, RestoreRequest, RestoreResponse};
use omnirelay_net::rpc::{
    BATCH_BYTES_MAX, BODY_BYTES_MAX, Call, Reply, parse_pending_item, pending_item_bytes,
    validate_pending_item,
};

use super::{ServerArgs, call, wrong_reply};
use crate::cli::failure::Failure;
use crate::cli::output::{self, Output, OutputArgs};
use crate::cli::progress::Progress;

/// Longest line: the largest body in base64, and room for everything else an item can have.
const LINE_BYTES_MAX: usize = BODY_BYTES_MAX / 3 * 4 + (1 << 20);

#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    /// The file with the items, one a line; `-` reads stdin
    #[arg(value_name = "FILE", default_value = "-", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &RestoreArgs) -> Result<(), Failure> {
    let mut restore = Restore {
        server: &args.server,
        batch: Vec::new(),
        batch_bytes: 0,
        done: RestoreResponse::default(),
        last_line: 0,
        progress: Progress::new(),
    };
    if args.file.as_os_str() == "-" {
        restore.take_in(Lines::new(std::io::stdin().lock(), "stdin".into()))?;
    } else {
        let name = args.file.display().to_string();
        let file = File::open(&args.file).map_err(|error| unreadable(&name, &error))?;
        restore.take_in(Lines::new(BufReader::new(file), name))?;
    }
    let done = restore.done;
    drop(restore);
    match args.output.output {
        Output::Json => output::json(&done),
        Output::Table => output::table(
            &["RESTORED", "THERE ALREADY"],
            [vec![
                done.restored_count.to_string(),
                done.duplicate_count.to_string(),
            ]],
        ),
    }
}

/// Items on their way in, a batch at a time.
struct Restore<'a> {
    server: &'a ServerArgs,
    batch: Vec<PendingItem>,
    batch_bytes: usize,
    done: RestoreResponse,
    /// All lines up to this one have been restored.
    last_line: u64,
    progress: Progress,
}

impl Restore<'_> {
    fn take_in(&mut self, mut lines: Lines<impl BufRead>) -> Result<(), Failure> {
        while let Some((number, line)) = lines.next().map_err(|failure| self.so_far(failure))? {
            let item = parse_line(number, &line).map_err(|failure| self.so_far(failure))?;
            let bytes = pending_item_bytes(&item);
            let is_full =
                self.batch.len() == BATCH_ITEMS_MAX || self.batch_bytes + bytes > BATCH_BYTES_MAX;
            if is_full {
                self.send(number - 1)?;
            }
            self.batch_bytes += bytes;
            self.batch.push(item);
        }
        self.send(lines.number)
    }

    /// Restores the batch, which ends at `line`.
    fn send(&mut self, line: u64) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let items = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let request = Call::Restore(RestoreRequest {
            items,
            namespace: None,
        });
        let reply = call(self.server, Duration::ZERO, &request);
        let Reply::Restore(response) = reply.map_err(|failure| self.so_far(failure))? else {
            return Err(wrong_reply());
        };
        self.done.restored_count += response.restored_count;
        self.done.duplicate_count += response.duplicate_count;
        self.last_line = line;
        let restored = self.done.restored_count;
        self.progress.say(format_args!("{restored} items restored"));
        Ok(())
    }

    /// A failure that says what has been restored, and that repeating does no harm.
    fn so_far(&self, failure: Failure) -> Failure {
        let message = match self.last_line {
            0 => failure.message,
            line => format!("{}; all up to line {line} is restored", failure.message),
        };
        Failure {
            message,
            help: format!(
                "{}; then run the same command again: items that are there already are not added twice",
                failure.help
            ),
            ..failure
        }
    }
}

fn parse_line(number: u64, line: &[u8]) -> Result<PendingItem, Failure> {
    let item = parse_pending_item(line).and_then(|item| {
        validate_pending_item("", &item)?;
        Ok(item)
    });
    item.map_err(|error| Failure {
        message: format!("line {number}: {}", error.message),
        help: "correct the line".into(),
        ..Failure::from(error)
    })
}

fn unreadable(name: &str, error: &std::io::Error) -> Failure {
    Failure::failed(
        "cli.input",
        format!("cannot read {name}: {error}"),
        "name a readable file, or - for stdin",
    )
}

/// The lines of a file that are not blank, with their numbers.
struct Lines<R> {
    reader: R,
    name: String,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn new(reader: R, name: String) -> Lines<R> {
        Lines {
            reader,
            name,
            number: 0,
        }
    }

    fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>, Failure> {
        loop {
            let mut line = Vec::new();
            let limit = LINE_BYTES_MAX as u64 + 1;
            let read = (&mut self.reader).take(limit).read_until(b'\n', &mut line);
            if read.map_err(|error| unreadable(&self.name, &error))? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if line.len() > LINE_BYTES_MAX {
                return Err(Failure::failed(
                    "cli.input",
                    format!("line {} is longer than {LINE_BYTES_MAX} bytes", self.number),
                    "give one item a line, as `omnirelay lease drain` writes them",
                ));
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some((self.number, line)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"payload":{"resourceType":"t","resourceId":"i","payloadEncoding":"e"},"attempt":1,"enqueuedAt":"2026-11-21T12:00:00Z","sequenceId":7,"deadLetter":false,"origin":"000102030405060708090a0b0c0d0e0f"}"#;

    fn refused(line: &str) -> String {
        parse_line(3, line.as_bytes()).unwrap_err().message
    }

    #[test]
    fn a_line_that_is_no_item_is_named_by_its_number() {
        assert_eq!(parse_line(3, GOOD.as_bytes()).unwrap().sequence_id, 7);
        insta::assert_snapshot!(refused("{"), @"line 3: malformed JSON: EOF while parsing an object at line 1 column 1");
        insta::assert_snapshot!(refused(&GOOD.replace("\"t\"", "\" \"")), @"line 3: payload.resourceType is blank");
        insta::assert_snapshot!(refused(&GOOD.replace("0f\"", "0g\"")), @"line 3: origin: `000102030405060708090a0b0c0d0e0g` is not 32 hex digits");
    }

    #[test]
    fn lines_are_numbered_as_an_editor_does_and_blank_ones_left_out() {
        let mut lines = Lines::new(&b"a\n\n \r\nb"[..], "x".into());
        assert_eq!(lines.next().unwrap(), Some((1, b"a\n".to_vec())));
        assert_eq!(lines.next().unwrap(), Some((4, b"b".to_vec())));
        assert_eq!(lines.next().unwrap(), None);
    }

    #[test]
    fn a_line_without_an_end_does_not_fill_the_memory() {
        let endless = BufReader::new(std::io::repeat(b'x'));
        let failure = Lines::new(endless, "x".into()).next().unwrap_err();
        assert!(
            failure.message.starts_with("line 1 is longer"),
            "{}",
            failure.message
        );
    }
}
