//! `ParachainInfo`: the parachain's id.

pub use pallet::*;

/// The pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;

    /// Configuration.
    #[pallet::config]
    pub trait Config: frame_system::Config {}

    /// The pallet's type.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// A parachain's id: a distinct type as on real chains, whose clients decode it by that structure.
    #[derive(Encode, Decode, TypeInfo, Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Id(pub u32);

    /// The parachain's id.
    #[pallet::storage]
    pub type ParachainId<T> = StorageValue<_, Id, ValueQuery>;

    /// Genesis.
    #[pallet::genesis_config]
    #[derive(frame_support::DefaultNoBound)]
    pub struct GenesisConfig<T: Config> {
        /// The parachain's id.
        pub parachain_id: u32,
        #[doc(hidden)]
        #[serde(skip)]
        pub _marker: PhantomData<T>,
    }

    #[pallet::genesis_build]
    impl<T: Config> BuildGenesisConfig for GenesisConfig<T> {
        fn build(&self) {
            ParachainId::<T>::put(Id(self.parachain_id));
        }
    }
}
