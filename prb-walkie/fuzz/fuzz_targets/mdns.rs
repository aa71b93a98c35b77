//! Packets from anybody on the local network.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| prb_walkie::fuzzing::read_mdns(bytes));
