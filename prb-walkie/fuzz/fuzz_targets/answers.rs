//! What a provider answers, as a lifecycle manager reads it: our keys' answers and the original's.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_walkie_fuzz::answers::run(bytes));
