//! Several traders on one queue: an account is used by one of them at a time, and taken over by another.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
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
    queue::{CallOutcome, Job, JobHandle, JobQueue, JobSigner, memory::MemoryQueue},
    signer::memory::MemorySigners,
    trade::{
        Config, Parts, Phase, Trader,
        accounts::{AccountLeases, Error, MemoryAccounts},
    },
    vault::{Sealed, Vault, memory::MemoryVault},
    wire::{Message, MessageOrigin, SignedMessage},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

const HOUR: Duration = Duration::from_secs(3600);
const SECRET: &str = "//Alice";

fn signers(vault: &Arc<MemoryVault>) -> Arc<MemorySigners> {
    Arc::new(MemorySigners::new(vault.clone()))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn alice() -> AccountId {
    MemoryChain::account_of(SECRET)
}

/// Who is sending for an account, over all traders; sending beside another trader is a failure.
#[derive(Debug, Default)]
struct Sending {
    now: HashMap<AccountId, &'static str>,
    /// Who sent, batch by batch.
    log: Vec<&'static str>,
    forgotten: Vec<&'static str>,
}

#[derive(Clone, Debug)]
struct Watched {
    trader: &'static str,
    chain: MemoryChain,
    sending: Arc<Mutex<Sending>>,
}

struct Sent<'a>(&'a Watched, AccountId);

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.0.sending.lock().unwrap().now.remove(&self.1);
    }
}

#[async_trait]
impl ChainSubmitter for Watched {
    async fn submit(
        &self,
        batch: &CallBatch,
        progress: mpsc::Sender<SubmitProgress>,
    ) -> Result<BatchOutcome, SubmitError> {
        let account = batch.operator();
        let _sent = {
            let mut sending = self.sending.lock().unwrap();
            sending.log.push(self.trader);
            let beside = sending.now.insert(account, self.trader);
            assert_eq!(beside, None, "{} sends beside it", self.trader);
            Sent(self, account)
        };
        self.chain.submit(batch, progress).await
    }

    async fn effects(&self, account: AccountId, calls: &[Call]) -> Result<Effects, SubmitError> {
        self.chain.effects(account, calls).await
    }

    fn forget(&self, _account: AccountId) {
        self.sending.lock().unwrap().forgotten.push(self.trader);
    }
}

/// Leases of accounts that can be out of reach.
#[derive(Clone, Debug)]
struct Cut {
    accounts: MemoryAccounts,
    cut: Arc<AtomicBool>,
}

