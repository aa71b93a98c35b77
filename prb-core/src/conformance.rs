//! Conformance suites of the seams: every backend runs them in its own tests.

pub mod accounts;
pub mod blob;
pub mod inventory;
pub mod pruntime;
pub mod queue;
pub mod range;
pub mod reader;
pub mod signers;
pub mod submitter;
pub mod vault;
