//! Tests of reader and submitter on the devnet, with a real runtime, transaction pool and events.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod answers;
#[path = "../support/answers.rs"]
mod answers_proxy;
mod conformance;
mod effects;
mod fill;
mod gaps;
mod metadata;
mod net;
mod outside;
mod pools;
mod proxy;
mod reader;
mod shared;
mod stall;
mod storm;
mod submit;
mod submitter_suite;
mod troubles;
