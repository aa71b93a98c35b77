//! Verified ingest, block store, on-chain reads and transaction submission of Phala Runtime Bridge.

pub mod keys;
pub mod metadata;
pub mod reader;
pub mod rpc;
pub mod submit;
pub mod verify;
