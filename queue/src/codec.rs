//! Little-endian, bounds-checked reading and writing of record bodies.

use bytes::BufMut;

/// A record's body cannot be read. The log is damaged, or written by a newer
/// version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body ends too soon.
    #[error("the record's body ends too soon")]
    Truncated,
    /// The body goes on after its last field.
    #[error("the record's body goes on after its end")]
    TrailingBytes,
    /// A text is not UTF-8.
    #[error("a text in the record is not UTF-8")]
    NotUtf8,
    /// A field has a value that is never written.
    #[error("the record's `{0}` has a value that is never written")]
    OutOfRange(&'static str),
    /// Bytes have changed since they were written.
    #[error("the record's checksum does not match: its bytes have changed on disk")]
    Damaged,
    /// The kind is not known.
    #[error("record kind {0} is not known")]
    UnknownKind(u8),
}

/// Reads fields off the front of a body.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Sixteen bytes as they are.
    pub(crate) fn id(&mut self) -> Result<[u8; 16], DecodeError> {
        self.array()
    }

    /// A text with a 16-bit length.
    pub(crate) fn text(&mut self) -> Result<&'a str, DecodeError> {
        let len = usize::from(self.u16()?);
        std::str::from_utf8(self.bytes(len)?).map_err(|_| DecodeError::NotUtf8)
    }

    /// Bytes with a 32-bit length.
    pub(crate) fn long_bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.u32()?).map_err(|_| DecodeError::Truncated)?;
        self.bytes(len)
    }

    /// A text with a 32-bit length.
    pub(crate) fn long_text(&mut self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.long_bytes()?).map_err(|_| DecodeError::NotUtf8)
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Checks that nothing is left.
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        match self.is_empty() {
            true => Ok(()),
            false => Err(DecodeError::TrailingBytes),
        }
    }
}

/// Writes a text with a 16-bit length.
///
/// # Panics
/// When the text is longer than [`crate::TEXT_BYTES_MAX`].
pub(crate) fn put_text(out: &mut impl BufMut, text: &str) {
    let len = u16::try_from(text.len()).expect("a text is longer than TEXT_BYTES_MAX");
    out.put_u16_le(len);
    out.put_slice(text.as_bytes());
}

/// Writes bytes with a 32-bit length.
///
/// # Panics
/// When there are 4 GiB or more of them.
pub(crate) fn put_long(out: &mut impl BufMut, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("a field is 4 GiB or longer");
    out.put_u32_le(len);
    out.put_slice(bytes);
}
