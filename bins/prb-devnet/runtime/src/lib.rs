//! The devnet's relay chain and parachain runtimes, executed natively.
//!
//! [`relay`] rotates GRANDPA authority sets and stores parachain heads. [`para::v1`] has the pallets of the
//! Phala parachain that a bridge uses; [`para::v2`] is the same runtime with another spec version and other
//! pallet indexes, for upgrades. [`types`] has the SCALE types that workers and bridges share with the pallets.
//!
//! Not for production: the runtimes trust their author (the engine of `prb-devnet`).

// FRAME's macros expand to code that this lint rejects; there is none by hand.
#[allow(clippy::expect_used)]
pub mod pallets;
#[allow(clippy::expect_used)]
pub mod para;
#[allow(clippy::expect_used)]
pub mod relay;
pub mod types;

/// A block number of either chain.
pub type BlockNumber = u32;
/// A header of either chain.
pub type Header = sp_runtime::generic::Header<BlockNumber, sp_runtime::traits::BlakeTwo256>;
/// A balance, with 12 decimals.
pub type Balance = u128;
/// One PHA.
pub const PHA: Balance = 1_000_000_000_000;
/// The address format of both chains.
pub const SS58_PREFIX: u16 = 30;
