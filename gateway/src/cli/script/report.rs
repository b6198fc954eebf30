//! What is said about a script: a line a step, and a summary.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::file::Step;
use crate::cli::colour::{self, BAD, GOOD, painted};
use crate::cli::failure::Failure;
use crate::cli::output::{self, Output, printable};

/// What a step had to show for itself.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// The whole reply.
    pub(super) reply: Option<Value>,
    pub(super) captured: BTreeMap<String, Value>,
}

/// What is said as the steps end.
#[derive(Debug)]
pub(super) struct Report {
    output: Output,
    begun: Instant,
    steps: usize,
    ok: usize,
    failed: usize,
    planned: usize,
    first: Option<Failure>,
}

impl Report {
    /// # Errors
    /// As [`output::write`], here and below.
    pub(super) fn begin(output: Output, steps: usize) -> Result<Report, Failure> {
        if output == Output::Table {
            let heading = line("STEP", "RESULT", "TIME", "WHAT");
            output::write(format!("{}\n", output::heading(&heading)).as_bytes())?;
        }
        Ok(Report {
            output,
            begun: Instant::now(),
            steps,
            ok: 0,
            failed: 0,
            planned: 0,
            first: None,
        })
    }

    /// A step that would be run.
    pub(super) fn planned(&mut self, step: &Step) -> Result<(), Failure> {
        self.planned += 1;
        match self.output {
            Output::Table => {
                output::write(format!("{}\n", row(step, "planned", None, &step.title())).as_bytes())
            }
            Output::Json => output::json(&document(step, "planned")),
        }
    }

    /// A step that was run.
    pub(super) fn ended(
        &mut self,
        step: &Step,
        took: Duration,
        done: Done,
        result: Result<(), Failure>,
    ) -> Result<(), Failure> {
        let word = if result.is_ok() { "ok" } else { "failed" };
        match self.output {
            Output::Table => {
                let what = match &result {
                    Ok(()) => step.title(),
                    Err(failure) => {
                        format!("{}: {} [{}]", step.title(), failure.message, failure.code)
                    }
                };
                let row = row(step, word, Some(took), &what);
                output::write(format!("{row}\n").as_bytes())?;
            }
            Output::Json => {
                let mut document = document(step, word);
                document["ms"] = millis(took).into();
                if let Some(reply) = done.reply {
                    document["reply"] = reply;
                }
                if !done.captured.is_empty() {
                    document["captured"] = json!(done.captured);
                }
                if let Err(failure) = &result {
                    document["error"] = json!({"code": failure.code, "message": failure.message});
                }
                output::json(&document)?;
            }
        }
        match result {
            Ok(()) => self.ok += 1,
            Err(failure) => {
                self.failed += 1;
                let message = format!(
                    "step {} ({}): {}",
                    step.number,
                    step.title(),
                    failure.message
                );
                self.first.get_or_insert(Failure { message, ..failure });
            }
        }
        Ok(())
    }

    /// Sums up.
    ///
    /// # Errors
    /// The first step that failed.
    pub(super) fn end(self) -> Result<(), Failure> {
        let took = self.begun.elapsed();
        let not_run = self.steps - self.ok - self.failed;
        match self.output {
            Output::Table => {
                let mut words = vec![];
                for (count, word) in [
                    (self.ok, "ok"),
                    (self.failed, "failed"),
                    (not_run, "not run"),
                ] {
                    if count > 0 {
                        words.push(format!("{count} {word}"));
                    }
                }
                let mut text = format!("{} steps: {}", self.steps, words.join(", "));
                if self.planned == 0 {
                    text.push_str(&format!(", in {:.1} s", took.as_secs_f64()));
                }
                output::write(format!("{text}\n").as_bytes())?;
            }
            Output::Json => output::json(&json!({"summary": {
                "steps": self.steps,
                "ok": self.ok,
                "failed": self.failed,
                "notRun": not_run,
                "ms": millis(took),
            }}))?,
        }
        match self.first {
            None => Ok(()),
            Some(failure) if self.failed == 1 => Err(failure),
            Some(failure) => Err(Failure {
                message: format!("{}; {} steps failed in all", failure.message, self.failed),
                ..failure
            }),
        }
    }
}

fn document(step: &Step, result: &str) -> Value {
    let mut document = json!({"step": step.number, "type": step.kind(), "result": result});
    document["title"] = step.title().into();
    document
}

fn row(step: &Step, result: &str, took: Option<Duration>, what: &str) -> String {
    let took = took.map_or_else(String::new, |took| format!("{:.1} ms", millis(took)));
    let row = line(&step.number.to_string(), result, &took, &printable(what));
    let style = match result {
        "ok" => GOOD,
        "failed" => BAD,
        _ => return row,
    };
    // Painted where it stands, so that the columns keep their width.
    row.replacen(result, &painted(result, style, colour::on_stdout()), 1)
}

fn line(step: &str, result: &str, time: &str, what: &str) -> String {
    format!("{step:<4}  {result:<7}  {time:>11}  {what}")
}

/// Milliseconds to a tenth.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}
