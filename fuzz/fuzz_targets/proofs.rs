//! Checks proofs of chain nodes and of data providers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_fuzz::proofs::run(bytes));
