//! Lets a fuzzer call `fuzzing::text::client_config`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::text::client_config(bytes);
});
