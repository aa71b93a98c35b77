//! The trade engine's promises: order, bounded stop, signers that are away, the cap on calls.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cap;
mod order;
mod rig;
mod signers;
mod stop;
