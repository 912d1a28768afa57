//! Fuzzes the JSON path of the role claim.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| manybox::fuzz::role_path(text));
