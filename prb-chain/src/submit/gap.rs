//! Nonces that nobody uses: a transaction behind them waits in its node's pool until it expires.

use super::{Inner, fate::Way};

/// Most nonces filled in one go: more are no accident.
const MAX_GAP: u64 = 16;

impl Inner {
    /// Sends empty batches with the nonces before the transaction's that no node knows a transaction for. Sending
    /// the same calls with such a nonce instead could make them happen twice.
    pub(super) async fn fill_gap(&self, way: &Way<'_>) {
        let prepared = way.prepared;
        let Some(next) = self.next_nonce(prepared.account).await else { return };
        let next = next.max(self.account(prepared.account).next_nonce);
        let missing = next..prepared.nonce.min(next.saturating_add(MAX_GAP));
        if missing.is_empty() {
            return;
        }
        let account = self.address(prepared.account);
        tracing::warn!(
            account,
            first = missing.start,
            count = missing.end - missing.start,
            "nonces are missing before a transaction, filling them"
        );
        for nonce in missing {
            if let Err(reason) = self.fill(way, nonce).await {
                tracing::warn!(account, nonce, reason, "a missing nonce was not filled");
                return;
            }
        }
    }

    async fn fill(&self, way: &Way<'_>, nonce: u64) -> Result<(), String> {
        let heads = super::ask::heads(&self.pool).await.map_err(|e| e.to_string())?;
        let mut last = "no node answers".to_owned();
        for (node, head) in heads {
            let filler = match self.filler(&node, &head, way, nonce).await {
                Ok(filler) => filler,
                Err(reason) => {
                    last = reason;
                    continue;
                }
            };
            match self.submit_to(&node, &filler).await {
                Ok(_) => return Ok(()),
                Err(refusal) => last = format!("{}: {refusal}", node.name()),
            }
        }
        Err(last)
    }
}
