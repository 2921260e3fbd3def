//! Lets a fuzzer call `fuzzing::stores::block_index`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::stores::block_index(bytes);
});
