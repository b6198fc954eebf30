//! How a command ends when it does not succeed: a stable code, a message, the fix, an exit code.

use std::borrow::Cow;
use std::fmt;

use omnirelay_net::rpc::{self, codes};

use super::colour;
use crate::config::ConfigError;
use crate::logging;

/// The process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The operation failed: the server refused it, or this machine did.
    Failed = 1,
    /// The command line or the configuration is wrong; nothing was tried.
    Usage = 2,
    /// No server could be reached, or it went away before it answered.
    Unreachable = 3,
    /// Whoever read stdout went away before the end: what a shell tells of a process that SIGPIPE
    /// ended. Nothing is said, there is nobody to read it.
    ReaderGone = 141,
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
    pub fn unreachable(
        address: &str,
        reason: impl fmt::Display,
        help: impl Into<String>,
    ) -> Failure {
        Failure {
            exit: Exit::Unreachable,
            code: "cli.unreachable".into(),
            message: format!("cannot reach {address}: {reason}"),
            help: help.into(),
        }
    }

    /// Somebody listens there, and it is no node.
    pub(super) fn other_protocol(address: &str, what: impl fmt::Display) -> Failure {
        Failure {
            exit: Exit::Unreachable,
            code: "cli.protocol".into(),
            message: format!("{address} {what}"),
            help: "name a node's port with --address: it serves HTTP, on 7420 by default".into(),
        }
    }

    /// TLS is spoken there, and plain text was.
    pub(super) fn tls_only(address: &str) -> Failure {
        Failure {
            help: "pass the CA of its certificate with --ca".into(),
            ..Failure::other_protocol(address, "speaks TLS only")
        }
    }

    /// Plain text is spoken there, or nothing that is known, and TLS was.
    pub(super) fn no_tls(address: &str, reason: impl fmt::Display) -> Failure {
        Failure {
            help: "if it is a node without TLS, leave out --ca, or write http:// before --address"
                .into(),
            ..Failure::other_protocol(address, format!("speaks no TLS: {reason}"))
        }
    }

    /// Nobody reads stdout any more.
    pub(super) fn reader_gone() -> Failure {
        Failure {
            exit: Exit::ReaderGone,
            code: "cli.output".into(),
            message: "the reader of stdout went away".into(),
            help: "read to the end".into(),
        }
    }

    /// The same failure of a command whose server is named by another option than `--address`.
    pub(super) fn of_option(self, option: &str) -> Failure {
        Failure {
            help: self.help.replace("--address", option),
            ..self
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

    /// Writes the failure on stderr.
    pub fn report(&self) {
        if self.exit == Exit::ReaderGone {
            return;
        }
        let coloured = colour::on_stderr();
        let error = colour::painted(&format!("error[{}]", self.code), colour::ERROR, coloured);
        let help = colour::painted("help", colour::LITERAL, coloured);
        let text = format!("{error}: {}\n{help}: {}\n", self.message, self.help);
        logging::say(&text);
    }
}

/// An error with what caused it, once each: some errors already say their cause.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
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
