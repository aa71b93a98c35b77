//! The daemons of Phala Runtime Bridge, as a library: the `prb` binary and the demo are thin over it.

pub mod all;
mod blocks;
pub mod check;
pub mod config;
pub mod daemon;
pub mod data_provider;
pub mod descriptors;
mod desk;
pub mod fleet_file;
mod inventory;
pub mod keys;
pub mod lifecycle;
pub mod limit;
mod listen;
mod nodes;
pub mod ops;
pub mod pages;
mod peers;
pub mod progress;
pub mod readiness;
mod redact;
mod sealed;
pub mod signals;
mod signers;
pub mod telemetry;
pub mod trader;
mod work;
