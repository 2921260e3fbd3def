//! Lets a fuzzer call `fuzzing::wire::messages`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::wire::messages(bytes);
});
