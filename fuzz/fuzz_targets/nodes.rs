//! Decodes JSON answers of chain nodes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_fuzz::nodes::run(bytes));
