//! What a worker holds: an item for a time, and the token that proves it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use omnirelay_net::messages::{LeaseResponse, OwnershipToken, Payload, SettleItem, Timestamp};
use tokio::time::Instant;

use crate::error::Error;
use crate::item::{Receipt, millis};
use crate::namespace::Namespace;

/// Proves who owns an item: names one grant of it. When the lease has ended, every use is refused,
/// for ever.
///
/// `(sequence_id, attempt)` is a fence for stores of your own: `attempt` grows with each grant of
/// the item, so that a write can refuse those of earlier owners.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token {
    /// The item's number.
    pub sequence_id: u64,
    /// Which grant of the item it is, from 1.
    pub attempt: u32,
    /// Opaque.
    pub lease_id: String,
}

impl fmt::Display for Token {
    /// `sequenceId/attempt/leaseId`, as the command line has it.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}/{}/{}",
            self.sequence_id, self.attempt, self.lease_id
        )
    }
}

/// A text is no token: it is not `sequenceId/attempt/leaseId`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a token: it is `sequenceId/attempt/leaseId`")]
pub struct NoToken;

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Token, NoToken> {
        let mut parts = text.splitn(3, '/');
        let mut part = || parts.next().filter(|part| !part.is_empty()).ok_or(NoToken);
        Ok(Token {
            sequence_id: part()?.parse().map_err(|_| NoToken)?,
            attempt: part()?.parse().map_err(|_| NoToken)?,
            lease_id: part()?.to_owned(),
        })
    }
}

impl From<&Token> for OwnershipToken {
    fn from(token: &Token) -> OwnershipToken {
        OwnershipToken {
            sequence_id: token.sequence_id,
            attempt: token.attempt,
            lease_id: token.lease_id.clone(),
        }
    }
}

/// Why an attempt failed, and what is to become of the item.
///
/// Any error turns into one, so that `?` works in a handler; the item is then tried again after the
/// namespace's back-off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    reason: String,
    code: Option<String>,
    requeue: bool,
    delay: Option<Duration>,
}

/// The most bytes of a reason that the server takes.
const REASON_BYTES_MAX: usize = omnirelay_net::rpc::REASON_BYTES_MAX;

impl Failure {
    /// The item is to be tried again, after the namespace's back-off. A reason longer than 4 KiB
    /// is cut.
    #[must_use]
    pub fn retry(reason: impl Into<String>) -> Failure {
        let mut reason = reason.into();
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        Failure {
            reason,
            code: None,
            requeue: true,
            delay: None,
        }
    }

    /// Trying again is of no use: the item becomes a dead letter.
    #[must_use]
    pub fn give_up(reason: impl Into<String>) -> Failure {
        Failure {
            requeue: false,
            ..Failure::retry(reason)
        }
    }

    /// To be tried again after so long instead of the namespace's back-off.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Failure {
        self.delay = Some(delay);
        self
    }

    /// A code for programs, kept with the item.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Failure {
        self.code = Some(code.into());
        self
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::retry(error.to_string())
    }
}

/// What a settlement asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settle {
    /// The work is done.
    Complete,
    /// The work is not done.
    Fail(Failure),
}

impl Settle {
    pub(crate) fn of(self, token: &Token) -> SettleItem {
        let ownership_token = Some(token.into());
        match self {
            Settle::Complete => SettleItem {
                ownership_token,
                action: "complete".into(),
                ..SettleItem::default()
            },
            Settle::Fail(failure) => SettleItem {
                ownership_token,
                action: "fail".into(),
                reason: Some(failure.reason),
                error_code: failure.code,
                requeue: Some(failure.requeue),
                delay_ms: failure.delay.map(millis),
                ..SettleItem::default()
            },
        }
    }

    /// The reason of a fenced token whose lease ended like this.
    pub(crate) fn fenced_reason(&self) -> &'static str {
        match self {
            Settle::Complete => "completed",
            Settle::Fail(_) => "failed",
        }
    }
}

/// A lease that has been settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// What was promised of it. `None` if the reply was lost and asking again found it done.
    pub receipt: Option<Receipt>,
}

/// An item for a time. Dropping it does not end the lease: it expires, unless it is settled or
/// renewed.
#[derive(Debug, Clone)]
pub struct Lease {
    namespace: Namespace,
    token: Token,
    payload: Payload,
    response: LeaseResponse,
    received: Instant,
}

impl Lease {
    pub(crate) fn new(namespace: Namespace, mut response: LeaseResponse) -> Result<Lease, Error> {
        let token = response.ownership_token.take();
        let token = token.ok_or_else(|| Error::malformed_reply("a lease without a token"))?;
        Ok(Lease {
            namespace,
            token: Token {
                sequence_id: token.sequence_id,
                attempt: token.attempt,
                lease_id: token.lease_id,
            },
            payload: response.payload.take().unwrap_or_default(),
            response,
            received: Instant::now(),
        })
    }

