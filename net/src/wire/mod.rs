//! Protobuf's wire format, for messages that are read where they lie and written from wherever
//! their parts are.

mod back;
pub(crate) mod varint;

use std::ops::Range;

use prost::encoding::WireType;

pub use self::back::Back;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Where a piece lies in bytes that are less than 4 GiB: they stay where they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// All of it.
    ///
    /// # Panics
    /// On 4 GiB or more.
    pub(crate) fn whole(bytes: &[u8]) -> Span {
        Span {
            start: 0,
            end: u32::try_from(bytes.len()).expect("a message is far below 4 GiB"),
        }
    }

    pub(crate) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.range()]
    }

    /// The piece as text, once it has been found to be.
    pub(crate) fn checked(self, bytes: &[u8]) -> Result<Span, Malformed> {
        match std::str::from_utf8(self.of(bytes)) {
            Ok(_) => Ok(self),
            Err(_) => Err(Malformed("a text is not UTF-8")),
        }
    }

    /// The text of a piece that [`Span::checked`] gave.
    pub(crate) fn text(self, bytes: &[u8]) -> &str {
        std::str::from_utf8(self.of(bytes)).expect("it was checked when it was read")
    }
}

/// The fields of a message, one after the other.
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value {
    Number(u64),
    Piece(Span),
    /// Of a kind that no message here has.
    Other,
}

impl<'a> Fields<'a> {
    /// Of the message that is `message` of `bytes`.
    pub(crate) fn new(bytes: &'a [u8], message: Span) -> Fields<'a> {
        let Range { start, end } = message.range();
        Fields {
            bytes,
            at: start,
            end,
        }
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Value)>, Malformed> {
        // Nearly all are pieces whose key and length are a byte each.
        if let [key, length, rest @ ..] = &self.bytes[self.at..self.end]
            && key & 0x87 == 2
            && *key >= 8
            && *length < 0x80
            && usize::from(*length) <= rest.len()
        {
            let start = self.at + 2;
            self.at = start + usize::from(*length);
            let piece = Span {
                start: start as u32,
                end: self.at as u32,
            };
            return Ok(Some((u32::from(key >> 3), Value::Piece(piece))));
        }
        self.next_of_any()
    }

    fn next_of_any(&mut self) -> Result<Option<(u32, Value)>, Malformed> {
        if self.at == self.end {
            return Ok(None);
        }
        // Of a field's number and type together there are 32 bits.
        let key = u32::try_from(self.number()?).map_err(|_| Malformed("a field's number"))?;
        let tag = key >> 3;
        if tag == 0 {
            return Err(Malformed("a field's number"));
        }
        let value = match WireType::try_from(u64::from(key & 7)) {
            Ok(WireType::Varint) => Value::Number(self.number()?),
            Ok(WireType::LengthDelimited) => {
                let length = self.number()?;
                Value::Piece(self.piece(length)?)
            }
            Ok(WireType::ThirtyTwoBit) => self.piece(4).map(|_| Value::Other)?,
            Ok(WireType::SixtyFourBit) => self.piece(8).map(|_| Value::Other)?,
            // Groups have been gone from protobuf for longer than these messages are there.
            _ => return Err(Malformed("a field's type")),
        };
        Ok(Some((tag, value)))
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        // Nearly all are a byte.
        if let Some(&byte) = self.bytes[self.at..self.end].first()
            && byte < 0x80
        {
            self.at += 1;
            return Ok(byte.into());
        }
        match varint::read(&self.bytes[self.at..self.end]) {
            Ok(Some((value, length))) => {
                self.at += length;
                Ok(value)
            }
            _ => Err(Malformed("a varint is cut off or too long")),
        }
    }

    fn piece(&mut self, length: u64) -> Result<Span, Malformed> {
        let left = self.end - self.at;
        match usize::try_from(length) {
            Ok(length) if length <= left => {
                let start = self.at;
                self.at += length;
                // Both lie within a span.
                Ok(Span {
                    start: start as u32,
                    end: self.at as u32,
                })
            }
            _ => Err(Malformed("a field is longer than its message")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(bytes: &[u8]) -> Result<Option<u32>, Malformed> {
        let field = Fields::new(bytes, Span::whole(bytes)).next()?;
        Ok(field.map(|(tag, _)| tag))
    }

    #[test]
    fn a_field_has_no_more_numbers_than_prost_gives_it() {
        let key = |key: u64| {
            let mut bytes = Vec::new();
            varint::write(&mut bytes, key);
            bytes.push(0);
            bytes
        };
        assert_eq!(
            first(&key(u64::from(u32::MAX) & !7)),
            Ok(Some((1 << 29) - 1))
        );
        for beyond in [1 << 32, 0x3f << 28, !7] {
            let bytes = key(beyond);
            assert_eq!(first(&bytes), Err(Malformed("a field's number")));
            prost::encoding::decode_key(&mut bytes.as_slice()).expect_err("nor does prost");
        }
    }
}
