//! Waits until an account has nothing pending.

use std::time::Duration;

use futures::future::join_all;
use prb_core::{chain::SubmitError, primitives::AccountId};
use tokio::time::Instant;

use super::{Inner, queries};

/// How long a node may take for the next nonce once others have returned it.
const NONCE_TIMEOUT: Duration = Duration::from_secs(5);

/// An account's nonces at one moment.
struct Nonces {
    /// The finalised head's number.
    head: u32,
    finalised: u64,
    /// Includes transactions in blocks that are not final, and in the nodes' pools.
    next: u64,
}

impl Inner {
    /// Returns once no earlier transaction of the account can take effect any more: its finalised nonce is the
    /// one that the next transaction gets. Transactions of this process with a known outcome are not checked
    /// again.
    ///
    /// Pending transactions are waited for as long as ours live; a longer-lived one of another program must not
    /// block the account for good.
    pub(super) async fn settle(&self, account: AccountId) -> Result<(), SubmitError> {
        if self.account(account).settled {
            return Ok(());
        }
        let mut answered = Instant::now();
        let mut first_head = None;
        loop {
            match self.nonces(account).await {
                Ok(nonces) => {
                    answered = Instant::now();
                    let waited = nonces.head.saturating_sub(*first_head.get_or_insert(nonces.head));
                    let pending = nonces.next.saturating_sub(nonces.finalised);
                    if pending == 0 || waited > self.config.mortality_blocks {
                        if pending > 0 {
                            tracing::warn!(
                                account = self.address(account),
                                pending,
                                "continuing although other transactions outlive ours"
                            );
                        }
                        self.remember(account, |known| {
                            known.settled = true;
                            known.next_nonce = nonces.finalised;
                            known.busy = pending > 0;
                        });
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
            tokio::time::sleep(self.config.poll_interval).await;
        }
    }

    async fn nonces(&self, account: AccountId) -> Result<Nonces, queries::Error> {
        let (head, funds) = queries::newest(&self.pool, &self.finalised, |node, head| async move {
            let runtime = self.runtimes.at(&node, Some(head.hash)).await?;
            Ok((head.header.number, queries::funds(&node, &runtime, account, Some(head.hash)).await?))
        })
        .await?;
        let Some(next) = self.next_nonce(account).await else {
            return Err(queries::Error::Wrong { node: "every node".into(), reason: "no next nonce".into() });
        };
        Ok(Nonces { head, finalised: funds.nonce, next })
    }

    /// Returns the highest next nonce of all nodes: a transaction may be in one node's pool only.
    pub(super) async fn next_nonce(&self, account: AccountId) -> Option<u64> {
        let address = self.address(account);
        let nodes = self.pool.trusted();
        let answers = join_all(nodes.iter().map(|node| async {
            let question = node.request::<u64>("system_accountNextIndex", [&address]);
            tokio::time::timeout(NONCE_TIMEOUT, question).await
        }))
        .await;
        answers.into_iter().filter_map(|answer| answer.ok()?.ok()).max()
    }
}
