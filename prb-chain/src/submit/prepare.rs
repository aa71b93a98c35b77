//! From a batch to a signed transaction that its operator can pay.

use std::sync::Arc;

use codec::{Compact, Decode, Encode};
use prb_core::{
    chain::{CallBatch, SubmitError},
    primitives::{Balance, Hash},
};
use subxt::{SubstrateConfig, config::DefaultExtrinsicParamsBuilder, tx::StaticPayload};
use tokio::time::Instant;

use super::{
    Inner,
    ask::{self, Head},
    refusal,
};
use crate::{
    keys::OperatorKey,
    metadata::{self, Runtime},
    rpc::{Node, json::HexBytes},
};

/// A signed transaction, and what its fate is decided with.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) extrinsic: Vec<u8>,
    pub(super) hash: Hash,
    pub(super) account: prb_core::primitives::AccountId,
    pub(super) nonce: u64,
    /// The runtime that it was signed for; no other takes it.
    pub(super) runtime: Arc<Runtime>,
    /// The block that its lifetime counts from: only later ones can hold it.
    pub(super) birth: u32,
    /// The last block that can hold it.
    pub(super) last: u32,
    pub(super) calls: usize,
}

/// Why a batch cannot be sent: the reason is the batch's or the node's.
enum Failure {
    Batch(SubmitError),
    Node(ask::Error),
}

impl<E: Into<ask::Error>> From<E> for Failure {
    fn from(e: E) -> Self {
        Self::Node(e.into())
    }
}

impl Inner {
    /// Builds and signs the batch with what a node tells. Gives the node as well: nonce and submission belong
    /// together. Nodes may be away for a while since `started`.
    pub(super) async fn prepare(
        &self,
        batch: &CallBatch,
        key: &OperatorKey,
        started: Instant,
    ) -> Result<(Arc<Node>, Prepared), SubmitError> {
        loop {
            let mut last = None;
            for node in self.pool.candidates() {
                match self.prepare_with(&node, batch, key).await {
                    Ok(prepared) => return Ok((node, prepared)),
                    Err(Failure::Batch(e)) => return Err(e),
                    Err(Failure::Node(e)) => last = Some(e),
                }
            }
            if let Some(e) = last
                && started.elapsed() >= self.config.unavailable_after
            {
                return Err(SubmitError::Unavailable(Box::new(e)));
            }
            tokio::time::sleep(self.config.poll_interval).await;
        }
    }

    async fn prepare_with(
        &self,
        node: &Node,
        batch: &CallBatch,
        key: &OperatorKey,
    ) -> Result<Prepared, Failure> {
        let account = batch.signer.operator;
        let head = ask::finalised_head(node).await?;
        // The best block's code runs the block that the transaction goes in.
        let runtime = self.runtimes.at(node, None).await?;
        let next: u64 = node.request("system_accountNextIndex", [self.address(account)]).await?;
        // A node that lags behind the one that saw our last transaction final would repeat its nonce.
        let nonce = next.max(self.account(account).next_nonce);
        let prepared =
            sign(&runtime, batch, key, nonce, &head, self.config.mortality_blocks).map_err(Failure::Batch)?;
        // Sent all the same, it might end the connection instead of being refused.
        if let Some(limit) = runtime.max_block_bytes()
            && prepared.extrinsic.len() as u128 > limit
        {
            let reason = format!("a block takes {limit} bytes");
            return Err(Failure::Batch(refusal::too_large(&prepared, &reason)));
        }
        match self.shortfall(node, &prepared).await? {
            None => Ok(prepared),
            Some(e) => Err(Failure::Batch(e)),
        }
    }

    /// [`SubmitError::InsufficientFees`] where the operator cannot pay the transaction.
    pub(super) async fn shortfall(
        &self,
        node: &Node,
        prepared: &Prepared,
    ) -> Result<Option<SubmitError>, ask::Error> {
        let Some(fee) = fee(node, &prepared.extrinsic).await? else { return Ok(None) };
        let funds = ask::funds(node, &prepared.runtime, prepared.account, None).await?;
        let needed = funds.untouchable.saturating_add(fee);
        Ok((funds.free < needed).then(|| SubmitError::InsufficientFees {
            account: self.address(prepared.account),
            available: funds.free,
            needed,
        }))
    }
}

/// The transaction's fee, `None` where the runtime does not tell.
async fn fee(node: &Node, extrinsic: &[u8]) -> Result<Option<Balance>, crate::rpc::Error> {
    let mut args = extrinsic.to_vec();
    // A transaction that is too long for this is refused by every node.
    u32::try_from(extrinsic.len()).unwrap_or(u32::MAX).encode_to(&mut args);
    let answer: Result<HexBytes, _> =
        node.request("state_call", ("TransactionPaymentApi_query_info", HexBytes(args))).await;
    match answer {
        // `RuntimeDispatchInfo`: weight (time and proof size), class, fee.
        Ok(bytes) => Ok(<(Compact<u64>, Compact<u64>, u8, Balance)>::decode(&mut &*bytes.0)
            .ok()
            .map(|(_, _, _, fee)| fee)),
        Err(e) if e.is_retryable() => Err(e),
        Err(e) => {
            tracing::debug!(node = %node.name(), error = %e, "cannot learn the fee");
            Ok(None)
        }
    }
}

fn sign(
    runtime: &Arc<Runtime>,
    batch: &CallBatch,
    key: &OperatorKey,
    nonce: u64,
    head: &Head,
    mortality: u32,
) -> Result<Prepared, SubmitError> {
    let mut calls = Vec::with_capacity(batch.calls.len());
    for call in &batch.calls {
        calls.push(runtime.call(call).map_err(|e| unsupported(call.name(), &e))?);
    }
    let outer = match batch.signer.proxied {
        Some(_) => "Proxy::proxy",
        None => "Utility::force_batch",
    };
    let whole = runtime.batch(&calls, batch.signer.proxied).map_err(|e| unsupported(outer, &e))?;
    let payload = StaticPayload::new(whole.pallet, whole.name, whole.args);
    let birth = head.header.number;
    let params = DefaultExtrinsicParamsBuilder::<SubstrateConfig>::new()
        .nonce(nonce)
        .tip(0)
        .mortal_from_unchecked(u64::from(mortality), u64::from(birth), head.hash.0.into())
        .build();
    let failed =
        |e: subxt::error::ExtrinsicError| SubmitError::Unsupported { call: outer, reason: e.to_string() };
    let mut signable = runtime.client().tx().create_signable_offline(&payload, params).map_err(failed)?;
    let extrinsic = signable.sign(key.pair()).map_err(failed)?.into_encoded();
    Ok(Prepared {
        hash: Hash::of(&extrinsic),
        extrinsic,
        account: batch.signer.operator,
        nonce,
        runtime: Arc::clone(runtime),
        birth,
        // In block `birth + mortality` the era's phase begins anew, with another birth block.
        last: birth.saturating_add(mortality - 1),
        calls: batch.calls.len(),
    })
}

fn unsupported(call: &'static str, e: &metadata::Error) -> SubmitError {
    SubmitError::Unsupported { call, reason: e.to_string() }
}
