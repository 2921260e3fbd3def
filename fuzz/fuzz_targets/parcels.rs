//! Lets a fuzzer call `fuzzing::wire::parcels`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::wire::parcels(bytes);
});
