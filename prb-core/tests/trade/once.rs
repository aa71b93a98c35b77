//! No call takes effect twice, whatever is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use codec::Encode;
use prb_core::{
    chain::Call,
    primitives::{Hash, PoolId, WorkerKey},
    queue::{
        self, CallOutcome, Job, JobFailure, JobHandle, JobId, JobOutcome, JobQueue, Lease, Stats,
        memory::MemoryQueue,
    },
    trade::Config,
    wire::WorkerRegistrationInfoV2,
};
use tokio::time::sleep;

use crate::rig::*;

#[tokio::test(start_paused = true)]
async fn effects_of_others_count_as_already_done() {
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
async fn recently_sent_call_is_not_sent_again() {
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
async fn superseded_registration_is_not_sent() {
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
async fn lease_lost_during_submission_does_nothing_twice() {
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
    let _first = rig.trader_on(Config::default().with_linger(ms(100)), Arc::new(cut.clone()));
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
async fn job_returning_to_its_lane_is_sent_once() {
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
/// A message whose predecessor the chain does not have: another trader's, or one that failed for good.
#[tokio::test(start_paused = true)]
async fn message_after_a_gap_is_not_sent() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config::default());
    let ahead = rig.submit(rig.job("//Alice", 1, 1, 2, 3)).await;
    let other = rig.submit(rig.job("//Alice", 2, 0, 1, 0)).await;
    let (ahead, other) = tokio::join!(rig.outcome(ahead), rig.outcome(other));
    let bad = CallOutcome::Failed("PhalaMq::BadSequence".into());
    let ahead = ahead.unwrap();
    assert_eq!((ahead.calls, ahead.extrinsic), (vec![bad.clone(), bad.clone()], None));
    assert_eq!(other.unwrap().calls, [CallOutcome::Done], "jobs of others go on");
    assert_eq!(rig.executed(&message(1, 1)), 0, "nothing was paid");

    // In order they go, and so does what follows, without another question.
    let jobs = [rig.job("//Alice", 1, 0, 2, 0), rig.job("//Alice", 1, 2, 1, 0)];
    for job in jobs {
        let outcomes = rig.outcomes(rig.submit(job).await).await;
        assert!(outcomes.iter().all(|outcome| *outcome == CallOutcome::Done), "{outcomes:?}");
    }
    // What the chain has already is done, also behind a gap.
    let outcomes = rig.outcomes(rig.submit(rig.job("//Alice", 1, 1, 1, 0)).await).await;
    assert_eq!(outcomes, [CallOutcome::AlreadyDone]);
    let gap = rig.job("//Alice", 1, 4, 1, 0);
    let mixed = Job { calls: [rig.job("//Alice", 2, 1, 1, 0).calls, gap.calls.clone()].concat(), ..gap };
    assert_eq!(rig.outcomes(rig.submit(mixed).await).await, [CallOutcome::Done, bad]);
    assert_eq!(rig.executed(&message(1, 4)), 0);
    trader.stop(ms(1_000)).await.unwrap();
}
