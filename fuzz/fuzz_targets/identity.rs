//! Decodes identity files and addresses, as given by an operator.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_fuzz::identity::run(bytes));
