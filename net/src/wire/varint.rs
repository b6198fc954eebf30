//! Protobuf's varints.

use bytes::BufMut;

/// Bytes of the longest varint.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// Reads a varint from the front: its value and its length. `None` while more bytes are needed,
/// an error where no byte can make it one.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<(u64, usize)>, Overlong> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if at == VARINT_BYTES_MAX - 1 && byte > 1 {
            return Err(Overlong);
        }
        value |= bits << (7 * at);
        if byte < 0x80 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= VARINT_BYTES_MAX {
        return Err(Overlong);
    }
    Ok(None)
}

/// More than 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overlong;

#[inline]
pub(crate) fn write(out: &mut impl BufMut, value: u64) {
    if value < 0x80 {
        return out.put_u8(value as u8);
    }
    // In one piece: each one that is put looks for room.
    let mut bytes = [0; VARINT_BYTES_MAX];
    let bytes = &mut bytes[..length(value)];
    fill(bytes, value);
    out.put_slice(bytes);
}

/// Writes a varint to a place of its [`length`].
#[inline]
pub(crate) fn fill(place: &mut [u8], mut value: u64) {
    let Some((last, others)) = place.split_last_mut() else {
        return;
    };
    for byte in others {
        *byte = value as u8 | 0x80;
        value >>= 7;
    }
    *last = value as u8;
}

/// How many bytes it takes.
#[inline]
pub(crate) fn length(value: u64) -> usize {
    // The bits of the value, divided by 7 and rounded up.
    let highest = 63 - (value | 1).leading_zeros() as usize;
    (highest * 9 + 73) / 64
}
