//! Verified ingest, block store, on-chain reads and transaction submission of Phala Runtime Bridge.

pub mod keys;
pub mod metadata;
pub mod rpc;
