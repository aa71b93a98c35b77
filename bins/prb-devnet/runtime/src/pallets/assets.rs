//! `Assets`: balances of assets, stored as in pallet-assets.

pub use pallet::*;

/// The pallet.
#[frame_support::pallet]
pub mod pallet {
    use frame_support::pallet_prelude::*;

    use crate::types::{AccountId, AssetAccount, ExistenceReason};

    /// Configuration.
    #[pallet::config]
    pub trait Config: frame_system::Config<AccountId = AccountId> {}

    /// The pallet's type.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// The balances, by asset and account.
    #[pallet::storage]
    pub type Account<T> =
        StorageDoubleMap<_, Blake2_128Concat, u32, Blake2_128Concat, AccountId, AssetAccount>;

    /// Errors.
    #[pallet::error]
    pub enum Error<T> {
        /// The balance is smaller than the amount.
        BalanceLow,
        /// The account has none of the asset.
        NoAccount,
    }

    impl<T: Config> Pallet<T> {
        /// Returns an account's balance of an asset.
        #[must_use]
        pub fn balance(asset: u32, account: &AccountId) -> u128 {
            Account::<T>::get(asset, account).map_or(0, |account| account.balance)
        }

        /// Mints an amount of an asset.
        pub fn mint(asset: u32, account: &AccountId, amount: u128) {
            Self::set(asset, account, Self::balance(asset, account).saturating_add(amount));
        }

        /// Transfers an amount of an asset.
        ///
        /// # Errors
        /// [`Error::NoAccount`], [`Error::BalanceLow`].
        pub fn transfer(asset: u32, from: &AccountId, to: &AccountId, amount: u128) -> DispatchResult {
            if amount == 0 || from == to {
                return Ok(());
            }
            // An account without the asset has an error of its own, as in pallet-assets.
            let held = Account::<T>::get(asset, from).ok_or(Error::<T>::NoAccount)?.balance;
            let left = held.checked_sub(amount).ok_or(Error::<T>::BalanceLow)?;
            Self::set(asset, from, left);
            Self::mint(asset, to, amount);
            Ok(())
        }

        // An account with a zero balance does not exist, as on real chains.
        fn set(asset: u32, account: &AccountId, balance: u128) {
            if balance == 0 {
                return Account::<T>::remove(asset, account);
            }
            let reason = ExistenceReason::Sufficient;
            Account::<T>::insert(
                asset,
                account,
                AssetAccount { balance, is_frozen: false, reason, extra: () },
            );
        }
    }
}
