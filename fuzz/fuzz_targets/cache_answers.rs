//! Lets a fuzzer call `fuzzing::wire::cache_answers`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::wire::cache_answers(bytes);
});
