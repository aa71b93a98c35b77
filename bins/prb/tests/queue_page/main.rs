//! The queue page over HTTP, over a real Redis, and in a real browser.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod browser;
#[path = "../support/browser.rs"]
mod driver;
mod http;
#[path = "../../../../prb-queue/tests/support/ports.rs"]
mod ports;
mod process;
mod redis;
mod rig;
