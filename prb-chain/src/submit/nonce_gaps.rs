//! Missing nonces: a transaction behind them would wait in its node's pool until it expires. They are filled at once if
//! [`Config::fill_nonce_gaps`](super::Config::fill_nonce_gaps) is set, and otherwise after some blocks.

use prb_core::{chain::CallBatch, text::describe};

use super::{queries, sign::sign, watcher::Watcher};

/// Most nonces filled at once: more are not an accident.
const MAX_GAP: u64 = 16;

impl Watcher<'_> {
    /// Fills nonces before the transaction's for which no node knows a transaction, with empty batches, and
    /// tracks those. Sending the same calls with such a nonce instead could execute them twice.
    pub(super) async fn fill_gap(&mut self) {
        // Fillers in flight time out, after which the nonces are checked again.
        if !self.fillers.is_empty() {
            return;
        }
        let (inner, prepared) = (self.inner, self.prepared);
        let Some(next) = inner.next_nonce(prepared.account).await else { return };
        let next = next.max(inner.account(prepared.account).next_nonce);
        let missing = next..prepared.nonce.min(next.saturating_add(MAX_GAP));
        if missing.is_empty() {
            return;
        }
        let account = inner.address(prepared.account);
        tracing::warn!(
            account,
            first = missing.start,
            count = missing.end - missing.start,
            "nonces are missing before a transaction, filling them"
        );
        for nonce in missing {
            if let Err(reason) = self.fill(nonce).await {
                tracing::warn!(account, nonce, reason, "a missing nonce could not be filled");
                return;
            }
        }
    }

    async fn fill(&mut self, nonce: u64) -> Result<(), String> {
        let inner = self.inner;
        let batch = CallBatch::new(std::sync::Arc::clone(self.signer), Vec::new());
        let mut last = "no node answers".to_owned();
        for (node, head) in queries::heads(&inner.pool).await.map_err(|e| describe(&e))? {
            let filler = async {
                let runtime = inner.runtimes.at(&node, None).await.map_err(|e| describe(&e))?;
                let terms = inner.terms(&node, nonce, &head).await.map_err(|e| describe(&e))?;
                sign(&runtime, &batch, terms).await.map_err(|e| describe(&e))
            };
            let filler = match filler.await {
                Ok(filler) => filler,
                Err(reason) => {
                    last = reason;
                    continue;
                }
            };
            match inner.submit_to(&node, &filler).await {
                Ok(watch) => {
                    self.track_filler(filler, watch);
                    return Ok(());
                }
                Err(refusal) => last = format!("{}: {refusal}", node.name()),
            }
        }
        Err(last)
    }
}
