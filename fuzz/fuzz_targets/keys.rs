//! Parses keys of blobs and looks them up in a source of a few blocks.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_fuzz::keys::run(bytes));
