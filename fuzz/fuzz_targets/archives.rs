//! Reads files of archives.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_fuzz::archives::run(bytes));
