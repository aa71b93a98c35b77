//! Encodes calls: from names and encoded arguments to the bytes on chain.

use codec::{Compact, Encode};
use prb_core::{chain::Call, primitives::AccountId};
use scale_decode::FieldIter;
use subxt::ext::{frame_decode::extrinsics::ExtrinsicTypeInfo, scale_encode};

use super::{Error, Runtime, fits};

/// A call's encoded arguments, checked against the metadata.
#[derive(Clone, Debug)]
pub(crate) struct EncodedCall {
    pub(crate) pallet: &'static str,
    pub(crate) name: &'static str,
    /// Indexes of the pallet and the call.
    index: [u8; 2],
    pub(crate) args: RawArgs,
}

impl EncodedCall {
    /// Appends the complete call, as nested in others.
    fn encode_to(&self, out: &mut Vec<u8>) {
        out.extend(self.index);
        out.extend(&self.args.0);
    }
}

/// Arguments that are encoded already.
#[derive(Clone, Debug)]
pub(crate) struct RawArgs(Vec<u8>);

impl scale_encode::EncodeAsFields for RawArgs {
    fn encode_as_fields_to<R: scale_encode::TypeResolver>(
        &self,
        _fields: &mut dyn FieldIter<'_, R::TypeId>,
        _types: &R,
        out: &mut Vec<u8>,
    ) -> Result<(), scale_encode::Error> {
        out.extend(&self.0);
        Ok(())
    }
}

impl Runtime {
    /// Encodes a call and checks that the runtime has it and decodes its arguments.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Layout`].
    pub(crate) fn call(&self, call: &Call) -> Result<EncodedCall, Error> {
        let (pallet, name) = split_name(call.name());
        let args = args(call).ok_or_else(|| Error::unknown_call(call))?;
        self.encode_call(pallet, name, args)
    }

    /// Encodes `Utility::force_batch` of these calls, wrapped in `Proxy::proxy` if there is an account to act
    /// for.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Layout`].
    pub(crate) fn batch(
        &self,
        calls: &[EncodedCall],
        proxied: Option<AccountId>,
    ) -> Result<EncodedCall, Error> {
        // Cannot overflow: no transaction has 2^32 calls.
        let mut args = Compact(u32::try_from(calls.len()).unwrap_or(u32::MAX)).encode();
        for call in calls {
            call.encode_to(&mut args);
        }
        let batch = self.encode_call("Utility", "force_batch", args)?;
        let Some(real) = proxied else { return Ok(batch) };
        // `MultiAddress::Id`, then `Option<ProxyType>::None`: any proxy type that allows the call.
        let mut args = vec![0];
        args.extend(real.0);
        args.push(0);
        batch.encode_to(&mut args);
        self.encode_call("Proxy", "proxy", args)
    }

    fn encode_call(
        &self,
        pallet: &'static str,
        name: &'static str,
        args: Vec<u8>,
    ) -> Result<EncodedCall, Error> {
        let full = || format!("{pallet}::{name}");
        let metadata = self.metadata();
        let info = metadata
            .extrinsic_call_info_by_name(pallet, name)
            .map_err(|_| Error::Missing { name: full() })?;
        // The layout may have changed with an upgrade: a call that no longer fits is refused here, rather than
        // decoded by the chain as something else.
        fits(&full(), &args, info.args.iter().map(|arg| arg.id), &metadata)?;
        let index = [info.pallet_index, info.call_index];
        Ok(EncodedCall { pallet, name, index, args: RawArgs(args) })
    }
}

fn split_name(name: &'static str) -> (&'static str, &'static str) {
    name.split_once("::").unwrap_or((name, ""))
}

/// Encodes the call's arguments for the parachain's pallets; `None` for a call that this crate does not know.
fn args(call: &Call) -> Option<Vec<u8>> {
    Some(match call {
        Call::SyncOffchainMessage(message) => message.encode(),
        Call::RegisterWorker { runtime_info, attestation, .. }
        | Call::RegisterWorkerV1 { runtime_info, attestation, .. } => {
            [runtime_info.as_slice(), attestation].concat()
        }
        Call::UpdateWorkerEndpoint { payload, signature } => (payload, signature).encode(),
        Call::AddWorker { pool, worker }
        | Call::RemoveWorker { pool, worker }
        | Call::StopComputing { pool, worker }
        | Call::ReclaimWorker { pool, worker } => (pool.0, worker).encode(),
        Call::StartComputing { pool, worker, stake } | Call::RestartComputing { pool, worker, stake } => {
            (pool.0, worker, stake).encode()
        }
        // `Call` is non-exhaustive.
        _ => return None,
    })
}
