//! Tests of the blob protocol: frames, keys, server and client over real sockets, and the remote source.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod external;
mod frames;
mod keyspace;
mod late_liars;
mod lookups;
mod providers;
mod proxy;
mod remote;
mod rig;
mod shares;
mod wire;
