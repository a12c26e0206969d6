#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pen_fuzz::web_line(input));
