//! Lets a fuzzer call `fuzzing::text::control_lines`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::text::control_lines(bytes);
});
