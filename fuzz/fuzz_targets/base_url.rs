//! Fuzzes base-URL resolution.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| manybox::fuzz::base_url(bytes));
