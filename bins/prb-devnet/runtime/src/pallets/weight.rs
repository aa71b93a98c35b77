//! The weights that the Phala pallets declare.
//!
//! The real pallets declare no weight for what a bridge sends, but for two calls (source: the metadata of a Khala
//! runtime and the pallets' code). That is a trap for who sizes batches by declared weights, so a devnet has it;
//! it can be told to declare what the calls are worth instead.

use frame_support::{traits::Get, weights::Weight};

/// Where a runtime says whether calls declare what they are worth.
pub trait Config {
    /// Whether they do; the real ones do not.
    type WeighCalls: Get<bool>;
}

/// What `restart_computing` declares.
pub const RESTART: Weight = Weight::from_parts(195_000_000, 0);
/// What `sync_offchain_message` declares: 100 µs, picoseconds.
pub const OFFCHAIN_MESSAGE: Weight = Weight::from_parts(100_000_000, 0);

/// What other calls declare: nothing, or what they are worth in picoseconds.
#[must_use]
pub fn declared<T: Config>(worth: u64) -> Weight {
    if T::WeighCalls::get() { Weight::from_parts(worth, 0) } else { Weight::zero() }
}
