//! The pallets, with the names, indexes and layouts that bridges rely on.

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
