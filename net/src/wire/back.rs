//! Writing from the end to the beginning: what stands in front of a message is its length, which is
//! known once the message is written.

use bytes::{Buf, BytesMut};
use prost::Message;

use super::varint;

/// Protobuf's types of fields that are here.
const NUMBER: u64 = 0;
const PIECE: u64 = 2;

/// Bytes that grow towards their beginning. Fields are put in the reverse of their order.
#[derive(Debug)]
pub struct Back {
    bytes: BytesMut,
    /// Where what has been written begins.
    at: usize,
}

impl Back {
    /// With room for so many bytes; it grows when they are used up.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Back {
        Back {
            bytes: zeros(bytes),
            at: bytes,
        }
    }

    /// How much has been written.
    #[must_use]
    pub fn written(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// What has been written, behind so many zeros.
    #[must_use]
    pub fn into_bytes_behind(mut self, zeros: usize) -> BytesMut {
        if zeros > 0 {
            self.room(zeros).fill(0);
        }
        self.bytes.advance(self.at);
        self.bytes
    }

    /// So many bytes in front of what has been written.
    #[inline]
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.at < bytes {
            self.grow(bytes);
        }
        let end = self.at;
        self.at -= bytes;
        &mut self.bytes[self.at..end]
    }

    #[cold]
    fn grow(&mut self, bytes: usize) {
        let more = self.bytes.len().max(bytes);
        let mut grown = zeros(more + self.bytes.len());
        let at = more + self.at;
        grown[at..].copy_from_slice(&self.bytes[self.at..]);
        self.bytes = grown;
        self.at = at;
    }

    #[inline]
    fn varint(&mut self, value: u64) {
        if value < 0x80 {
            self.room(1)[0] = value as u8;
        } else {
            self.long_varint(value);
        }
    }

    fn long_varint(&mut self, value: u64) {
        varint::fill(self.room(varint::length(value)), value);
    }

    #[inline]
    fn key(&mut self, tag: u64, kind: u64) {
        self.varint(tag << 3 | kind);
    }

    /// The length of a field, and its key.
    #[inline]
    fn head(&mut self, tag: u64, length: usize) {
        let key = tag << 3 | PIECE;
        if length < 0x80 && key < 0x80 {
            self.room(2).copy_from_slice(&[key as u8, length as u8]);
        } else {
            self.varint(length as u64);
            self.varint(key);
        }
    }

    /// A number that is there even if it is 0.
    #[inline]
    pub(crate) fn number(&mut self, tag: u64, value: u64) {
        self.varint(value);
        self.key(tag, NUMBER);
    }

    /// A number that is absent if it is 0.
    #[inline]
    pub(crate) fn plain_number(&mut self, tag: u64, value: u64) {
        if value != 0 {
            self.number(tag, value);
        }
    }

    /// Bytes that are there even if they are none.
    #[inline]
    pub(crate) fn piece(&mut self, tag: u64, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.head(tag, bytes.len());
    }

    /// Bytes that are absent if they are none.
    #[inline]
    pub(crate) fn plain_piece(&mut self, tag: u64, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.piece(tag, bytes);
        }
    }

    /// A message in a field, which `put` writes.
    #[inline]
    pub(crate) fn nested(&mut self, tag: u64, put: impl FnOnce(&mut Back)) {
        let before = self.written();
        put(self);
        self.head(tag, self.written() - before);
    }

    /// A message of prost's in a field.
    pub(crate) fn message(&mut self, tag: u64, message: &impl Message) {
        self.nested(tag, |out| {
            let mut place = out.room(message.encoded_len());
            message.encode_raw(&mut place);
        });
    }

    /// Entries of a map of texts, in their order.
    pub(crate) fn pairs<'a>(
        &mut self,
        tag: u64,
        pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) {
        // They can be read only forwards, so each is put where those behind it leave it.
        let length = |(name, value): (&str, &str)| plain_length(name) + plain_length(value);
        let whole = |pair| {
            let entry = length(pair);
            varint::length(tag << 3) + varint::length(entry as u64) + entry
        };
        let mut place = self.room(pairs.clone().map(whole).sum());
        for (name, value) in pairs {
            varint::write(&mut place, tag << 3 | PIECE);
            varint::write(&mut place, length((name, value)) as u64);
            put_plain(&mut place, 1, name);
            put_plain(&mut place, 2, value);
        }
    }
}

/// Written as zeros: memory that comes as zeros takes the allocator's longer way, and most replies
/// are short.
fn zeros(bytes: usize) -> BytesMut {
    let mut zeros = BytesMut::with_capacity(bytes);
    zeros.resize(bytes, 0);
    zeros
}

/// The length of a field of tag 1 to 15 with a text, which is absent if that is empty.
fn plain_length(text: &str) -> usize {
    match text.len() {
        0 => 0,
        length => 1 + varint::length(length as u64) + length,
    }
}

fn put_plain(out: &mut &mut [u8], tag: u64, text: &str) {
    use bytes::BufMut;
    if !text.is_empty() {
        varint::write(out, tag << 3 | PIECE);
        varint::write(out, text.len() as u64);
        out.put_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_towards_its_beginning() {
        let mut out = Back::with_capacity(3);
        for number in (0..100).rev() {
            out.number(1, number);
        }
        assert_eq!(out.written(), 200);
        let bytes = out.into_bytes_behind(5);
        assert_eq!(bytes[..9], [0, 0, 0, 0, 0, 8, 0, 8, 1]);
        assert_eq!(bytes.len(), 205);
        assert_eq!(bytes[203..], [8, 99]);
    }

    #[test]
    fn what_is_in_front_is_zeros_in_used_room_too() {
        let mut out = Back::with_capacity(8);
        out.piece(1, &[]);
        assert_eq!(*out.into_bytes_behind(7), [0, 0, 0, 0, 0, 0, 0, 10, 0]);
    }
}
