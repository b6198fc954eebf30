//! See [`omnirelay_fuzz::replay`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    omnirelay_fuzz::replay(bytes);
});
