//! Fuzzes the splitter of migrations into statements.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| manybox::fuzz::statements(text));
