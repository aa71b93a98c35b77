//! The trade engine on a chain in memory, under paused time.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod batches;
mod failures;
mod once;
mod rig;
