//! Decodes a provider's answers as a lifecycle manager does: to our keys and to the original's.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_fuzz::answers::run(bytes));
