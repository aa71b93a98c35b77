//! The fuzz targets' functions. `scripts/fuzz` runs them under libFuzzer, and this crate's tests run them for
//! a bounded number of inputs.
#![allow(clippy::unwrap_used)]

pub mod answers;
pub mod calls;
pub mod frames;
pub mod identity;
pub mod keys;
pub mod mdns;
