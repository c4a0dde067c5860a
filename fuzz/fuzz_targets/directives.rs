#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| plug_loader::fuzzing::directives(bytes));
