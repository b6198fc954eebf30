//! See [`omnirelay_fuzz::frames`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    omnirelay_fuzz::frames(bytes);
});
