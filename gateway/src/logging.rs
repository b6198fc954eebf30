//! The process's log: lines on stderr, for people or for programs, and their level, which can be
//! changed while it runs.

mod lines;

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload;

use crate::config::{Log, LogFormat, is_log_filter};
use lines::Lines;

/// How long a process waits for somebody to take its last lines, or one that it does not want to
/// be missing.
const PATIENCE: Duration = Duration::from_secs(2);

static LEVEL: OnceLock<LogLevel> = OnceLock::new();
static LINES: OnceLock<Lines> = OnceLock::new();

/// Starts logging. Only the first call of a process has an effect.
///
/// # Errors
/// If the thread that writes the lines cannot be started.
///
/// # Panics
/// If the level is not one: the configuration has checked it.
pub fn init(log: &Log) -> io::Result<()> {
    if LINES.get().is_some() {
        return Ok(());
    }
    let lines = Lines::start(io::stderr(), |lines| {
        tracing::warn!(lines, "log lines were dropped");
    })?;
    // Nobody else can have been first to start it.
    let _ = LINES.set(lines);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(&log.level))
        .with_writer(|| Stderr);
    let (result, apply): (_, Apply) = match log.format {
        LogFormat::Text => {
            let lines = lines
                .with_ansi(crate::cli::colour_on_stderr())
                .with_filter_reloading();
            let handle = lines.reload_handle();
            let apply = Box::new(move |filter| handle.reload(filter));
            (lines.try_init(), apply)
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_ansi(false);
            let lines = lines.with_filter_reloading();
            let handle = lines.reload_handle();
            let apply = Box::new(move |filter| handle.reload(filter));
            (lines.try_init(), apply)
        }
    };
    if result.is_err() {
        tracing::debug!("logging was already started");
        return Ok(());
    }
    let _ = LEVEL.set(LogLevel::new(log.level.clone(), apply));
    Ok(())
}

/// Says something to a person on stderr, behind the log's lines so far. `text` ends its lines
/// itself.
pub(crate) fn say(text: &str) {
    match LINES.get() {
        Some(lines) => lines.push_within(PATIENCE, text.as_bytes()),
        // Nobody is left to be told where stderr is closed.
        None => drop(io::stderr().lock().write_all(text.as_bytes())),
    }
}

/// Waits until the log's lines so far are written, but not for somebody who does not take them.
pub(crate) fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush_within(PATIENCE);
    }
}

/// Lines that were dropped because nobody took them.
pub(crate) fn lines_dropped() -> u64 {
    LINES.get().map_or(0, Lines::dropped)
}

/// Reports a panic and aborts the process, behind the log's lines so far. A stderr that takes
/// nothing does not keep it from ending.
pub(crate) fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let _ = thread::Builder::new().spawn(|| {
            thread::sleep(2 * PATIENCE);
            std::process::abort();
        });
        flush();
        report(panic);
        std::process::abort();
    }));
}

/// Where the log's lines are handed over, each whole.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(lines) = LINES.get() {
            lines.push(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The level of this process's log, if it was started here.
pub fn level() -> Option<&'static LogLevel> {
    LEVEL.get()
}

/// # Panics
/// If `level` is none.
fn filter(level: &str) -> EnvFilter {
    EnvFilter::builder()
        .parse(level)
        .expect("it has been checked")
}

/// Puts a filter in place of the one there is. What a filter shuts out costs its callers what it
/// always did: each place in the code remembers whether it is on until the filter is changed.
type Apply = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// What is logged, and until when.
pub struct LogLevel {
    apply: Apply,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What it goes back to.
    lasting: String,
    /// What it is for a while, how often it was changed by then, and when it goes back.
    passing: Option<(String, u64, Instant)>,
    changes: u64,
}

/// The level at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelNow {
    /// What is logged now.
    pub level: String,
    /// What it goes back to, and in how long, if it is for a while only.
    pub reverts: Option<(String, Duration)>,
}

/// A change for a while, to be [taken back](LogLevel::revert).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Passing(u64);

/// It is no level, or it cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// No level and no list of them.
    #[error(
        "`{0}` is no log level; it is off, error, warn, info, debug or trace, or a list such as \
         info,omnirelay_wal=debug"
    )]
    NotOne(String),
    /// The log takes none any more.
    #[error("the log takes no other level: {0}")]
    Gone(#[from] reload::Error),
}

impl LogLevel {
    fn new(level: String, apply: Apply) -> LogLevel {
        LogLevel {
            apply,
            state: Mutex::new(State {
                lasting: level,
                passing: None,
                changes: 0,
            }),
        }
    }

