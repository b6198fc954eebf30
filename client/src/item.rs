//! What is put in, and what comes back.

use std::time::Duration;

use bytes::Bytes;
use omnirelay_net::messages::{self, EnqueueRequest, EnqueueResult, Payload};

use crate::error::Error;

/// Work to be done about a resource.
///
/// ```
/// use omnirelay_client::Item;
/// use std::time::Duration;
///
/// let item = Item::new("table", "orders")
///     .body("application/json", r#"{"job": "vacuum"}"#)
///     .request_id("vacuum-orders-2026-11-22")
///     .priority(5)
///     .delay(Duration::from_secs(60));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    request: EnqueueRequest,
    payload: Payload,
}

impl Item {
    /// Work about the resource of this type and id, without a body. Items of one resource are in
    /// one shard, and in some namespaces leased one at a time and in order.
    #[must_use]
    pub fn new(resource_type: impl Into<String>, resource_id: impl Into<String>) -> Item {
        Item {
            request: EnqueueRequest::default(),
            payload: Payload {
                resource_type: resource_type.into(),
                resource_id: resource_id.into(),
                payload_encoding: "application/octet-stream".into(),
                ..Payload::default()
            },
        }
    }

    /// What the worker is told, at most 4 MiB, and in which encoding: a media type, for workers.
    #[must_use]
    pub fn body(mut self, encoding: impl Into<String>, body: impl Into<Bytes>) -> Item {
        self.payload.payload_encoding = encoding.into();
        self.payload.body = body.into();
        self
    }

    /// Names the enqueue: one that comes again within the namespace's dedupe window adds nothing.
    /// Without it a random one is made for each call, so that the client can repeat it.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<String>) -> Item {
        self.payload.request_id = Some(id.into());
        self
    }

    /// What shares turns, or what workers ask for: a customer, say.
    #[must_use]
    pub fn partition_key(mut self, key: impl Into<String>) -> Item {
        self.payload.partition_key = Some(key.into());
        self
    }

    /// Adds a name and a value that the worker gets beside the body.
    #[must_use]
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Item {
        self.payload.attributes.insert(name.into(), value.into());
        self
    }

    /// Not to be leased before so long, in whole ms.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Item {
        self.request.delay_ms = Some(millis(delay));
        self
    }

    /// Higher goes first; 0 unless said.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Item {
        self.request.priority = Some(u32::from(priority));
        self
    }

    /// How often it is tried before it becomes a dead letter; the namespace's unless said.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u16) -> Item {
        self.request.max_attempts = Some(u32::from(attempts));
        self
    }

    /// Forgotten if nobody has taken it for so long, in whole ms.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Item {
        self.request.ttl_ms = Some(millis(ttl));
        self
    }

    pub(crate) fn into_request(self) -> Result<EnqueueRequest, Error> {
        let mut payload = self.payload;
        if payload.request_id.is_none() {
            payload.request_id = Some(random_id()?);
        }
        Ok(EnqueueRequest {
            payload: Some(payload),
            ..self.request
        })
    }
}

/// 128 random bits: no two are ever the same.
fn random_id() -> Result<String, Error> {
    let bits = || getrandom::u64().map_err(|error| Error::no_randomness(&error.to_string()));
    Ok(format!("{:016x}{:016x}", bits()?, bits()?))
}

/// Whole milliseconds; what is longer than any limit stays so, and the server says what is allowed.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What was true of a change when its reply left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The shard that has it.
    pub shard: u32,
    /// Its place in the shard's log.
    pub lsn: u64,
    /// `memory`, `disk` or `quorum`.
    pub durability: String,
}

impl From<messages::Receipt> for Receipt {
    fn from(receipt: messages::Receipt) -> Receipt {
        Receipt {
            shard: receipt.shard,
            lsn: receipt.lsn,
            durability: receipt.durability,
        }
    }
}

/// An item that is in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enqueued {
    /// Its number, unique in the namespace.
    pub sequence_id: u64,
    /// It was there before: its request id had been seen. So it is with a call that the client
    /// had to repeat, if the first one had arrived.
    pub duplicate: bool,
    /// What was promised of it.
    pub receipt: Option<Receipt>,
}

impl From<EnqueueResult> for Enqueued {
    fn from(result: EnqueueResult) -> Enqueued {
        Enqueued {
            sequence_id: result.sequence_id,
            duplicate: result.duplicate,
            receipt: result.receipt.map(Receipt::from),
        }
    }
}

/// How many items a namespace has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Wait to be leased.
    pub pending: u64,
    /// Are leased.
    pub leased: u64,
    /// Wait for their delay to end.
    pub delayed: u64,
    /// Were given up on.
    pub dead: u64,
}

impl From<messages::Stats> for Stats {
    fn from(stats: messages::Stats) -> Stats {
        Stats {
            pending: stats.pending_count,
            leased: stats.active_lease_count,
            delayed: stats.delayed_count,
            dead: stats.dead_letter_count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_without_a_request_id_gets_one_of_its_own() {
        let id = |item: Item| {
            item.into_request()
                .unwrap()
                .payload
                .unwrap()
                .request_id
                .unwrap()
        };
        let item = Item::new("table", "orders");
        let first = id(item.clone());
        assert_eq!(first.len(), 32);
        assert_ne!(first, id(item.clone()));
        assert_eq!(id(item.request_id("mine")), "mine");
    }
}
