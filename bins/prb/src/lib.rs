//! The daemons of Phala Runtime Bridge, as a library: the `prb` binary and the demo are thin over it.

pub mod all;
mod blocks;
pub mod config;
pub mod console;
pub mod daemon;
pub mod data_provider;
mod desk;
pub mod fleet_file;
mod inventory;
pub mod keys;
pub mod lifecycle;
pub mod limit;
mod listen;
pub mod monitor;
pub mod ops;
pub mod pages;
mod peers;
pub mod progress;
mod readiness;
pub mod signals;
pub mod telemetry;
pub mod trader;
mod work;
