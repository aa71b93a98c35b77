//! Builds a signed transaction from a batch, and checks that its operator can pay it.

use std::sync::Arc;

use codec::{Compact, Decode, Encode};
use prb_core::{
    chain::{CallBatch, SubmitError},
    primitives::{AccountId, Balance, Hash},
};
use tokio::time::Instant;

use super::{
    Inner, budget,
    queries::{self, Head},
    sign::{Terms, sign},
};
use crate::{
    metadata::Runtime,
    rpc::{Node, json::HexBytes},
};

/// A signed transaction, with the data that determines whether a block can still include it.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) extrinsic: Vec<u8>,
    pub(super) hash: Hash,
    pub(super) account: AccountId,
    pub(super) nonce: u64,
    /// The runtime that it was signed for; it is invalid for any other.
    pub(super) runtime: Arc<Runtime>,
    /// The block from which its lifetime counts: only later ones can include it.
    pub(super) birth: u32,
    /// The last block that can include it.
    pub(super) last: u32,
    pub(super) calls: usize,
}

/// Why a batch cannot be sent.
enum Failure {
    /// Because of the batch.
    Batch(SubmitError),
    /// By what this node says of costs and balances; another one may say otherwise.
    Cost(SubmitError),
    /// The node does not answer.
    Node(queries::Error),
    /// Because of another transaction.
    Overtaken,
}

/// Blocks by which a node may be behind what is known to be final, to be asked before those that have refused a
/// transaction.
const NEAR: u32 = 2;

impl<E: Into<queries::Error>> From<E> for Failure {
    fn from(e: E) -> Self {
        Self::Node(e.into())
    }
}

impl Inner {
    /// Builds and signs the batch with data from a node, which is returned as well, because nonce and submission
    /// belong together. `None` if the account has another transaction whose outcome this process does not know.
    /// Nodes may be unreachable for a while since `started`; those that `refused` an earlier transaction are
    /// asked last.
    pub(super) async fn prepare(
        &self,
        batch: &CallBatch,
        started: Instant,
        refused: &[Arc<str>],
    ) -> Result<Option<(Arc<Node>, Prepared)>, SubmitError> {
        loop {
            let (mut last, mut too_costly) = (None, None);
            let mut heads = match queries::heads(&self.pool).await {
                Ok(heads) => heads,
                Err(e) => {
                    last = Some(e);
                    Vec::new()
                }
            };
            if !refused.is_empty() {
                // Not compared with the furthest head, which may be false.
                heads.sort_by_cached_key(|(node, head)| {
                    let number = head.header.number.saturating_add(NEAR);
                    (self.finalised.above(&self.pool, number).is_some(), refused.contains(node.name()))
                });
            }
            for (node, head) in heads {
                match self.prepare_with(&node, &head, batch).await {
                    Ok(prepared) => return Ok(Some((node, prepared))),
                    Err(Failure::Overtaken) => return Ok(None),
                    Err(Failure::Batch(e)) => return Err(e),
                    Err(Failure::Cost(e)) => drop(too_costly.get_or_insert(e)),
                    Err(Failure::Node(e)) => last = Some(e),
                }
            }
            if let Some(e) = too_costly {
                return Err(e);
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
        // The transaction's block is executed by the code in the best block's state.
        let runtime = self.runtimes.at(node, None).await?;
        // Checked before signing: a signer may be slow or cost money.
        let share = u128::from(self.share(account));
        let limits = runtime.block_limits();
        let most = runtime.constant::<u32>("Utility", "batched_calls_limit").ok();
        budget::check_calls(&batch.calls, most, &limits, share).map_err(Failure::Batch)?;
        let terms = self.terms(node, 0, head).await?;
        let terms = Terms { nonce: self.next_nonce_at(node, account).await?, ..terms };
        let prepared = sign(&runtime, batch, terms).await.map_err(Failure::Batch)?;
        // An oversized request might end the connection instead of being refused.
        budget::check_bytes(&prepared, limits.bytes(share)).map_err(Failure::Batch)?;
        let Some(cost) = cost(node, &prepared.extrinsic).await? else { return Ok(prepared) };
        budget::check_weight(&prepared, limits.weight(share), cost.weight).map_err(Failure::Cost)?;
        match self.shortfall_of(node, &prepared, cost.fee).await? {
            None => Ok(prepared),
            Some(e) => Err(Failure::Cost(e)),
        }
    }

    /// The nonce of the account's next transaction at a node, for which it should be sent soon: another program may
    /// use it first.
    async fn next_nonce_at(&self, node: &Node, account: AccountId) -> Result<u64, Failure> {
        let next: u64 = node.request("system_accountNextIndex", [self.address(account)]).await?;
        let known = self.account(account);
        let is_overtaken = next > known.next_nonce.saturating_add(known.unbelieved);
        // Somebody else's transaction is pending, perhaps with the same calls: another trader's that has lost
        // the lease.
        if is_overtaken && !known.may_send_behind() {
            return Err(Failure::Overtaken);
        }
        if is_overtaken {
            self.note_sharing(account);
        }
        // A node that lags behind the one that finalised our last transaction would repeat its nonce.
        Ok(if is_overtaken { next } else { known.next_nonce })
    }

    /// The terms of signing for a nonce. The lifetime counts from the finalised head, which no fork can remove,
    /// and is longer if finality lags, because blocks that exist already count.
    pub(super) async fn terms<'a>(
        &self,
        node: &Node,
        nonce: u64,
        head: &'a Head,
    ) -> Result<Terms<'a>, queries::Error> {
        let best = queries::best_number(node).await?;
        let lag = best.saturating_sub(head.header.number);
        let mortality = mortality(lag, self.config.mortality_blocks).ok_or_else(|| {
            queries::Error::wrong(
                node,
                format!("finality is {lag} blocks behind, more than a transaction can live"),
            )
        })?;
        Ok(Terms {
            nonce,
            head,
            mortality,
            timeout: self.config.sign_timeout,
            ss58_prefix: self.config.ss58_prefix,
        })
    }

