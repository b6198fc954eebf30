//! From the bytes of a stream, however they come, to its frames.

use bytes::{Buf, Bytes, BytesMut};

use super::FrameError;
use crate::wire::varint;

/// Cuts a stream into frames.
///
/// A frame that lies in one chunk is handed on where it lies. One that comes in several is put
/// together, in memory that was asked for once its length is known.
#[derive(Debug, Default)]
pub struct FrameReader {
    chunk: Bytes,
    partial: BytesMut,
}

impl FrameReader {
    /// Takes what comes next in the stream. Whatever was complete before has to have been taken.
    pub fn push(&mut self, chunk: Bytes) {
        if !self.chunk.is_empty() {
            self.partial
                .extend_from_slice(&std::mem::take(&mut self.chunk));
        }
        if self.partial.is_empty() {
            self.chunk = chunk;
        } else {
            self.partial.extend_from_slice(&chunk);
        }
    }

    /// Bytes of a frame that has begun and not ended.
    pub fn pending(&self) -> usize {
        self.chunk.len() + self.partial.len()
    }

    /// The next frame, without its length in front; `None` while it is not complete.
    ///
    /// # Errors
    /// [`FrameError::Length`], and [`FrameError::TooLong`] as soon as the frame says that it is
    /// longer than `bytes_max`. The stream is of no use then.
    pub fn next(&mut self, bytes_max: usize) -> Result<Option<Bytes>, FrameError> {
        let read = varint::read(self.bytes()).map_err(|_| FrameError::Length)?;
        let Some((length, prefix)) = read else {
            self.keep(0);
            return Ok(None);
        };
        if length > bytes_max as u64 {
            return Err(FrameError::TooLong {
                bytes: length,
                bytes_max,
            });
        }
        let whole = prefix + usize::try_from(length).expect("it is below a usize");
        if self.partial.is_empty() {
            if self.chunk.len() >= whole {
                self.chunk.advance(prefix);
                return Ok(Some(self.chunk.split_to(whole - prefix)));
            }
            self.keep(whole.min(RESERVE_MAX));
        } else if self.partial.len() >= whole {
            self.partial.advance(prefix);
            let frame = self.partial.split_to(whole - prefix);
            if self.partial.is_empty() {
                self.partial = BytesMut::new();
            }
            return Ok(Some(frame.freeze()));
        }
        Ok(None)
    }

    /// Has what has come of a frame in memory of its own: it must not hold on to what it came in.
    fn keep(&mut self, reserve: usize) {
        self.partial.reserve(reserve);
        self.partial
            .extend_from_slice(&std::mem::take(&mut self.chunk));
    }

    fn bytes(&self) -> &[u8] {
        if self.partial.is_empty() {
            &self.chunk
        } else {
            &self.partial
        }
    }
}

/// Asked for ahead of a frame's bytes, at most: what a frame says of its length costs nothing to
/// say.
const RESERVE_MAX: usize = 64 << 10;
