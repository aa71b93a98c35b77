//! The blob wire's frames, as server and client read them off one stream.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_walkie_fuzz::frames::run(bytes));
