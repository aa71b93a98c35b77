//! The trade engine on a chain in memory, under paused time.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use codec::Encode;
use prb_core::{
    chain::{
        Call,
        memory::{self, Fault, MemoryChain},
    },
    primitives::{AccountId, Hash, PHALA_SS58_PREFIX, PoolId, WorkerKey},
    queue::{
        self, CallOutcome, Job, JobFailure, JobHandle, JobId, JobOutcome, JobQueue, JobSigner, Lease, Stats,
        memory::MemoryQueue,
    },
    signer::memory::MemorySigners,
    trade::{Config, Parts, Phase, Trader, accounts::MemoryAccounts},
    vault::{Sealed, Vault, memory::MemoryVault},
    wire::{Message, MessageOrigin, SignedMessage, WorkerRegistrationInfoV2},
};
use tokio::time::{Instant, sleep, timeout};

const HOUR: Duration = Duration::from_secs(3600);

fn signers(vault: &Arc<MemoryVault>) -> Arc<MemorySigners> {
    Arc::new(MemorySigners::new(vault.clone()))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A queue, a chain and the keys between them.
struct Rig {
    queue: MemoryQueue,
    chain: MemoryChain,
    vault: Arc<MemoryVault>,
    keys: HashMap<&'static str, Sealed>,
}

impl Rig {
    async fn new() -> Self {
        Self::on(MemoryChain::default()).await
    }

    async fn on(chain: MemoryChain) -> Self {
        let vault = Arc::new(MemoryVault::new());
        let mut keys = HashMap::new();
        for secret in ["//Alice", "//Bob", "//Carol"] {
            keys.insert(secret, vault.seal(&secret.into()).await.unwrap());
        }
        Self { queue: MemoryQueue::default(), chain, vault, keys }
    }

    fn trader(&self, config: Config) -> Trader {
        self.trader_on(config, Arc::new(self.queue.clone()))
    }

    fn trader_on(&self, config: Config, queue: Arc<dyn JobQueue>) -> Trader {
        let submitter = Arc::new(self.chain.clone());
        let accounts = Arc::new(MemoryAccounts::default());
        Trader::start(config, Parts { queue, submitter, signers: signers(&self.vault), accounts }).unwrap()
    }

    fn signer(&self, secret: &str) -> JobSigner {
        JobSigner { operator: account(secret), key: self.keys[secret].clone(), proxied: None }
    }

    /// Messages `from` on of worker `w`, to be sent by the operator.
    fn job(&self, secret: &str, w: u8, from: u64, count: u64, retries: u32) -> Job {
        let calls = (from..from + count).map(|n| message(w, n)).collect();
        Job { pool: PoolId(1), signer: self.signer(secret), calls, retries }
    }

    async fn submit(&self, job: Job) -> JobHandle {
        self.queue.submit(job).await.unwrap()
    }

    /// Makes blocks, one a second, until the job has ended.
    async fn fate(&self, handle: JobHandle) -> Result<JobOutcome, JobFailure> {
        tokio::select! {
            fate = timeout(HOUR, handle.outcome()) => fate.expect("a submitter waits for ever"),
            () = self.chain.run(ms(1_000)) => unreachable!(),
        }
    }

    async fn outcomes(&self, handle: JobHandle) -> Vec<CallOutcome> {
        self.fate(handle).await.unwrap().calls
    }

    /// Waits for that many transactions on their way.
    async fn pending(&self, count: usize) {
        let wait = async {
            while self.chain.pending() != count {
                sleep(ms(10)).await;
            }
        };
        timeout(ms(60_000), wait).await.expect("no such number of transactions");
    }

    fn executed(&self, call: &Call) -> usize {
        self.chain.events().iter().filter(|event| event.call == *call).count()
    }
}

fn account(secret: &str) -> AccountId {
    MemoryChain::account_of(secret)
}

fn message(w: u8, sequence: u64) -> Call {
    let sender = MessageOrigin::Worker(WorkerKey([w; 32]));
    let message = Message { sender, destination: vec![], payload: vec![] };
    Call::SyncOffchainMessage(SignedMessage { message, sequence, signature: vec![0; 64] })
}

#[tokio::test(start_paused = true)]
async fn a_lone_job_waits_a_second() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config::default());
    let handle = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    sleep(ms(990)).await;
    assert_eq!(rig.chain.pending(), 0);
    sleep(ms(20)).await;
    assert_eq!(rig.chain.pending(), 1);
    let lane = trader.status().borrow().lanes[&account("//Alice")].clone();
    assert!(matches!(lane.phase, Phase::Sent { .. }), "{lane:?}");
    let block = rig.chain.produce_block();
    let outcome = handle.outcome().await.unwrap();
    assert_eq!((outcome.calls, outcome.block), (vec![CallOutcome::Done], block));
    assert!(outcome.extrinsic.is_some());
    let status = trader.status().borrow().clone();
    assert_eq!((status.batches, status.calls_done, status.jobs_completed), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_batch_goes_six_seconds_after_its_first_job() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    let start = Instant::now();
    let mut handles = Vec::new();
    while rig.chain.pending() == 0 {
        handles.push(rig.submit(rig.job("//Alice", 1, handles.len() as u64, 1, 0)).await);
        sleep(ms(900)).await;
    }
    assert!((ms(6_000)..ms(6_900)).contains(&start.elapsed()), "{:?}", start.elapsed());
    rig.chain.produce_block();
    assert_eq!(rig.chain.events().len(), 7, "the jobs of six seconds are one batch");
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_goes_at_once() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config { max_calls: 100, ..Config::default() });
    let start = Instant::now();
    let mut handles = Vec::new();
    for n in 0..150 {
        handles.push(rig.submit(rig.job("//Alice", 1, n, 1, 0)).await);
    }
    while rig.chain.pending() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    rig.chain.produce_block();
    assert_eq!(rig.chain.events().len(), 100);
    rig.pending(1).await;
    rig.chain.produce_block();
    for handle in handles {
        assert_eq!(rig.outcomes(handle).await, [CallOutcome::Done], "in the order of their sequence");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_has_one_batch_in_flight() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    let first = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    rig.pending(1).await;
    let second = rig.submit(rig.job("//Alice", 1, 1, 1, 0)).await;
    sleep(ms(30_000)).await;
    assert_eq!(rig.chain.pending(), 1);
    rig.chain.produce_block();
    assert_eq!(first.outcome().await.unwrap().calls, [CallOutcome::Done]);
    // It has waited long enough and does not linger again.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.chain.pending(), 1);
    assert_eq!(rig.outcomes(second).await, [CallOutcome::Done]);
}

