//! Fuzzes Prefer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| manybox::fuzz::prefer(bytes));
