//! `Paras`: the parachain heads included by the relay chain.

pub use pallet::*;

/// Identifier of the heads that a relay block includes, a list of (para id, SCALE header).
pub const INHERENT_IDENTIFIER: sp_inherents::InherentIdentifier = *b"prbheads";

/// The pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;
    use sp_inherents::{InherentData, InherentIdentifier, MakeFatalError};

    /// Configuration.
    #[pallet::config]
    pub trait Config: frame_system::Config {}

    /// The pallet's type.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// The newest head of each parachain: its SCALE header.
    #[pallet::storage]
    pub type Heads<T> = StorageMap<_, Twox64Concat, u32, Vec<u8>>;

    /// Genesis.
    #[pallet::genesis_config]
    #[derive(frame_support::DefaultNoBound)]
    pub struct GenesisConfig<T: Config> {
        /// The parachains' genesis heads.
        pub heads: Vec<(u32, Vec<u8>)>,
        #[doc(hidden)]
        #[serde(skip)]
        pub _marker: PhantomData<T>,
    }

    #[pallet::genesis_build]
    impl<T: Config> BuildGenesisConfig for GenesisConfig<T> {
        fn build(&self) {
            for (id, head) in &self.heads {
                Heads::<T>::insert(id, head);
            }
        }
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Includes parachain heads, called by the author; an empty head offboards its parachain.
        #[pallet::call_index(0)]
        #[pallet::weight((Weight::zero(), DispatchClass::Mandatory))]
        pub fn include_heads(origin: OriginFor<T>, heads: Vec<(u32, Vec<u8>)>) -> DispatchResult {
            ensure_none(origin)?;
            for (id, head) in heads {
                match head.is_empty() {
                    // The parachain is offboarded.
                    true => Heads::<T>::remove(id),
                    false => Heads::<T>::insert(id, head),
                }
            }
            Ok(())
        }
    }

    #[pallet::inherent]
    impl<T: Config> ProvideInherent for Pallet<T> {
        type Call = Call<T>;
        type Error = MakeFatalError<()>;
        const INHERENT_IDENTIFIER: InherentIdentifier = super::INHERENT_IDENTIFIER;

        fn create_inherent(data: &InherentData) -> Option<Self::Call> {
            let heads = data.get_data(&super::INHERENT_IDENTIFIER).ok().flatten()?;
            Some(Call::include_heads { heads })
        }

        fn is_inherent(call: &Self::Call) -> bool {
            matches!(call, Call::include_heads { .. })
        }
    }
}
