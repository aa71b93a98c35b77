//! Tests of history sources: archives, headers caches, other data providers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod archive;
mod cost;
mod ground;
mod ingest;
mod replay;
mod sources;
mod suite;
