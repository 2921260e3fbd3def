//! Lets a fuzzer call `fuzzing::hostile_journal::hostile_journal`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzzing::hostile_journal::hostile_journal(bytes);
});
