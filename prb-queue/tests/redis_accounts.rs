//! Tests of account leases in a real Redis, and of two traders that share one.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use prb_core::{
    chain::{
        BatchOutcome, Call, CallBatch, ChainSubmitter, Effects, SubmitError, SubmitProgress,
        memory::MemoryChain,
    },
    conformance,
    primitives::{AccountId, PoolId, WorkerKey},
    queue::{CallOutcome, Job, JobHandle, JobQueue, JobSigner},
    signer::memory::MemorySigners,
    trade::{
        self, Parts, Trader,
        accounts::{AccountLeases, Error},
    },
    vault::{Sealed, Vault, memory::MemoryVault},
    wire::{Message, MessageOrigin, SignedMessage},
};
use prb_queue::redis::{Config, RedisQueue};
use support::{LONG, Server, fresh_name};
use tokio::{sync::mpsc, time::timeout};

const ALICE: AccountId = AccountId([7; 32]);
const SECRET: &str = "//Alice";
const TTL: Duration = Duration::from_secs(30);

fn queue(server: &Server) -> RedisQueue {
    RedisQueue::start(server.config().with_name(fresh_name())).unwrap()
}

#[tokio::test]
async fn redis_accounts_pass_conformance_suite() {
    support::log();
    let server = Server::start();
    conformance::accounts::all(async || {
        let queue = queue(&server);
        (queue.accounts(), queue.accounts())
    })
    .await;
}

#[tokio::test]
async fn tokens_stay_unique_after_redis_lost_its_data() {
    let server = Server::start();
    let queue = queue(&server);
    let (one, other) = (queue.accounts(), queue.accounts());
    let token = one.acquire(ALICE, TTL).await.unwrap().unwrap();
    server.command::<()>("FLUSHALL").await;
    let next = other.acquire(ALICE, TTL).await.unwrap().unwrap();
    assert!(next > token, "{next} after {token}");
    assert_eq!(one.renew(&[(ALICE, token)], TTL).await.unwrap(), [ALICE]);
    assert_eq!(one.acquire(ALICE, TTL).await.unwrap(), None);
    one.release(&[(ALICE, token)]).await.unwrap();
    assert!(other.renew(&[(ALICE, next)], TTL).await.unwrap().is_empty());
}

#[tokio::test]
async fn unreachable_redis_is_reported() {
    let mut server = Server::start();
    let config = server.config().with_call_timeout(Duration::from_secs(1));
    let accounts = RedisQueue::start(config).unwrap().accounts();
    let token = accounts.acquire(ALICE, TTL).await.unwrap().unwrap();
    server.kill();
    let renewed = timeout(LONG, accounts.renew(&[(ALICE, token)], TTL)).await.unwrap();
    assert!(matches!(renewed, Err(Error::Unavailable(_))), "{renewed:?}");
}

/// Records which trader sends.
#[derive(Clone, Debug)]
struct Watched {
    trader: &'static str,
    chain: MemoryChain,
    log: Arc<Mutex<Vec<&'static str>>>,
}

#[async_trait]
impl ChainSubmitter for Watched {
    async fn submit(
        &self,
        batch: &CallBatch,
        progress: mpsc::Sender<SubmitProgress>,
    ) -> Result<BatchOutcome, SubmitError> {
        self.log.lock().unwrap().push(self.trader);
        self.chain.submit(batch, progress).await
    }

    async fn effects(&self, account: AccountId, calls: &[Call]) -> Result<Effects, SubmitError> {
        self.chain.effects(account, calls).await
    }

    fn forget(&self, account: AccountId) {
        self.chain.forget(account);
    }
}

struct Rig {
    config: Config,
    chain: MemoryChain,
    vault: Arc<MemoryVault>,
    key: Sealed,
    log: Arc<Mutex<Vec<&'static str>>>,
}

impl Rig {
    /// A trader with its own connections, as in another process.
    fn trader(&self, trader: &'static str) -> Trader {
        let queue = RedisQueue::start(self.config.clone()).unwrap();
        let accounts = Arc::new(queue.accounts());
        let submitter = Arc::new(Watched { trader, chain: self.chain.clone(), log: self.log.clone() });
        let signers = Arc::new(MemorySigners::new(self.vault.clone()));
        let parts = Parts { queue: Arc::new(queue), submitter, signers, accounts };
        let times = |ms| Duration::from_millis(ms);
        let config = trade::Config::default()
            .with_linger(times(50))
            .with_account_ttl(Duration::from_secs(4))
            .with_lease_ttl(Duration::from_secs(4));
        Trader::start(config, parts).unwrap()
    }

    fn job(&self, sequence: u64) -> Job {
        let sender = MessageOrigin::Worker(WorkerKey([1; 32]));
        let message = Message { sender, destination: vec![], payload: vec![] };
        let message = SignedMessage { message, sequence, signature: vec![0; 64] };
        let operator = MemoryChain::account_of(SECRET);
        let signer = JobSigner { operator, key: self.key.clone(), proxied: None };
        Job { pool: PoolId(1), signer, calls: vec![Call::SyncOffchainMessage(message)], retries: 0 }
    }

    async fn outcome(&self, handle: JobHandle) -> CallOutcome {
        let outcome = tokio::select! {
            outcome = timeout(LONG, handle.outcome()) => outcome.unwrap(),
            () = self.chain.run(Duration::from_millis(50)) => unreachable!(),
        };
        outcome.unwrap().calls.remove(0)
    }
}

#[tokio::test]
async fn second_trader_takes_over_account_when_first_ends() {
    support::log();
    let server = Server::start();
    let vault = Arc::new(MemoryVault::new());
    let key = vault.seal(&SECRET.into()).await.unwrap();
    let config = server.config().with_name(fresh_name());
    let rig = Rig { config, chain: MemoryChain::default(), vault, key, log: Arc::default() };
    let submitter = RedisQueue::start(rig.config.clone()).unwrap();
    let first = rig.trader("first");
    assert_eq!(rig.outcome(submitter.submit(rig.job(0)).await.unwrap()).await, CallOutcome::Done);
    let _second = rig.trader("second");
    for sequence in 1..10 {
        let handle = submitter.submit(rig.job(sequence)).await.unwrap();
        assert_eq!(rig.outcome(handle).await, CallOutcome::Done);
    }
    assert_eq!(*rig.log.lock().unwrap(), vec!["first"; 10]);
    drop(first);
    for sequence in 10..12 {
        let handle = submitter.submit(rig.job(sequence)).await.unwrap();
        assert_eq!(rig.outcome(handle).await, CallOutcome::Done);
    }
    assert_eq!(rig.log.lock().unwrap()[10..], ["second"; 2]);
    assert_eq!(rig.chain.events().len(), 12);
}
