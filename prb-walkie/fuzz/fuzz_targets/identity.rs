//! Identity files, and addresses, as an operator may hand them over.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_walkie_fuzz::identity::run(bytes));
