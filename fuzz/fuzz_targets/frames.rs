//! Decodes frames of the blob protocol as server and client do.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_fuzz::frames::run(bytes));
