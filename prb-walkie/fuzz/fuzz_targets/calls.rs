//! Calls of a stranger and of an operator, whatever they hold, and answers as a caller reads them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prb_walkie_fuzz::calls::run(bytes));
