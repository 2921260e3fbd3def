//! Lets a fuzzer call `fuzzing::text::settings`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::text::settings(bytes);
});
