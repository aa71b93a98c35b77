//! `Grandpa`: the relay chain's authority sets, rotated at fixed intervals by a `ScheduledChange` without
//! delay.

pub use pallet::*;

/// The pallet.
#[frame_support::pallet]
pub mod pallet {
    use codec::Encode;
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;
    use sp_consensus_grandpa::{
        AuthorityId, AuthorityList, ConsensusLog, GRANDPA_ENGINE_ID, ScheduledChange, SetId,
    };
    use sp_runtime::{
        DigestItem,
        traits::{One, Saturating, Zero},
    };

    /// Configuration.
    #[pallet::config]
    pub trait Config: frame_system::Config {}

    /// The pallet's type.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// The id of the current authority set.
    #[pallet::storage]
    pub type CurrentSetId<T> = StorageValue<_, SetId, ValueQuery>;

    /// The authorities of the current set.
    #[pallet::storage]
    pub type Authorities<T> = StorageValue<_, AuthorityList, ValueQuery>;

    /// The candidates for all sets.
    #[pallet::storage]
    pub type Candidates<T> = StorageValue<_, Vec<AuthorityId>, ValueQuery>;

    /// Number of authorities in a set.
    #[pallet::storage]
    pub type SetSize<T> = StorageValue<_, u32, ValueQuery>;

    /// Length of a set in blocks; 0 keeps the first set forever.
    #[pallet::storage]
    pub type SetLength<T> = StorageValue<_, u32, ValueQuery>;

    /// The block that forces a change of authorities, as governance does after finality was lost; none by
    /// default.
    #[pallet::storage]
    pub type ForcedAt<T> = StorageValue<_, u32>;

    /// Genesis.
    #[pallet::genesis_config]
    #[derive(frame_support::DefaultNoBound)]
    pub struct GenesisConfig<T: Config> {
        /// The candidates for all sets.
        pub candidates: Vec<AuthorityId>,
        /// Number of authorities in a set.
        pub set_size: u32,
        /// Length of a set in blocks; 0 keeps the first set forever.
        pub set_length: u32,
        /// The block that forces a change of authorities; 0 forces none.
        pub forced_at: u32,
        #[doc(hidden)]
        #[serde(skip)]
        pub _marker: PhantomData<T>,
    }

    #[pallet::genesis_build]
    impl<T: Config> BuildGenesisConfig for GenesisConfig<T> {
        fn build(&self) {
            Candidates::<T>::put(&self.candidates);
            SetSize::<T>::put(self.set_size);
            SetLength::<T>::put(self.set_length);
            if self.forced_at > 0 {
                ForcedAt::<T>::put(self.forced_at);
            }
            // Stored from genesis on, because a worker is initialised with the set in a state and a proof of it.
            CurrentSetId::<T>::put(0);
            Authorities::<T>::put(Pallet::<T>::set(0));
        }
    }

    #[pallet::hooks]
    impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
        fn on_finalize(number: BlockNumberFor<T>) {
            let length = BlockNumberFor::<T>::from(SetLength::<T>::get());
            let forced = ForcedAt::<T>::get().is_some_and(|at| BlockNumberFor::<T>::from(at) == number);
            // Without a length the first set stays forever.
            if !forced && (length.is_zero() || !(number % length).is_zero()) {
                return;
            }
            // In the state of this block already, although the old set still justifies it: as in the real
            // pallet.
            let id = CurrentSetId::<T>::get().saturating_add(1);
            let next_authorities = Self::set(id);
            CurrentSetId::<T>::put(id);
            Authorities::<T>::put(&next_authorities);
            let change = ScheduledChange { next_authorities, delay: BlockNumberFor::<T>::zero() };
            let log = match forced {
                // The newest block that the old set finalised.
                true => ConsensusLog::ForcedChange(number.saturating_sub(One::one()), change),
                false => ConsensusLog::ScheduledChange(change),
            };
            let digest = DigestItem::Consensus(GRANDPA_ENGINE_ID, log.encode());
            frame_system::Pallet::<T>::deposit_log(digest);
        }
    }

    impl<T: Config> Pallet<T> {
        /// Returns the authorities of a set: a window over the candidates that moves by one.
        fn set(id: SetId) -> AuthorityList {
            let candidates = Candidates::<T>::get();
            let size = SetSize::<T>::get() as usize;
            let first = usize::try_from(id).unwrap_or_default() % candidates.len().max(1);
            // Each authority with weight 1, as on the real relay chains.
            candidates.iter().cycle().skip(first).take(size).map(|key| (key.clone(), 1)).collect()
        }
    }
}
