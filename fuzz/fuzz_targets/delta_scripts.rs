//! Lets a fuzzer call `fuzzing::wire::delta_scripts`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::wire::delta_scripts(bytes);
});
