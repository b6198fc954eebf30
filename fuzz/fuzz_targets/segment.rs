//! See [`omnirelay_fuzz::segment`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    omnirelay_fuzz::segment(bytes);
});
