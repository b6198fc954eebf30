//! Requests that carry many items, read as protobuf where they lie.
//!
//! What is here is read as the message types would read it. A body of a form that few clients
//! send (a message in several pieces, a group) or that makes no sense is left to them.

use bytes::Bytes;
use prost::Message;

use super::view::{EnqueueView, PayloadView, SettleView, TokenView};
use super::{BATCH_ITEMS_MAX, EnqueueBatchRequest, EnqueueRequest, SettleRequest};
use crate::wire::{Fields, Malformed, Span, Value};

/// Items to be put in: the request's bytes, and where in them everything is.
#[derive(Debug, Clone)]
pub struct EnqueueItems {
    bytes: Bytes,
    items: Vec<EnqueueSpans>,
    attributes: Vec<(Span, Span)>,
    namespace: Option<Span>,
}

/// Where an item is.
#[derive(Debug, Clone, Default)]
struct EnqueueSpans {
    payload: Option<PayloadSpans>,
    delay_ms: Option<u64>,
    priority: Option<u32>,
    max_attempts: Option<u32>,
    ttl_ms: Option<u64>,
}

#[derive(Debug, Clone, Default)]
struct PayloadSpans {
    resource_type: Span,
    resource_id: Span,
    partition_key: Option<Span>,
    payload_encoding: Span,
    body: Span,
    attributes: Pairs,
    request_id: Option<Span>,
}

/// Which of the pairs of a request are an item's.
#[derive(Debug, Clone, Copy, Default)]
struct Pairs {
    start: u32,
    end: u32,
}

impl Pairs {
    fn of(self, pairs: &[(Span, Span)]) -> &[(Span, Span)] {
        &pairs[self.start as usize..self.end as usize]
    }
}

impl EnqueueItems {
    /// Reads an `EnqueueRequest`; `None` if that is left to the message type.
    #[must_use]
    pub fn decode_one(bytes: &Bytes) -> Option<EnqueueItems> {
        let mut items = EnqueueItems::of(bytes, 1);
        items.namespace = items.read_item(bytes, Span::whole(bytes)).ok()?;
        Some(items)
    }

    /// Reads an `EnqueueBatchRequest`; `None` if that is left to the message type.
    #[must_use]
    pub fn decode_batch(bytes: &Bytes) -> Option<EnqueueItems> {
        let mut items = EnqueueItems::of(bytes, 64);
        items.read_batch(bytes, BATCH_ITEMS_MAX).ok()?;
        Some(items)
    }

    /// Those of a message.
    #[must_use]
    pub fn from_batch(batch: &EnqueueBatchRequest) -> EnqueueItems {
        let bytes = Bytes::from(batch.encode_to_vec());
        let mut items = EnqueueItems::of(&bytes, batch.items.len());
        let read = items.read_batch(&bytes, usize::MAX);
        read.expect("it was just written");
        items
    }

    /// That of a message.
    #[must_use]
    pub fn from_one(item: &EnqueueRequest) -> EnqueueItems {
        let bytes = Bytes::from(item.encode_to_vec());
        EnqueueItems::decode_one(&bytes).expect("it was just written")
    }

    fn of(bytes: &Bytes, room: usize) -> EnqueueItems {
        EnqueueItems {
            bytes: bytes.clone(),
            items: Vec::with_capacity(room),
            attributes: Vec::new(),
            namespace: None,
        }
    }

