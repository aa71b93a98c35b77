//! The Phala pallets as a bridge and its workers meet them: a worker's life, and every refusal.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod khala;
mod messages;
mod pools;
mod registry;
mod sessions;
mod withdrawals;
mod world;
