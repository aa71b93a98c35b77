//! `PhalaComputation`: sessions, heartbeats and stakes of computing workers.

mod heartbeats;

pub use pallet::*;

/// Called when a worker loses its session by force.
pub trait OnUnbound {
    /// Handles it.
    fn on_unbound(worker: &crate::types::WorkerPublicKey);
}

/// The pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;

    use crate::{
        pallets::{registry, weight},
        types::{
            AccountId, Benchmark, SessionInfo, SessionStats, TokenomicParameters as Rules, WorkerEvent,
            WorkerPublicKey, WorkerState,
        },
    };

    /// Minimum benchmark score of a computing worker.
    const MIN_SCORE: u32 = 50;

    /// Configuration.
    #[pallet::config]
    pub trait Config: frame_system::Config<RuntimeEvent: From<Event<Self>>> + registry::Config {
        /// Called when a worker loses its session by force.
        type OnUnbound: super::OnUnbound;
    }

    /// The pallet's type.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// Heartbeat and stake parameters.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
    pub struct Parameters {
        /// Mean blocks between two challenges of one worker; 1 challenges every worker in every block.
        pub heartbeat_interval: u32,
        /// Blocks within which a challenged worker must answer.
        pub heartbeat_window: u32,
        /// The tokenomic parameters; their heartbeat window is the one above.
        pub tokenomics: Rules,
    }

    impl Default for Parameters {
        fn default() -> Self {
            Self { heartbeat_interval: 20, heartbeat_window: 10, tokenomics: Rules::default() }
        }
    }

    /// Mean blocks between two challenges of one worker. The real chain computes it from the online workers.
    #[pallet::storage]
    pub type HeartbeatInterval<T> = StorageValue<_, u32, ValueQuery>;

    /// The tokenomic parameters.
    #[pallet::storage]
    pub type TokenomicParameters<T> = StorageValue<_, Rules>;

    /// Each worker's session.
    #[pallet::storage]
    pub type WorkerBindings<T> = StorageMap<_, Twox64Concat, WorkerPublicKey, AccountId>;

    /// Each session's worker.
    #[pallet::storage]
    pub type SessionBindings<T> = StorageMap<_, Twox64Concat, AccountId, WorkerPublicKey>;

    /// The sessions.
    #[pallet::storage]
    pub type Sessions<T> = StorageMap<_, Twox64Concat, AccountId, SessionInfo>;

    /// The stakes of computing sessions.
    #[pallet::storage]
    pub type Stakes<T> = StorageMap<_, Twox64Concat, AccountId, u128>;

    /// Seconds between a session's end and the return of its stake.
    #[pallet::storage]
    pub type CoolDownPeriod<T> = StorageValue<_, u64, ValueQuery>;

    /// Number of the next session to start.
    #[pallet::storage]
    pub type NextSessionId<T> = StorageValue<_, u32, ValueQuery>;

    /// The ids of computing sessions.
    #[pallet::storage]
    pub type SessionIds<T> = StorageMap<_, Twox64Concat, AccountId, u32>;

    /// The oldest challenge that each computing session has not answered.
    #[pallet::storage]
    pub type Unanswered<T: Config> = StorageMap<_, Twox64Concat, AccountId, BlockNumberFor<T>>;

    /// The number of computing sessions.
    #[pallet::storage]
    pub type OnlineWorkers<T> = StorageValue<_, u32, ValueQuery>;

    /// Genesis.
    #[pallet::genesis_config]
    #[derive(frame_support::DefaultNoBound)]
    pub struct GenesisConfig<T: Config> {
        /// Heartbeat and stake parameters.
        pub parameters: Parameters,
        /// Seconds between a session's end and the return of its stake.
        pub cool_down_period: u64,
        #[doc(hidden)]
        #[serde(skip)]
        pub _marker: PhantomData<T>,
    }

    #[pallet::genesis_build]
    impl<T: Config> BuildGenesisConfig for GenesisConfig<T> {
        fn build(&self) {
            let Parameters { heartbeat_interval, heartbeat_window, tokenomics } = self.parameters;
            HeartbeatInterval::<T>::put(heartbeat_interval);
            TokenomicParameters::<T>::put(Rules { heartbeat_window, ..tokenomics });
            CoolDownPeriod::<T>::put(self.cool_down_period);
        }
    }

    /// Events.
    #[pallet::event]
    #[pallet::generate_deposit(pub(super) fn deposit_event)]
    pub enum Event<T: Config> {
        /// A worker got a session.
        #[codec(index = 4)]
        SessionBound {
            /// The session.
            session: AccountId,
            /// The worker.
            worker: WorkerPublicKey,
        },
        /// A worker lost its session.
        #[codec(index = 5)]
        SessionUnbound {
            /// The session.
            session: AccountId,
            /// The worker.
            worker: WorkerPublicKey,
        },
        /// A session started computing.
        #[codec(index = 1)]
        WorkerStarted {
            /// The session.
            session: AccountId,
            /// Initial V, U64F64 bits.
            init_v: u128,
            /// Initial performance.
            init_p: u32,
        },
        /// A session stopped and is cooling down.
        #[codec(index = 2)]
        WorkerStopped {
            /// The session.
            session: AccountId,
        },
        /// A session's stake was returned.
        #[codec(index = 3)]
        WorkerReclaimed {
            /// The session.
            session: AccountId,
            /// The stake.
            original_stake: u128,
            /// The slashed part.
            slashed: u128,
        },
        /// A session missed its heartbeats.
        #[codec(index = 6)]
        WorkerEnterUnresponsive {
            /// The session.
            session: AccountId,
        },
        /// A session sends heartbeats again.
        #[codec(index = 7)]
        WorkerExitUnresponsive {
            /// The session.
            session: AccountId,
        },
        /// A heartbeat reported the worker's performance.
        #[codec(index = 14)]
        BenchmarkUpdated {
            /// The session.
            session: AccountId,
            /// Performance.
            p_instant: u32,
        },
    }

    /// Errors, with the indexes of the real pallet.
    #[pallet::error]
    pub enum Error<T> {
        /// The caller is not the worker's operator.
        BadSender,
        /// Not in use.
        _InvalidMessage,
        /// The worker is not in the registry.
        WorkerNotRegistered,
        /// Not in use.
        _GatekeeperNotRegistered,
        /// The session has another worker.
        DuplicateBoundSession,
        /// The worker has no score.
        BenchmarkMissing,
        /// No such session.
        SessionNotFound,
        /// The session has no worker.
        SessionNotBound,
        /// The session is not ready to start.
        WorkerNotReady,
        /// The session is not computing.
        WorkerNotComputing,
        /// The worker has no session.
        WorkerNotBound,
        /// The session is not cooling down, or the period is not over.
        CoolDownNotReady,
        /// The stake is below the minimum.
        InsufficientStake,
        /// V would exceed its maximum.
        TooMuchStake,
        /// The chain has no tokenomic parameters.
        InternalErrorBadTokenomicParameters,
        /// The worker has another session.
        DuplicateBoundWorker,
        /// The score is too low.
        BenchmarkTooLow,
        /// The session has a stake already.
        InternalErrorCannotStartWithExistingStake,
        /// Not in use.
        NotMigrationRoot,
        /// Not in use.
        NonceIndexInvalid,
        /// Not in use.
        BudgetUpdateBlockInvalid,
        /// Not in use.
        BudgetExceedMaxLimit,
        /// The worker must be registered again before it is bound.
        WorkerReregisterNeeded,
    }

    #[pallet::hooks]
    impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
        fn on_finalize(number: BlockNumberFor<T>) {
            Self::challenge(number);
        }
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Unbinds a worker's session, by force if it is computing: it then cools down with its stake and belongs to
        /// nobody.
        #[pallet::call_index(1)]
        #[pallet::weight(weight::declared::<T>(200_000_000))]
        pub fn unbind(origin: OriginFor<T>, session: AccountId) -> DispatchResult {
            let who = ensure_signed(origin)?;
            let worker = SessionBindings::<T>::get(&session).ok_or(Error::<T>::SessionNotBound)?;
            // The worker's operator, not the owner of its pool: whoever registered it may take it away.
            let operator = registry::Workers::<T>::get(worker).and_then(|info| info.operator);
            ensure!(operator == Some(who), Error::<T>::BadSender);
            Self::unbind_session(&session)?;
            <T::OnUnbound as super::OnUnbound>::on_unbound(&worker);
            Ok(())
        }
    }

    impl<T: Config> Pallet<T> {
        /// Binds a worker to its session.
        ///
        /// # Errors
        /// [`Error::WorkerNotRegistered`], [`Error::BenchmarkMissing`], [`Error::DuplicateBoundSession`],
        /// [`Error::DuplicateBoundWorker`], [`Error::WorkerNotReady`].
        pub fn bind(session: &AccountId, worker: WorkerPublicKey) -> DispatchResult {
            let info = registry::Workers::<T>::get(worker).ok_or(Error::<T>::WorkerNotRegistered)?;
            ensure!(info.initial_score.is_some(), Error::<T>::BenchmarkMissing);
            ensure!(!SessionBindings::<T>::contains_key(session), Error::<T>::DuplicateBoundSession);
            ensure!(!WorkerBindings::<T>::contains_key(worker), Error::<T>::DuplicateBoundWorker);
            // A session outlives its binding: one that is cooling down still holds a stake.
            let known = Sessions::<T>::get(session).map(|info| info.state);
            ensure!(known.is_none_or(|state| state == WorkerState::Ready), Error::<T>::WorkerNotReady);
            let now = Self::now_secs();
            WorkerBindings::<T>::insert(worker, session);
            SessionBindings::<T>::insert(session, worker);
            Sessions::<T>::insert(
                session,
                SessionInfo {
                    state: WorkerState::Ready,
                    ve: 0,
                    v: 0,
                    v_updated_at: now,
                    benchmark: Benchmark { working_start_time: now, ..Benchmark::default() },
                    cool_down_start: 0,
                    stats: SessionStats::default(),
                },
            );
            Self::deposit_event(Event::SessionBound { session: session.clone(), worker });
            Ok(())
        }

        /// Unbinds a worker's session; a computing one is stopped.
        ///
        /// # Errors
        /// [`Error::SessionNotBound`] and those of [`Self::stop`].
        pub fn unbind_session(session: &AccountId) -> DispatchResult {
            let worker = SessionBindings::<T>::get(session).ok_or(Error::<T>::SessionNotBound)?;
            if Sessions::<T>::get(session).is_some_and(|info| info.state.is_computing()) {
                Self::stop(session)?;
            }
            SessionBindings::<T>::remove(session);
            WorkerBindings::<T>::remove(worker);
            Self::deposit_event(Event::SessionUnbound { session: session.clone(), worker });
            Ok(())
        }

        /// Starts a session with a stake.
        ///
        /// # Errors
        /// [`Error::SessionNotFound`], [`Error::WorkerNotReady`],
        /// [`Error::InternalErrorCannotStartWithExistingStake`], [`Error::BenchmarkMissing`],
        /// [`Error::BenchmarkTooLow`], [`Error::InsufficientStake`], [`Error::TooMuchStake`].
        pub fn start(session: &AccountId, stake: u128) -> DispatchResult {
            // The checks have the order of the real pallet, so that a call with several faults fails with the same error.
            let worker = SessionBindings::<T>::get(session).ok_or(Error::<T>::SessionNotFound)?;
            let mut info = Sessions::<T>::get(session).ok_or(Error::<T>::SessionNotFound)?;
            ensure!(info.state == WorkerState::Ready, Error::<T>::WorkerNotReady);
            let staked = Stakes::<T>::contains_key(session);
            ensure!(!staked, Error::<T>::InternalErrorCannotStartWithExistingStake);
            let known = registry::Workers::<T>::get(worker).ok_or(Error::<T>::WorkerNotRegistered)?;
            let score = known.initial_score.ok_or(Error::<T>::BenchmarkMissing)?;
            ensure!(score >= MIN_SCORE, Error::<T>::BenchmarkTooLow);
            let rules =
                TokenomicParameters::<T>::get().ok_or(Error::<T>::InternalErrorBadTokenomicParameters)?;
            ensure!(stake >= rules.minimal_stake(score), Error::<T>::InsufficientStake);
            let ve = rules.ve(stake, score, known.confidence_level);
            ensure!(ve <= rules.v_max, Error::<T>::TooMuchStake);
            let now = Self::now_secs();
            info.state = WorkerState::WorkerIdle;
            info.ve = ve;
            // V stays what it is at the start: the devnet pays no rewards.
            info.v = ve;
            info.v_updated_at = now;
            info.benchmark = Benchmark {
                p_init: score,
                p_instant: score,
                iterations: 0,
                working_start_time: now,
                challenge_time_last: now,
            };
            Sessions::<T>::insert(session, info);
            Stakes::<T>::insert(session, stake);
            Unanswered::<T>::remove(session);
            OnlineWorkers::<T>::mutate(|count| *count = count.saturating_add(1));
            // The worker repeats it in heartbeats: those of an earlier session do not count.
            let session_id = NextSessionId::<T>::mutate(|next| {
                let id = *next;
                *next = next.wrapping_add(1);
                id
            });
            SessionIds::<T>::insert(session, session_id);
            let started = WorkerEvent::Started { session_id, init_v: ve, init_p: score };
            registry::Pallet::<T>::push_worker_event(worker, started);
            Self::deposit_event(Event::WorkerStarted { session: session.clone(), init_v: ve, init_p: score });
            Ok(())
        }

        /// Stops a session: it cools down with its stake.
        ///
        /// # Errors
        /// [`Error::SessionNotBound`], [`Error::SessionNotFound`], [`Error::WorkerNotComputing`].
        pub fn stop(session: &AccountId) -> DispatchResult {
            let worker = SessionBindings::<T>::get(session).ok_or(Error::<T>::SessionNotBound)?;
            let mut info = Sessions::<T>::get(session).ok_or(Error::<T>::SessionNotFound)?;
            ensure!(info.state.is_computing(), Error::<T>::WorkerNotComputing);
            info.state = WorkerState::WorkerCoolingDown;
            info.cool_down_start = Self::now_secs();
            Sessions::<T>::insert(session, info);
            // Without an id the session is neither challenged nor credited with late heartbeats.
            Unanswered::<T>::remove(session);
            SessionIds::<T>::remove(session);
            OnlineWorkers::<T>::mutate(|count| *count = count.saturating_sub(1));
            registry::Pallet::<T>::push_worker_event(worker, WorkerEvent::Stopped);
            Self::deposit_event(Event::WorkerStopped { session: session.clone() });
            Ok(())
        }

        /// Ends a session's cool-down and returns its stake.
        ///
        /// # Errors
        /// [`Error::SessionNotFound`], [`Error::CoolDownNotReady`] if it is not cooling down or, with
        /// `check_period`, the period is not over.
        pub fn reclaim(session: &AccountId, check_period: bool) -> Result<u128, DispatchError> {
            let mut info = Sessions::<T>::get(session).ok_or(Error::<T>::SessionNotFound)?;
            let over = info.cool_down_start.saturating_add(CoolDownPeriod::<T>::get());
            let cools_down = info.state == WorkerState::WorkerCoolingDown;
            let ready = cools_down && (!check_period || Self::now_secs() >= over);
            ensure!(ready, Error::<T>::CoolDownNotReady);
            info.state = WorkerState::Ready;
            info.cool_down_start = 0;
            Sessions::<T>::insert(session, info);
            let stake = Stakes::<T>::take(session).unwrap_or_default();
            // The devnet slashes nothing.
            Self::deposit_event(Event::WorkerReclaimed {
                session: session.clone(),
                original_stake: stake,
                slashed: 0,
            });
            Ok(stake)
        }

        pub(super) fn now_secs() -> u64 {
            pallet_timestamp::Now::<T>::get() / 1000
        }
    }
}
