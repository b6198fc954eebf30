//! Why a configuration was refused.

use std::path::PathBuf;

/// A configuration that cannot be used. Nothing was started and nothing was written; the person
/// who wrote the configuration has to change it. Each message names where the value came from,
/// the key, the value and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file named by `--config` could not be read.
    #[error("cannot read configuration file {}: {reason}", path.display())]
    Unreadable {
        /// The file as it was named.
        path: PathBuf,
        /// The operating system's reason.
        reason: String,
    },
    /// A source is not TOML.
    #[error("{origin} cannot be read: {reason}")]
    Syntax {
        /// Where the text came from.
        origin: String,
        /// What the parser found, with line and column for a file.
        reason: String,
    },
    /// A key that does not exist.
    #[error("unknown key `{key}` in {origin}")]
    UnknownKey {
        /// Where the key came from.
        origin: String,
        /// The key's full dotted path.
        key: String,
        /// The existing key that it looks like.
        suggestion: Option<String>,
        /// The keys that exist in that section.
        known: Vec<String>,
    },
    /// A value of the wrong type or out of range.
    #[error("`{key} = {value}` in {origin} is not allowed: it must be {allowed}")]
    Value {
        /// Where the value came from.
        origin: String,
        /// The key's full dotted path.
        key: String,
        /// The value as written.
        value: String,
        /// What is allowed, as a noun phrase.
        allowed: String,
    },
    /// Values that are each allowed but contradict each other, or this machine.
    #[error("{message}")]
    Contradiction {
        /// Which keys, their values, where they came from and why they cannot both hold.
        message: String,
        /// What to change.
        help: String,
    },
}

impl ConfigError {
    /// The stable code that is printed with the message.
    pub fn code(&self) -> &'static str {
        match self {
            ConfigError::Unreadable { .. } => "config.unreadable",
            ConfigError::Syntax { .. } => "config.syntax",
            ConfigError::UnknownKey { .. } => "config.unknown_key",
            ConfigError::Value { .. } => "config.value",
            ConfigError::Contradiction { .. } => "config.contradiction",
        }
    }

    /// What to do about it, in one line.
    pub fn help(&self) -> String {
        match self {
            ConfigError::Unreadable { .. } => {
                "name a readable TOML file with --config, or leave it out to use the defaults"
                    .into()
            }
            ConfigError::Syntax { .. } => {
                "write `key = value`; durations and addresses are quoted strings, such as \"30s\""
                    .into()
            }
            ConfigError::UnknownKey {
                suggestion: Some(near),
                ..
            } => format!("did you mean `{near}`?"),
            ConfigError::UnknownKey { known, .. } => {
                format!("the keys here are {}", known.join(", "))
            }
            ConfigError::Value { key, .. } => {
                format!("change `{key}`; `omnirelay config show --explain` describes every key")
            }
            ConfigError::Contradiction { help, .. } => help.clone(),
        }
    }
}
