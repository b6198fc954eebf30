//! What comes in with an enqueue or a failure, borrowed from the request or
//! from a record.

use std::time::Duration;

use bytes::BufMut;

use crate::codec::{DecodeError, Reader};

/// Longest short text in bytes (types, ids, keys, encodings, owners, codes):
/// their lengths are recorded in 16 bits. The contract's limits are far below.
pub const TEXT_BYTES_MAX: usize = u16::MAX as usize;

/// An item's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadRef<'a> {
    /// What kind of thing the item is about.
    pub resource_type: &'a str,
    /// Which one.
    pub resource_id: &'a str,
    /// For fairness.
    pub partition_key: Option<&'a str>,
    /// How `body` is encoded; opaque.
    pub encoding: &'a str,
    /// Opaque.
    pub body: &'a [u8],
    /// Free text by name.
    pub attributes: Attributes<'a>,
    /// Tells a repeated request from a new one.
    pub request_id: Option<&'a str>,
}

/// An enqueue request. Texts must not be longer than [`TEXT_BYTES_MAX`] and
/// the whole must be below 4 GiB; the contract's limits are far below both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewItem<'a> {
    /// What the item carries.
    pub payload: PayloadRef<'a>,
    /// How long it is held back.
    pub delay: Duration,
    /// Higher first.
    pub priority: u8,
    /// Attempts until it becomes a dead letter; the shard's default if absent.
    pub max_attempts: Option<u16>,
    /// From the enqueue until the item is dropped unless it is leased.
    pub ttl: Option<Duration>,
    /// Who enqueues it.
    pub enqueued_by: &'a str,
}

/// Why an attempt failed, and what should become of the item. Texts must not
/// be longer than [`TEXT_BYTES_MAX`], except `reason` and `metadata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// For people.
    pub reason: Option<&'a str>,
    /// For programs.
    pub code: Option<&'a str>,
    /// Whether the item should be tried again; otherwise it is a dead letter.
    pub requeue: bool,
    /// Instead of the shard's own delay.
    pub delay: Option<Duration>,
    /// Free text by name.
    pub metadata: Attributes<'a>,
}

/// Texts by name, in the order given: as pairs when they come from a request,
/// encoded when they come from a record. Both compare by what they hold.
#[derive(Clone, Copy, Debug)]
pub enum Attributes<'a> {
    /// Borrowed names and texts.
    Pairs(&'a [(&'a str, &'a str)]),
    /// As encoded in a record; checked when it was decoded.
    Encoded(EncodedAttributes<'a>),
}

/// Attributes as a record holds them: for each, the name's length (u32), the
/// name, the text's length (u32), the text.
#[derive(Clone, Copy, Debug)]
pub struct EncodedAttributes<'a>(&'a [u8]);

impl Attributes<'_> {
    /// No attributes.
    pub const NONE: Attributes<'static> = Attributes::Pairs(&[]);
}

impl<'a> Attributes<'a> {
    /// Names and texts, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        let (pairs, encoded) = match *self {
            Attributes::Pairs(pairs) => (pairs, &[][..]),
            Attributes::Encoded(EncodedAttributes(bytes)) => (&[][..], bytes),
        };
        let mut reader = Reader::new(encoded);
        let decoded = std::iter::from_fn(move || {
            if reader.is_empty() {
                return None;
            }
            // The bytes were checked when they were decoded.
            Some((reader.long_text().ok()?, reader.long_text().ok()?))
        });
        pairs.iter().copied().chain(decoded)
    }

    /// Length of the encoded form in bytes.
    pub(crate) fn encoded_len(&self) -> usize {
        match self {
            Attributes::Pairs(pairs) => pairs
                .iter()
                .map(|(name, text)| 8 + name.len() + text.len())
                .sum(),
            Attributes::Encoded(encoded) => encoded.0.len(),
        }
    }

    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        match self {
            Attributes::Pairs(pairs) => {
                for (name, text) in *pairs {
                    crate::codec::put_long(out, name.as_bytes());
                    crate::codec::put_long(out, text.as_bytes());
                }
            }
            Attributes::Encoded(encoded) => out.put_slice(encoded.0),
        }
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Attributes<'a>, DecodeError> {
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            reader.long_text()?;
            reader.long_text()?;
        }
        Ok(Attributes::Encoded(EncodedAttributes(bytes)))
    }
}

impl PartialEq for Attributes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Attributes<'_> {}
