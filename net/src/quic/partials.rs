//! Frames that have begun and not ended: how much they hold, and since when.

use std::time::Instant;

/// A frame up to this length does not count against the bound.
const SMALL_FRAME_BYTES: usize = 64 << 10;

/// All of a core's.
#[derive(Debug, Default)]
pub(super) struct Partials {
    /// Streams that have one.
    pub(super) streams: usize,
    /// Bytes of large ones.
    pub(super) bytes: usize,
}

/// One.
#[derive(Debug, Clone, Copy)]
pub(super) struct Partial {
    pub(super) since: Instant,
    counted: usize,
}

impl Partials {
    /// A stream waits for the rest of a frame of which it has so many bytes. True if it adds to
    /// what is bounded.
    pub(super) fn note(&mut self, of: &mut Option<Partial>, now: Instant, bytes: usize) -> bool {
        let counted = if bytes > SMALL_FRAME_BYTES { bytes } else { 0 };
        let since = of.map_or(now, |partial| partial.since);
        self.end(of);
        self.streams += 1;
        self.bytes += counted;
        *of = Some(Partial { since, counted });
        counted > 0
    }

    /// It has come, or its stream is gone.
    pub(super) fn end(&mut self, of: &mut Option<Partial>) {
        if let Some(partial) = of.take() {
            self.streams -= 1;
            self.bytes -= partial.counted;
        }
    }
}
