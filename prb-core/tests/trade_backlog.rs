//! Large backlogs, and progress reports of jobs, on a chain in memory, under paused time.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use prb_core::{
    chain::{
        Call,
        memory::{Config as ChainConfig, MemoryChain},
    },
    primitives::{AccountId, PoolId, WorkerKey},
    queue::{
        self, CallOutcome, Job, JobFailure, JobHandle, JobId, JobOutcome, JobQueue, JobSigner, Lease,
        Progress, Stats, memory::MemoryQueue,
    },
    signer::memory::MemorySigners,
    trade::{Config, Parts, Trader, accounts::MemoryAccounts},
    vault::{Vault, memory::MemoryVault},
    wire::{Message, MessageOrigin, SignedMessage},
};
use tokio::time::{sleep, timeout};

const HOUR: Duration = Duration::from_secs(3600);
const ALICE: &str = "//Alice";

fn signers(vault: &Arc<MemoryVault>) -> Arc<MemorySigners> {
    Arc::new(MemorySigners::new(vault.clone()))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn account(secret: &str) -> AccountId {
    MemoryChain::account_of(secret)
}

fn message(w: u8, sequence: u64) -> Call {
    let sender = MessageOrigin::Worker(WorkerKey([w; 32]));
    let message = Message { sender, destination: vec![], payload: vec![] };
    Call::SyncOffchainMessage(SignedMessage { message, sequence, signature: vec![0; 64] })
}

/// Batches of ten.
fn of_ten() -> Config {
    Config::default().with_max_calls(10)
}

struct Rig {
    queue: MemoryQueue,
    chain: MemoryChain,
    vault: Arc<MemoryVault>,
    accounts: MemoryAccounts,
    next: HashMap<u8, u64>,
}

impl Rig {
    fn new() -> Self {
        Self::on(MemoryChain::default())
    }

    fn on(chain: MemoryChain) -> Self {
        let (queue, vault) = (MemoryQueue::default(), Arc::new(MemoryVault::new()));
        Self { queue, chain, vault, accounts: MemoryAccounts::default(), next: HashMap::new() }
    }

    fn trader(&self, config: Config) -> Trader {
        self.trader_on(config, Arc::new(self.queue.clone()))
    }

    fn trader_on(&self, config: Config, queue: Arc<dyn JobQueue>) -> Trader {
        let (submitter, accounts) =
            (Arc::new(self.chain.clone()), Arc::new(self.accounts.for_other_trader()));
        let parts = Parts { queue, submitter, signers: signers(&self.vault), accounts };
        Trader::start(config, parts).unwrap()
    }

    /// The next messages of a worker, one a job.
    async fn submit(&mut self, secret: &str, w: u8, count: u64, retries: u32) -> Vec<JobHandle> {
        let key = self.vault.seal(&secret.into()).await.unwrap();
        let next = self.next.entry(w).or_default();
        let mut handles = Vec::new();
        for sequence in *next..*next + count {
            let signer = JobSigner { operator: account(secret), key: key.clone(), proxied: None };
            let job = Job { pool: PoolId(1), signer, calls: vec![message(w, sequence)], retries };
            handles.push(self.queue.submit(job).await.unwrap());
        }
        *next += count;
        handles
    }

    async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is(self) {
                sleep(ms(10)).await;
            }
        };
        timeout(HOUR, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// Makes blocks, one a second, until all have ended.
    async fn outcomes(&self, handles: Vec<JobHandle>) -> Vec<Result<CallOutcome, JobFailure>> {
        let all = async {
            let mut outcomes = Vec::new();
            for handle in handles {
                let result = timeout(HOUR, handle.outcome()).await.expect("a submitter waits forever");
                outcomes.push(result.map(|mut outcome: JobOutcome| outcome.calls.remove(0)));
            }
            outcomes
        };
        tokio::select! { all = all => all, () = self.chain.run(ms(1_000)) => unreachable!() }
    }

    async fn all_done(&self, handles: Vec<JobHandle>) {
        for outcome in self.outcomes(handles).await {
            assert!(matches!(outcome, Ok(CallOutcome::Done | CallOutcome::AlreadyDone)), "{outcome:?}");
        }
        let mut done: Vec<_> = self.chain.events().into_iter().filter(|event| event.result.is_ok()).collect();
        while let Some(event) = done.pop() {
            assert!(done.iter().all(|other| other.call != event.call), "done twice: {:?}", event.call);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn oversized_batches_are_returned_in_order() {
    let chain = MemoryChain::new(ChainConfig::default().with_max_batch_calls(7));
    let mut rig = Rig::on(chain);
    let trader = rig.trader(Config::default());
    let jobs = rig.submit(ALICE, 1, 100, 0).await;
    for outcome in rig.outcomes(jobs).await {
        assert_eq!(outcome, Ok(CallOutcome::Done), "in the order of their sequence");
    }
    let status = trader.status().borrow().clone();
    assert_eq!((status.batches, status.failed_batches, status.jobs_failed), (15, 0, 0));
}

/// What there is money for goes; the rest fails with a message that says so.
#[tokio::test(start_paused = true)]
async fn account_with_a_low_balance_pays_for_some_calls() {
    let chain = MemoryChain::new(ChainConfig::default().with_fee(10));
    chain.fund(account(ALICE), 10 * 45);
    let mut rig = Rig::on(chain);
    let trader = rig.trader(Config::default());
    let jobs = rig.submit(ALICE, 1, 100, 0).await;
    for (n, outcome) in rig.outcomes(jobs).await.into_iter().enumerate() {
        match outcome {
            Ok(outcome) => assert!(n < 45 && outcome == CallOutcome::Done, "{n}: {outcome:?}"),
            Err(e) => assert!(n >= 45 && e.message.contains("cannot pay"), "{n}: {e:?}"),
        }
    }
    let status = trader.status().borrow().clone();
    assert_eq!((status.jobs_failed, status.failed_batches), (55, 1));
}

type Reports = Vec<(Progress, Vec<JobId>)>;

/// A queue that records the reported progress of jobs, and may never answer a report.
#[derive(Clone, Debug)]
struct Recording {
    queue: MemoryQueue,
    reports: Arc<Mutex<Reports>>,
    hangs: bool,
}

#[async_trait]
impl JobQueue for Recording {
    async fn submit(&self, job: Job) -> Result<JobHandle, queue::Error> {
        self.queue.submit(job).await
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, queue::Error> {
        self.queue.lease(ttl).await
    }

    async fn release(&self, leases: &[(JobId, u64)], after: Duration) -> Result<(), queue::Error> {
        self.queue.release(leases, after).await
    }

    async fn heartbeat(&self, leases: &[(JobId, u64)], ttl: Duration) -> Result<Vec<JobId>, queue::Error> {
        self.queue.heartbeat(leases, ttl).await
    }

    async fn progress(&self, leases: &[(JobId, u64)], progress: Progress) -> Result<(), queue::Error> {
        self.reports.lock().unwrap().push((progress, leases.iter().map(|(id, _)| *id).collect()));
        if self.hangs {
            std::future::pending::<()>().await;
        }
        self.queue.progress(leases, progress).await
    }

    async fn complete(&self, id: JobId, token: u64, outcome: JobOutcome) -> Result<(), queue::Error> {
        self.queue.complete(id, token, outcome).await
    }

    async fn fail(
        &self,
        id: JobId,
        token: u64,
        failure: JobFailure,
        retry_after: Option<Duration>,
    ) -> Result<(), queue::Error> {
        self.queue.fail(id, token, failure, retry_after).await
    }

    async fn stats(&self) -> Result<Stats, queue::Error> {
        self.queue.stats().await
    }
}

#[tokio::test(start_paused = true)]
async fn progress_is_reported_in_order_and_together() {
    let mut rig = Rig::new();
    let reports: Arc<Mutex<Reports>> = Arc::default();
    let queue = Recording { queue: rig.queue.clone(), reports: reports.clone(), hangs: false };
    let config = Config::default().with_first_calls(1_000);
    let _trader = rig.trader_on(config, Arc::new(queue));
    let jobs = rig.submit(ALICE, 1, 1_000, 0).await;
    rig.until("sent", |_| reports.lock().unwrap().iter().any(|(progress, _)| *progress == Progress::Sent))
        .await;
    let reports = reports.lock().unwrap().clone();
    assert!(reports.len() <= 10, "{} calls for a thousand jobs of one batch", reports.len());
    let mut last: HashMap<JobId, Progress> = HashMap::new();
    for (progress, ids) in reports {
        for id in ids {
            let before = last.insert(id, progress);
            let expected = match progress {
                Progress::Taken => None,
                Progress::Prepared => Some(Progress::Taken),
                _ => Some(Progress::Prepared),
            };
            assert_eq!(before, expected, "{id} is {progress:?}");
        }
    }
    assert_eq!(last.len(), 1_000);
    assert!(last.values().all(|progress| *progress == Progress::Sent));
    rig.all_done(jobs).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_progress_reports() {
    let mut rig = Rig::new();
    let queue = Recording { queue: rig.queue.clone(), reports: Arc::default(), hangs: true };
    let trader = rig.trader_on(of_ten(), Arc::new(queue));
    let jobs = rig.submit(ALICE, 1, 40, 0).await;
    let start = tokio::time::Instant::now();
    rig.all_done(jobs).await;
    assert!(start.elapsed() < ms(4_500), "{:?}", start.elapsed());
    assert_eq!(trader.stop(ms(1_000)).await.unwrap().jobs_released, 0);
}

/// A queue that lost its data and gives the ids of before again: only the newest job of an id is known.
#[derive(Clone, Debug)]
struct Forgetful {
    queue: MemoryQueue,
    /// Of the newest lease: its token, and the job's id in truth.
    newest: Arc<Mutex<Option<(u64, JobId)>>>,
}

impl Forgetful {
    const ID: JobId = JobId(1);

    fn real(&self, token: u64) -> Option<JobId> {
        self.newest.lock().unwrap().filter(|(newest, _)| *newest == token).map(|(_, id)| id)
    }
}

#[async_trait]
impl JobQueue for Forgetful {
    async fn submit(&self, job: Job) -> Result<JobHandle, queue::Error> {
        self.queue.submit(job).await
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, queue::Error> {
        let lease = self.queue.lease(ttl).await?;
        *self.newest.lock().unwrap() = Some((lease.token, lease.id));
        Ok(Lease { id: Self::ID, ..lease })
    }

    async fn release(&self, leases: &[(JobId, u64)], after: Duration) -> Result<(), queue::Error> {
        for (_, token) in leases {
            if let Some(real) = self.real(*token) {
                self.queue.release(&[(real, *token)], after).await?;
            }
        }
        Ok(())
    }

    async fn heartbeat(&self, leases: &[(JobId, u64)], ttl: Duration) -> Result<Vec<JobId>, queue::Error> {
        let mut lost = Vec::new();
        for (id, token) in leases {
            match self.real(*token) {
                Some(real) => drop(self.queue.heartbeat(&[(real, *token)], ttl).await?),
                None => lost.push(*id),
            }
        }
        Ok(lost)
    }

    async fn complete(&self, id: JobId, token: u64, outcome: JobOutcome) -> Result<(), queue::Error> {
        let real = self.real(token).ok_or(queue::Error::LeaseLost { id })?;
        self.queue.complete(real, token, outcome).await
    }

    async fn fail(
        &self,
        id: JobId,
        token: u64,
        failure: JobFailure,
        retry_after: Option<Duration>,
    ) -> Result<(), queue::Error> {
        let real = self.real(token).ok_or(queue::Error::LeaseLost { id })?;
        self.queue.fail(real, token, failure, retry_after).await
    }

    async fn stats(&self) -> Result<Stats, queue::Error> {
        self.queue.stats().await
    }
}

#[tokio::test(start_paused = true)]
async fn job_with_a_reused_id_is_processed_at_once() {
    let mut rig = Rig::new();
    let queue = Forgetful { queue: rig.queue.clone(), newest: Arc::default() };
    let _trader = rig.trader_on(Config::default(), Arc::new(queue.clone()));
    let _lost = rig.submit(ALICE, 1, 1, 0).await;
    // It waits for company.
    rig.until("leased", |_| queue.newest.lock().unwrap().is_some()).await;
    sleep(ms(100)).await;
    let new = rig.submit(ALICE, 2, 1, 0).await;
    let done = timeout(ms(5_000), rig.outcomes(new)).await.expect("it waits for its lease to run out");
    assert_eq!(done, [Ok(CallOutcome::Done)]);
}
