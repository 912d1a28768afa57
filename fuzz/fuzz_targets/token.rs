//! Fuzzes tokens: their header and claims.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| manybox::fuzz::token(text));
