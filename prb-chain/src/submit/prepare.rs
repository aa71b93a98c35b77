//! From a batch to a signed transaction that its operator can pay.

use std::sync::Arc;

use codec::{Compact, Decode, Encode};
use prb_core::{
    chain::{CallBatch, SubmitError},
    primitives::{Balance, Hash},
};
use tokio::time::Instant;

use super::{
    Inner,
    ask::{self, Head},
    budget,
    sign::{Terms, sign},
};
use crate::{
    metadata::Runtime,
    rpc::{Node, json::HexBytes},
};

/// A signed transaction, and what it takes to tell whether a block can still hold it.
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

/// Why a batch cannot be sent: the reason is the batch's or the node's, or another transaction.
enum Failure {
    Batch(SubmitError),
    Node(ask::Error),
    Overtaken,
}

impl<E: Into<ask::Error>> From<E> for Failure {
    fn from(e: E) -> Self {
        Self::Node(e.into())
    }
}

impl Inner {
    /// Builds and signs the batch with what a node tells. Gives the node as well: nonce and submission belong
    /// together. `None` where the account has another transaction that this process did not see to its end.
    /// Nodes may be away for a while since `started`.
    pub(super) async fn prepare(
        &self,
        batch: &CallBatch,
        started: Instant,
    ) -> Result<Option<(Arc<Node>, Prepared)>, SubmitError> {
        loop {
            let mut last = None;
            let heads = match ask::heads(&self.pool).await {
                Ok(heads) => heads,
                Err(e) => {
                    last = Some(e);
                    Vec::new()
                }
            };
            for (node, head) in heads {
                match self.prepare_with(&node, &head, batch).await {
                    Ok(prepared) => return Ok(Some((node, prepared))),
                    Err(Failure::Overtaken) => return Ok(None),
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

    async fn prepare_with(&self, node: &Node, head: &Head, batch: &CallBatch) -> Result<Prepared, Failure> {
        let account = batch.operator();
        // The best block's code runs the block that the transaction goes in.
        let runtime = self.runtimes.at(node, None).await?;
        let next: u64 = node.request("system_accountNextIndex", [self.address(account)]).await?;
        let known = self.account(account);
        if next > known.next_nonce && !known.busy {
            return Err(Failure::Overtaken);
        }
        // A node that lags behind the one that saw our last transaction final would repeat its nonce.
        let nonce = next.max(known.next_nonce);
        // Before it is signed: a signer may be slow, and may cost something.
        let share = u128::from(self.share(account));
        let limits = runtime.block_limits();
        let most = runtime.constant::<u32>("Utility", "batched_calls_limit").ok();
        budget::check_calls(&batch.calls, most, &limits, share).map_err(Failure::Batch)?;
        let prepared =
            sign(&runtime, batch, self.terms(node, nonce, head).await?).await.map_err(Failure::Batch)?;
        // What is too long might end the connection instead of being refused.
        budget::check_bytes(&prepared, limits.bytes(share)).map_err(Failure::Batch)?;
        let Some(cost) = cost(node, &prepared.extrinsic).await? else { return Ok(prepared) };
        budget::check_weight(&prepared, limits.weight(share), cost.weight).map_err(Failure::Batch)?;
        match self.shortfall_of(node, &prepared, cost.fee).await? {
            None => Ok(prepared),
            Some(e) => Err(Failure::Batch(e)),
        }
    }

    /// How a transaction with this nonce is signed. It lives from the finalised head on, which no fork takes away,
    /// and longer where finality lags: blocks that are made already count.
    pub(super) async fn terms<'a>(
        &self,
        node: &Node,
        nonce: u64,
        head: &'a Head,
    ) -> Result<Terms<'a>, ask::Error> {
        let best = ask::best_number(node).await?;
        let lag = best.saturating_sub(head.header.number);
        let mortality = mortality(lag, self.config.mortality_blocks).ok_or_else(|| {
            ask::Error::wrong(
                node,
                format!("finality is {lag} blocks behind, more than a transaction can live"),
            )
        })?;
        Ok(Terms {
            nonce,
            head,
            mortality,
            patience: self.config.sign_timeout,
            ss58_prefix: self.config.ss58_prefix,
        })
    }

    /// [`SubmitError::InsufficientFees`] where the operator cannot pay the transaction.
    pub(super) async fn shortfall(
        &self,
        node: &Node,
        prepared: &Prepared,
    ) -> Result<Option<SubmitError>, ask::Error> {
        match cost(node, &prepared.extrinsic).await? {
            Some(cost) => self.shortfall_of(node, prepared, cost.fee).await,
            None => Ok(None),
        }
    }

    async fn shortfall_of(
        &self,
        node: &Node,
        prepared: &Prepared,
        fee: Balance,
    ) -> Result<Option<SubmitError>, ask::Error> {
        let funds = ask::funds(node, &prepared.runtime, prepared.account, None).await?;
        let needed = funds.untouchable.saturating_add(fee);
        Ok((funds.free < needed).then(|| SubmitError::InsufficientFees {
            account: self.address(prepared.account),
            available: funds.free,
            needed,
        }))
    }
}

/// The longest life that still starts at every block.
const MAX_MORTALITY: u32 = 4096;

/// Blocks that a transaction lives from the finalised head on, a power of two, so that about `wanted` are left after
/// the newest block; none where that is too long.
fn mortality(lag: u32, wanted: u32) -> Option<u32> {
    if lag <= wanted / 2 {
        return Some(wanted);
    }
    lag.checked_add(wanted)?.checked_next_power_of_two().filter(|blocks| *blocks <= MAX_MORTALITY)
}

/// What a transaction takes.
struct Cost {
    /// Time in picoseconds, and bytes of proof.
    weight: [u128; 2],
    fee: Balance,
}

/// The transaction's cost, `None` where the runtime does not tell.
async fn cost(node: &Node, extrinsic: &[u8]) -> Result<Option<Cost>, crate::rpc::Error> {
    let mut args = extrinsic.to_vec();
    // A transaction that is too long for this is refused by every node.
    u32::try_from(extrinsic.len()).unwrap_or(u32::MAX).encode_to(&mut args);
    let answer: Result<HexBytes, _> =
        node.request("state_call", ("TransactionPaymentApi_query_info", HexBytes(args))).await;
    match answer {
        // `RuntimeDispatchInfo`: weight (time and proof size), class, fee.
        Ok(bytes) => Ok(<(Compact<u64>, Compact<u64>, u8, Balance)>::decode(&mut &*bytes.0)
            .ok()
            .map(|(time, proof, _, fee)| Cost { weight: [time.0.into(), proof.0.into()], fee })),
        Err(e) if e.is_retryable() => Err(e),
        Err(e) => {
            tracing::debug!(node = %node.name(), error = %e, "cannot learn the fee");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::mortality;

    #[test]
    fn a_life_outlasts_the_lag_of_finality() {
        for (lag, wanted, blocks) in [
            (0, 64, Some(64)),
            (32, 64, Some(64)),
            (33, 64, Some(128)),
            (64, 64, Some(128)),
            (65, 64, Some(256)),
            (300, 64, Some(512)),
            (4_032, 64, Some(4_096)),
            (4_033, 64, None),
            (u32::MAX, 64, None),
        ] {
            assert_eq!(mortality(lag, wanted), blocks, "{lag} {wanted}");
        }
    }
}
