//! `CheckMqSequence`: the transaction extension that keeps single messages in their sender's order.
//!
//! It adds no bytes. Messages in batches are only checked by the call.

use codec::{Decode, DecodeWithMemTracking, Encode};
use frame_support::{
    pallet_prelude::{TransactionSource, TransactionValidityError, ValidTransaction, Weight},
    traits::IsSubType,
};
use scale_info::TypeInfo;
use sp_runtime::{
    impl_tx_ext_default,
    traits::{DispatchInfoOf, TransactionExtension, ValidateResult},
    transaction_validity::InvalidTransaction,
};

use super::pallet::{Call, Config, OffchainIngress};

/// The extension.
#[derive(Encode, Decode, DecodeWithMemTracking, Clone, Eq, PartialEq, TypeInfo)]
#[scale_info(skip_type_params(T))]
pub struct CheckMqSequence<T>(core::marker::PhantomData<T>);

impl<T> core::fmt::Debug for CheckMqSequence<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("CheckMqSequence")
    }
}

impl<T> Default for CheckMqSequence<T> {
    fn default() -> Self {
        Self(core::marker::PhantomData)
    }
}

fn ordered<T: Config>(call: &Call<T>) -> Result<ValidTransaction, TransactionValidityError> {
    let Call::sync_offchain_message { signed_message } = call else { return Ok(Default::default()) };
    let (sender, sequence) = (&signed_message.message.sender, signed_message.sequence);
    let expected = OffchainIngress::<T>::get(sender).unwrap_or(0);
    if sequence < expected {
        return Err(InvalidTransaction::Stale.into());
    }
    // With tags the pool holds a later message until the one before it arrives, as it does with nonces.
    let mut valid = ValidTransaction::with_tag_prefix("CheckMqSequence").and_provides((sender, sequence));
    if sequence > expected {
        valid = valid.and_requires((sender, sequence - 1));
    }
    valid.build()
}

impl<T> TransactionExtension<T::RuntimeCall> for CheckMqSequence<T>
where
    T: Config + Send + Sync,
    T::RuntimeCall: IsSubType<Call<T>>,
{
    const IDENTIFIER: &'static str = "CheckMqSequence";
    type Implicit = ();
    type Val = ();
    type Pre = ();

    fn weight(&self, _: &T::RuntimeCall) -> Weight {
        Weight::zero()
    }

    fn validate(
        &self,
        origin: T::RuntimeOrigin,
        call: &T::RuntimeCall,
        _: &DispatchInfoOf<T::RuntimeCall>,
        _: usize,
        (): Self::Implicit,
        _: &impl Encode,
        _: TransactionSource,
    ) -> ValidateResult<Self::Val, T::RuntimeCall> {
        let valid = call.is_sub_type().map_or_else(|| Ok(ValidTransaction::default()), ordered::<T>)?;
        Ok((valid, (), origin))
    }

    impl_tx_ext_default!(T::RuntimeCall; prepare);
}
