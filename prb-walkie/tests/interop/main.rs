//! Interoperability tests with the original's own libraries: a JavaScript peer of js-libp2p 0.35, protobuf.js
//! and length-prefixed-stream (`tests/js`) as a child process, called and calling.
//!
//! Without Node.js or its packages the tests fail and say how to install them (`scripts/install-node-peer`).

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod blobs;
mod calls;
mod cases;
mod control;
mod hello;
mod identity;
mod js;
mod ours;
mod quick_ack;
