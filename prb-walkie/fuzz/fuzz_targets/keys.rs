//! Keys of blobs, and what a source of a few blocks answers to them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_walkie_fuzz::keys::run(bytes));
