//! Waits until the outcome of an account's earlier transactions can be read from the chain.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use prb_core::{chain::SubmitError, primitives::AccountId};
use tokio::time::Instant;

use super::{Inner, queries};
use crate::rpc::Node;

/// How long a node may take for the next nonce once others have returned it.
const NONCE_TIMEOUT: Duration = Duration::from_secs(5);

/// An account's nonces at one moment.
pub(super) struct Nonces {
    /// The finalised head's number.
    pub(super) head: u32,
    pub(super) finalised: u64,
    /// The highest next nonce of all nodes.
    next: u64,
    by_node: Vec<(Arc<Node>, u64)>,
}

impl Nonces {
    /// The number of transactions that are in a pool, or in a block that is not final.
    pub(super) const fn pending(&self) -> u64 {
        self.next.saturating_sub(self.finalised)
    }
}

/// What an account's nonces say about its earlier transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    /// Nothing is pending.
    Yes,
    /// All that were pending at first are final, but further ones are pending: other programs' that send all the
    /// time, as the account's lease allows this one alone to send for its jobs.
    Shared,
    /// Pending transactions outlive ours, although no block has included any.
    Unbelieved,
    NotYet,
}

impl Inner {
    /// Returns once no earlier transaction of the account can take effect unnoticed: none is pending, or those that
    /// were pending when this was called are final. Transactions of this process with a known outcome are not checked
    /// again.
    ///
    /// Pending transactions that no block includes are waited for as long as ours live; a longer-lived one of another
    /// program must not block the account for good, and neither must a node that reports transactions which do not
    /// exist.
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
                    let first = first.get_or_insert((nonces.head, nonces.finalised, nonces.next));
                    let idle = self.judge(account, &nonces, *first);
                    if idle != Idle::NotYet {
                        self.note_nonces(account, &nonces, idle);
                        return Ok(());
                    }
                    tracing::debug!(
                        account = self.address(account),
                        pending = nonces.pending(),
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

    /// `first` are the head and the finalised and next nonces when waiting began.
    fn judge(&self, account: AccountId, nonces: &Nonces, first: (u32, u64, u64)) -> Idle {
        let (head, finalised, next) = first;
        let known = self.account(account);
        if known.unresolved.is_some_and(|ours| !ours.is_harmless(nonces)) {
            return Idle::NotYet;
        }
        // Claims that have been waited for in vain, while no block includes anything, are not waited for again.
        let is_unbelieved = nonces.pending() <= known.unbelieved && nonces.finalised == finalised;
        if nonces.pending() == 0 || is_unbelieved {
            return Idle::Yes;
        }
        if nonces.finalised >= next {
            return Idle::Shared;
        }
        match nonces.head.saturating_sub(head) > self.config.mortality_blocks {
            true if nonces.finalised > finalised => Idle::Shared,
            true => Idle::Unbelieved,
            false => Idle::NotYet,
        }
    }

    /// Remembers the nonces.
    fn note_nonces(&self, account: AccountId, nonces: &Nonces, idle: Idle) {
        let pending = nonces.pending();
        match idle {
            Idle::Shared => self.note_sharing(account),
            Idle::Unbelieved => {
                tracing::warn!(
                    account = self.address(account),
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
            Idle::Yes | Idle::NotYet => {}
        }
        self.remember(account, |known| {
            known.idle = true;
            known.next_nonce = nonces.finalised;
            known.unresolved = known.unresolved.filter(|ours| ours.may_be_included(nonces));
            known.unbelieved = if idle == Idle::Shared { 0 } else { pending };
        });
    }

    pub(super) async fn nonces(&self, account: AccountId) -> Result<Nonces, queries::Error> {
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
