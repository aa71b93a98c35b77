//! Tests of docs/deploy: the files are parsed, checked, and run as processes without a container engine.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod compose;
mod files;
mod guide;
