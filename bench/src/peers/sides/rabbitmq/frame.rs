//! Frames of AMQP 0-9-1, as far as they are needed.

use anyhow::anyhow;

use crate::peers::wire::{Cursor, Parsed};

pub(super) const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;
pub(super) const BODY: u8 = 3;
const END: u8 = 0xce;

/// The one channel of a connection; 0 is the connection itself.
pub(super) const CHANNEL: u16 = 1;

/// A class and a method of it.
pub(super) type Method = (u16, u16);

pub(super) const CONNECTION_START: Method = (10, 10);
pub(super) const CONNECTION_START_OK: Method = (10, 11);
pub(super) const CONNECTION_TUNE: Method = (10, 30);
pub(super) const CONNECTION_TUNE_OK: Method = (10, 31);
pub(super) const CONNECTION_OPEN: Method = (10, 40);
pub(super) const CONNECTION_OPEN_OK: Method = (10, 41);
pub(super) const CHANNEL_OPEN: Method = (20, 10);
pub(super) const CHANNEL_OPEN_OK: Method = (20, 11);
pub(super) const QUEUE_DECLARE: Method = (50, 10);
pub(super) const QUEUE_DECLARE_OK: Method = (50, 11);
pub(super) const BASIC: u16 = 60;
pub(super) const BASIC_QOS: Method = (BASIC, 10);
pub(super) const BASIC_QOS_OK: Method = (BASIC, 11);
pub(super) const BASIC_CONSUME: Method = (BASIC, 20);
pub(super) const BASIC_CONSUME_OK: Method = (BASIC, 21);
pub(super) const BASIC_PUBLISH: Method = (BASIC, 40);
pub(super) const BASIC_DELIVER: Method = (BASIC, 60);
pub(super) const BASIC_ACK: Method = (BASIC, 80);
pub(super) const CONFIRM_SELECT: Method = (85, 10);
pub(super) const CONFIRM_SELECT_OK: Method = (85, 11);

/// Adds a frame whose payload `fill` adds.
pub(super) fn frame(kind: u8, channel: u16, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let length = u32::try_from(out.len() - length_at - 4).expect("frames are short");
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
    out.push(END);
}

/// Adds a method's frame whose arguments `fill` adds.
pub(super) fn method(
    (class, number): Method,
    channel: u16,
    out: &mut Vec<u8>,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    frame(METHOD, channel, out, |out| {
        out.extend_from_slice(&class.to_be_bytes());
        out.extend_from_slice(&number.to_be_bytes());
        fill(out);
    });
}

/// Adds a string of up to 255 bytes.
pub(super) fn short(text: &str, out: &mut Vec<u8>) {
    out.push(u8::try_from(text.len()).expect("the text is a constant"));
    out.extend_from_slice(text.as_bytes());
}

/// Adds a string of any length.
pub(super) fn long(text: &str, out: &mut Vec<u8>) {
    let length = u32::try_from(text.len()).expect("the text is a constant");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Reads one frame: its kind and its payload.
pub(super) fn frame_from<'a>(from: &mut Cursor<'a>) -> Parsed<(u8, &'a [u8])> {
    let kind = from.exactly(1)?[0];
    let _channel = from.exactly(2)?;
    let length = u32_from(from)?;
    let payload = from.exactly(length as usize)?;
    match from.exactly(1)? {
        [END] => Ok((kind, payload)),
        _ => Err(anyhow!("a frame of RabbitMQ does not end where it says").into()),
    }
}

pub(super) fn u16_from(from: &mut Cursor<'_>) -> Parsed<u16> {
    let bytes = from.exactly(2)?;
    Ok(u16::from_be_bytes(bytes.try_into().expect("two bytes")))
}

pub(super) fn u32_from(from: &mut Cursor<'_>) -> Parsed<u32> {
    let bytes = from.exactly(4)?;
    Ok(u32::from_be_bytes(bytes.try_into().expect("four bytes")))
}

pub(super) fn u64_from(from: &mut Cursor<'_>) -> Parsed<u64> {
    let bytes = from.exactly(8)?;
    Ok(u64::from_be_bytes(bytes.try_into().expect("eight bytes")))
}

/// Reads a string of up to 255 bytes.
pub(super) fn short_from<'a>(from: &mut Cursor<'a>) -> Parsed<&'a [u8]> {
    let length = from.exactly(1)?[0];
    from.exactly(length.into())
}
