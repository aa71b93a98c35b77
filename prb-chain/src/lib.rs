//! Verified ingest, block store, on-chain reads and transaction submission of Phala Runtime Bridge.

pub mod rpc;
