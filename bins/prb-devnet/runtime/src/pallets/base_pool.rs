//! `PhalaBasePool`: contributions and withdrawals of stake pools and vaults.
//!
//! A share is always worth one unit here: the devnet pays no rewards and slashes nobody. Shares are kept in
//! plain maps where the real chain uses NFTs.

pub use pallet::*;

/// The pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;

    use crate::{
        pallets::wrapped_balances,
        types::{
            AccountId, BasePool, PoolProxy, StakePool, Vault, WithdrawInfo, lock_account,
            owner_reward_account, pool_account,
        },
    };

    /// Lower collection ids are reserved.
    const FIRST_COLLECTION: u32 = 10_000;

    /// Configuration.
    #[pallet::config]
    pub trait Config:
        frame_system::Config<AccountId = AccountId, RuntimeEvent: From<Event<Self>>>
        + pallet_timestamp::Config<Moment = u64>
        + wrapped_balances::Config
    {
    }

    /// The pallet's type.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// The pools.
    #[pallet::storage]
    pub type Pools<T> = StorageMap<_, Twox64Concat, u64, PoolProxy>;

    /// The number of the next pool.
    #[pallet::storage]
    pub type PoolCount<T> = StorageValue<_, u64, ValueQuery>;

    /// The number of the next NFT of each collection.
    #[pallet::storage]
    pub type NextNftId<T> = StorageMap<_, Twox64Concat, u32, u32, ValueQuery>;

    /// Each contributor's shares of a pool that are not being withdrawn. Stored in NFTs on the real chain.
    #[pallet::storage]
    pub type Shares<T> = StorageDoubleMap<_, Twox64Concat, u64, Twox64Concat, AccountId, u128, ValueQuery>;

    /// The shares of each queued withdrawal, by collection and NFT. Stored in NFTs on the real chain.
    #[pallet::storage]
    pub type WithdrawingShares<T> =
        StorageDoubleMap<_, Twox64Concat, u32, Twox64Concat, u32, u128, ValueQuery>;

    /// Genesis.
    #[pallet::genesis_config]
    #[derive(frame_support::DefaultNoBound)]
    pub struct GenesisConfig<T: Config> {
        /// The stake pools: number, owner, free stake.
        pub pools: Vec<(u64, AccountId, u128)>,
        /// The vaults: number, owner.
        pub vaults: Vec<(u64, AccountId)>,
        #[doc(hidden)]
        #[serde(skip)]
        pub _marker: PhantomData<T>,
    }

    #[pallet::genesis_build]
    impl<T: Config> BuildGenesisConfig for GenesisConfig<T> {
        fn build(&self) {
            for (pid, owner, free_stake) in &self.pools {
                Pallet::<T>::create_stake_pool(*pid, owner, *free_stake);
            }
            for (pid, owner) in &self.vaults {
                Pallet::<T>::create_vault(*pid, owner);
            }
        }
    }

    /// Events.
    #[pallet::event]
    #[pallet::generate_deposit(pub(super) fn deposit_event)]
    pub enum Event<T: Config> {
        /// A withdrawal was queued.
        #[codec(index = 1)]
        WithdrawalQueued {
            /// The pool.
            pid: u64,
            /// The withdrawing account.
            user: AccountId,
            /// The shares.
            shares: u128,
            /// The NFT with the shares.
            nft_id: u32,
            /// The withdrawing vault, if any.
            as_vault: Option<u64>,
        },
        /// A withdrawal was paid, in whole or in part.
        #[codec(index = 2)]
        Withdrawal {
            /// The pool.
            pid: u64,
            /// The withdrawing account.
            user: AccountId,
            /// The amount.
            amount: u128,
            /// The withdrawn shares.
            shares: u128,
        },
    }

    /// Errors, with the indexes of the real pallet.
    #[pallet::error]
    pub enum Error<T> {
        /// A collection is not known.
        MissCollectionId,
        /// The pool has lost everything.
        PoolBankrupt,
        /// More shares than there are.
        InvalidShareToWithdraw,
        /// Too little to withdraw.
        InvalidWithdrawalAmount,
        /// The NFT pallet refused.
        RmrkError,
        /// No such pool.
        PoolDoesNotExist,
        /// The pool is of the other kind than required.
        PoolTypeNotMatch,
    }

    impl<T: Config> Pallet<T> {
        /// Returns a stake pool.
        ///
        /// # Errors
        /// [`Error::PoolDoesNotExist`], [`Error::PoolTypeNotMatch`].
        pub fn stake_pool(pid: u64) -> Result<StakePool, DispatchError> {
            match Pools::<T>::get(pid).ok_or(Error::<T>::PoolDoesNotExist)? {
                PoolProxy::StakePool(pool) => Ok(pool),
                PoolProxy::Vault(_) => Err(Error::<T>::PoolTypeNotMatch.into()),
            }
        }

        /// Stores a stake pool.
        pub fn put(pool: StakePool) {
            Pools::<T>::insert(pool.basepool.pid, PoolProxy::StakePool(pool));
        }

        /// Creates a stake pool; its owner contributes its free stake.
        pub fn create_stake_pool(pid: u64, owner: &AccountId, free_stake: u128) {
            let basepool = Self::base(pid, owner);
            wrapped_balances::Pallet::<T>::mint(&basepool.pool_account_id, free_stake);
            Shares::<T>::insert(pid, owner, free_stake);
            Self::put(StakePool {
                basepool: BasePool { total_shares: free_stake, total_value: free_stake, ..basepool },
                payout_commission: None,
                cap: None,
                workers: Vec::new(),
                cd_workers: Vec::new(),
                lock_account: lock_account(pid, owner),
                owner_reward_account: owner_reward_account(pid, owner),
            });
        }

        /// Creates a vault.
        pub fn create_vault(pid: u64, owner: &AccountId) {
            let vault = Vault {
                basepool: Self::base(pid, owner),
                // A price of 1, in fixed point with 64 fractional bits.
                last_share_price_checkpoint: 1 << 64,
                commission: None,
                owner_shares: 0,
                invest_pools: Vec::new(),
            };
            Pools::<T>::insert(pid, PoolProxy::Vault(vault));
        }

        fn base(pid: u64, owner: &AccountId) -> BasePool {
            // Pools of a genesis may be created in any order.
            PoolCount::<T>::mutate(|count| *count = (*count).max(pid.saturating_add(1)));
            BasePool {
                pid,
                owner: owner.clone(),
                total_shares: 0,
                total_value: 0,
                withdraw_queue: Vec::new(),
                value_subscribers: Vec::new(),
                cid: u32::try_from(pid).unwrap_or(u32::MAX).saturating_add(FIRST_COLLECTION),
                pool_account_id: pool_account(pid, owner),
            }
        }

        /// Returns the free stake of a pool.
        #[must_use]
        pub fn free_stake(pool: &BasePool) -> u128 {
            wrapped_balances::Pallet::<T>::balance(&pool.pool_account_id)
        }

        /// Adds a contribution and pays queued withdrawals.
        ///
        /// # Errors
        /// Those of a transfer.
        pub fn contribute(pool: &mut BasePool, user: &AccountId, amount: u128) -> DispatchResult {
            wrapped_balances::Pallet::<T>::transfer(user, &pool.pool_account_id, amount)?;
            Shares::<T>::mutate(pool.pid, user, |shares| *shares = shares.saturating_add(amount));
            // A share is always worth one unit: the devnet pays no rewards.
            pool.total_shares = pool.total_shares.saturating_add(amount);
            pool.total_value = pool.total_value.saturating_add(amount);
            Self::process_withdrawals(pool);
            Ok(())
        }

        /// Queues a withdrawal, replacing an earlier one of the same user, and pays what can be paid.
        ///
        /// # Errors
        /// [`Error::InvalidShareToWithdraw`].
        pub fn withdraw(
            pool: &mut BasePool,
            user: &AccountId,
            shares: u128,
            as_vault: Option<u64>,
        ) -> DispatchResult {
            let mut held = Shares::<T>::get(pool.pid, user);
            let (pid, cid) = (pool.pid, pool.cid);
            // One request for each user: a new one loses the place of the earlier one in the queue.
            pool.withdraw_queue.retain(|earlier| {
                let other = &earlier.user != user;
                if !other {
                    held = held.saturating_add(WithdrawingShares::<T>::take(cid, earlier.nft_id));
                }
                other
            });
            let left = held.checked_sub(shares).ok_or(Error::<T>::InvalidShareToWithdraw)?;
            Shares::<T>::insert(pid, user, left);
            let nft_id = NextNftId::<T>::mutate(cid, |next| {
                let id = *next;
                *next = next.saturating_add(1);
                id
            });
            WithdrawingShares::<T>::insert(cid, nft_id, shares);
            let start_time = pallet_timestamp::Now::<T>::get() / 1000;
            pool.withdraw_queue.push(WithdrawInfo { user: user.clone(), start_time, nft_id });
            let user = user.clone();
            Self::deposit_event(Event::WithdrawalQueued { pid, user, shares, nft_id, as_vault });
            Self::process_withdrawals(pool);
            Ok(())
        }

        /// Pays withdrawals from the free stake, oldest first, the last one partially.
        pub fn process_withdrawals(pool: &mut BasePool) {
            while let Some(WithdrawInfo { user, nft_id, .. }) = pool.withdraw_queue.first().cloned() {
                let wanted = WithdrawingShares::<T>::get(pool.cid, nft_id);
                let amount = wanted.min(Self::free_stake(pool));
                let account = &pool.pool_account_id;
                // Cannot fail, because the pool holds the amount; if it did, the withdrawal would stay queued.
                if wanted > 0
                    && (amount == 0
                        || wrapped_balances::Pallet::<T>::transfer(account, &user, amount).is_err())
                {
                    return;
                }
                pool.total_shares = pool.total_shares.saturating_sub(amount);
                pool.total_value = pool.total_value.saturating_sub(amount);
                Self::deposit_event(Event::Withdrawal { pid: pool.pid, user, amount, shares: amount });
                // The free stake is used up: the rest stays first in the queue.
                if amount < wanted {
                    return WithdrawingShares::<T>::insert(pool.cid, nft_id, wanted - amount);
                }
                WithdrawingShares::<T>::remove(pool.cid, nft_id);
                pool.withdraw_queue.remove(0);
            }
        }

        /// Whether a withdrawal that free and releasing stake cannot pay has been queued for longer than the grace
        /// period, in seconds.
        #[must_use]
        pub fn has_expired_withdrawal(pool: &BasePool, grace_period: u64, releasing: u128) -> bool {
            let now = pallet_timestamp::Now::<T>::get() / 1000;
            // Older withdrawals are paid first, so the first that the rest does not cover decides.
            let mut budget = Self::free_stake(pool).saturating_add(releasing);
            for request in &pool.withdraw_queue {
                match budget.checked_sub(WithdrawingShares::<T>::get(pool.cid, request.nft_id)) {
                    Some(left) => budget = left,
                    None => return now.saturating_sub(request.start_time) > grace_period,
                }
            }
            false
        }
    }
}
