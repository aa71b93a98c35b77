//! The daemons of Phala Runtime Bridge, as a library: the `prb` binary and the demo are thin over it.

pub mod config;
pub mod telemetry;