#[tokio::test(start_paused = true)]
async fn pools_of_one_operator_share_batches_unless_one_is_proxied() {
    let rig = Rig::new().await;
    rig.chain.set_proxy(account("//Carol"), account("//Alice"));
    let _trader = rig.trader(Config::default());
    // Sealed twice: the same key behind other bytes.
    let key = rig.vault.seal(&"//Alice".into()).await.unwrap();
    let sealed_anew = JobSigner { key, ..rig.signer("//Alice") };
    let proxied = JobSigner { proxied: Some(account("//Carol")), ..rig.signer("//Alice") };
    let mut handles = Vec::new();
    for (w, signer) in [rig.signer("//Alice"), sealed_anew, proxied].into_iter().enumerate() {
        let calls = vec![message(w as u8, 0)];
        handles.push(rig.submit(Job { pool: PoolId(w as u64), signer, calls, retries: 0 }).await);
    }
    let mut extrinsics = Vec::new();
    for handle in handles {
        let outcome = rig.fate(handle).await.unwrap();
        assert_eq!(outcome.calls, [CallOutcome::Done]);
        extrinsics.push(outcome.extrinsic);
    }
    assert_eq!(extrinsics[0], extrinsics[1]);
    assert_ne!(extrinsics[0], extrinsics[2]);
}