    /// The level at `now`.
    pub fn at(&self, now: Instant) -> LevelNow {
        let state = self.state();
        match &state.passing {
            None => LevelNow {
                level: state.lasting.clone(),
                reverts: None,
            },
            Some((level, _, until)) => LevelNow {
                level: level.clone(),
                reverts: Some((state.lasting.clone(), until.saturating_duration_since(now))),
            },
        }
    }

    /// Sets the level, for good.
    ///
    /// # Errors
    /// If it is none; it is as it was then.
    pub fn set(&self, level: &str) -> Result<(), LevelError> {
        let mut state = self.change(level)?;
        level.clone_into(&mut state.lasting);
        state.passing = None;
        Ok(())
    }

    /// Sets the level until `until`, when whoever sets it has to take it back.
    ///
    /// # Errors
    /// If it is none; it is as it was then.
    pub fn set_until(&self, level: &str, until: Instant) -> Result<Passing, LevelError> {
        let mut state = self.change(level)?;
        let change = state.changes;
        state.passing = Some((level.to_owned(), change, until));
        Ok(Passing(change))
    }

    /// Takes a change for a while back, unless there was another since.
    pub fn revert(&self, passing: Passing) {
        let mut state = self.state();
        if state.passing.as_ref().map(|passing| passing.1) != Some(passing.0) {
            return;
        }
        state.passing = None;
        let level = state.lasting.clone();
        // Failing, the log is gone, and its level of no account.
        let _ = (self.apply)(filter(&level));
        drop(state);
        tracing::info!(level, "the log level is back");
    }

    fn change(&self, level: &str) -> Result<MutexGuard<'_, State>, LevelError> {
        if !is_log_filter(level) {
            let shown = level.chars().take(80).collect();
            return Err(LevelError::NotOne(shown));
        }
        let mut state = self.state();
        tracing::info!(level, "the log level is changed");
        (self.apply)(filter(level))?;
        state.changes += 1;
        Ok(state)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Its parts are replaced whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLevel")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, ExitStatus, Stdio};

    use super::*;

    /// Set for the process that is to log so many lines and then panic.
    const LINES_BEFORE: &str = "OMNIRELAY_TEST_LINES_BEFORE_PANIC";

    fn that_panics(lines: u32) -> Child {
        let name = "logging::tests::a_panic_ends_the_process_behind_its_log_whoever_reads_it";
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(LINES_BEFORE, lines.to_string())
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn end_within(child: &mut Child, bound: Duration) -> ExitStatus {
        let until = Instant::now() + bound;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > until {
                child.kill().unwrap();
                panic!("it goes on: {:?}", child.wait());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_panic_ends_the_process_behind_its_log_whoever_reads_it() {
        /// SIGABRT.
        const ABORTED: Option<i32> = Some(6);
        if let Ok(lines) = std::env::var(LINES_BEFORE) {
            let (format, level) = (LogFormat::Text, "info".into());
            init(&Log { format, level }).unwrap();
            abort_on_panic();
            for number in 0..lines.parse().unwrap() {
                tracing::info!(number, "before");
            }
            panic!("a core broke");
        }
        let mut read = that_panics(100);
        let mut said = String::new();
        let mut stderr = read.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(read.wait().unwrap().signal(), ABORTED, "{said}");
        let last = said.find("number=99").expect(&said);
        assert!(last < said.find("a core broke").expect(&said), "{said}");

        let mut unread = that_panics(20_000);
        let status = end_within(&mut unread, Duration::from_secs(20));
        assert_eq!(status.signal(), ABORTED);
    }

    #[test]
    fn every_level_that_the_configuration_takes_is_understood() {
        for level in [
            "off",
            "error",
            "warn",
            "info",
            "debug",
            "trace",
            "info,omnirelay_wal=debug",
            "a::b=off, warn",
        ] {
            assert!(is_log_filter(level), "{level}");
            assert!(EnvFilter::builder().parse(level).is_ok(), "{level}");
        }
    }

    #[test]
    fn a_level_for_a_while_goes_back_to_the_lasting_one_and_only_the_newest_does() {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let level = LogLevel::new("info".into(), Box::new(|_| Ok(())));
        let is = |expected: &str, reverts: Option<&str>| {
            let at = level.at(now);
            assert_eq!(at.level, expected);
            let reverts = reverts.map(|level| (level.to_owned(), Duration::from_secs(60)));
            assert_eq!(at.reverts, reverts);
        };
        let first = level.set_until("debug", later).unwrap();
        is("debug", Some("info"));
        let second = level.set_until("trace", later).unwrap();
        level.revert(first);
        is("trace", Some("info"));
        level.revert(second);
        is("info", None);
        let third = level.set_until("debug", later).unwrap();
        level.set("warn").unwrap();
        level.revert(third);
        is("warn", None);
        assert!(matches!(level.set("loud"), Err(LevelError::NotOne(_))));
        is("warn", None);
    }
}
