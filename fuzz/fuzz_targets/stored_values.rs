//! Lets a fuzzer call `fuzzing::wire::stored_values`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::wire::stored_values(bytes);
});
