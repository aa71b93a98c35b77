//! The weights that the Phala pallets declare.
//!
//! The real pallets declare no weight for a bridge's calls, except for two (source: the metadata of a Khala
//! runtime and the pallets' code). That misleads senders that size batches by declared weights, so the devnet
//! does the same by default; it can be configured to declare realistic weights.

use frame_support::{traits::Get, weights::Weight};

/// Configures whether calls declare realistic weights.
pub trait Config {
    /// Whether they do; the real ones do not.
    type WeighCalls: Get<bool>;
}

/// The declared weight of `restart_computing`.
pub const RESTART: Weight = Weight::from_parts(195_000_000, 0);
/// The declared weight of `sync_offchain_message`: 100 µs, in picoseconds.
pub const OFFCHAIN_MESSAGE: Weight = Weight::from_parts(100_000_000, 0);

/// The declared weight of other calls: none, or a realistic one in picoseconds.
#[must_use]
pub fn declared<T: Config>(worth: u64) -> Weight {
    if T::WeighCalls::get() { Weight::from_parts(worth, 0) } else { Weight::zero() }
}
