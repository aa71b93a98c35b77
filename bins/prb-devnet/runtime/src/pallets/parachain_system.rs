//! `ParachainSystem`: a block's relay parent, and the runtime's code.

pub use pallet::*;

/// Identifier of [`DevnetInherent`].
pub const INHERENT_IDENTIFIER: sp_inherents::InherentIdentifier = *b"prbdev00";

/// Receives the hash of the relay block that workers may start from.
pub trait OnWorkerGenesis {
    /// Allows workers to start from it.
    fn on_worker_genesis(hash: sp_core::H256);
}

/// Carries out external actions.
pub trait Act {
    /// Carries out an action.
    ///
    /// # Errors
    /// Those of the calls that it makes.
    fn act(action: super::actions::Action) -> sp_runtime::DispatchResult;
}

/// The author's input to a block.
#[derive(
    codec::Encode,
    codec::Decode,
    codec::DecodeWithMemTracking,
    scale_info::TypeInfo,
    Clone,
    PartialEq,
    Eq,
    Debug,
)]
pub struct DevnetInherent {
    /// The relay parent.
    pub validation_data: crate::types::PersistedValidationData,
    /// A new relay block that workers may start from, if any.
    pub worker_genesis: Option<sp_core::H256>,
    /// New code, in force from the next block on.
    pub code: Option<Vec<u8>>,
    /// External actions, in order.
    pub actions: Vec<super::actions::Action>,
}

/// The pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;
    use sp_inherents::{InherentData, InherentIdentifier, MakeFatalError};

    use super::{Act, DevnetInherent, OnWorkerGenesis};
    use crate::types::PersistedValidationData;

    /// Configuration.
    #[pallet::config]
    pub trait Config: frame_system::Config {
        /// Stores the relay blocks that workers may start from.
        type OnWorkerGenesis: OnWorkerGenesis;
        /// Carries out external actions.
        type Act: Act;
    }

    /// The pallet's type.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// The relay parent of this block.
    #[pallet::storage]
    pub type ValidationData<T> = StorageValue<_, PersistedValidationData>;

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Sets the relay parent, once per block, by the author.
        #[pallet::call_index(0)]
        #[pallet::weight((Weight::zero(), DispatchClass::Mandatory))]
        pub fn set_validation_data(origin: OriginFor<T>, data: DevnetInherent) -> DispatchResult {
            ensure_none(origin)?;
            ValidationData::<T>::put(data.validation_data);
            if let Some(hash) = data.worker_genesis {
                T::OnWorkerGenesis::on_worker_genesis(hash);
            }
            for action in data.actions {
                let named = format!("{action:?}");
                // A block cannot exist without its inherents: the panic tells the author the cause.
                if let Err(error) = T::Act::act(action) {
                    panic!("{named} was refused: {error:?}");
                }
            }
            if let Some(code) = data.code {
                // At once instead of after the relay chain's go-ahead, which real parachains wait for. The next
                // block is the first that it executes.
                frame_system::Pallet::<T>::update_code_in_storage(&code);
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
            let data = data.get_data(&super::INHERENT_IDENTIFIER).ok().flatten()?;
            Some(Call::set_validation_data { data })
        }

        fn is_inherent(call: &Self::Call) -> bool {
            matches!(call, Call::set_validation_data { .. })
        }
    }
}
