//! Lets a fuzzer call `fuzzing::text::server_config`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::text::server_config(bytes);
});