#[tokio::test(start_paused = true)]
async fn a_hung_lane_holds_up_no_other_and_is_bounded() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config { max_lane_jobs: 3, ..Config::default() });
    rig.chain.hang(account("//Alice"), true);
    let mut stuck = Vec::new();
    for n in 0..20 {
        stuck.push(rig.submit(rig.job("//Alice", 1, n, 1, 0)).await);
    }
    for n in 0..5 {
        let handle = rig.submit(rig.job("//Bob", 2, n, 1, 0)).await;
        let fate = tokio::select! {
            fate = timeout(ms(10_000), handle.outcome()) => fate,
            () = rig.chain.run(ms(1_000)) => unreachable!(),
        };
        assert_eq!(fate.expect("Bob waits for Alice").unwrap().calls, [CallOutcome::Done]);
        let held = trader.status().borrow().lanes[&account("//Alice")].jobs;
        assert!((1..=3).contains(&held), "the hung lane holds {held} jobs");
    }
    rig.chain.hang(account("//Alice"), false);
    for handle in stuck {
        assert_eq!(rig.outcomes(handle).await, [CallOutcome::Done], "and all its jobs are done in the end");
    }
}

#[tokio::test(start_paused = true)]
async fn operators_beyond_the_lanes_wait_for_one() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config { max_lanes: 1, lane_idle: ms(2_000), ..Config::default() });
    let alice = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    let bob = rig.submit(rig.job("//Bob", 2, 0, 1, 0)).await;
    rig.pending(1).await;
    sleep(ms(20_000)).await;
    assert_eq!(trader.status().borrow().lanes.len(), 1);
    assert_eq!(rig.chain.pending(), 1);
    assert_eq!(rig.outcomes(alice).await, [CallOutcome::Done]);
    assert_eq!(rig.outcomes(bob).await, [CallOutcome::Done]);
}