    fn read_batch(&mut self, bytes: &[u8], items_max: usize) -> Result<(), Malformed> {
        let mut fields = Fields::new(bytes, Span::whole(bytes));
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Piece(item)) => {
                    within(self.items.len(), items_max)?;
                    // The batch's namespace is that of all.
                    let _ = self.read_item(bytes, item)?;
                }
                (15, Value::Piece(text)) => self.namespace = Some(text.checked(bytes)?),
                (1 | 15, _) => return Err(UNEXPECTED),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads an item; the namespace that it names.
    fn read_item(&mut self, bytes: &[u8], item: Span) -> Result<Option<Span>, Malformed> {
        let mut namespace = None;
        let mut spans = EnqueueSpans::default();
        let mut fields = Fields::new(bytes, item);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Piece(payload)) if spans.payload.is_none() => {
                    spans.payload = Some(self.read_payload(bytes, payload)?);
                }
                (2, Value::Number(ms)) => spans.delay_ms = Some(ms),
                (3, Value::Number(number)) => spans.priority = Some(number as u32),
                (4, Value::Number(number)) => spans.max_attempts = Some(number as u32),
                (5, Value::Number(ms)) => spans.ttl_ms = Some(ms),
                (15, Value::Piece(text)) => namespace = Some(text.checked(bytes)?),
                (1..=5 | 15, _) => return Err(UNEXPECTED),
                _ => {}
            }
        }
        self.items.push(spans);
        Ok(namespace)
    }

    fn read_payload(&mut self, bytes: &[u8], payload: Span) -> Result<PayloadSpans, Malformed> {
        let mut spans = PayloadSpans::default();
        let start = self.attributes.len();
        let mut fields = Fields::new(bytes, payload);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Piece(text)) => spans.resource_type = text.checked(bytes)?,
                (2, Value::Piece(text)) => spans.resource_id = text.checked(bytes)?,
                (3, Value::Piece(text)) => spans.partition_key = Some(text.checked(bytes)?),
                (4, Value::Piece(text)) => spans.payload_encoding = text.checked(bytes)?,
                (5, Value::Piece(body)) => spans.body = body,
                (6, Value::Piece(entry)) => self.attributes.push(read_pair(bytes, entry)?),
                (7, Value::Piece(text)) => spans.request_id = Some(text.checked(bytes)?),
                (1..=7, _) => return Err(UNEXPECTED),
                _ => {}
            }
        }
        spans.attributes = in_order(bytes, &mut self.attributes, start);
        Ok(spans)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The namespace that the message itself names.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.map(|span| text(&self.bytes, span))
    }

    /// One of them.
    ///
    /// # Panics
    /// If there are not so many.
    #[must_use]
    pub fn get(
        &self,
        index: usize,
    ) -> EnqueueView<'_, impl Iterator<Item = (&str, &str)> + Clone + use<'_>> {
        let item = &self.items[index];
        EnqueueView {
            payload: item.payload.as_ref().map(|payload| self.payload(payload)),
            delay_ms: item.delay_ms,
            priority: item.priority,
            max_attempts: item.max_attempts,
            ttl_ms: item.ttl_ms,
        }
    }

    fn payload(
        &self,
        spans: &PayloadSpans,
    ) -> PayloadView<'_, impl Iterator<Item = (&str, &str)> + Clone + use<'_>> {
        let bytes: &[u8] = &self.bytes;
        PayloadView {
            resource_type: text(bytes, spans.resource_type),
            resource_id: text(bytes, spans.resource_id),
            partition_key: spans.partition_key.map(|span| text(bytes, span)),
            payload_encoding: text(bytes, spans.payload_encoding),
            body: spans.body.of(bytes),
            attributes: texts(bytes, spans.attributes.of(&self.attributes)),
            request_id: spans.request_id.map(|span| text(bytes, span)),
        }
    }
}

/// Settlements: the request's bytes, and where in them everything is.
#[derive(Debug, Clone)]
pub struct SettleItems {
    bytes: Bytes,
    items: Vec<SettleSpans>,
    metadata: Vec<(Span, Span)>,
    namespace: Option<Span>,
}

#[derive(Debug, Clone, Default)]
struct SettleSpans {
    ownership_token: Option<TokenSpans>,
    action: Span,
    reason: Option<Span>,
    error_code: Option<Span>,
    requeue: Option<bool>,
    delay_ms: Option<u64>,
    metadata: Pairs,
    extend_ms: Option<u64>,
}

#[derive(Debug, Clone, Default)]
struct TokenSpans {
    sequence_id: u64,
    attempt: u32,
    lease_id: Span,
}

impl SettleItems {
    /// Reads a `SettleRequest`; `None` if that is left to the message type.
    #[must_use]
    pub fn decode(bytes: &Bytes) -> Option<SettleItems> {
        let mut items = SettleItems::of(bytes, 64);
        items.read(bytes, BATCH_ITEMS_MAX).ok()?;
        Some(items)
    }

    /// Those of a message.
    #[must_use]
    pub fn from_message(message: &SettleRequest) -> SettleItems {
        let bytes = Bytes::from(message.encode_to_vec());
        let mut items = SettleItems::of(&bytes, message.items.len());
        items.read(&bytes, usize::MAX).expect("it was just written");
        items
    }

    fn of(bytes: &Bytes, room: usize) -> SettleItems {
        SettleItems {
            bytes: bytes.clone(),
            items: Vec::with_capacity(room),
            metadata: Vec::new(),
            namespace: None,
        }
    }

