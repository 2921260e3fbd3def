//! Lets a fuzzer call `fuzzing::wire::news_bundles`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::wire::news_bundles(bytes);
});
