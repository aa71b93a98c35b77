//! A queue, a chain and a vault in memory, under paused time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use prb_core::{
    chain::{
        Call, ChainSubmitter,
        memory::{Config as ChainConfig, Event, MemoryChain},
    },
    primitives::{AccountId, PoolId, WorkerKey},
    queue::{CallOutcome, Job, JobFailure, JobHandle, JobQueue, JobSigner, memory::MemoryQueue},
    signer::{Signers, memory::MemorySigners},
    trade::{Config, Parts, Trader, accounts::MemoryAccounts},
    vault::{Sealed, Vault, memory::MemoryVault},
    wire::{Message, MessageOrigin, SignedMessage},
};
use tokio::time::{sleep, timeout};

const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const ALICE: &str = "//Alice";

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn account(secret: &str) -> AccountId {
    MemoryChain::account_of(secret)
}

pub(crate) fn message(worker: u8, sequence: u64) -> Call {
    let sender = MessageOrigin::Worker(WorkerKey([worker; 32]));
    let message = Message { sender, destination: vec![], payload: vec![] };
    Call::SyncOffchainMessage(SignedMessage { message, sequence, signature: vec![0; 64] })
}

pub(crate) struct Rig {
    pub(crate) queue: MemoryQueue,
    pub(crate) chain: MemoryChain,
    pub(crate) vault: Arc<MemoryVault>,
    key: Sealed,
    next: HashMap<u8, u64>,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::on(ChainConfig::default()).await
    }

    pub(crate) async fn on(config: ChainConfig) -> Self {
        let vault = Arc::new(MemoryVault::new());
        let key = vault.seal(&ALICE.into()).await.unwrap();
        let (queue, chain) = (MemoryQueue::default(), MemoryChain::new(config));
        Self { queue, chain, vault, key, next: HashMap::new() }
    }

    pub(crate) fn parts(&self) -> Parts {
        Parts {
            queue: Arc::new(self.queue.clone()),
            submitter: Arc::new(self.chain.clone()) as Arc<dyn ChainSubmitter>,
            signers: Arc::new(MemorySigners::new(self.vault.clone())) as Arc<dyn Signers>,
            accounts: Arc::new(MemoryAccounts::default()),
        }
    }

    pub(crate) fn trader(&self, config: Config) -> Trader {
        Trader::start(config, self.parts()).unwrap()
    }

    /// A job of the worker's next messages.
    pub(crate) async fn submit(&mut self, worker: u8, count: u64, retries: u32) -> JobHandle {
        let next = self.next.entry(worker).or_default();
        let calls = (*next..*next + count).map(|n| message(worker, n)).collect();
        *next += count;
        let signer = JobSigner { operator: account(ALICE), key: self.key.clone(), proxied: None };
        let job = Job { pool: PoolId(1), signer, calls, retries };
        self.queue.submit(job).await.unwrap()
    }

    /// Makes blocks, one a second, until `work` is done.
    pub(crate) async fn ticking<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = timeout(HOUR, work) => done.expect("not done in time"),
            () = self.chain.run(ms(1_000)) => unreachable!(),
        }
    }

    pub(crate) async fn outcomes(
        &self,
        handles: Vec<JobHandle>,
    ) -> Vec<Result<Vec<CallOutcome>, JobFailure>> {
        let all = async {
            let mut outcomes = Vec::new();
            for handle in handles {
                outcomes.push(handle.outcome().await.map(|outcome| outcome.calls));
            }
            outcomes
        };
        self.ticking(all).await
    }

    pub(crate) async fn all_done(&self, handles: Vec<JobHandle>) {
        for (n, outcome) in self.outcomes(handles).await.into_iter().enumerate() {
            let calls = outcome.unwrap_or_else(|e| panic!("job {n}: {e}"));
            let done = |call: &CallOutcome| matches!(call, CallOutcome::Done | CallOutcome::AlreadyDone);
            assert!(calls.iter().all(done), "job {n}: {calls:?}");
        }
    }

    /// Calls that the chain refused: the fee is lost.
    pub(crate) fn refused(&self) -> Vec<Event> {
        self.chain.events().into_iter().filter(|event| event.result.is_err()).collect()
    }

    pub(crate) async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is(self) {
                sleep(ms(10)).await;
            }
        };
        timeout(HOUR, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}
