//! The process's log: lines on stderr, for people or for programs, and their level, which can be
//! changed while it runs.

use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload;

use crate::config::{Log, LogFormat, is_log_filter};

static LEVEL: OnceLock<LogLevel> = OnceLock::new();

/// Starts logging. Only the first call of a process has an effect.
///
/// # Panics
/// If the level is not one: the configuration has checked it.
pub fn init(log: &Log) {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(&log.level))
        .with_writer(std::io::stderr);
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
        return;
    }
    // Nobody else can have been first to start it.
    let _ = LEVEL.set(LogLevel::new(log.level.clone(), apply));
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
    use super::*;

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
