//! What the server says of its log's work, from its own log lines.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use serde::Deserialize;

use crate::blame::{Cover, Span};

/// What makes the server say it, for `serve --set`.
pub(crate) const SETTINGS: [&str; 2] = [
    "log.level=info,omnirelay::cores::log_threads=debug",
    "log.format=json",
];

/// How long behind work on segments a call is still beside it: what the file system or the device
/// puts off may come then.
const AFTERMATH: Duration = Duration::from_millis(50);

/// When the server did what.
#[derive(Debug)]
pub(crate) struct LogWork {
    /// Began, made and gave up segments, and shortly after.
    pub(crate) on_segments: Cover,
    /// Waited long for a batch to become durable.
    pub(crate) slow_batches: Cover,
}

#[derive(Deserialize)]
struct Line {
    timestamp: String,
    message: String,
    took_us: Option<u64>,
}

impl LogWork {
    /// From the file that the server's lines went to.
    ///
    /// # Errors
    /// If it cannot be read, or says nothing of segments.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let lines = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let (wall, clock) = (wall_clock(), Instant::now());
        let (mut on_segments, mut slow_batches) = (Vec::new(), Vec::new());
        // The line that says that it is ready is no JSON.
        for line in lines.lines().filter(|line| line.starts_with('{')) {
            let line: Line = serde_json::from_str(line).context("a line of the server's log")?;
            let Some(took_us) = line.took_us else {
                continue;
            };
            let at = humantime::parse_rfc3339_weak(&line.timestamp).context("a line's time")?;
            let age = wall.duration_since(at).unwrap_or_default();
            let ended = clock.checked_sub(age).context("a line is too old")?;
            let began = ended.checked_sub(Duration::from_micros(took_us));
            let began = began.context("a line is too old")?;
            match line.message.as_str() {
                "a segment was begun" | "a segment was made" | "a segment was given up" => {
                    let ended = ended + AFTERMATH;
                    on_segments.push(Span { began, ended });
                }
                "a batch was slow to become durable" => slow_batches.push(Span { began, ended }),
                _ => {}
            }
        }
        anyhow::ensure!(
            !on_segments.is_empty(),
            "the server's log says nothing of segments"
        );
        Ok(Self {
            on_segments: Cover::default().and(on_segments),
            slow_batches: Cover::of_stalls(&slow_batches, Duration::ZERO),
        })
    }
}

/// What the server's lines are stamped with.
#[expect(
    clippy::disallowed_methods,
    reason = "a measurement drives; it decides nothing"
)]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_lines_say_when_it_worked_on_segments_and_waited_for_batches() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let now = humantime::format_rfc3339_micros(wall_clock());
        let line = |message: &str, took_us: u32| {
            format!(r#"{{"timestamp":"{now}","message":"{message}","took_us":{took_us}}}"#)
        };
        let lines = [
            "omnirelay 0.1.0 is ready".to_owned(),
            format!(r#"{{"timestamp":"{now}","message":"stopping"}}"#),
            line("a segment was begun", 2_000),
            line("a batch was slow to become durable", 30_000),
        ];
        fs::write(file.path(), lines.join("\n")).expect("it is written");
        let work = LogWork::read(file.path()).expect("it is understood");
        let ended = Instant::now();
        let before = |ms| ended - Duration::from_millis(ms);
        let call = Span {
            began: before(1_000),
            ended: ended + Duration::from_millis(1_000),
        };
        let near = |cover: &Cover, ms: u64| {
            let within = cover.within(call);
            within.abs_diff(Duration::from_millis(ms)) < Duration::from_millis(1)
        };
        assert!(near(&work.on_segments, 52), "{work:?}");
        assert!(near(&work.slow_batches, 60), "{work:?}");
        fs::write(file.path(), "").expect("it is written");
        LogWork::read(file.path()).expect_err("no word of segments");
    }
}
