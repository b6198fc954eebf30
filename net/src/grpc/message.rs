//! Messages as gRPC frames them: a byte that says whether it is compressed, its length, its bytes.

use std::io::{Read, Write};

use bytes::{Buf, Bytes, BytesMut};
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::HeaderValue;

use crate::rpc::Error;

/// What comes before each message.
pub const PREFIX_BYTES: usize = 5;

/// What no gzip exceeds: the bytes that one byte of it stands for.
pub const GZIP_RATIO_MAX: usize = 1_032;

/// Smaller messages are not worth compressing.
const COMPRESSED_BYTES_MIN: usize = 1_024;

/// How a sender compresses the messages that say they are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all: none may say so.
    Identity,
    /// As gzip does.
    Gzip,
}

impl Compression {
    /// Its name in `grpc-encoding`.
    #[must_use]
    pub fn name(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
        })
    }

    /// The compression that a name stands for.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        match name {
            b"identity" => Some(Self::Identity),
            b"gzip" => Some(Self::Gzip),
            _ => None,
        }
    }
}

/// The message that is the whole body of a unary call.
///
/// One that is not compressed shares the body's buffer.
///
/// # Errors
/// `resourcelease.payload.too_large` for a message above `bytes_max`, decompressed or not;
/// `rpc.body.malformed` for anything but one message that the call's `compression` can read.
pub fn only_message(
    mut body: Bytes,
    compression: Compression,
    bytes_max: usize,
) -> Result<Bytes, Error> {
    let Some(prefix) = Prefix::read(&body) else {
        return Err(malformed(format!(
            "a unary call's body is one message behind a prefix of {PREFIX_BYTES} bytes; this one \
             has {} bytes",
            body.len()
        )));
    };
    prefix.check(bytes_max)?;
    body.advance(PREFIX_BYTES);
    if body.len() < prefix.bytes {
        return Err(malformed(format!(
            "the body broke off: {} bytes of a message of {}",
            body.len(),
            prefix.bytes
        )));
    }
    if body.len() > prefix.bytes {
        return Err(malformed("a unary call's body has more than one message"));
    }
    prefix.open(body, compression, bytes_max)
}

/// The length of the message that a body begins with, by its prefix; 0 while that is not there.
///
/// # Errors
/// As [`only_message`].
pub fn announced_bytes(body: &[u8], bytes_max: usize) -> Result<usize, Error> {
    let Some(prefix) = Prefix::read(body) else {
        return Ok(0);
    };
    prefix.check(bytes_max)?;
    Ok(prefix.bytes)
}

/// Takes messages out of a stream, however it is cut.
#[derive(Debug)]
pub struct Deframer {
    buffer: BytesMut,
    compression: Compression,
    bytes_max: usize,
}

impl Deframer {
    /// For messages of at most `bytes_max` bytes.
    #[must_use]
    pub fn new(compression: Compression, bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            compression,
            bytes_max,
        }
    }

    /// Adds what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message that is there as a whole.
    ///
    /// # Errors
    /// As [`only_message`]; the stream makes no sense from there on.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(prefix) = Prefix::read(&self.buffer) else {
            return Ok(None);
        };
        prefix.check(self.bytes_max)?;
        if self.buffer.len() < PREFIX_BYTES + prefix.bytes {
            return Ok(None);
        }
        self.buffer.advance(PREFIX_BYTES);
        let message = self.buffer.split_to(prefix.bytes).freeze();
        let opened = prefix.open(message, self.compression, self.bytes_max)?;
        Ok(Some(opened))
    }

    /// Whether a message has begun and not ended.
    #[must_use]
    pub fn is_within(&self) -> bool {
        !self.buffer.is_empty()
    }
}

/// Puts the prefix before a message that was written behind room for it. Larger messages are
/// compressed if that is allowed.
///
/// # Panics
/// If there is no such room, or the message has 4 GiB.
#[must_use]
pub fn frame(mut message: BytesMut, compression: Compression) -> Bytes {
    let bytes = message.len() - PREFIX_BYTES;
    let compressed = compression == Compression::Gzip && bytes >= COMPRESSED_BYTES_MIN;
    if compressed {
        let mut out = vec![0; PREFIX_BYTES];
        out.reserve(bytes / 2);
        let mut encoder = GzEncoder::new(out, flate2::Compression::fast());
        let written = encoder.write_all(&message[PREFIX_BYTES..]);
        let out = written.and_then(|()| encoder.finish());
        message = Bytes::from(out.expect("memory takes all bytes")).into();
    }
    let bytes = u32::try_from(message.len() - PREFIX_BYTES).expect("a message is below 4 GiB");
    message[0] = compressed.into();
    message[1..PREFIX_BYTES].copy_from_slice(&bytes.to_be_bytes());
    message.freeze()
}

/// What a message's prefix says.
#[derive(Clone, Copy)]
struct Prefix {
    flags: u8,
    bytes: usize,
}

impl Prefix {
    fn read(from: &[u8]) -> Option<Self> {
        let (&[flags, a, b, c, d], _) = from.split_first_chunk::<PREFIX_BYTES>()?;
        Some(Self {
            flags,
            bytes: u32::from_be_bytes([a, b, c, d]) as usize,
        })
    }

