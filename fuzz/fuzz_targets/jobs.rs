//! Decodes jobs from Redis.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_fuzz::jobs::run(bytes));
