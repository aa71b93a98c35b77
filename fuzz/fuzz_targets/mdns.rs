//! Decodes packets from the local network.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_fuzz::mdns::run(bytes));