#[tokio::test(start_paused = true)]
async fn idle_lanes_go_away_and_come_again() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config::default());
    for n in 0..3 {
        let handle = rig.submit(rig.job("//Alice", 1, n, 1, 0)).await;
        assert_eq!(rig.outcomes(handle).await, [CallOutcome::Done]);
        assert_eq!(trader.status().borrow().lanes.len(), 1);
        sleep(ms(61_000)).await;
        assert_eq!(trader.status().borrow().lanes.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn each_call_has_its_own_result() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    let good = rig.submit(rig.job("//Alice", 1, 0, 2, 3)).await;
    let gap = rig.submit(rig.job("//Alice", 2, 7, 1, 3)).await;
    let mut mixed = rig.job("//Alice", 3, 0, 1, 3);
    mixed.calls.push(message(3, 5));
    let mixed = rig.submit(mixed).await;
    let bad = || CallOutcome::Failed("PhalaMq::BadSequence".into());
    assert_eq!(rig.outcomes(good).await, [CallOutcome::Done, CallOutcome::Done]);
    assert_eq!(rig.outcomes(gap).await, [bad()]);
    assert_eq!(rig.outcomes(mixed).await, [CallOutcome::Done, bad()]);
    assert_eq!(rig.executed(&message(2, 7)), 1, "a call that the chain refused is not tried again");
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_has_done_is_already_done() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    // The lane's first batch: after it, effects are not asked for without a reason.
    let handle = rig.submit(rig.job("//Alice", 9, 0, 1, 0)).await;
    assert_eq!(rig.outcomes(handle).await, [CallOutcome::Done]);
    rig.chain.set_ingress(WorkerKey([1; 32]), 2);
    let handle = rig.submit(rig.job("//Alice", 1, 0, 3, 0)).await;
    let expected = [CallOutcome::AlreadyDone, CallOutcome::AlreadyDone, CallOutcome::Done];
    assert_eq!(rig.outcomes(handle).await, expected);
}

#[tokio::test(start_paused = true)]
async fn equal_calls_of_a_batch_are_sent_once() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    let first = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    let again = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    assert_eq!(rig.outcomes(first).await, [CallOutcome::Done]);
    assert_eq!(rig.outcomes(again).await, [CallOutcome::Done]);
    assert_eq!(rig.executed(&message(1, 0)), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_lately_and_comes_again_is_not_sent_again() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    let first = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    assert_eq!(rig.outcomes(first).await, [CallOutcome::Done]);
    // Its submitter did not learn that, and what it sees of the chain is a little old.
    let again = rig.submit(rig.job("//Alice", 1, 0, 2, 0)).await;
    assert_eq!(rig.outcomes(again).await, [CallOutcome::AlreadyDone, CallOutcome::Done]);
    assert_eq!((rig.executed(&message(1, 0)), rig.executed(&message(1, 1))), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_waits_with_a_newer_one_is_sent_once() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    let worker = WorkerKey([1; 32]);
    let info = WorkerRegistrationInfoV2 {
        version: 1,
        machine_id: vec![],
        pubkey: worker,
        ecdh_pubkey: [0; 32],
        genesis_block_hash: Hash([0; 32]),
        features: vec![],
        operator: None,
        para_id: 1,
        max_consensus_version: 0,
    };
    // The manager was started again in between: the worker gave another report.
    let mut handles = Vec::new();
    for report in 0..2 {
        let (runtime_info, attestation) = (info.encode(), vec![report]);
        let call = Call::RegisterWorker { worker, runtime_info, attestation, replaces: None };
        let job = Job { pool: PoolId(1), signer: rig.signer("//Alice"), calls: vec![call], retries: 0 };
        handles.push(rig.submit(job).await);
    }
    let newer = handles.remove(1);
    assert_eq!(rig.outcomes(handles.remove(0)).await, [CallOutcome::Done]);
    assert_eq!(rig.outcomes(newer).await, [CallOutcome::AlreadyDone]);
    assert_eq!(rig.chain.events().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_send_and_block_does_nothing_twice() {
    let rig = Rig::new().await;
    let first = rig.trader(Config::default());
    let handle = rig.submit(rig.job("//Alice", 1, 0, 2, 0)).await;
    rig.pending(1).await;
    drop(first);
    let second = rig.trader(Config::default());
    // The lease has run out, and the second trader waits for what the first has sent.
    sleep(ms(60_000)).await;
    assert_eq!(rig.chain.pending(), 1);
    let block = rig.chain.produce_block();
    let outcome = handle.outcome().await.unwrap();
    assert_eq!(outcome.calls, [CallOutcome::AlreadyDone, CallOutcome::AlreadyDone]);
    assert_eq!((outcome.block, outcome.extrinsic), (block, None));
    assert_eq!(rig.chain.events().len(), 2);
    assert_eq!(second.status().borrow().calls_already_done, 2);
}

#[tokio::test(start_paused = true)]
async fn a_restart_with_an_empty_queue_does_nothing_twice() {
    let mut rig = Rig::new().await;
    let first = rig.trader(Config::default());
    let lost = rig.submit(rig.job("//Alice", 1, 0, 2, 0)).await;
    rig.pending(1).await;
    drop(first);
    rig.queue = MemoryQueue::default();
    assert!(lost.outcome().await.is_err());
    // The submitter still wants it, and nothing tells that the job is not the first of its kind.
    let again = rig.submit(rig.job("//Alice", 1, 0, 3, 0)).await;
    let _second = rig.trader(Config::default());
    sleep(ms(10_000)).await;
    rig.chain.produce_block();
    let expected = [CallOutcome::AlreadyDone, CallOutcome::AlreadyDone, CallOutcome::Done];
    assert_eq!(rig.outcomes(again).await, expected);
    assert_eq!(rig.chain.events().len(), 3, "each was sent once");
}

/// A trader's view of the queue that can be cut off.
#[derive(Clone, Debug)]
struct Cut {
    queue: MemoryQueue,
    cut: Arc<AtomicBool>,
    /// Whether it gets no jobs either.
    leases_too: bool,
}

impl Cut {
    fn check(&self) -> Result<(), queue::Error> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(queue::Error::Unavailable("cut off".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl JobQueue for Cut {
    async fn submit(&self, job: Job) -> Result<JobHandle, queue::Error> {
        self.queue.submit(job).await
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, queue::Error> {
        if self.leases_too {
            self.check()?;
        }
        self.queue.lease(ttl).await
    }

    async fn release(&self, leases: &[(JobId, u64)], after: Duration) -> Result<(), queue::Error> {
        self.check()?;
        self.queue.release(leases, after).await
    }

    async fn heartbeat(&self, leases: &[(JobId, u64)], ttl: Duration) -> Result<Vec<JobId>, queue::Error> {
        self.check()?;
        self.queue.heartbeat(leases, ttl).await
    }

    async fn complete(&self, id: JobId, token: u64, outcome: JobOutcome) -> Result<(), queue::Error> {
        self.check()?;
        self.queue.complete(id, token, outcome).await
    }

    async fn fail(
        &self,
        id: JobId,
        token: u64,
        failure: JobFailure,
        retry_after: Option<Duration>,
    ) -> Result<(), queue::Error> {
        self.check()?;
        self.queue.fail(id, token, failure, retry_after).await
    }

    async fn stats(&self) -> Result<Stats, queue::Error> {
        self.queue.stats().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_lost_in_mid_submission_does_nothing_twice() {
    let rig = Rig::new().await;
    let cut = Cut { queue: rig.queue.clone(), cut: Arc::default(), leases_too: true };
    let _first = rig.trader_on(Config::default(), Arc::new(cut.clone()));
    let handle = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    rig.pending(1).await;
    cut.cut.store(true, Ordering::Relaxed);
    let _second = rig.trader(Config::default());
    sleep(ms(60_000)).await;
    rig.chain.produce_block();
    assert_eq!(rig.outcomes(handle).await, [CallOutcome::AlreadyDone]);
    cut.cut.store(false, Ordering::Relaxed);
    sleep(ms(60_000)).await;
    assert_eq!(rig.chain.events().len(), 1);
    assert_eq!(rig.queue.stats().await.unwrap().succeeded, 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_without_a_lease() {
    let rig = Rig::new().await;
    let cut = Cut { queue: rig.queue.clone(), cut: Arc::default(), leases_too: true };
    let _first = rig.trader_on(Config { linger: ms(100), ..Config::default() }, Arc::new(cut.clone()));
    let handle = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    sleep(ms(50)).await;
    cut.cut.store(true, Ordering::Relaxed);
    sleep(ms(60_000)).await;
    assert_eq!(rig.chain.pending(), 0, "sent, though the lease may be another's by now");
    cut.cut.store(false, Ordering::Relaxed);
    assert_eq!(rig.outcomes(handle).await, [CallOutcome::Done]);
    assert_eq!(rig.chain.events().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_comes_back_to_its_own_lane_is_sent_once() {
    let rig = Rig::new().await;
    let cut = Cut { queue: rig.queue.clone(), cut: Arc::default(), leases_too: false };
    let trader = rig.trader_on(Config::default(), Arc::new(cut.clone()));
    let handle = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    sleep(ms(10)).await;
    // No heartbeat arrives: the lease runs out while the lane waits, and the job is handed out to it again.
    cut.cut.store(true, Ordering::Relaxed);
    sleep(ms(100_000)).await;
    assert_eq!(trader.status().borrow().lanes[&account("//Alice")].jobs, 1, "the first lease is forgotten");
    cut.cut.store(false, Ordering::Relaxed);
    assert_eq!(rig.outcomes(handle).await, [CallOutcome::Done]);
    assert_eq!(rig.chain.events().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn long_batches_keep_their_leases() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    let handle = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    rig.pending(1).await;
    sleep(ms(600_000)).await;
    let stats = rig.queue.stats().await.unwrap();
    assert_eq!((stats.active, stats.waiting), (1, 0));
    assert_eq!(rig.outcomes(handle).await, [CallOutcome::Done]);
}

#[tokio::test(start_paused = true)]
async fn failures_that_may_pass_are_retried_as_often_as_the_job_says() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    let alice = account("//Alice");
    for fault in [Fault::Unavailable, Fault::Refused { retryable: true }, Fault::Lost] {
        rig.chain.inject(alice, fault);
    }
    let handle = rig.submit(rig.job("//Alice", 1, 0, 1, 3)).await;
    assert_eq!(rig.outcomes(handle).await, [CallOutcome::Done]);
    for _ in 0..2 {
        rig.chain.inject(alice, Fault::Unavailable);
    }
    let handle = rig.submit(rig.job("//Alice", 1, 1, 1, 1)).await;
    let failure = rig.fate(handle).await.unwrap_err();
    assert!(failure.message.contains("no chain node is reachable: the node is away"), "{failure}");
    assert!(failure.message.contains(&alice.to_ss58(PHALA_SS58_PREFIX)), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn a_doubtful_fate_is_looked_up() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    let alice = account("//Alice");
    rig.chain.inject(alice, Fault::UnknownIncluded);
    let included = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    assert_eq!(rig.outcomes(included).await, [CallOutcome::AlreadyDone]);
    rig.chain.inject(alice, Fault::UnknownDropped);
    let dropped = rig.submit(rig.job("//Alice", 1, 1, 1, 1)).await;
    assert_eq!(rig.outcomes(dropped).await, [CallOutcome::Done]);
    rig.chain.inject(alice, Fault::Lost);
    let lost = rig.submit(rig.job("//Alice", 1, 2, 1, 0)).await;
    assert!(rig.fate(lost).await.is_err());
    assert_eq!(rig.chain.events().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_submitter_that_hangs_for_too_long_is_in_doubt() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config { submit_timeout: ms(30_000), ..Config::default() });
    let alice = account("//Alice");
    let handle = rig.submit(rig.job("//Alice", 1, 0, 1, 9)).await;
    rig.pending(1).await;
    rig.chain.hang(alice, true);
    sleep(ms(100_000)).await;
    let error = trader.status().borrow().lanes[&alice].last_error.clone().unwrap();
    assert!(error.contains("not known after 30s"), "{error}");
    rig.chain.hang(alice, false);
    assert_eq!(rig.outcomes(handle).await, [CallOutcome::AlreadyDone]);
    assert_eq!(rig.chain.events().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn failures_that_stay_are_told_at_once() {
    let rig = Rig::on(MemoryChain::new(memory::Config { fee: 10, ..memory::Config::default() })).await;
    let _trader = rig.trader(Config::default());
    rig.chain.fund(account("//Alice"), 3);
    let start = Instant::now();
    let poor = rig.submit(rig.job("//Alice", 1, 0, 1, 9)).await;
    let message = rig.fate(poor).await.unwrap_err().message;
    for part in [account("//Alice").to_ss58(PHALA_SS58_PREFIX).as_str(), "3 units free", "10 needed"] {
        assert!(message.contains(part), "{message}");
    }
    let forged = JobSigner { operator: account("//Bob"), ..rig.signer("//Carol") };
    let forged = rig.submit(Job { signer: forged, ..rig.job("//Bob", 1, 0, 1, 9) }).await;
    let message = rig.fate(forged).await.unwrap_err().message;
    assert!(message.contains("is not usable: it is another account's"), "{message}");
    assert!(!message.contains("//Carol"), "{message}");
    let unsealed = JobSigner { key: Sealed(vec![0; 40]), ..rig.signer("//Bob") };
    let unsealed = rig.submit(Job { signer: unsealed, ..rig.job("//Bob", 1, 0, 1, 9) }).await;
    let message = rig.fate(unsealed).await.unwrap_err().message;
    assert!(message.contains("cannot be opened"), "{message}");
    let proxied = JobSigner { proxied: Some(account("//Carol")), ..rig.signer("//Bob") };
    let proxied = rig.submit(Job { signer: proxied, ..rig.job("//Bob", 1, 0, 1, 9) }).await;
    let message = rig.fate(proxied).await.unwrap_err().message;
    assert!(message.contains("Proxy::NotProxy"), "{message}");
    assert!(start.elapsed() < ms(10_000), "a retry was tried: {:?}", start.elapsed());
    assert!(rig.chain.events().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_jobs_refused_call_fails_no_other_job() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config::default());
    // The batch of three is refused, then that of the first two, then the first; the others are as they
    // should be.
    for _ in 0..3 {
        rig.chain.inject(account("//Alice"), Fault::Refused { retryable: false });
    }
    let mut handles = Vec::new();
    for w in 0..3 {
        handles.push(rig.submit(rig.job("//Alice", w, 0, 1, 0)).await);
    }
    let mut fates = Vec::new();
    for handle in handles {
        fates.push(rig.fate(handle).await.map(|outcome| outcome.calls));
    }
    assert!(fates[0].as_ref().unwrap_err().message.contains("refused by request"));
    assert_eq!(fates[1..], [Ok(vec![CallOutcome::Done]), Ok(vec![CallOutcome::Done])]);
    assert_eq!((trader.status().borrow().failed_batches, rig.chain.events().len()), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn what_no_block_holds_goes_in_several_transactions() {
    let chain = MemoryChain::new(memory::Config { max_batch_calls: 7, ..memory::Config::default() });
    let rig = Rig::on(chain).await;
    let trader = rig.trader(Config::default());
    // A job of more calls than fit, and small ones beside it.
    let large = rig.submit(rig.job("//Alice", 1, 0, 20, 0)).await;
    let small = rig.submit(rig.job("//Alice", 2, 0, 2, 0)).await;
    let outcome = rig.fate(large).await.unwrap();
    assert_eq!(outcome.calls, vec![CallOutcome::Done; 20]);
    assert_eq!(rig.outcomes(small).await, vec![CallOutcome::Done; 2]);
    assert_eq!(trader.status().borrow().jobs_failed, 0);
    let blocks = rig.chain.events();
    let largest = (1..=rig.chain.head().0).map(|n| blocks.iter().filter(|e| e.block.0 == n).count()).max();
    assert_eq!(largest, Some(7), "what fits is used");
    let last = blocks.iter().rfind(|event| event.call == message(1, 19)).unwrap();
    assert_eq!(outcome.block, last.block, "the outcome names the block that shows all of it");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_no_block_holds_fails_alone() {
    let chain = MemoryChain::new(memory::Config { max_batch_calls: 0, ..memory::Config::default() });
    let rig = Rig::on(chain).await;
    let _trader = rig.trader(Config::default());
    let handle = rig.submit(rig.job("//Alice", 1, 0, 3, 9)).await;
    let message = rig.fate(handle).await.unwrap_err().message;
    assert!(message.contains("too much for a block"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_what_is_sent_and_hands_back_the_rest() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config::default());
    let sent = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    rig.pending(1).await;
    let unsent =
        [rig.submit(rig.job("//Alice", 1, 1, 1, 0)).await, rig.submit(rig.job("//Bob", 2, 0, 1, 0)).await];
    sleep(ms(10)).await;
    let start = Instant::now();
    let (report, ()) = tokio::join!(trader.stop(ms(5_000)), async {
        sleep(ms(2_000)).await;
        rig.chain.produce_block();
    });
    assert_eq!(report.unwrap().handed_back, 2);
    assert!(start.elapsed() < ms(2_100), "it waits no longer than it must: {:?}", start.elapsed());
    assert_eq!(sent.outcome().await.unwrap().calls, [CallOutcome::Done]);
    let stats = rig.queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.active), (2, 0));
    let _next = rig.trader(Config::default());
    for handle in unsent {
        assert_eq!(rig.outcomes(handle).await, [CallOutcome::Done]);
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_keeps_its_deadline() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config::default());
    let handle = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    rig.pending(1).await;
    let start = Instant::now();
    assert_eq!(trader.stop(ms(3_000)).await.unwrap().handed_back, 1);
    assert_eq!(start.elapsed(), ms(3_000));
    assert_eq!(rig.queue.stats().await.unwrap().waiting, 1);
    let _next = rig.trader(Config::default());
    assert_eq!(rig.outcomes(handle).await, [CallOutcome::AlreadyDone]);
    assert_eq!(rig.chain.events().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_trader_ends_with_its_queue() {
    let rig = Rig::new().await;
    let mut trader = rig.trader(Config::default());
    assert!(timeout(ms(1_000), trader.ended()).await.is_err());
    let handle = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    sleep(ms(10)).await;
    rig.queue.close();
    timeout(ms(5_000), trader.ended()).await.expect("it goes on without a queue").unwrap();
    assert!(handle.outcome().await.is_err());
    assert!(trader.status().borrow().stopping);
}

#[tokio::test]
async fn settings_of_zero_are_refused() {
    let rig = Rig::new().await;
    let parts = Parts {
        queue: Arc::new(rig.queue.clone()),
        submitter: Arc::new(rig.chain.clone()),
        signers: signers(&rig.vault),
        accounts: Arc::new(MemoryAccounts::default()),
    };
    let error = Trader::start(Config { max_lanes: 0, ..Config::default() }, parts).unwrap_err();
    assert_eq!(error.to_string(), "the trade engine's max_lanes must be more than zero");
}