    /// The item's body; cloning it copies nothing.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.payload.body
    }

    /// What the body is encoded in.
    #[must_use]
    pub fn encoding(&self) -> &str {
        &self.payload.payload_encoding
    }

    /// The type of the resource it is about.
    #[must_use]
    pub fn resource_type(&self) -> &str {
        &self.payload.resource_type
    }

    /// The resource it is about.
    #[must_use]
    pub fn resource_id(&self) -> &str {
        &self.payload.resource_id
    }

    /// Its partition key, if it has one.
    #[must_use]
    pub fn partition_key(&self) -> Option<&str> {
        self.payload.partition_key.as_deref()
    }

    /// Names and values beside the body.
    #[must_use]
    pub fn attributes(&self) -> &BTreeMap<String, String> {
        &self.payload.attributes
    }

    /// The request id it was enqueued with.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.payload.request_id.as_deref()
    }

    /// The item's number, unique in its namespace.
    #[must_use]
    pub fn sequence_id(&self) -> u64 {
        self.response.sequence_id
    }

    /// Which grant of the item this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.response.attempt
    }

    /// Proves the ownership, also from another process; see [`Namespace::settle`].
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// When the item was enqueued, by the server's clock.
    #[must_use]
    pub fn enqueued_at(&self) -> Option<SystemTime> {
        self.response.enqueued_at.and_then(time)
    }

    /// Why the attempt before failed.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        let error = self.response.last_error.as_ref();
        error.map(|error| error.message.as_str())
    }

    /// When the lease as it was granted ends, by the server's clock.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.response.lease_expires_at.and_then(time)
    }

    /// How long it was granted for.
    #[must_use]
    pub fn lease_for(&self) -> Duration {
        Duration::from_millis(self.response.lease_for_ms)
    }

    /// When it ends by this process's clock, if it is not renewed; late by the time that the
    /// reply took.
    #[must_use]
    pub fn ends(&self) -> Instant {
        self.received + self.lease_for()
    }

    /// The work is done: the item is gone.
    ///
    /// # Errors
    /// [`Error::is_fenced`] if the lease had ended: somebody else may own the item.
    pub async fn complete(&self) -> Result<Settled, Error> {
        self.namespace.settle(&self.token, Settle::Complete).await
    }

    /// The work is not done.
    ///
    /// # Errors
    /// As [`Lease::complete`].
    pub async fn fail(&self, failure: Failure) -> Result<Settled, Error> {
        let settle = Settle::Fail(failure);
        self.namespace.settle(&self.token, settle).await
    }

    /// Gives the item back, to be leased again at once. The attempt counts.
    ///
    /// # Errors
    /// As [`Lease::complete`].
    pub async fn release(&self) -> Result<Settled, Error> {
        let failure = Failure::retry("its worker gave it back");
        self.fail(failure.after(Duration::ZERO)).await
    }

    /// Renews the lease, for the namespace's duration if none is given; says how long it lasts from
    /// now on. A [`crate::Worker`] does so by itself.
    ///
    /// # Errors
    /// As [`Lease::complete`].
    pub async fn heartbeat(&self, extend: Option<Duration>) -> Result<Duration, Error> {
        self.namespace.heartbeat(&self.token, extend).await
    }

    pub(crate) async fn renew_until(
        &self,
        extend: Option<Duration>,
        deadline: Instant,
    ) -> Result<Duration, Error> {
        let namespace = &self.namespace;
        namespace
            .heartbeat_until(&self.token, extend, deadline)
            .await
    }
}

fn time(at: Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(at.seconds).ok()?;
    let nanos = u32::try_from(at.nanos).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos.min(999_999_999)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_text_and_back() {
        let token = Token {
            sequence_id: 7,
            attempt: 2,
            lease_id: "0192-ab".into(),
        };
        assert_eq!(token.to_string(), "7/2/0192-ab");
        assert_eq!("7/2/0192-ab".parse(), Ok(token));
        for text in ["", "7", "7/2", "7/2/", "x/2/a", "7/-1/a"] {
            assert_eq!(text.parse::<Token>(), Err(NoToken), "{text}");
        }
    }

    #[test]
    fn a_failure_says_what_becomes_of_the_item() {
        let token: Token = "7/2/a".parse().unwrap();
        let item = |failure| Settle::Fail(failure).of(&token);
        let again = item(std::io::Error::other("disk").into());
        assert_eq!(again.reason.as_deref(), Some("disk"));
        assert_eq!((again.requeue, again.delay_ms), (Some(true), None));
        let later = item(
            Failure::retry("busy")
                .after(Duration::from_secs(2))
                .code("E1"),
        );
        assert_eq!((later.requeue, later.delay_ms), (Some(true), Some(2_000)));
        assert_eq!(later.error_code.as_deref(), Some("E1"));
        assert_eq!(item(Failure::give_up("never")).requeue, Some(false));
        let long = item(Failure::retry("ü".repeat(3_000))).reason.unwrap();
        assert_eq!(long.len(), 4_096);
    }
}
