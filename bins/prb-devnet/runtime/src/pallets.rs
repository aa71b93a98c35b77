//! The pallets, with the names, indexes and layouts that bridges rely on.
//!
//! Of the relay chain: [`grandpa`] and [`paras`]. Of the parachain, as on Phala: [`mq`] (messages between chain and
//! workers), [`registry`] (workers), [`computation`] (sessions), [`base_pool`] and [`stake_pool`] (pools), [`assets`] and
//! [`wrapped_balances`] (the wrapped PHA that is staked), [`parachain_info`], [`parachain_system`]. Of the devnet
//! alone: [`actions`] (what other accounts do to the chain), [`load`] (values that change in every block), [`weight`]
//! (declared weights of calls).

pub mod actions;
pub mod assets;
pub mod base_pool;
pub mod computation;
pub mod grandpa;
pub mod load;
pub mod mq;
pub mod parachain_info;
pub mod parachain_system;
pub mod paras;
pub mod registry;
pub mod stake_pool;
pub mod weight;
pub mod wrapped_balances;
