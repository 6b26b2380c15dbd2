//! See `decode` in `tests/fuzzed.rs`.
#![no_main]

#[allow(dead_code)] // each target runs one of the checks
#[path = "../../tests/fuzzed.rs"]
mod fuzzed;
mod support;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzed::decode(data));
