//! `author_*` and `payment_*`: the transaction pool and fees.

use std::sync::Arc;

use codec::{Decode, Encode};
use jsonrpsee::{
    PendingSubscriptionSink,
    types::{ErrorObjectOwned, Params},
};
use pallet_transaction_payment_rpc_runtime_api::RuntimeDispatchInfo;
use serde_json::{Value, json};
use sp_core::{Bytes, H256};
use sp_runtime::OpaqueExtrinsic;

use super::{Answer, Module, Registered, error, method, view::View};
use crate::{
    Error,
    node::{Node, PoolError, Status},
};

/// Maximum size of a transaction, in bytes.
const MAX_EXTRINSIC_BYTES: usize = 8 * 1024 * 1024;
/// The peer that transactions are reported to be sent to.
const PEER: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";

pub(super) fn register(module: &mut Module) -> Registered {
    method(module, "author_submitExtrinsic", |params, view| {
        let extrinsic: Bytes = params.sequence().next()?;
        check(&extrinsic)?;
        view.node.submit(extrinsic.0).map_err(refused)
    })?;
    method(module, "author_pendingExtrinsics", |_, view| {
        Ok(view.node.pending_extrinsics().into_iter().map(Bytes).collect::<Vec<_>>())
    })?;
    method(module, "payment_queryInfo", query_info)?;
    method(module, "payment_queryFeeDetails", query_fee_details)?;
    module.register_subscription(
        "author_submitAndWatchExtrinsic",
        "author_extrinsicUpdate",
        "author_unwatchExtrinsic",
        |params, pending, node, _| async move {
            match params.one::<(Bytes,)>().or_else(|_| params.sequence().next().map(|xt| (xt,))) {
                Ok((extrinsic,)) => watch(pending, node, extrinsic.0).await,
                Err(cause) => pending.reject(cause).await,
            }
        },
    )?;
    Ok(())
}

fn check(extrinsic: &[u8]) -> Answer<()> {
    if extrinsic.len() > MAX_EXTRINSIC_BYTES {
        return Err(error(1002, "Verification Error: transaction too large"));
    }
    match OpaqueExtrinsic::decode(&mut &extrinsic[..]) {
        Ok(_) => Ok(()),
        Err(cause) => Err(error(1001, format!("Extrinsic has invalid format: {cause}"))),
    }
}

async fn watch(pending: PendingSubscriptionSink, node: Arc<Node>, extrinsic: Vec<u8>) {
    if let Err(cause) = check(&extrinsic) {
        return pending.reject(cause).await;
    }
    let submitted = {
        let node = node.clone();
        tokio::task::spawn_blocking(move || node.submit_and_watch(extrinsic)).await
    };
    let mut statuses = match submitted {
        Ok(Ok((_, statuses))) => statuses,
        Ok(Err(cause)) => return pending.reject(refused(cause)).await,
        Err(cause) => return pending.reject(error(1002, cause.to_string())).await,
    };
    // Only now: a refused transaction must fail the subscription call itself, as in real nodes.
    let Ok(sink) = pending.accept().await else { return };
    loop {
        let status = tokio::select! {
            () = sink.closed() => return,
            status = statuses.recv() => status,
        };
        let Some(status) = status else { return };
        // A node that hangs sends no notifications either; the middleware only holds requests.
        node.faults().until_answering().await;
        let Ok(message) = serde_json::value::to_raw_value(&status_json(&status)) else { return };
        if sink.send(message).await.is_err() {
            return;
        }
    }
}

fn status_json(status: &Status) -> Value {
    match status {
        Status::Future => json!("future"),
        Status::Ready => json!("ready"),
        Status::Broadcast => json!({ "broadcast": [PEER] }),
        Status::InBlock(hash) => json!({ "inBlock": hash }),
        Status::Retracted(hash) => json!({ "retracted": hash }),
        Status::FinalityTimeout(hash) => json!({ "finalityTimeout": hash }),
        Status::Finalized(hash) => json!({ "finalized": hash }),
        Status::Usurped(hash) => json!({ "usurped": hash }),
        Status::Dropped => json!("dropped"),
        Status::Invalid => json!("invalid"),
    }
}

/// Codes and texts of substrate's author RPC.
fn refused(cause: Error) -> ErrorObjectOwned {
    let Error::Pool(cause) = cause else {
        return error(1002, format!("Verification Error: {cause}"));
    };
    let (code, data) = match &cause {
        PoolError::Invalid(reason) => {
            let data: &'static str = (*reason).into();
            (1010, Some(data.to_owned()))
        }
        PoolError::Unknown(reason) => {
            let data: &'static str = (*reason).into();
            (1011, Some(data.to_owned()))
        }
        PoolError::Banned => (1012, None),
        PoolError::AlreadyImported(hash) => (1013, Some(format!("[{hash:?}]"))),
        PoolError::TooLowPriority { .. } => (
            1014,
            Some(
                "The transaction has too low priority to replace another transaction already in \
                 the pool."
                    .to_owned(),
            ),
        ),
        PoolError::Full => (
            1016,
            Some(
                "The transaction couldn't enter the pool because of the limit, and its priority \
                 is too low."
                    .to_owned(),
            ),
        ),
        PoolError::Runtime(_) => {
            return error(1002, format!("Verification Error: Runtime error: {cause}"));
        }
    };
    ErrorObjectOwned::owned(code, cause.to_string(), data)
}

fn payment_call(params: &Params<'_>, view: &View<'_>, name: &str) -> Answer<Vec<u8>> {
    let mut params = params.sequence();
    let (extrinsic, at): (Bytes, Option<H256>) = (params.next()?, params.optional_next()?);
    check(&extrinsic)?;
    let mut data = extrinsic.0;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    // `TransactionPaymentApi` takes the length as second argument.
    length.encode_to(&mut data);
    view.call(name, &data, at)
}

fn query_info(params: Params<'_>, view: &View<'_>) -> Answer<Value> {
    let answer = payment_call(&params, view, "TransactionPaymentApi_query_info")?;
    let info = RuntimeDispatchInfo::<u128>::decode(&mut &answer[..])
        .map_err(|cause| error(4001, cause.to_string()))?;
    Ok(json!({
        "weight": info.weight,
        "class": info.class,
        "partialFee": info.partial_fee.to_string(),
    }))
}

fn query_fee_details(params: Params<'_>, view: &View<'_>) -> Answer<Value> {
    let answer = payment_call(&params, view, "TransactionPaymentApi_query_fee_details")?;
    let details = pallet_transaction_payment_rpc_runtime_api::FeeDetails::<u128>::decode(&mut &answer[..])
        .map_err(|cause| error(4001, cause.to_string()))?;
    let hex = |fee: u128| format!("{fee:#x}");
    let inclusion = details.inclusion_fee.map(|fee| {
        json!({
            "baseFee": hex(fee.base_fee),
            "lenFee": hex(fee.len_fee),
            "adjustedWeightFee": hex(fee.adjusted_weight_fee),
        })
    });
    Ok(json!({ "inclusionFee": inclusion }))
}
