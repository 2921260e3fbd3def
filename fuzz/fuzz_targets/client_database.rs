//! Lets a fuzzer call `fuzzing::stores::client_database`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::stores::client_database(bytes);
});
