//! Lets a fuzzer call `fuzzing::wire::block_stream`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::wire::block_stream(bytes);
});
