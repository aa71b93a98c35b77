//! The fuzz targets' functions. `scripts/fuzz` runs them under libFuzzer, and this crate's tests run them for
//! a bounded number of inputs.
#![allow(clippy::unwrap_used)]

pub mod answers;
pub mod archives;
pub mod calls;
pub mod frames;
pub mod identity;
pub mod jobs;
pub mod keys;
pub mod mdns;
pub mod nodes;
pub mod proofs;
pub mod workers;
