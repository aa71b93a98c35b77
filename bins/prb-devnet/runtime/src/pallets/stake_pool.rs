//! `PhalaStakePoolv2`: stake pools, their workers and their stakes.
//!
//! Checks run in the order of the real pallet (source: Phala's `compute/stake_pool_v2.rs`), so that a call
//! with two reasons to fail fails with the same error.

mod logic;

pub use pallet::*;

/// The pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;

    use crate::{
        pallets::{base_pool, computation, registry, weight},
        types::{AccountId, WorkerPublicKey, session_account},
    };

    /// Configuration.
    #[pallet::config]
    pub trait Config:
        frame_system::Config<RuntimeEvent: From<Event<Self>>> + computation::Config + base_pool::Config
    {
        /// The minimum contribution.
        #[pallet::constant]
        type MinContribution: Get<u128>;

        /// Seconds after which a queued withdrawal lets anybody stop the pool's workers.
        #[pallet::constant]
        type GracePeriod: Get<u64>;

        /// Maximum number of workers in a pool.
        #[pallet::constant]
        type MaxPoolWorkers: Get<u32>;
    }

    /// The pallet's type.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// The pool of each worker that is in one.
    #[pallet::storage]
    pub type WorkerAssignments<T> = StorageMap<_, Twox64Concat, WorkerPublicKey, u64>;

    /// The pool and the worker of every session account ever used.
    #[pallet::storage]
    pub type SubAccountPreimages<T> = StorageMap<_, Twox64Concat, AccountId, (u64, WorkerPublicKey)>;

    /// Events.
    #[pallet::event]
    #[pallet::generate_deposit(pub(super) fn deposit_event)]
    pub enum Event<T: Config> {
        /// A pool's cap was set.
        #[codec(index = 2)]
        PoolCapacitySet {
            /// The pool.
            pid: u64,
            /// The maximum total value.
            cap: u128,
        },
        /// A worker was added to a pool.
        #[codec(index = 3)]
        PoolWorkerAdded {
            /// The pool.
            pid: u64,
            /// The worker.
            worker: WorkerPublicKey,
            /// Its session.
            session: AccountId,
        },
        /// A contribution was made.
        #[codec(index = 4)]
        Contribution {
            /// The pool.
            pid: u64,
            /// The contributor.
            user: AccountId,
            /// The amount.
            amount: u128,
            /// The shares.
            shares: u128,
            /// The contributing vault, if any.
            as_vault: Option<u64>,
        },
        /// A worker was removed from its pool.
        #[codec(index = 11)]
        PoolWorkerRemoved {
            /// The pool.
            pid: u64,
            /// The worker.
            worker: WorkerPublicKey,
        },
        /// A worker's stake was returned to the pool.
        #[codec(index = 12)]
        WorkerReclaimed {
            /// The pool.
            pid: u64,
            /// The worker.
            worker: WorkerPublicKey,
        },
        /// A worker's session was started.
        #[codec(index = 14)]
        WorkingStarted {
            /// The pool.
            pid: u64,
            /// The worker.
            worker: WorkerPublicKey,
            /// Its stake.
            amount: u128,
        },
        /// A worker's session was stopped. Only on the devnet, for counting operations.
        #[codec(index = 100)]
        WorkingStopped {
            /// The pool.
            pid: u64,
            /// The worker.
            worker: WorkerPublicKey,
        },
        /// A worker's session was restarted with more stake. Only on the devnet, for counting operations.
        #[codec(index = 101)]
        WorkingRestarted {
            /// The pool.
            pid: u64,
            /// The worker.
            worker: WorkerPublicKey,
            /// Its stake.
            amount: u128,
        },
    }

    /// Errors, with the indexes of the real pallet.
    #[pallet::error]
    pub enum Error<T> {
        /// The worker is not in the registry.
        WorkerNotRegistered,
        /// The worker has no score.
        BenchmarkMissing,
        /// The worker is in the pool already.
        WorkerExists,
        /// The worker is already cooling down.
        WorkerAlreadyStopped,
        /// The worker is not in the pool.
        WorkerDoesNotExist,
        /// The worker is in another pool.
        WorkerInAnotherPool,
        /// The worker's operator is not the pool's owner.
        UnauthorizedOperator,
        /// The caller does not own the pool.
        UnauthorizedPoolOwner,
        /// The cap is below the pool's total value.
        InadequateCapacity,
        /// The pool's total value would exceed its cap.
        StakeExceedsCapacity,
        /// Not in use: the base pool's error comes instead.
        PoolDoesNotExist,
        /// Not in use.
        _PoolIsBusy,
        /// The contribution is below the minimum.
        InsufficientContribution,
        /// The caller has nothing to withdraw.
        NoNftToWithdraw,
        /// The caller has less than the contribution.
        InsufficientBalance,
        /// The caller has no stake in the pool.
        PoolStakeNotFound,
        /// The pool's free stake is too small.
        InsufficientFreeStake,
        /// More than the caller has, or almost nothing.
        InvalidWithdrawalAmount,
        /// The worker could not be bound to its session.
        FailedToBindSessionAndWorker,
        /// Not in use.
        InternalSubsidyPoolCannotWithdraw,
        /// The pool has lost everything.
        PoolBankrupt,
        /// There is no reward.
        NoRewardToClaim,
        /// Not in use.
        FeatureNotEnabled,
        /// The pool is full.
        WorkersExceedLimit,
        /// A restart must raise the stake.
        CannotRestartWithLessStake,
        /// Not in use.
        InvalidForceRewardAmount,
        /// Withdrawals are queued, which prevents a restart.
        WithdrawQueueNotEmpty,
        /// Not in use.
        MissingCollectionId,
        /// A withdrawal of the vault has been queued for too long.
        VaultIsLocked,
        /// The worker has no session.
        SessionDoesNotExist,
        /// The worker is computing or cooling down.
        WorkerIsNotReady,
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Adds a worker to a pool.
        #[pallet::call_index(1)]
        #[pallet::weight(weight::declared::<T>(200_000_000))]
        pub fn add_worker(origin: OriginFor<T>, pid: u64, pubkey: WorkerPublicKey) -> DispatchResult {
            let owner = ensure_signed(origin)?;
            let worker = registry::Workers::<T>::get(pubkey).ok_or(Error::<T>::WorkerNotRegistered)?;
            ensure!(worker.operator.as_ref() == Some(&owner), Error::<T>::UnauthorizedOperator);
            ensure!(worker.initial_score.is_some(), Error::<T>::BenchmarkMissing);
            let mut pool = Self::owned_pool(pid, &owner)?;
            ensure!(!pool.workers.contains(&pubkey), Error::<T>::WorkerExists);
            let full = pool.workers.len() >= T::MaxPoolWorkers::get() as usize;
            ensure!(!full, Error::<T>::WorkersExceedLimit);
            let session = session_account(pid, &pubkey);
            // The real pallet hides the cause, too: a worker that is bound in another pool only shows this error.
            computation::Pallet::<T>::bind(&session, pubkey)
                .map_err(|_| Error::<T>::FailedToBindSessionAndWorker)?;
            SubAccountPreimages::<T>::insert(&session, (pid, pubkey));
            pool.workers.push(pubkey);
            base_pool::Pallet::<T>::put(pool);
            // The same fact the other way round: bridges look up the pool of a worker.
            WorkerAssignments::<T>::insert(pubkey, pid);
            Self::deposit_event(Event::PoolWorkerAdded { pid, worker: pubkey, session });
            Ok(())
        }

        /// Removes a worker that is not computing from its pool.
        #[pallet::call_index(2)]
        #[pallet::weight(weight::declared::<T>(200_000_000))]
        pub fn remove_worker(origin: OriginFor<T>, pid: u64, worker: WorkerPublicKey) -> DispatchResult {
            let owner = ensure_signed(origin)?;
            Self::owned_pool(pid, &owner)?;
            Self::remove(pid, worker)
        }

        /// Sets a pool's cap.
        #[pallet::call_index(3)]
        #[pallet::weight(weight::declared::<T>(200_000_000))]
        pub fn set_cap(origin: OriginFor<T>, pid: u64, cap: u128) -> DispatchResult {
            let owner = ensure_signed(origin)?;
            let mut pool = Self::owned_pool(pid, &owner)?;
            ensure!(pool.basepool.total_value <= cap, Error::<T>::InadequateCapacity);
            pool.cap = Some(cap);
            base_pool::Pallet::<T>::put(pool);
            Self::deposit_event(Event::PoolCapacitySet { pid, cap });
            Ok(())
        }

        /// Pays withdrawals as far as possible, and stops all workers of a pool if one has been queued for too long.
        /// Anybody may call it.
        #[pallet::call_index(8)]
        #[pallet::weight(weight::declared::<T>(200_000_000))]
        pub fn check_and_maybe_force_withdraw(origin: OriginFor<T>, pid: u64) -> DispatchResult {
            ensure_signed(origin)?;
            Self::force_withdraw(pid)
        }

        /// Contributes to a pool.
        #[pallet::call_index(9)]
        #[pallet::weight(weight::declared::<T>(200_000_000))]
        pub fn contribute(
            origin: OriginFor<T>,
            pid: u64,
            amount: u128,
            as_vault: Option<u64>,
        ) -> DispatchResult {
            let user = Self::contributor(ensure_signed(origin)?, as_vault)?;
            Self::add_stake(pid, &user, amount, as_vault)
        }

        /// Withdraws part of the pool's stake.
        #[pallet::call_index(10)]
        #[pallet::weight(weight::declared::<T>(200_000_000))]
        pub fn withdraw(
            origin: OriginFor<T>,
            pid: u64,
            shares: u128,
            as_vault: Option<u64>,
        ) -> DispatchResult {
            let user = Self::contributor(ensure_signed(origin)?, as_vault)?;
            Self::take_stake(pid, &user, shares, as_vault)
        }

        /// Starts a worker's session with a stake.
        #[pallet::call_index(13)]
        #[pallet::weight(weight::declared::<T>(200_000_000))]
        pub fn start_computing(
            origin: OriginFor<T>,
            pid: u64,
            worker: WorkerPublicKey,
            stake: u128,
        ) -> DispatchResult {
            let owner = ensure_signed(origin)?;
            Self::start(&owner, pid, worker, stake)
        }

        /// Stops a worker's session.
        #[pallet::call_index(14)]
        #[pallet::weight(weight::declared::<T>(200_000_000))]
        pub fn stop_computing(origin: OriginFor<T>, pid: u64, worker: WorkerPublicKey) -> DispatchResult {
            let owner = ensure_signed(origin)?;
            Self::stop(&owner, pid, worker)?;
            Self::deposit_event(Event::WorkingStopped { pid, worker });
            Ok(())
        }

        /// Returns the stake of a session whose cool-down is over. Anybody may call it.
        #[pallet::call_index(15)]
        #[pallet::weight(weight::declared::<T>(200_000_000))]
        pub fn reclaim_pool_worker(
            origin: OriginFor<T>,
            pid: u64,
            worker: WorkerPublicKey,
        ) -> DispatchResult {
            ensure_signed(origin)?;
            base_pool::Pallet::<T>::stake_pool(pid)?;
            Self::reclaim(pid, worker, true).map(drop)
        }

        /// Restarts a computing worker's session with more stake, without a cool-down.
        #[pallet::call_index(17)]
        #[pallet::weight(weight::RESTART)]
        pub fn restart_computing(
            origin: OriginFor<T>,
            pid: u64,
            worker: WorkerPublicKey,
            stake: u128,
        ) -> DispatchResult {
            let owner = ensure_signed(origin)?;
            let pool = base_pool::Pallet::<T>::stake_pool(pid)?;
            ensure!(pool.basepool.withdraw_queue.is_empty(), Error::<T>::WithdrawQueueNotEmpty);
            Self::stop(&owner, pid, worker)?;
            // Without the cool-down, because the stake only grows and stays locked.
            let released = Self::reclaim(pid, worker, false)?;
            // After the stop and the reclaim: FRAME rolls back what a failed call has changed.
            ensure!(stake > released, Error::<T>::CannotRestartWithLessStake);
            Self::start(&owner, pid, worker, stake)?;
            Self::deposit_event(Event::WorkingRestarted { pid, worker, amount: stake });
            Ok(())
        }
    }
}
