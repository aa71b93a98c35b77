//! The daemons of Phala Runtime Bridge, as a library: the `prb` binary and the demo are thin over it.

pub mod all;
pub mod config;
pub mod fleet_file;
pub mod progress;
pub mod signals;
pub mod telemetry;
