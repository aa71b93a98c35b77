//! A decorator over a seam: refuses to start a worker with more stake than a limit, whatever the inventory says.
//!
//! Why: one zero too many in a stake locks an operator's money for the cool-down of a week. Every seam is an
//! object-safe trait, so limits, audit logs, metrics and fail-over are decorators over it; prb-core's own cache of
//! batches (`blob::cache`) is one too. This one wraps the submitter, which every transaction passes through.
use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use prb_core::{
    chain::{
        BatchOutcome, Call, CallBatch, ChainSubmitter, Effects, SubmitError, SubmitProgress,
        memory::{Config, MemoryChain},
    },
    primitives::{AccountId, Balance, PoolId, WorkerKey},
    queue::{Job, JobQueue, JobSigner, memory::MemoryQueue},
    signer::memory::MemorySigners,
    trade::{self, Trader, accounts::MemoryAccounts},
    vault::{Vault, memory::MemoryVault},
};
use tokio::sync::mpsc;

#[derive(Debug)]
struct StakeLimit<S> {
    inner: S,
    limit: Balance,
}

#[async_trait]
impl<S: ChainSubmitter> ChainSubmitter for StakeLimit<S> {
    async fn submit(
        &self,
        batch: &CallBatch,
        progress: mpsc::Sender<SubmitProgress>,
    ) -> Result<BatchOutcome, SubmitError> {
        for call in &batch.calls {
            if let Call::StartComputing { worker, stake, .. } | Call::RestartComputing { worker, stake, .. } =
                call
                && *stake > self.limit
            {
                let reason = format!("worker {worker} would stake {stake}, and the limit is {}", self.limit);
                return Err(SubmitError::Refused { reason, retryable: false });
            }
        }
        self.inner.submit(batch, progress).await
    }

    async fn effects(&self, account: AccountId, calls: &[Call]) -> Result<Effects, SubmitError> {
        self.inner.effects(account, calls).await
    }

    fn forget(&self, account: AccountId) {
        self.inner.forget(account);
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (queue, vault) = (Arc::new(MemoryQueue::default()), Arc::new(MemoryVault::new()));
    // Whatever takes a submitter takes the decorated one.
    let submitter = StakeLimit { inner: MemoryChain::new(Config::default()), limit: 50_000_000_000_000_000 };
    let key = vault.seal(&"operator".into()).await?;
    let signer = JobSigner { operator: MemoryChain::account_of("operator"), key, proxied: None };
    let (signers, accounts) = (Arc::new(MemorySigners::new(vault)), Arc::new(MemoryAccounts::default()));
    let parts = trade::Parts { queue: queue.clone(), submitter: Arc::new(submitter), signers, accounts };
    let trader = Trader::start(trade::Config::default(), parts)?;

    // 500,000 PHA: one zero more than the limit.
    let (pool, worker, stake) = (PoolId(1), WorkerKey([7; 32]), 500_000_000_000_000_000);
    let calls = vec![Call::StartComputing { pool, worker, stake }];
    let job = queue.submit(Job { pool, signer, calls, retries: 3 }).await?;
    match job.outcome().await {
        Ok(outcome) => anyhow::bail!("it was sent: {outcome:?}"),
        Err(failure) => println!("{failure}"),
    }
    trader.stop(Duration::from_secs(1)).await?;
    Ok(())
}
