//! Reader and submitter against the devnet: a real runtime, a real pool of transactions, real events.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod conformance;
mod fill;
mod gaps;
mod metadata;
mod net;
mod outside;
mod pools;
mod proxy;
mod reader;
mod stall;
mod storm;
mod submit;
mod submitter_suite;
mod troubles;
