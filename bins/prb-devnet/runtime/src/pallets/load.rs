//! `Load`: writes a configured number of storage values in every block, so that storage changes have a
//! realistic size.

pub use pallet::*;

/// Values are written round robin over this many times the changes per block.
const ROUNDS: u32 = 8;

/// Returns the bytes of one value: alternately 16 that look random and a small number in 16 bytes; a real
/// chain's values are hashes, keys and balances in similar proportions.
fn value(seed: u64, block: u32, index: u32, len: u32) -> Vec<u8> {
    let len = len as usize;
    let mut bytes = Vec::with_capacity(len + 32);
    let mut part = 0u64;
    while bytes.len() < len {
        let input = codec::Encode::encode(&(seed, block, index, part));
        bytes.extend_from_slice(&sp_io::hashing::blake2_128(&input));
        bytes.extend_from_slice(&(u128::from(block) * 1_000_000 + u128::from(part)).to_le_bytes());
        part += 1;
    }
    bytes.truncate(len);
    bytes
}

/// The pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;
    use sp_runtime::traits::UniqueSaturatedInto;

    /// Configuration.
    #[pallet::config]
    pub trait Config: frame_system::Config {}

    /// The pallet's type.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// The amount to write.
    #[derive(
        Encode,
        Decode,
        DecodeWithMemTracking,
        TypeInfo,
        Clone,
        Copy,
        PartialEq,
        Eq,
        Debug,
        Default,
        serde::Serialize,
        serde::Deserialize,
    )]
    pub struct Amount {
        /// Values written in each block.
        pub changes_per_block: u32,
        /// Length of each value, in bytes.
        pub change_bytes: u32,
        /// Makes the bytes differ between chains.
        pub seed: u64,
    }

    /// The amount to write.
    #[pallet::storage]
    pub type Settings<T> = StorageValue<_, Amount, ValueQuery>;

    /// The values.
    #[pallet::storage]
    pub type Slots<T> = StorageMap<_, Blake2_128Concat, u32, Vec<u8>>;

    /// Genesis.
    #[pallet::genesis_config]
    #[derive(frame_support::DefaultNoBound)]
    pub struct GenesisConfig<T: Config> {
        /// The amount to write.
        pub amount: Amount,
        #[doc(hidden)]
        #[serde(skip)]
        pub _marker: PhantomData<T>,
    }

    #[pallet::genesis_build]
    impl<T: Config> BuildGenesisConfig for GenesisConfig<T> {
        fn build(&self) {
            Settings::<T>::put(self.amount);
        }
    }

    #[pallet::hooks]
    impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
        fn on_initialize(number: BlockNumberFor<T>) -> Weight {
            let block: u32 = number.unique_saturated_into();
            let Amount { changes_per_block, change_bytes, seed } = Settings::<T>::get();
            // Rounds bound the state: old values are overwritten instead of accumulating.
            let first = block % super::ROUNDS * changes_per_block;
            for index in first..first.saturating_add(changes_per_block) {
                Slots::<T>::insert(index, super::value(seed, block, index, change_bytes));
            }
            Weight::zero()
        }
    }
}
