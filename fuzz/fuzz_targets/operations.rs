//! See [`omnirelay_fuzz::operations`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    omnirelay_fuzz::operations(bytes);
});
