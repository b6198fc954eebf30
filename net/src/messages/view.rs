//! Messages whose parts are borrowed, from the types of [`super`] or from wherever they lie.

use super::{EnqueueRequest, OwnershipToken, Payload, SettleItem};

/// `Payload`. Attributes come in the order of their names.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the message's fields")]
pub struct PayloadView<'a, A> {
    pub resource_type: &'a str,
    pub resource_id: &'a str,
    pub partition_key: Option<&'a str>,
    pub payload_encoding: &'a str,
    pub body: &'a [u8],
    pub attributes: A,
    pub request_id: Option<&'a str>,
}

/// `EnqueueRequest`.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the message's fields")]
pub struct EnqueueView<'a, A> {
    pub payload: Option<PayloadView<'a, A>>,
    pub delay_ms: Option<u64>,
    pub priority: Option<u32>,
    pub max_attempts: Option<u32>,
    pub ttl_ms: Option<u64>,
}

/// `OwnershipToken`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the message's fields")]
pub struct TokenView<'a> {
    pub sequence_id: u64,
    pub attempt: u32,
    pub lease_id: &'a str,
}

/// `SettleItem`. Metadata come in the order of their names.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the message's fields")]
pub struct SettleView<'a, M> {
    pub ownership_token: Option<TokenView<'a>>,
    pub action: &'a str,
    pub reason: Option<&'a str>,
    pub error_code: Option<&'a str>,
    pub requeue: Option<bool>,
    pub delay_ms: Option<u64>,
    pub metadata: M,
    pub extend_ms: Option<u64>,
}

impl Payload {
    /// All of it, borrowed.
    pub fn view(&self) -> PayloadView<'_, impl Iterator<Item = (&str, &str)> + Clone + use<'_>> {
        PayloadView {
            resource_type: &self.resource_type,
            resource_id: &self.resource_id,
            partition_key: self.partition_key.as_deref(),
            payload_encoding: &self.payload_encoding,
            body: &self.body,
            attributes: texts(&self.attributes),
            request_id: self.request_id.as_deref(),
        }
    }
}

impl EnqueueRequest {
    /// All of it, borrowed.
    pub fn view(&self) -> EnqueueView<'_, impl Iterator<Item = (&str, &str)> + Clone + use<'_>> {
        EnqueueView {
            payload: self.payload.as_ref().map(Payload::view),
            delay_ms: self.delay_ms,
            priority: self.priority,
            max_attempts: self.max_attempts,
            ttl_ms: self.ttl_ms,
        }
    }
}

impl OwnershipToken {
    /// All of it, borrowed.
    #[must_use]
    pub fn view(&self) -> TokenView<'_> {
        TokenView {
            sequence_id: self.sequence_id,
            attempt: self.attempt,
            lease_id: &self.lease_id,
        }
    }
}

impl SettleItem {
    /// All of it, borrowed.
    pub fn view(&self) -> SettleView<'_, impl Iterator<Item = (&str, &str)> + Clone + use<'_>> {
        SettleView {
            ownership_token: self.ownership_token.as_ref().map(OwnershipToken::view),
            action: &self.action,
            reason: self.reason.as_deref(),
            error_code: self.error_code.as_deref(),
            requeue: self.requeue,
            delay_ms: self.delay_ms,
            metadata: texts(&self.metadata),
            extend_ms: self.extend_ms,
        }
    }
}

fn texts(
    pairs: &std::collections::BTreeMap<String, String>,
) -> impl Iterator<Item = (&str, &str)> + Clone + use<'_> {
    pairs
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
}