impl Cut {
    fn check(&self) -> Result<(), Error> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(Error::Unavailable("cut off".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl AccountLeases for Cut {
    async fn acquire(&self, account: AccountId, ttl: Duration) -> Result<Option<u64>, Error> {
        self.check()?;
        self.accounts.acquire(account, ttl).await
    }

    async fn renew(&self, leases: &[(AccountId, u64)], ttl: Duration) -> Result<Vec<AccountId>, Error> {
        self.check()?;
        self.accounts.renew(leases, ttl).await
    }

    async fn release(&self, leases: &[(AccountId, u64)]) -> Result<(), Error> {
        self.check()?;
        self.accounts.release(leases).await
    }
}

struct Rig {
    queue: MemoryQueue,
    chain: MemoryChain,
    vault: Arc<MemoryVault>,
    key: Sealed,
    accounts: MemoryAccounts,
    sending: Arc<Mutex<Sending>>,
}

impl Rig {
    async fn new() -> Self {
        let vault = Arc::new(MemoryVault::new());
        let key = vault.seal(&SECRET.into()).await.unwrap();
        let (queue, chain, accounts) =
            (MemoryQueue::default(), MemoryChain::default(), MemoryAccounts::default());
        Self { queue, chain, vault, key, accounts, sending: Arc::default() }
    }

    fn trader(&self, name: &'static str) -> Trader {
        self.trader_with(name, Arc::new(self.accounts.for_other_trader()))
    }

    fn trader_with(&self, trader: &'static str, accounts: Arc<dyn AccountLeases>) -> Trader {
        let (chain, sending) = (self.chain.clone(), self.sending.clone());
        let submitter = Arc::new(Watched { trader, chain, sending });
        let (queue, signers) = (Arc::new(self.queue.clone()), signers(&self.vault));
        Trader::start(Config::default(), Parts { queue, submitter, signers, accounts }).unwrap()
    }

    /// A job of one message.
    async fn submit(&self, sequence: u64) -> JobHandle {
        let sender = MessageOrigin::Worker(WorkerKey([1; 32]));
        let message = Message { sender, destination: vec![], payload: vec![] };
        let calls =
            vec![Call::SyncOffchainMessage(SignedMessage { message, sequence, signature: vec![0; 64] })];
        let signer = JobSigner { operator: alice(), key: self.key.clone(), proxied: None };
        self.queue.submit(Job { pool: PoolId(1), signer, calls, retries: 0 }).await.unwrap()
    }

    /// Makes blocks, one a second, until the job has ended.
    async fn outcome(&self, handle: JobHandle) -> CallOutcome {
        let result = tokio::select! {
            outcome = timeout(HOUR, handle.outcome()) => outcome.expect("a submitter waits forever"),
            () = self.chain.run(ms(1_000)) => unreachable!(),
        };
        result.unwrap().calls.remove(0)
    }

    async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is(self) {
                sleep(ms(10)).await;
            }
        };
        timeout(HOUR, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    fn log(&self) -> Vec<&'static str> {
        self.sending.lock().unwrap().log.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn memory_conforms() {
    conformance::accounts::all(async || {
        let one = MemoryAccounts::default();
        let other = one.for_other_trader();
        (one, other)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_trader_sends_and_the_other_stands_by() {
    let rig = Rig::new().await;
    let first = rig.trader("first");
    assert_eq!(rig.outcome(rig.submit(0).await).await, CallOutcome::Done);
    let second = rig.trader("second");
    for sequence in 1..20 {
        let asked = Instant::now();
        assert_eq!(rig.outcome(rig.submit(sequence).await).await, CallOutcome::Done);
        // A second to linger, a block, and one detour over the spare.
        assert!(asked.elapsed() < ms(6_000), "{:?}", asked.elapsed());
    }
    assert_eq!(rig.log(), vec!["first"; 20]);
    // The first dies without a word.
    drop(first);
    let died = Instant::now();
    assert_eq!(rig.outcome(rig.submit(20).await).await, CallOutcome::Done);
    assert!(died.elapsed() < ms(60_000), "the spare took over after {:?}", died.elapsed());
    assert_eq!(rig.log().last(), Some(&"second"));
    let phase = second.status().borrow().lanes[&alice()].phase;
    assert!(matches!(phase, Phase::Collecting), "{phase:?}");
}

#[tokio::test(start_paused = true)]
async fn transactions_of_a_dead_trader_are_not_sent_again() {
    let rig = Rig::new().await;
    let first = rig.trader("first");
    let handle = rig.submit(0).await;
    rig.until("sent", |rig| rig.chain.pending() == 1).await;
    drop(first);
    let _second = rig.trader("second");
    assert_eq!(rig.outcome(handle).await, CallOutcome::AlreadyDone);
    assert_eq!((rig.log(), rig.chain.events().len()), (vec!["first"], 1));
}

#[tokio::test(start_paused = true)]
async fn stopping_trader_releases_its_accounts() {
    let rig = Rig::new().await;
    let first = rig.trader("first");
    assert_eq!(rig.outcome(rig.submit(0).await).await, CallOutcome::Done);
    first.stop(ms(1_000)).await.unwrap();
    let stopped = Instant::now();
    let _second = rig.trader("second");
    assert_eq!(rig.outcome(rig.submit(1).await).await, CallOutcome::Done);
    assert!(stopped.elapsed() < ms(5_000), "it waited for {:?}", stopped.elapsed());
}

#[tokio::test(start_paused = true)]
async fn idle_lane_releases_its_account() {
    let rig = Rig::new().await;
    let first = rig.trader("first");
    assert_eq!(rig.outcome(rig.submit(0).await).await, CallOutcome::Done);
    sleep(Config::LANE_IDLE + Config::ACCOUNT_TTL).await;
    assert!(first.status().borrow().lanes.is_empty());
    let other = rig.accounts.for_other_trader();
    assert!(other.acquire(alice(), HOUR).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn lost_account_lease_ends_a_submission_before_another_trader_sends() {
    let rig = Rig::new().await;
    let first = rig.trader("first");
    let handle = rig.submit(0).await;
    rig.until("sent", |rig| rig.chain.pending() == 1).await;
    // The leases are lost, as with a server that was flushed, and another trader is quicker.
    rig.accounts.forget_all();
    let other = rig.accounts.for_other_trader();
    let token = other.acquire(alice(), HOUR).await.unwrap().unwrap();
    rig.until("given up", |rig| rig.sending.lock().unwrap().now.is_empty()).await;
    let is_elsewhere = |phase| matches!(phase, Phase::HeldByOther);
    rig.until("elsewhere", |_| is_elsewhere(first.status().borrow().lanes[&alice()].phase)).await;
    rig.chain.produce_block();
    sleep(ms(20_000)).await;
    assert_eq!(rig.log(), ["first"], "it sent without its account");
    assert_eq!(rig.queue.stats().await.unwrap().failed, 0, "a job failed though it was carried out");
    other.release(&[(alice(), token)]).await.unwrap();
    assert_eq!(rig.outcome(handle).await, CallOutcome::AlreadyDone);
    let forgotten = rig.sending.lock().unwrap().forgotten.len();
    assert_eq!(forgotten, 2, "others may have sent in between, so the submitter must look again");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_while_leases_are_unavailable() {
    let rig = Rig::new().await;
    let cut = Cut { accounts: rig.accounts.clone(), cut: Arc::new(AtomicBool::new(true)) };
    let _trader = rig.trader_with("first", Arc::new(cut.clone()));
    let handle = rig.submit(0).await;
    sleep(ms(120_000)).await;
    assert!(rig.log().is_empty());
    cut.cut.store(false, Ordering::Relaxed);
    assert_eq!(rig.outcome(handle).await, CallOutcome::Done);
    // A batch in flight is given up when renewals have failed for too long, before the lease runs out.
    let handle = rig.submit(1).await;
    rig.until("sent", |rig| rig.chain.pending() == 1).await;
    cut.cut.store(true, Ordering::Relaxed);
    let since = Instant::now();
    rig.until("given up", |rig| rig.sending.lock().unwrap().now.is_empty()).await;
    assert!(since.elapsed() < Config::ACCOUNT_TTL, "{:?}", since.elapsed());
    cut.cut.store(false, Ordering::Relaxed);
    assert_eq!(rig.outcome(handle).await, CallOutcome::AlreadyDone);
    assert_eq!(rig.chain.events().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn waits_beyond_six_seconds_are_refused() {
    let rig = Rig::new().await;
    let submitter = Arc::new(rig.chain.clone());
    let (queue, accounts) = (Arc::new(rig.queue.clone()), Arc::new(rig.accounts.clone()));
    let parts = Parts { queue, submitter, signers: signers(&rig.vault), accounts };
    let config = Config::default().with_max_wait(ms(6_500));
    let error = Trader::start(config, parts).unwrap_err();
    assert_eq!(error.to_string(), "the trade engine's max_wait must be at most 6 s, not 6.5 s");
}
