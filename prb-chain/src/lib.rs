//! Verified ingest, block store, on-chain reads and transaction submission of Phala Runtime Bridge.

// A first version exists: improve it in place.
pub mod ingest;
pub mod keys;
pub mod metadata;
pub mod reader;
pub mod rpc;
pub mod source;
pub mod store;
pub mod submit;
pub mod verify;
