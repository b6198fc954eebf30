//! See [`omnirelay_fuzz::grpc`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    omnirelay_fuzz::grpc(bytes);
});
