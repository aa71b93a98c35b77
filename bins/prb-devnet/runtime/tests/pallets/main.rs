//! Tests of the Phala pallets from the view of a bridge and its workers: a worker's life cycle, and every
//! refusal.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod khala;
mod messages;
mod pools;
mod registry;
mod sessions;
mod withdrawals;
mod world;
