//! `PhalaWrappedBalances`: the asset in which stakes are held.

pub use pallet::*;

/// The pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;

    use crate::{pallets::assets, types::AccountId};

    /// Configuration.
    #[pallet::config]
    pub trait Config: frame_system::Config<AccountId = AccountId> + assets::Config {
        /// The asset in which stakes are held.
        #[pallet::constant]
        type WPhaAssetId: Get<u32>;
    }

    /// The pallet's type.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    impl<T: Config> Pallet<T> {
        /// Returns an account's balance of the asset.
        #[must_use]
        pub fn balance(account: &AccountId) -> u128 {
            assets::Pallet::<T>::balance(T::WPhaAssetId::get(), account)
        }

        /// Transfers an amount of the asset.
        ///
        /// # Errors
        /// Those of [`assets::Pallet::transfer`].
        pub fn transfer(from: &AccountId, to: &AccountId, amount: u128) -> DispatchResult {
            assets::Pallet::<T>::transfer(T::WPhaAssetId::get(), from, to, amount)
        }

        /// Mints an amount of the asset.
        pub fn mint(account: &AccountId, amount: u128) {
            assets::Pallet::<T>::mint(T::WPhaAssetId::get(), account, amount);
        }
    }
}
