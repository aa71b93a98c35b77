//! Our binaries and a peer made of the original's own libraries (`prb-walkie/tests/js`), as processes on a
//! devnet: they discover each other, exchange Hello and calls, and each replaces the other.
//!
//! Without Node.js or its packages, the tests fail with installation instructions
//! (`scripts/install-node-peer`).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../../../../prb-walkie/tests/interop/js.rs"]
#[allow(dead_code, reason = "each test program uses a part of the tools")]
mod js;
#[path = "../support/mod.rs"]
mod support;

mod admission;
mod discovery;
mod identity;
mod manager;
mod original;
mod provider;
mod setup;