    /// Returns [`SubmitError::InsufficientFees`] if the operator cannot pay the transaction.
    pub(super) async fn shortfall(
        &self,
        node: &Node,
        prepared: &Prepared,
    ) -> Result<Option<SubmitError>, queries::Error> {
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
    ) -> Result<Option<SubmitError>, queries::Error> {
        let funds = queries::funds(node, &prepared.runtime, prepared.account, None).await?;
        let needed = funds.untouchable.saturating_add(fee);
        Ok((funds.free < needed).then(|| SubmitError::InsufficientFees {
            account: self.address(prepared.account),
            available: funds.free,
            needed,
        }))
    }
}

/// The longest lifetime that still starts at every block.
const MAX_MORTALITY: u32 = 4096;

/// Lifetime in blocks from the finalised head on, a power of two, such that about `wanted` are left after the
/// newest block; `None` if that is too long.
fn mortality(lag: u32, wanted: u32) -> Option<u32> {
    if lag <= wanted / 2 {
        return Some(wanted);
    }
    lag.checked_add(wanted)?.checked_next_power_of_two().filter(|blocks| *blocks <= MAX_MORTALITY)
}

/// The cost of a transaction.
struct Cost {
    /// Execution time in picoseconds, and proof size in bytes.
    weight: [u128; 2],
    fee: Balance,
}

/// Queries the transaction's cost; `None` if the runtime does not report it.
async fn cost(node: &Node, extrinsic: &[u8]) -> Result<Option<Cost>, crate::rpc::Error> {
    let mut args = extrinsic.to_vec();
    // Every node refuses a transaction that is too long for this.
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
            // Not every runtime has this API, and the chain itself refuses what cannot be paid or does not fit.
            tracing::debug!(node = %node.name(), error = %e, "cannot query the fee");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::mortality;

    #[test]
    fn lifetime_outlasts_the_lag_of_finality() {
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
