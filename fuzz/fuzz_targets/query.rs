//! Fuzzes the query grammar.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| manybox::fuzz::query(text));