    fn read(&mut self, bytes: &[u8], items_max: usize) -> Result<(), Malformed> {
        let mut fields = Fields::new(bytes, Span::whole(bytes));
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Piece(item)) => {
                    within(self.items.len(), items_max)?;
                    self.read_item(bytes, item)?;
                }
                (15, Value::Piece(text)) => self.namespace = Some(text.checked(bytes)?),
                (1 | 15, _) => return Err(UNEXPECTED),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_item(&mut self, bytes: &[u8], item: Span) -> Result<(), Malformed> {
        let mut spans = SettleSpans::default();
        let start = self.metadata.len();
        let mut fields = Fields::new(bytes, item);
        while let Some(field) = fields.next()? {
            match field {
                (1, Value::Piece(token)) if spans.ownership_token.is_none() => {
                    spans.ownership_token = Some(read_token(bytes, token)?);
                }
                (2, Value::Piece(text)) => spans.action = text.checked(bytes)?,
                (3, Value::Piece(text)) => spans.reason = Some(text.checked(bytes)?),
                (4, Value::Piece(text)) => spans.error_code = Some(text.checked(bytes)?),
                (5, Value::Number(number)) => spans.requeue = Some(number != 0),
                (6, Value::Number(ms)) => spans.delay_ms = Some(ms),
                (7, Value::Piece(entry)) => self.metadata.push(read_pair(bytes, entry)?),
                (8, Value::Number(ms)) => spans.extend_ms = Some(ms),
                (1..=8, _) => return Err(UNEXPECTED),
                _ => {}
            }
        }
        spans.metadata = in_order(bytes, &mut self.metadata, start);
        self.items.push(spans);
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The namespace that the message itself names.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.map(|span| text(&self.bytes, span))
    }

    /// Each of them.
    pub fn iter(
        &self,
    ) -> impl Iterator<Item = SettleView<'_, impl Iterator<Item = (&str, &str)> + Clone>> {
        let bytes: &[u8] = &self.bytes;
        self.items.iter().map(move |item| SettleView {
            ownership_token: item.ownership_token.as_ref().map(|token| TokenView {
                sequence_id: token.sequence_id,
                attempt: token.attempt,
                lease_id: text(bytes, token.lease_id),
            }),
            action: text(bytes, item.action),
            reason: item.reason.map(|span| text(bytes, span)),
            error_code: item.error_code.map(|span| text(bytes, span)),
            requeue: item.requeue,
            delay_ms: item.delay_ms,
            metadata: texts(bytes, item.metadata.of(&self.metadata)),
            extend_ms: item.extend_ms,
        })
    }
}

/// The text of a span that [`Span::checked`] gave for these bytes.
fn text(bytes: &[u8], span: Span) -> &str {
    debug_assert!(str::from_utf8(span.of(bytes)).is_ok());
    // SAFETY: the spans here that are shown as text were checked when they were read, against the
    // very bytes that they are kept with, which nobody changes. All others are empty.
    unsafe { str::from_utf8_unchecked(span.of(bytes)) }
}

/// A field that is not of its type.
const UNEXPECTED: Malformed = Malformed("a field is of another type, or is there twice");

fn within(items: usize, items_max: usize) -> Result<(), Malformed> {
    if items < items_max {
        return Ok(());
    }
    Err(Malformed("more items than a batch may have"))
}

fn read_token(bytes: &[u8], token: Span) -> Result<TokenSpans, Malformed> {
    let mut spans = TokenSpans::default();
    let mut fields = Fields::new(bytes, token);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Number(id)) => spans.sequence_id = id,
            (2, Value::Number(attempt)) => spans.attempt = attempt as u32,
            (3, Value::Piece(text)) => spans.lease_id = text.checked(bytes)?,
            (1..=3, _) => return Err(UNEXPECTED),
            _ => {}
        }
    }
    Ok(spans)
}

/// An entry of a map of texts.
fn read_pair(bytes: &[u8], entry: Span) -> Result<(Span, Span), Malformed> {
    let (mut name, mut value) = (Span::default(), Span::default());
    let mut fields = Fields::new(bytes, entry);
    while let Some(field) = fields.next()? {
        match field {
            (1, Value::Piece(text)) => name = text.checked(bytes)?,
            (2, Value::Piece(text)) => value = text.checked(bytes)?,
            (1 | 2, _) => return Err(UNEXPECTED),
            _ => {}
        }
    }
    Ok((name, value))
}

/// Puts the pairs from `start` on in the order of their names; of those with the same name the
/// last counts.
fn in_order(bytes: &[u8], pairs: &mut Vec<(Span, Span)>, start: usize) -> Pairs {
    if pairs.len() > start + 1 {
        let mut own = pairs.split_off(start);
        // Stable: the last of a name comes last, and is the first that is kept.
        own.sort_by(|(a, _), (b, _)| a.of(bytes).cmp(b.of(bytes)));
        own.reverse();
        own.dedup_by(|(a, _), (b, _)| a.of(bytes) == b.of(bytes));
        pairs.extend(own.into_iter().rev());
    }
    // A request is far below 4 GiB.
    Pairs {
        start: start as u32,
        end: pairs.len() as u32,
    }
}

fn texts<'a>(
    bytes: &'a [u8],
    pairs: &'a [(Span, Span)],
) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
    let pairs = pairs.iter();
    pairs.map(move |&(name, value)| (text(bytes, name), text(bytes, value)))
}
