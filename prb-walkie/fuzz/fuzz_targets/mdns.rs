//! Decodes packets from the local network.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_walkie_fuzz::mdns::run(bytes));
