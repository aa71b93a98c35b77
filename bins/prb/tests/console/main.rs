//! The console over HTTP and in a real browser, over a simulated fleet.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod browser;
#[path = "../support/browser.rs"]
mod driver;
mod editors;
mod http;
mod rig;
mod transactions;
