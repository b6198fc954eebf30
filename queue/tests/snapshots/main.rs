//! Items and what is remembered beside them, as they are written down whole:
//! to leave a shard, to come into one, and to let a log give up old segments.

mod order;
mod segments;
mod transfer;
mod trimming;
