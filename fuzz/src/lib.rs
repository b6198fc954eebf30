//! What is fuzzed: functions that take any bytes and panic when something does
//! not hold.
//!
//! The fuzzer in `fuzz_targets/` and the replay of the corpora in `tests/` call
//! the same functions. Each says what became of its input, so that the replay
//! can check that a corpus gets past the first check of what it is for.

#![forbid(unsafe_code)]

mod frames;
mod grpc;
mod json;
mod operations;
mod replay;
mod segment;

pub use frames::frames;
pub use grpc::grpc;
pub use json::json;
pub use operations::operations;
pub use replay::replay;
pub use segment::segment;

/// A fuzz target: any bytes in, what became of them out.
pub type Target = fn(&[u8]) -> &'static str;

/// The targets by name.
pub const TARGETS: [(&str, Target); 6] = [
    ("frames", frames),
    ("grpc", grpc),
    ("json", json),
    ("operations", operations),
    ("replay", replay),
    ("segment", segment),
];
