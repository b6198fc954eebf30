//! How a command ends when it does not succeed: a stable code, a message, the fix, an exit code.

use std::borrow::Cow;
use std::fmt;
use std::io::{IsTerminal, Write};

use omnirelay_net::rpc::{self, codes};

use crate::config::ConfigError;

/// The process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The operation failed: the server refused it, or this machine did.
    Failed = 1,
    /// The command line or the configuration is wrong; nothing was tried.
    Usage = 2,
    /// No server could be reached, or it went away before it answered.
    Unreachable = 3,
}

/// Why a command did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the process exits with.
    pub exit: Exit,
    /// Stable code, for programs.
    pub code: Cow<'static, str>,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

impl Failure {
    /// The command line asks for something impossible.
    pub fn usage(message: impl Into<String>, help: impl Into<String>) -> Failure {
        Failure {
            exit: Exit::Usage,
            code: "cli.usage".into(),
            message: message.into(),
            help: help.into(),
        }
    }

    /// The operation failed for a reason of its own.
    pub fn failed(
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Failure {
        Failure {
            exit: Exit::Failed,
            code: code.into(),
            message: message.into(),
            help: help.into(),
        }
    }

    /// No connection to the server could be made.
    pub fn unreachable(address: &str, reason: impl fmt::Display) -> Failure {
        Failure {
            exit: Exit::Unreachable,
            code: "cli.unreachable".into(),
            message: format!("cannot reach {address}: {reason}"),
            help: "is the server running? start it with `omnirelay serve`, or name another with --address".into(),
        }
    }

    /// The request was sent, and no reply came.
    pub fn no_reply(address: &str, reason: impl fmt::Display) -> Failure {
        Failure {
            exit: Exit::Unreachable,
            code: "cli.no_reply".into(),
            message: format!("{address} took the request and did not answer: {reason}"),
            help: "whether it took effect is unknown; an enqueue with --request-id can be repeated safely".into(),
        }
    }

    /// Writes the failure on stderr, in colour where a person looks on and `NO_COLOR` is not set.
    pub fn report(&self) {
        let mut stderr = std::io::stderr().lock();
        let colour = stderr.is_terminal() && !no_color();
        let (red, cyan, end) = if colour {
            ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        // Nobody is left to be told where stderr is closed.
        let _ = writeln!(stderr, "{red}error[{}]{end}: {}", self.code, self.message);
        let _ = writeln!(stderr, "{cyan}help{end}: {}", self.help);
    }
}

/// Whether the environment asks for no colour (<https://no-color.org>).
pub(crate) fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure {
            exit: Exit::Usage,
            code: error.code().into(),
            message: error.to_string(),
            help: error.help(),
        }
    }
}

impl From<rpc::Error> for Failure {
    /// What the server refused, in its words, with what its metadata adds.
    fn from(error: rpc::Error) -> Failure {
        let help = help_for(&error);
        let mut message = error.message;
        for (key, value) in &error.metadata {
            message.push_str(&format!(" ({key}: {value})"));
        }
        Failure {
            exit: Exit::Failed,
            code: error.error_code,
            message,
            help,
        }
    }
}

fn help_for(error: &rpc::Error) -> String {
    let table = [
        (
            codes::NONE_AVAILABLE,
            "nothing is waiting; `omnirelay lease stats` shows what there is, --wait waits for more",
        ),
        (
            codes::UNKNOWN_TOKEN,
            "pass the token as `omnirelay lease take` printed it, to the namespace it came from",
        ),
        (
            codes::FENCED,
            "the lease has ended and its token never works again; take the item again if it still waits",
        ),
        (
            codes::ITEM_NOT_FOUND,
            "`omnirelay lease peek` and `lease dead-letters` show the items there are; look at --namespace, too",
        ),
        (
            codes::ITEM_NOT_DEAD,
            "`omnirelay lease explain` says where it stands; only dead letters are redriven",
        ),
        (
            codes::ITEM_ATTEMPTS_USED_UP,
            "enqueue the work anew, and cancel this item",
        ),
        (
            codes::NAMESPACE_UNKNOWN,
            "name an existing one with --namespace, or configure it as [namespaces.\"<name>\"]",
        ),
        (
            codes::BACKPRESSURE,
            "the namespace is full; let workers catch up, or raise its capacity",
        ),
        (
            codes::STORAGE_FULL,
            "free space on the server's disk; nothing that was acknowledged is lost",
        ),
        (
            codes::DURABILITY_LOST,
            "the server's log cannot be written; look at its disk and restart it",
        ),
        (
            codes::DEADLINE,
            "whether it took effect is unknown; allow more time",
        ),
        (
            codes::PROCEDURE_UNKNOWN,
            "procedures are named <namespace>::<operation>, as in resourcelease::stats",
        ),
        (
            codes::PAYLOAD_TOO_LARGE,
            "a body has at most 4 MiB, a name 512 bytes, all attributes 16 kB",
        ),
        (
            codes::BODY_MALFORMED,
            "compare the body with the procedure's fields in docs/protocol.md",
        ),
    ];
    let known = table
        .iter()
        .find(|(code, _)| error.is(*code))
        .map(|(_, help)| *help);
    let fallback = match error.code {
        rpc::Code::InvalidArgument => "correct the request and try again",
        rpc::Code::Unavailable | rpc::Code::ResourceExhausted => "try again in a moment",
        _ => "the server's log says more",
    };
    known.unwrap_or(fallback).to_owned()
}
