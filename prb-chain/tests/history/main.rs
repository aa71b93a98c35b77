//! Tests of history sources: archives, headers caches, other data providers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod archive;
mod cost;
mod ingest;
mod over_http;
mod replay;
mod setup;
mod sources;
mod suite;
#[path = "../support/workers.rs"]
mod workers;
