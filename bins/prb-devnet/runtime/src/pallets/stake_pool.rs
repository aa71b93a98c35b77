//! `PhalaStakePoolv2`: pools, their workers and their stakes.
//!
//! Pools come from genesis; their free stake is a number of the pool, not a balance locked
//! elsewhere.

pub use pallet::*;

/// The pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;

    use crate::{
        pallets::{computation, registry},
        types::{AccountId, WorkerPublicKey, WorkerState, session_account},
    };

    /// Most workers of a pool.
    const MAX_POOL_WORKERS: usize = 10_000;

    /// Configuration.
    #[pallet::config]
    pub trait Config: frame_system::Config<RuntimeEvent: From<Event<Self>>> + computation::Config {}

    /// The pallet's type.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// A pool.
    #[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
    pub struct PoolInfo {
        /// Its number.
        pub pid: u64,
        /// Its owner; its workers' operator.
        pub owner: AccountId,
        /// Stake not in use.
        pub free_stake: u128,
        /// Workers in it.
        pub worker_count: u32,
    }

    /// The pools.
    #[pallet::storage]
    pub type Pools<T> = StorageMap<_, Twox64Concat, u64, PoolInfo>;

    /// The pool of each worker that is in one.
    #[pallet::storage]
    pub type WorkerAssignments<T> = StorageMap<_, Twox64Concat, WorkerPublicKey, u64>;

    /// Genesis.
    #[pallet::genesis_config]
    #[derive(frame_support::DefaultNoBound)]
    pub struct GenesisConfig<T: Config> {
        /// The pools: number, owner, free stake.
        pub pools: Vec<(u64, AccountId, u128)>,
        #[doc(hidden)]
        #[serde(skip)]
        pub _marker: PhantomData<T>,
    }

    #[pallet::genesis_build]
    impl<T: Config> BuildGenesisConfig for GenesisConfig<T> {
        fn build(&self) {
            for (pid, owner, free_stake) in &self.pools {
                let pool =
                    PoolInfo { pid: *pid, owner: owner.clone(), free_stake: *free_stake, worker_count: 0 };
                Pools::<T>::insert(pid, pool);
            }
        }
    }

    /// Events.
    #[pallet::event]
    #[pallet::generate_deposit(pub(super) fn deposit_event)]
    pub enum Event<T: Config> {
        /// A worker came into a pool.
        PoolWorkerAdded {
            /// The pool.
            pid: u64,
            /// The worker.
            worker: WorkerPublicKey,
            /// Its session.
            session: AccountId,
        },
        /// A worker left its pool.
        PoolWorkerRemoved {
            /// The pool.
            pid: u64,
            /// The worker.
            worker: WorkerPublicKey,
        },
        /// A worker's session was started.
        WorkerStarted {
            /// The pool.
            pid: u64,
            /// The worker.
            worker: WorkerPublicKey,
            /// Its stake.
            amount: u128,
        },
        /// A worker's session was stopped.
        WorkerStopped {
            /// The pool.
            pid: u64,
            /// The worker.
            worker: WorkerPublicKey,
        },
        /// A worker's session was started again with more stake.
        WorkerRestarted {
            /// The pool.
            pid: u64,
            /// The worker.
            worker: WorkerPublicKey,
            /// Its stake.
            amount: u128,
        },
        /// A worker's stake came back to the pool.
        WorkerReclaimed {
            /// The pool.
            pid: u64,
            /// The worker.
            worker: WorkerPublicKey,
            /// The stake.
            amount: u128,
        },
    }

    /// Errors.
    #[pallet::error]
    pub enum Error<T> {
        /// The worker is not in the registry.
        WorkerNotRegistered,
        /// The worker's operator is not the pool's owner.
        UnauthorizedOperator,
        /// The worker has no score.
        BenchmarkMissing,
        /// The caller does not own the pool.
        UnauthorizedPoolOwner,
        /// The worker is in a pool already.
        WorkerExists,
        /// The worker is not in the pool.
        WorkerDoesNotExist,
        /// The worker is in another pool.
        WorkerInAnotherPool,
        /// No such pool.
        PoolDoesNotExist,
        /// The pool's free stake is too small.
        InsufficientFreeStake,
        /// A restart has to raise the stake.
        CannotRestartWithLessStake,
        /// The pool is full.
        WorkersExceedLimit,
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Takes a worker into a pool.
        #[pallet::call_index(1)]
        #[pallet::weight(Weight::from_parts(200_000_000, 0))]
        pub fn add_worker(origin: OriginFor<T>, pid: u64, pubkey: WorkerPublicKey) -> DispatchResult {
            let owner = ensure_signed(origin)?;
            let worker = registry::Workers::<T>::get(pubkey).ok_or(Error::<T>::WorkerNotRegistered)?;
            ensure!(worker.operator.as_ref() == Some(&owner), Error::<T>::UnauthorizedOperator);
            ensure!(worker.initial_score.is_some(), Error::<T>::BenchmarkMissing);
            let mut pool = Self::owned_pool(pid, &owner)?;
            ensure!(!WorkerAssignments::<T>::contains_key(pubkey), Error::<T>::WorkerExists);
            let full = pool.worker_count as usize >= MAX_POOL_WORKERS;
            ensure!(!full, Error::<T>::WorkersExceedLimit);
            let session = session_account(pid, &pubkey);
            computation::Pallet::<T>::bind(&session, pubkey)?;
            pool.worker_count = pool.worker_count.saturating_add(1);
            Pools::<T>::insert(pid, pool);
            WorkerAssignments::<T>::insert(pubkey, pid);
            Self::deposit_event(Event::PoolWorkerAdded { pid, worker: pubkey, session });
            Ok(())
        }

        /// Lets a worker that does not compute leave its pool.
        #[pallet::call_index(2)]
        #[pallet::weight(Weight::from_parts(200_000_000, 0))]
        pub fn remove_worker(origin: OriginFor<T>, pid: u64, worker: WorkerPublicKey) -> DispatchResult {
            let owner = ensure_signed(origin)?;
            let mut pool = Self::owned_pool(pid, &owner)?;
            let session = Self::session_of(pid, &worker)?;
            computation::Pallet::<T>::unbind(&session)?;
            pool.worker_count = pool.worker_count.saturating_sub(1);
            Pools::<T>::insert(pid, pool);
            WorkerAssignments::<T>::remove(worker);
            Self::deposit_event(Event::PoolWorkerRemoved { pid, worker });
            Ok(())
        }

        /// Starts a worker's session with a stake.
        #[pallet::call_index(3)]
        #[pallet::weight(Weight::from_parts(200_000_000, 0))]
        pub fn start_computing(
            origin: OriginFor<T>,
            pid: u64,
            worker: WorkerPublicKey,
            stake: u128,
        ) -> DispatchResult {
            let owner = ensure_signed(origin)?;
            Self::start(&owner, pid, worker, stake)?;
            Self::deposit_event(Event::WorkerStarted { pid, worker, amount: stake });
            Ok(())
        }

        /// Stops a worker's session.
        #[pallet::call_index(4)]
        #[pallet::weight(Weight::from_parts(200_000_000, 0))]
        pub fn stop_computing(origin: OriginFor<T>, pid: u64, worker: WorkerPublicKey) -> DispatchResult {
            let owner = ensure_signed(origin)?;
            Self::owned_pool(pid, &owner)?;
            let session = Self::session_of(pid, &worker)?;
            computation::Pallet::<T>::stop(&session)?;
            Self::deposit_event(Event::WorkerStopped { pid, worker });
            Ok(())
        }

        /// Returns the stake of a session whose cool-down is over.
        #[pallet::call_index(5)]
        #[pallet::weight(Weight::from_parts(200_000_000, 0))]
        pub fn reclaim_pool_worker(
            origin: OriginFor<T>,
            pid: u64,
            worker: WorkerPublicKey,
        ) -> DispatchResult {
            ensure_signed(origin)?;
            let session = Self::session_of(pid, &worker)?;
            let amount = Self::reclaim(pid, &session, true)?;
            Self::deposit_event(Event::WorkerReclaimed { pid, worker, amount });
            Ok(())
        }

        /// Starts a computing worker's session again with more stake, without a cool-down.
        #[pallet::call_index(6)]
        #[pallet::weight(Weight::from_parts(400_000_000, 0))]
        pub fn restart_computing(
            origin: OriginFor<T>,
            pid: u64,
            worker: WorkerPublicKey,
            stake: u128,
        ) -> DispatchResult {
            let owner = ensure_signed(origin)?;
            Self::owned_pool(pid, &owner)?;
            let session = Self::session_of(pid, &worker)?;
            let current = computation::Stakes::<T>::get(&session).unwrap_or_default();
            ensure!(stake > current, Error::<T>::CannotRestartWithLessStake);
            let state = computation::Sessions::<T>::get(&session).map(|info| info.state);
            if state != Some(WorkerState::WorkerCoolingDown) {
                computation::Pallet::<T>::stop(&session)?;
            }
            Self::reclaim(pid, &session, false)?;
            Self::start(&owner, pid, worker, stake)?;
            Self::deposit_event(Event::WorkerRestarted { pid, worker, amount: stake });
            Ok(())
        }
    }

    impl<T: Config> Pallet<T> {
        fn owned_pool(pid: u64, owner: &AccountId) -> Result<PoolInfo, DispatchError> {
            let pool = Pools::<T>::get(pid).ok_or(Error::<T>::PoolDoesNotExist)?;
            ensure!(&pool.owner == owner, Error::<T>::UnauthorizedPoolOwner);
            Ok(pool)
        }

        fn session_of(pid: u64, worker: &WorkerPublicKey) -> Result<AccountId, DispatchError> {
            let assigned = WorkerAssignments::<T>::get(worker).ok_or(Error::<T>::WorkerDoesNotExist)?;
            ensure!(assigned == pid, Error::<T>::WorkerInAnotherPool);
            Ok(session_account(pid, worker))
        }

        fn start(owner: &AccountId, pid: u64, worker: WorkerPublicKey, stake: u128) -> DispatchResult {
            let mut pool = Self::owned_pool(pid, owner)?;
            let session = Self::session_of(pid, &worker)?;
            let left = pool.free_stake.checked_sub(stake);
            pool.free_stake = left.ok_or(Error::<T>::InsufficientFreeStake)?;
            computation::Pallet::<T>::start(&session, stake)?;
            Pools::<T>::insert(pid, pool);
            Ok(())
        }

        fn reclaim(pid: u64, session: &AccountId, check_period: bool) -> Result<u128, DispatchError> {
            let amount = computation::Pallet::<T>::reclaim(session, check_period)?;
            Pools::<T>::mutate(pid, |pool| {
                if let Some(pool) = pool {
                    pool.free_stake = pool.free_stake.saturating_add(amount);
                }
            });
            Ok(amount)
        }
    }
}
