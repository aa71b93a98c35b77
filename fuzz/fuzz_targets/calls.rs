//! Answers arbitrary calls of a stranger and of an operator, and decodes answers as a caller does.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_fuzz::calls::run(bytes));