    /// Refuses what no more bytes can make good.
    fn check(self, bytes_max: usize) -> Result<(), Error> {
        if self.flags > 1 {
            return Err(malformed(format!(
                "a message's prefix begins with {}, which is neither 0 nor 1: this is not gRPC's \
                 framing",
                self.flags
            )));
        }
        if self.bytes > bytes_max {
            return Err(too_large(bytes_max));
        }
        Ok(())
    }

    fn open(
        self,
        message: Bytes,
        compression: Compression,
        bytes_max: usize,
    ) -> Result<Bytes, Error> {
        match (self.flags, compression) {
            (0, _) => Ok(message),
            (_, Compression::Gzip) => decompress(&message, bytes_max),
            (_, Compression::Identity) => Err(malformed(
                "a message is compressed and grpc-encoding does not say how",
            )),
        }
    }
}

fn decompress(message: &[u8], bytes_max: usize) -> Result<Bytes, Error> {
    let mut out = Vec::with_capacity((message.len() * 4).min(bytes_max));
    // One byte more than allowed tells a message of that size from a larger one.
    let read = GzDecoder::new(message)
        .take(bytes_max as u64 + 1)
        .read_to_end(&mut out);
    match read {
        Ok(bytes) if bytes > bytes_max => Err(too_large(bytes_max)),
        Ok(_) => Ok(out.into()),
        Err(error) => Err(malformed(format!("a message is not gzip: {error}"))),
    }
}

fn malformed(what: impl Into<String>) -> Error {
    Error::body_malformed(what)
}

fn too_large(bytes_max: usize) -> Error {
    Error::payload_too_large(format!(
        "a message is above {bytes_max} bytes; send less, or smaller batches"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rpc::codes;

    fn framed(message: &[u8], compression: Compression) -> Bytes {
        let mut room = BytesMut::zeroed(PREFIX_BYTES);
        room.extend_from_slice(message);
        frame(room, compression)
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_they_are_cut(
            messages in prop::collection::vec(prop::collection::vec(0..4_u8, 0..5_000), 1..5),
            cuts in prop::collection::vec(1..3_000_usize, 1..20),
            gzip in any::<bool>(),
        ) {
            let compression = if gzip { Compression::Gzip } else { Compression::Identity };
            let mut stream: Vec<u8> = Vec::new();
            for message in &messages {
                let framed = framed(message, compression);
                let opened = only_message(framed.clone(), compression, 5_000);
                prop_assert_eq!(opened.as_deref().ok(), Some(&message[..]));
                stream.extend_from_slice(&framed);
            }
            let mut deframer = Deframer::new(compression, 5_000);
            let (mut out, mut rest) = (Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                let (part, behind) = rest.split_at((*cut).min(rest.len()));
                deframer.push(part);
                while let Some(message) = deframer.next_message().unwrap() {
                    out.push(message.to_vec());
                }
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(!deframer.is_within());
            prop_assert_eq!(out, messages);
        }

        #[test]
        fn garbage_is_refused_and_harms_nothing(
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = only_message(body.clone().into(), Compression::Gzip, 100);
            let mut deframer = Deframer::new(Compression::Gzip, 100);
            deframer.push(&body);
            while let Ok(Some(_)) = deframer.next_message() {}
        }
    }

    #[test]
    fn what_is_no_single_message_is_refused_with_what_it_is() {
        let refused = |body: &[u8], compression| {
            only_message(Bytes::copy_from_slice(body), compression, 8).unwrap_err()
        };
        let identity = Compression::Identity;
        for (body, compression, said) in [
            (&b""[..], identity, "this one has 0 bytes"),
            (
                b"\0\0\0\0\x02a",
                identity,
                "broke off: 1 bytes of a message of 2",
            ),
            (b"\0\0\0\0\x01ab", identity, "more than one message"),
            (b"\x02\0\0\0\x01a", identity, "neither 0 nor 1"),
            (
                b"\x01\0\0\0\x01a",
                identity,
                "grpc-encoding does not say how",
            ),
            (b"\x01\0\0\0\x01a", Compression::Gzip, "not gzip"),
        ] {
            let error = refused(body, compression);
            assert!(error.is(codes::BODY_MALFORMED), "{error}");
            assert!(error.message.contains(said), "{error}");
        }
        let error = refused(b"\0\xff\xff\xff\xff", identity);
        assert!(error.is(codes::PAYLOAD_TOO_LARGE), "{error}");
    }

    #[test]
    fn a_small_message_that_becomes_large_is_cut_off() {
        let bomb = framed(&[0; 1 << 20], Compression::Gzip);
        assert!(bomb.len() < 8_192, "{}", bomb.len());
        let error = only_message(bomb, Compression::Gzip, 100_000).unwrap_err();
        assert!(error.is(codes::PAYLOAD_TOO_LARGE), "{error}");
    }

    #[test]
    fn small_messages_are_not_compressed() {
        assert_eq!(framed(b"ab", Compression::Gzip)[..], *b"\0\0\0\0\x02ab");
    }
}
