//! See [`omnirelay_fuzz::json`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    omnirelay_fuzz::json(bytes);
});
