//! Signs transactions through the signer seam: the payload is built here, the key stays with the signer.

use std::{sync::Arc, time::Duration};

use prb_core::{
    chain::{CallBatch, SubmitError},
    primitives::Hash,
    signer::{self, Signer},
};
use subxt::{
    SubstrateConfig,
    config::DefaultExtrinsicParamsBuilder,
    error::ExtrinsicError,
    tx::StaticPayload,
    utils::{AccountId32, MultiSignature},
};
use subxt_signer::sr25519;
use tokio::time::timeout;

use super::{prepare::Prepared, queries::Head};
use crate::{
    keys,
    metadata::{self, Runtime},
};

/// The terms of a signature.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a> {
    pub(super) nonce: u64,
    pub(super) head: &'a Head,
    pub(super) mortality: u32,
    pub(super) timeout: Duration,
    /// Address prefix in messages.
    pub(super) ss58_prefix: u16,
}

/// Builds the batch's transaction and has it signed.
///
/// # Errors
/// [`SubmitError::Unsupported`], [`SubmitError::NotSigned`]; [`SubmitError::BadKey`] if the signature is not
/// the account's.
///
/// # Cancel safety
/// Cancel safe: nothing is sent.
pub(super) async fn sign(
    runtime: &Arc<Runtime>,
    batch: &CallBatch,
    terms: Terms<'_>,
) -> Result<Prepared, SubmitError> {
    let Terms { nonce, head, mortality, .. } = terms;
    let mut calls = Vec::with_capacity(batch.calls.len());
    for call in &batch.calls {
        calls.push(runtime.call(call).map_err(|e| unsupported(call.name(), &e))?);
    }
    let outer = match batch.proxied {
        Some(_) => "Proxy::proxy",
        None => "Utility::force_batch",
    };
    let whole = runtime.batch(&calls, batch.proxied).map_err(|e| unsupported(outer, &e))?;
    let payload = StaticPayload::new(whole.pallet, whole.name, whole.args);
    // The hash of this block is part of the signature, so a fork cannot replay the transaction.
    let birth = head.header.number;
    let params = DefaultExtrinsicParamsBuilder::<SubstrateConfig>::new()
        .nonce(nonce)
        .tip(0)
        // Unchecked by subxt, which is offline here: the head's hash was checked when it was fetched.
        .mortal_from_unchecked(u64::from(mortality), u64::from(birth), head.hash.0.into())
        .build();
    let failed = |e: ExtrinsicError| SubmitError::Unsupported { call: outer, reason: e.to_string() };
    let mut signable = runtime.client().tx().create_signable_offline(&payload, params).map_err(failed)?;
    let signature = signature(&*batch.signer, &signable.signer_payload().map_err(failed)?, terms).await?;
    let account = AccountId32(batch.operator().0);
    let signature = MultiSignature::Sr25519(signature.0);
    let signed = signable.sign_with_account_and_signature(&account, &signature).map_err(failed)?;
    let extrinsic = signed.into_encoded();
    Ok(Prepared {
        hash: Hash::of(&extrinsic),
        extrinsic,
        account: batch.operator(),
        nonce,
        runtime: Arc::clone(runtime),
        birth,
        // In block `birth + mortality` a new era phase begins, with another birth block.
        last: birth.saturating_add(mortality - 1),
        calls: batch.calls.len(),
    })
}

/// Requests and verifies the signature: a node's refusal of a wrong one could mean many things.
async fn signature(
    signer: &dyn Signer,
    payload: &[u8],
    terms: Terms<'_>,
) -> Result<sr25519::Signature, SubmitError> {
    let account = signer.account();
    let signed = timeout(terms.timeout, signer.sign(payload))
        .await
        .unwrap_or_else(|elapsed| Err(signer::Error::Unavailable { account, source: Box::new(elapsed) }));
    let signature = signed.map_err(SubmitError::NotSigned)?;
    if !keys::verify(account, payload, &signature) {
        return Err(SubmitError::BadKey {
            account: account.to_ss58(terms.ss58_prefix),
            reason: "its signature is not this account's".into(),
        });
    }
    Ok(sr25519::Signature(signature))
}

fn unsupported(call: &'static str, e: &metadata::Error) -> SubmitError {
    SubmitError::Unsupported { call, reason: e.to_string() }
}
