//! The files of docs/deploy: read, held to what they promise, and run as processes where no container engine is.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod compose;
mod files;
mod guide;
