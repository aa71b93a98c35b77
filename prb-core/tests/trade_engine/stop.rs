//! A trader stops in time, whatever does not answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use prb_core::{
    primitives::AccountId,
    queue::{
        Error, Job, JobFailure, JobHandle, JobId, JobOutcome, JobQueue, JobSigner, Lease, Progress, Stats,
        memory::MemoryQueue,
    },
    signer::{self, Signer, Signers},
    trade::{
        self, Config, Parts, StopReport, Trader,
        accounts::{self, AccountLeases, MemoryAccounts},
    },
};
use tokio::time::{Instant, sleep};

use crate::rig::{ALICE, Rig, account, ms};

/// While set, calls never answer.
#[derive(Clone, Debug, Default)]
struct Hung(Arc<AtomicBool>);

impl Hung {
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    async fn wait(&self) {
        if self.0.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Debug)]
struct HungQueue(MemoryQueue, Hung);

#[async_trait]
impl JobQueue for HungQueue {
    async fn submit(&self, job: Job) -> Result<JobHandle, Error> {
        self.0.submit(job).await
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, Error> {
        self.0.lease(ttl).await
    }

    async fn heartbeat(&self, leases: &[(JobId, u64)], ttl: Duration) -> Result<Vec<JobId>, Error> {
        self.1.wait().await;
        self.0.heartbeat(leases, ttl).await
    }

    async fn release(&self, leases: &[(JobId, u64)], after: Duration) -> Result<(), Error> {
        self.1.wait().await;
        self.0.release(leases, after).await
    }

    async fn progress(&self, leases: &[(JobId, u64)], progress: Progress) -> Result<(), Error> {
        self.1.wait().await;
        self.0.progress(leases, progress).await
    }

    async fn complete(&self, id: JobId, token: u64, outcome: JobOutcome) -> Result<(), Error> {
        self.1.wait().await;
        self.0.complete(id, token, outcome).await
    }

    async fn fail(
        &self,
        id: JobId,
        token: u64,
        failure: JobFailure,
        retry_after: Option<Duration>,
    ) -> Result<(), Error> {
        self.1.wait().await;
        self.0.fail(id, token, failure, retry_after).await
    }

    async fn stats(&self) -> Result<Stats, Error> {
        self.0.stats().await
    }
}

#[derive(Debug)]
struct HungAccounts(MemoryAccounts, Hung);

#[async_trait]
impl AccountLeases for HungAccounts {
    async fn acquire(&self, account: AccountId, ttl: Duration) -> Result<Option<u64>, accounts::Error> {
        self.1.wait().await;
        self.0.acquire(account, ttl).await
    }

    async fn renew(
        &self,
        leases: &[(AccountId, u64)],
        ttl: Duration,
    ) -> Result<Vec<AccountId>, accounts::Error> {
        self.1.wait().await;
        self.0.renew(leases, ttl).await
    }

    async fn release(&self, leases: &[(AccountId, u64)]) -> Result<(), accounts::Error> {
        self.1.wait().await;
        self.0.release(leases).await
    }
}

#[derive(Debug)]
struct HungSigners;

#[async_trait]
impl Signers for HungSigners {
    async fn signer(&self, _of: &JobSigner) -> Result<Arc<dyn Signer>, signer::Error> {
        std::future::pending().await
    }
}

const WITHIN: Duration = Duration::from_secs(3);

async fn stop(trader: Trader) -> StopReport {
    let start = Instant::now();
    let report = trader.stop(WITHIN).await.unwrap();
    let limit = WITHIN + Trader::STOP_GRACE;
    assert!(start.elapsed() <= limit, "it took {:?}, more than {limit:?}", start.elapsed());
    report
}

#[tokio::test(start_paused = true)]
async fn unresponsive_queue_does_not_delay_the_stop() {
    // With a full lane, the dispatcher is giving jobs back when the queue hangs.
    for max_lane_jobs in [1, 100] {
        let mut rig = Rig::new().await;
        let hung = Hung::default();
        let queue = Arc::new(HungQueue(rig.queue.clone(), hung.clone()));
        let config = Config::default().with_max_lane_jobs(max_lane_jobs);
        let trader = Trader::start(config, Parts { queue, ..rig.parts() }).unwrap();
        let _sent = rig.submit(1, 1, 0).await;
        rig.until("sent", |rig| rig.chain.pending() == 1).await;
        hung.set();
        let _more = [rig.submit(1, 1, 0).await, rig.submit(1, 1, 0).await];
        sleep(ms(100)).await;
        let report = stop(trader).await;
        assert_eq!((report.jobs_released, report.accounts_left), (0, 0));
        assert!(report.jobs_left >= 1, "{report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn account_leases_that_do_not_answer_hold_up_no_stop() {
    let mut rig = Rig::new().await;
    let hung = Hung::default();
    let accounts = Arc::new(HungAccounts(MemoryAccounts::default(), hung.clone()));
    let trader = Trader::start(Config::default(), Parts { accounts, ..rig.parts() }).unwrap();
    let _sent = rig.submit(1, 1, 0).await;
    rig.until("sent", |rig| rig.chain.pending() == 1).await;
    hung.set();
    let report = stop(trader).await;
    assert_eq!((report.jobs_released, report.jobs_left, report.accounts_left), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn signers_and_submitters_that_do_not_answer_hold_up_no_stop() {
    let mut rig = Rig::new().await;
    let signers = Arc::new(HungSigners);
    let trader = Trader::start(Config::default(), Parts { signers, ..rig.parts() }).unwrap();
    let _waits = rig.submit(1, 1, 0).await;
    sleep(ms(2_000)).await;
    let report = stop(trader).await;
    assert_eq!((report.jobs_released, report.jobs_left), (1, 0));
    rig.chain.hang(account(ALICE), true);
    let trader = rig.trader(Config::default());
    sleep(ms(2_000)).await;
    let report = stop(trader).await;
    assert_eq!((report.jobs_released, report.jobs_left), (1, 0));
}

/// Panics when it is asked to renew.
#[derive(Debug)]
struct Broken(MemoryAccounts);

#[async_trait]
impl AccountLeases for Broken {
    async fn acquire(&self, account: AccountId, ttl: Duration) -> Result<Option<u64>, accounts::Error> {
        self.0.acquire(account, ttl).await
    }

    async fn renew(
        &self,
        _leases: &[(AccountId, u64)],
        _ttl: Duration,
    ) -> Result<Vec<AccountId>, accounts::Error> {
        panic!("the table of {} is gone", "leases")
    }

    async fn release(&self, leases: &[(AccountId, u64)]) -> Result<(), accounts::Error> {
        self.0.release(leases).await
    }
}

#[tokio::test(start_paused = true)]
async fn panic_is_reported_with_its_message() {
    let mut rig = Rig::new().await;
    let accounts = Arc::new(Broken(MemoryAccounts::default()));
    let mut trader = Trader::start(Config::default(), Parts { accounts, ..rig.parts() }).unwrap();
    let _waits = rig.submit(1, 1, 0).await;
    match trader.ended().await {
        Err(trade::Error::Panicked { message }) => assert_eq!(message, "the table of leases is gone"),
        other => panic!("{other:?}"),
    }
}
