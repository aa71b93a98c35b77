//! The core of Phala Runtime Bridge: domain types, seams and engines for fleets of TEE workers.

pub mod blob;
pub mod chain;
pub mod fleet;
pub mod inventory;
pub mod primitives;
pub mod prpc;
pub mod pruntime;
pub mod queue;
pub mod sync;
pub mod trade;
pub mod vault;
pub mod wire;
pub mod worker;

#[cfg(feature = "conformance")]
pub mod conformance;
