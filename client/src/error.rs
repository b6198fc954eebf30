//! What can go wrong, and what is known of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use omnirelay_net::rpc::{self, Code, ErrorCode, codes};

/// What a failed call has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: the call was refused, or never left this process.
    NotDone,
    /// Nobody knows: it was sent and not answered, or the server itself could not tell. Repeating
    /// it with the same request id or lease is safe and tells.
    Unknown,
}

/// A call that failed.
///
/// [`Error::code`] is the stable code, for programs: one of `docs/protocol.md`, or one of the
/// client's own, `client.closed` and `client.connection`. The text is for
/// people.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    status: Code,
    code: Cow<'static, str>,
    message: String,
    metadata: BTreeMap<String, String>,
    outcome: Outcome,
}

/// The connection ended, or there has been none.
const CONNECTION: &str = "client.connection";
/// The client was closed.
const CLOSED: &str = "client.closed";
/// The deadline passed; the server's word for the same.
const DEADLINE: ErrorCode = codes::DEADLINE;

/// Before asking again where there is no room, or a limit was reached.
const RETRY_AFTER_FULL: Duration = Duration::from_secs(1);
/// Before asking again where nobody answered.
const RETRY_AFTER_AWAY: Duration = Duration::from_millis(100);

impl Error {
    /// The stable code, e.g. `resourcelease.lease.fenced`.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The status, as gRPC has it.
    #[must_use]
    pub fn status(&self) -> Code {
        self.status
    }

    /// What happened, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// More for programs, e.g. `reason` of a fenced lease.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// Whether the call may have been done all the same.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Whether the same call may succeed later. The client has retried by itself as far as
    /// deadline and retry budget let it.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.status,
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted
        ) && self.code != CLOSED
    }

    /// How long to wait before the same call is worth another try; `None` if it never is.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.status {
            _ if !self.is_retryable() => None,
            Code::ResourceExhausted => Some(RETRY_AFTER_FULL),
            _ => Some(RETRY_AFTER_AWAY),
        }
    }

    /// Whether the lease has ended, so that whoever held it must stop.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.is(codes::FENCED)
    }

    /// How a fenced lease ended: `completed`, `failed`, `expired` or `superseded`, for as long as
    /// the server remembers.
    #[must_use]
    pub fn fenced_reason(&self) -> Option<&str> {
        self.metadata("reason").filter(|_| self.is_fenced())
    }

    pub(crate) fn is(&self, code: ErrorCode) -> bool {
        self.code == code.name
    }

    /// Worth repeating at once, after a short pause: somebody else may answer, or the same soon.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self.status, Code::Unavailable) && self.code != CLOSED
    }

    fn own(status: Code, code: &'static str, message: String, outcome: Outcome) -> Error {
        Error {
            status,
            code: Cow::Borrowed(code),
            message,
            metadata: BTreeMap::new(),
            outcome,
        }
    }

    pub(crate) fn connection(why: &str, sent: bool) -> Error {
        let (outcome, what) = match sent {
            true => (Outcome::Unknown, "the connection ended before the reply"),
            false => (Outcome::NotDone, "there is no connection"),
        };
        Error::own(
            Code::Unavailable,
            CONNECTION,
            format!("{what}: {why}"),
            outcome,
        )
    }

    pub(crate) fn closed() -> Error {
        let message = "the client was closed".to_owned();
        Error::own(Code::Cancelled, CLOSED, message, Outcome::NotDone)
    }

    pub(crate) fn deadline(message: String, sent: bool) -> Error {
        let outcome = match sent {
            true => Outcome::Unknown,
            false => Outcome::NotDone,
        };
        Error::own(DEADLINE.code, DEADLINE.name, message, outcome)
    }

    pub(crate) fn malformed_reply(what: &str) -> Error {
        let message = format!("the server's reply makes no sense: {what}");
        Error::own(
            Code::Internal,
            codes::INTERNAL.name,
            message,
            Outcome::Unknown,
        )
    }

    pub(crate) fn no_randomness(why: &str) -> Error {
        let message = format!("the system gives no random numbers for a request id: {why}");
        let code = codes::INTERNAL;
        Error::own(code.code, code.name, message, Outcome::NotDone)
    }

    /// An earlier try of the same call may have been done.
    pub(crate) fn after_unknown(mut self, unknown: bool) -> Error {
        if unknown {
            self.outcome = Outcome::Unknown;
        }
        self
    }
}

impl From<rpc::Error> for Error {
    fn from(error: rpc::Error) -> Error {
        let open = [codes::DEADLINE, codes::DURABILITY_LOST, codes::INTERNAL];
        let outcome = match open.iter().any(|code| error.is(*code)) {
            true => Outcome::Unknown,
            false => Outcome::NotDone,
        };
        Error {
            status: error.code,
            code: error.error_code,
            message: error.message,
            metadata: error.metadata,
            outcome,
        }
    }
}

/// Why [`crate::ClientBuilder::connect`] gave no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// What the builder was told cannot be.
    #[error("{0}")]
    Invalid(String),
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] omnirelay_net::tls::TlsError),
    /// One side does not accept the other's certificate: the server's has expired, or was signed
    /// by a CA that `tls` does not trust, or the server wants one that the client did not show.
    /// Trying again changes nothing.
    #[error("the TLS certificates do not fit: {why}")]
    Certificate {
        /// What each address said.
        why: String,
    },
    /// No address answered in time; the last reason of each is given. Where no QUIC handshake came
    /// through, the network may carry no UDP, or no datagrams of 1,200 bytes: HTTP and gRPC go
    /// over TCP.
    #[error("no server answered within {}: {why}", Millis(.within))]
    Unreachable {
        /// How long it was tried.
        within: Duration,
        /// What was tried, and what came of it.
        why: String,
    },
}

/// Why there is no connection.
#[derive(Debug, Clone)]
pub(crate) struct Down {
    pub(crate) why: String,
    /// It is about certificates, at every address.
    pub(crate) is_certificate: bool,
}

impl From<&str> for Down {
    fn from(why: &str) -> Down {
        Down::from(why.to_owned())
    }
}

impl From<String> for Down {
    fn from(why: String) -> Down {
        let is_certificate = false;
        Down {
            why,
            is_certificate,
        }
    }
}

/// A duration for people.
struct Millis<'a>(&'a Duration);

impl std::fmt::Display for Millis<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} ms", self.0.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_says_whether_to_try_again_and_what_is_known() {
        let away = Error::from(rpc::Error::peer_unavailable("gone"));
        assert!(away.is_retryable() && away.is_transient());
        assert_eq!(away.outcome(), Outcome::NotDone);
        let late = Error::from(rpc::Error::deadline("late"));
        assert!(late.is_retryable() && !late.is_transient());
        assert_eq!(late.outcome(), Outcome::Unknown);
        let full = Error::from(rpc::Error::backpressure("full"));
        assert_eq!(full.retry_after(), Some(RETRY_AFTER_FULL));
        let fenced = Error::from(rpc::Error::fenced("over").with("reason", "expired"));
        assert!(!fenced.is_retryable() && fenced.is_fenced());
        assert_eq!(fenced.retry_after(), None);
        assert_eq!(fenced.fenced_reason(), Some("expired"));
        assert!(!Error::closed().is_retryable());
    }

    #[test]
    fn what_was_not_sent_was_not_done() {
        assert_eq!(Error::connection("x", false).outcome(), Outcome::NotDone);
        assert_eq!(Error::connection("x", true).outcome(), Outcome::Unknown);
        let refused = Error::connection("x", false).after_unknown(true);
        assert_eq!(refused.outcome(), Outcome::Unknown);
    }
}
