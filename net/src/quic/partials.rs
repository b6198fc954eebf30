//! Frames that have begun and not ended: how much they hold, and since when.

use std::time::Instant;

/// Frames up to this length and longer ones have a bound each: senders of long ones, stalled or
/// hostile, do not keep short ones out.
const SMALL_FRAME_BYTES: usize = 64 << 10;

/// All of a core's.
#[derive(Debug, Default)]
pub(super) struct Partials {
    /// Streams that have one.
    pub(super) streams: usize,
    /// Bytes of the small ones.
    small_bytes: usize,
    /// Bytes of the large ones.
    large_bytes: usize,
}

/// One.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partial {
    pub(super) since: Instant,
    bytes: usize,
}

impl Partials {
    /// A stream waits for the rest of a frame of which it has so many bytes. False if all of its
    /// kind together have more than `bytes_max` now.
    pub(super) fn note(
        &mut self,
        of: &mut Option<Partial>,
        now: Instant,
        bytes: usize,
        bytes_max: usize,
    ) -> bool {
        let since = of.map_or(now, |partial| partial.since);
        self.end(of);
        self.streams += 1;
        *of = Some(Partial { since, bytes });
        let sum = self.sum(bytes);
        *sum += bytes;
        bytes == 0 || *sum <= bytes_max
    }

    /// It has come, or its stream is gone.
    pub(super) fn end(&mut self, of: &mut Option<Partial>) {
        if let Some(partial) = of.take() {
            self.streams -= 1;
            *self.sum(partial.bytes) -= partial.bytes;
        }
    }

    fn sum(&mut self, bytes: usize) -> &mut usize {
        if bytes > SMALL_FRAME_BYTES {
            &mut self.large_bytes
        } else {
            &mut self.small_bytes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_frames_are_bounded_apart() {
        let now = Instant::now();
        let mut all = Partials::default();
        let bytes_max = 200 << 10;
        let (mut long, mut longer) = (None, None);
        assert!(all.note(&mut long, now, 100 << 10, bytes_max));
        assert!(!all.note(&mut longer, now, 101 << 10, bytes_max));
        let mut short = [None; 4];
        for of in &mut short[..3] {
            assert!(all.note(of, now, SMALL_FRAME_BYTES, bytes_max));
        }
        assert!(!all.note(&mut short[3], now, SMALL_FRAME_BYTES, bytes_max));
        // One that grows moves over.
        all.end(&mut longer);
        assert!(all.note(&mut short[3], now, 100 << 10, bytes_max));
        assert!(all.note(&mut longer, now, SMALL_FRAME_BYTES / 8, bytes_max));
        for of in short.iter_mut().chain([&mut long, &mut longer]) {
            all.end(of);
        }
        assert_eq!((all.streams, all.small_bytes, all.large_bytes), (0, 0, 0));
    }
}
