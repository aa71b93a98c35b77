//! Waits until an account has nothing pending.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use prb_core::{chain::SubmitError, primitives::AccountId};
use tokio::time::Instant;

use super::{Inner, queries};
use crate::rpc::Node;

/// How long a node may take for the next nonce once others have returned it.
const NONCE_TIMEOUT: Duration = Duration::from_secs(5);

/// An account's nonces at one moment.
struct Nonces {
    /// The finalised head's number.
    head: u32,
    finalised: u64,
    /// The highest next nonce of all nodes.
    next: u64,
    by_node: Vec<(Arc<Node>, u64)>,
}

impl Inner {
    /// Returns once no earlier transaction of the account can take effect any more: its finalised nonce is the
    /// one that the next transaction gets. Transactions of this process with a known outcome are not checked
    /// again.
    ///
    /// Pending transactions are waited for as long as ours live; a longer-lived one of another program must not
    /// block the account for good, and neither must a node that reports transactions which do not exist.
    pub(super) async fn wait_until_idle(&self, account: AccountId) -> Result<(), SubmitError> {
        if self.account(account).idle {
            return Ok(());
        }
        let mut answered = Instant::now();
        let mut first = None;
        loop {
            match self.nonces(account).await {
                Ok(nonces) => {
                    answered = Instant::now();
                    let (head, nonce) = *first.get_or_insert((nonces.head, nonces.finalised));
                    let waited = nonces.head.saturating_sub(head);
                    let pending = nonces.next.saturating_sub(nonces.finalised);
                    if pending == 0 || waited > self.config.mortality_blocks {
                        self.note_nonces(account, &nonces, nonces.finalised > nonce);
                        return Ok(());
                    }
                    tracing::debug!(
                        account = self.address(account),
                        pending,
                        "waiting for earlier transactions"
                    );
                }
                Err(e) if answered.elapsed() >= self.config.unavailable_after => {
                    return Err(SubmitError::Unavailable(Box::new(e)));
                }
                Err(_) => {}
            }
            // Pools report changes of single transactions only, so the nonces are polled.
            tokio::time::sleep(self.config.poll_interval).await;
        }
    }

    /// Remembers the nonces; `moves` if blocks have included transactions of the account while those that are
    /// still pending were waited for.
    fn note_nonces(&self, account: AccountId, nonces: &Nonces, moves: bool) {
        let pending = nonces.next.saturating_sub(nonces.finalised);
        let address = self.address(account);
        if pending > 0 && moves {
            tracing::warn!(account = address, pending, "continuing although other transactions outlive ours");
        } else if pending > 0 {
            tracing::warn!(
                account = address,
                pending,
                "continuing although a node reports pending transactions: no block has included them"
            );
            let claims = |(_, next): &(Arc<Node>, u64)| *next > nonces.finalised;
            // Without this, each batch would wait for them again. The only node is kept: there is no other to ask.
            if !nonces.by_node.iter().all(claims) {
                let (reason, claiming) =
                    ("it reports pending transactions that no block includes", nonces.by_node.iter());
                claiming.filter(|node| claims(node)).for_each(|(node, _)| node.demote(reason));
            }
        }
        self.remember(account, |known| {
            known.idle = true;
            known.next_nonce = nonces.finalised;
            known.busy = pending > 0 && moves;
            known.unbelieved = if known.busy { 0 } else { nonces.next };
        });
    }

    async fn nonces(&self, account: AccountId) -> Result<Nonces, queries::Error> {
        let (head, funds) = queries::newest(&self.pool, &self.finalised, |node, head| async move {
            let runtime = self.runtimes.at(&node, Some(head.hash)).await?;
            Ok((head.header.number, queries::funds(&node, &runtime, account, Some(head.hash)).await?))
        })
        .await?;
        // After the finalised nonce: in the other order, a block between the two could hide a pending
        // transaction.
        let by_node = self.next_nonces(account).await;
        let Some(next) = by_node.iter().map(|(_, next)| *next).max() else {
            return Err(queries::Error::Wrong { node: "every node".into(), reason: "no next nonce".into() });
        };
        Ok(Nonces { head, finalised: funds.nonce, next, by_node })
    }

    /// Returns the highest next nonce of all nodes: a transaction may be in one node's pool only.
    pub(super) async fn next_nonce(&self, account: AccountId) -> Option<u64> {
        self.next_nonces(account).await.into_iter().map(|(_, next)| next).max()
    }

    /// Returns the next nonces that the nodes report, which include transactions in blocks that are not final, and
    /// in their pools.
    async fn next_nonces(&self, account: AccountId) -> Vec<(Arc<Node>, u64)> {
        let address = self.address(account);
        let nodes = self.pool.trusted();
        let answers = join_all(nodes.iter().map(|node| async {
            let answer = node.request::<u64>("system_accountNextIndex", [&address]);
            tokio::time::timeout(NONCE_TIMEOUT, answer).await
        }))
        .await;
        let answered = nodes.iter().zip(answers);
        answered.filter_map(|(node, answer)| Some((Arc::clone(node), answer.ok()?.ok()?))).collect()
    }
}
