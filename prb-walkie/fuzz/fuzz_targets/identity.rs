//! Decodes identity files and addresses, as given by an operator.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_walkie_fuzz::identity::run(bytes));
