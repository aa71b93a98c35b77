//! Decodes answers of workers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_fuzz::workers::run(bytes));
