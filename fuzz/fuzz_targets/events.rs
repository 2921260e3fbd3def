//! Lets a fuzzer call `fuzzing::text::events`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::text::events(bytes);
});
