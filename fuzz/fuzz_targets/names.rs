//! Lets a fuzzer call `fuzzing::text::names`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::text::names(bytes);
});
