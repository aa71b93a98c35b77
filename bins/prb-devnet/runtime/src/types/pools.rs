//! Pools and balances of the wrapped asset, as stored in `PhalaBasePool::Pools` and `Assets::Account`.

use codec::{Decode, DecodeWithMemTracking, Encode};
use scale_info::TypeInfo;
use sp_runtime::Permill;

use super::{AccountId, WorkerPublicKey};

/// A pool of either kind.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum PoolProxy {
    /// A pool with workers.
    #[codec(index = 0)]
    StakePool(StakePool),
    /// A pool that contributes to stake pools and has no workers.
    #[codec(index = 1)]
    Vault(Vault),
}

impl PoolProxy {
    /// Returns the common part.
    #[must_use]
    pub fn base(&self) -> &BasePool {
        match self {
            Self::StakePool(pool) => &pool.basepool,
            Self::Vault(vault) => &vault.basepool,
        }
    }

    /// Returns the common part.
    pub fn base_mut(&mut self) -> &mut BasePool {
        match self {
            Self::StakePool(pool) => &mut pool.basepool,
            Self::Vault(vault) => &mut vault.basepool,
        }
    }
}

/// The common part of both kinds of pools.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct BasePool {
    /// Its number.
    pub pid: u64,
    /// Its owner; its workers' operator.
    pub owner: AccountId,
    /// Shares of all contributors.
    pub total_shares: u128,
    /// Its total value, free and locked.
    pub total_value: u128,
    /// Withdrawals queued for free stake, oldest first.
    pub withdraw_queue: Vec<WithdrawInfo>,
    /// Vaults that contribute to it.
    pub value_subscribers: Vec<u64>,
    /// The collection of its contributors' NFTs.
    pub cid: u32,
    /// The account whose balance of the wrapped asset is its free stake.
    pub pool_account_id: AccountId,
}

/// A queued withdrawal.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct WithdrawInfo {
    /// The withdrawing account.
    pub user: AccountId,
    /// Chain time of the request, seconds.
    pub start_time: u64,
    /// The NFT that holds the shares.
    pub nft_id: u32,
}

/// A pool with workers.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct StakePool {
    /// The common part.
    pub basepool: BasePool,
    /// The owner's share of the rewards.
    pub payout_commission: Option<Permill>,
    /// The maximum total value.
    pub cap: Option<u128>,
    /// Its workers, including those in cool-down.
    pub workers: Vec<WorkerPublicKey>,
    /// Workers in cool-down.
    pub cd_workers: Vec<WorkerPublicKey>,
    /// The account that holds the stakes of its workers.
    pub lock_account: AccountId,
    /// The account that holds its owner's rewards.
    pub owner_reward_account: AccountId,
}

/// A pool that contributes to other pools.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct Vault {
    /// The common part.
    pub basepool: BasePool,
    /// The price above which its owner earns, U64F64 bits.
    pub last_share_price_checkpoint: u128,
    /// The owner's share of the profit.
    pub commission: Option<Permill>,
    /// Shares of its owner.
    pub owner_shares: u128,
    /// The pools that it contributes to.
    pub invest_pools: Vec<u64>,
}

/// A balance of an asset, as pallet-assets keeps it.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct AssetAccount {
    /// The balance.
    pub balance: u128,
    /// Whether it may not be transferred.
    pub is_frozen: bool,
    /// Why the account exists.
    pub reason: ExistenceReason,
    /// Unused; runtimes may store more here.
    pub extra: (),
}

/// Why an account with an asset exists.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum ExistenceReason {
    /// Another balance keeps it.
    #[codec(index = 0)]
    Consumer,
    /// The asset suffices.
    #[codec(index = 1)]
    Sufficient,
    /// A deposit is held.
    #[codec(index = 2)]
    DepositHeld(u128),
    /// The deposit was given back.
    #[codec(index = 3)]
    DepositRefunded,
}

// The three derivations follow the pattern of the session account: a tag, then a hash of the pool and its first
// owner. Bridges read the accounts from the pool and do not derive them.
fn derived(tag: &[u8; 4], pid: u64, owner: &AccountId, purpose: &[u8]) -> AccountId {
    let hash = sp_io::hashing::blake2_256(&(pid, owner, purpose).encode());
    let mut account = [0u8; 32];
    account[..4].copy_from_slice(tag);
    account[4..].copy_from_slice(&hash[..28]);
    AccountId::new(account)
}

/// Derives the account with the free stake of a pool.
#[must_use]
pub fn pool_account(pid: u64, owner: &AccountId) -> AccountId {
    derived(b"bp/s", pid, owner, b"free")
}

/// Derives the account with the locked stakes of a pool.
#[must_use]
pub fn lock_account(pid: u64, owner: &AccountId) -> AccountId {
    derived(b"bp/l", pid, owner, b"lock")
}

/// Derives the account with the rewards of a pool's owner.
#[must_use]
pub fn owner_reward_account(pid: u64, owner: &AccountId) -> AccountId {
    derived(b"bp/r", pid, owner, b"reward")
}
