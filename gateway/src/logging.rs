//! The process's log: lines on stderr, for people or for programs.

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts logging. Only the first call of a process has an effect.
///
/// # Panics
/// If the level is not one: the configuration has checked it.
pub fn init(log: &Log) {
    let filter = EnvFilter::builder()
        .parse(&log.level)
        .expect("the configuration has checked the level");
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let result = match log.format {
        LogFormat::Text => lines.with_ansi(crate::cli::colour_on_stderr()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_ansi(false).try_init(),
    };
    if result.is_err() {
        tracing::debug!("logging was already started");
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
            assert!(EnvFilter::builder().parse(level).is_ok(), "{level}");
        }
    }
}
