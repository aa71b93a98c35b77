//! A queue, a chain and the keys between them, in memory.

use std::{collections::HashMap, sync::Arc, time::Duration};

use prb_core::{
    chain::{Call, memory::MemoryChain},
    primitives::{AccountId, PoolId, WorkerKey},
    queue::{CallOutcome, Job, JobFailure, JobHandle, JobOutcome, JobQueue, JobSigner, memory::MemoryQueue},
    signer::memory::MemorySigners,
    trade::{Config, Parts, Trader, accounts::MemoryAccounts},
    vault::{Sealed, Vault, memory::MemoryVault},
    wire::{Message, MessageOrigin, SignedMessage},
};
use tokio::time::{sleep, timeout};

pub const HOUR: Duration = Duration::from_secs(3600);

pub fn signers(vault: &Arc<MemoryVault>) -> Arc<MemorySigners> {
    Arc::new(MemorySigners::new(vault.clone()))
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A queue, a chain and the keys between them.
pub struct Rig {
    pub queue: MemoryQueue,
    pub chain: MemoryChain,
    pub vault: Arc<MemoryVault>,
    pub keys: HashMap<&'static str, Sealed>,
}

impl Rig {
    pub async fn new() -> Self {
        Self::on(MemoryChain::default()).await
    }

    pub async fn on(chain: MemoryChain) -> Self {
        let vault = Arc::new(MemoryVault::new());
        let mut keys = HashMap::new();
        for secret in ["//Alice", "//Bob", "//Carol"] {
            keys.insert(secret, vault.seal(&secret.into()).await.unwrap());
        }
        Self { queue: MemoryQueue::default(), chain, vault, keys }
    }

    pub fn trader(&self, config: Config) -> Trader {
        self.trader_on(config, Arc::new(self.queue.clone()))
    }

    pub fn trader_on(&self, config: Config, queue: Arc<dyn JobQueue>) -> Trader {
        let submitter = Arc::new(self.chain.clone());
        let accounts = Arc::new(MemoryAccounts::default());
        Trader::start(config, Parts { queue, submitter, signers: signers(&self.vault), accounts }).unwrap()
    }

    pub fn signer(&self, secret: &str) -> JobSigner {
        JobSigner { operator: account(secret), key: self.keys[secret].clone(), proxied: None }
    }

    /// Messages `from` on of worker `w`, to be sent by the operator.
    pub fn job(&self, secret: &str, w: u8, from: u64, count: u64, retries: u32) -> Job {
        let calls = (from..from + count).map(|n| message(w, n)).collect();
        Job { pool: PoolId(1), signer: self.signer(secret), calls, retries }
    }

    pub async fn submit(&self, job: Job) -> JobHandle {
        self.queue.submit(job).await.unwrap()
    }

    /// Makes blocks, one a second, until the job has ended.
    pub async fn outcome(&self, handle: JobHandle) -> Result<JobOutcome, JobFailure> {
        tokio::select! {
            outcome = timeout(HOUR, handle.outcome()) => outcome.expect("a submitter waits forever"),
            () = self.chain.run(ms(1_000)) => unreachable!(),
        }
    }

    pub async fn outcomes(&self, handle: JobHandle) -> Vec<CallOutcome> {
        self.outcome(handle).await.unwrap().calls
    }

    /// Waits for that many transactions on their way.
    pub async fn pending(&self, count: usize) {
        let wait = async {
            while self.chain.pending() != count {
                sleep(ms(10)).await;
            }
        };
        timeout(ms(60_000), wait).await.expect("no such number of transactions");
    }

    pub fn executed(&self, call: &Call) -> usize {
        self.chain.events().iter().filter(|event| event.call == *call).count()
    }
}

pub fn account(secret: &str) -> AccountId {
    MemoryChain::account_of(secret)
}

pub fn message(w: u8, sequence: u64) -> Call {
    let sender = MessageOrigin::Worker(WorkerKey([w; 32]));
    let message = Message { sender, destination: vec![], payload: vec![] };
    Call::SyncOffchainMessage(SignedMessage { message, sequence, signature: vec![0; 64] })
}
