//! What a log is told when it is opened.

/// The smallest segment, in bytes.
pub const SEGMENT_BYTES_MIN: u32 = 1 << 20;

/// The largest segment, in bytes. Offsets are 32 bits wide; a quarter of that
/// leaves room for a segment made longer to take one outsized batch.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;

/// The most spare segments a log keeps ready. More would only hold disk space:
/// one spare lasts longer than making the next one takes.
pub const SPARES_MAX: usize = 64;

/// Options of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The log's number in its data directory. Written into every segment, so
    /// that a segment which strayed into another log's directory is refused.
    pub log: u16,
    /// The size of a new segment in bytes: a multiple of 4,096 from
    /// [`SEGMENT_BYTES_MIN`] to [`SEGMENT_BYTES_MAX`]. Default 64 MiB. A record
    /// never spans segments, so it also bounds a record. Segments that exist
    /// keep the size they were made with.
    pub segment_bytes: u32,
}

impl LogOptions {
    /// Says what is wrong with the options, if anything is.
    pub(crate) fn fault(&self) -> Option<String> {
        let bytes = self.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) || !bytes.is_multiple_of(4096)
        {
            return Some(format!(
                "segment_bytes is {bytes}; it must be a multiple of 4096 from \
                 {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
            ));
        }
        None
    }
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            log: 0,
            segment_bytes: 64 << 20,
        }
    }
}
