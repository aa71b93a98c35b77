//! The queue in memory against the seam's suite, and what is its own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::HashSet, sync::Arc, time::Duration};

use prb_core::{
    chain::Call,
    conformance,
    primitives::WorkerKey,
    queue::{
        Error, Job, JobHandle, JobId, JobQueue, JobState, Withdrawal,
        admin::QueueAdmin,
        memory::{Config, MemoryQueue},
    },
    wire::{Message, MessageOrigin, SignedMessage},
};
use proptest::prelude::*;
use tokio::time::{Instant, timeout};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn conforms() {
    conformance::queue::all(async |max_jobs| MemoryQueue::new(Config::default().with_max_jobs(max_jobs)))
        .await;
}

/// With the progress of leased jobs, whose method has a default.
#[tokio::test(start_paused = true)]
async fn a_shared_queue_conforms() {
    let shared = async |max_jobs| Arc::new(MemoryQueue::new(Config::default().with_max_jobs(max_jobs)));
    conformance::queue::all(shared).await;
    conformance::queue::admin(shared).await;
    conformance::queue::withdrawal(shared).await;
    conformance::queue::shared(async || {
        let queue = MemoryQueue::default();
        (queue.clone(), queue)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn waiting_consumer_is_woken_by_an_earlier_expiry() {
    let queue = MemoryQueue::default();
    let _handle = queue.submit(conformance::queue::job(1, 0)).await.unwrap();
    let held = queue.lease(Duration::from_secs(100)).await.unwrap();
    let start = Instant::now();
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.lease(LONG).await.unwrap().id }
    });
    // It has armed the lease's end at 100 s by now.
    tokio::task::yield_now().await;
    queue.heartbeat(&[(held.id, held.token)], Duration::from_secs(5)).await.unwrap();
    assert_eq!(waiting.await.unwrap(), held.id);
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn bytes_are_bounded_and_given_back() {
    let register = |bytes: usize| Job {
        calls: vec![Call::RegisterWorker {
            worker: WorkerKey::default(),
            runtime_info: vec![0; bytes],
            attestation: vec![],
            replaces: None,
        }],
        ..conformance::queue::job(1, 0)
    };
    let queue = MemoryQueue::new(Config::default().with_max_jobs(100).with_max_bytes(10_000));
    let handle = queue.submit(register(6_000)).await.unwrap();
    let refused = queue.submit(register(6_000)).await;
    assert!(matches!(refused, Err(Error::FullBytes { limit_bytes: 10_000 })), "{refused:?}");
    assert!(refused.unwrap_err().is_retryable());
    let lease = queue.lease(LONG).await.unwrap();
    queue
        .fail(lease.id, lease.token, prb_core::queue::JobFailure { message: "x".into() }, None)
        .await
        .unwrap();
    handle.outcome().await.unwrap_err();
    queue.submit(register(6_000)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_notifies_submitters_and_consumers() {
    let queue = MemoryQueue::default();
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move {
            let first = queue.lease(LONG).await;
            (first, queue.lease(LONG).await)
        }
    });
    let handle = queue.submit(conformance::queue::job(1, 9)).await.unwrap();
    tokio::task::yield_now().await;
    queue.close();
    let (first, second) = waiting.await.unwrap();
    let lease = first.unwrap();
    assert!(matches!(second, Err(Error::Closed)), "{second:?}");
    let failure = timeout(LONG, handle.outcome()).await.unwrap().unwrap_err();
    assert!(failure.message.contains("closed"), "{failure}");
    let lost = queue.fail(lease.id, lease.token, failure, Some(LONG)).await;
    assert!(matches!(lost, Err(Error::LeaseLost { .. })), "{lost:?}");
    assert!(matches!(queue.submit(conformance::queue::job(1, 0)).await, Err(Error::Closed)));
}

/// A job that waits, one that is delayed, one whose lease expires, and one that an operator retries.
#[tokio::test(start_paused = true)]
async fn a_job_that_has_waited_for_too_long_is_not_leased() {
    let job = |n| conformance::queue::job(n, 3);
    let limit = Duration::from_secs(600);
    let queue = MemoryQueue::new(Config::default().with_max_age(limit));
    let failure = prb_core::queue::JobFailure { message: "x".into() };
    let delayed = queue.submit(job(1)).await.unwrap();
    let lease = queue.lease(LONG).await.unwrap();
    queue.fail(lease.id, lease.token, failure, Some(limit)).await.unwrap();
    let expired = queue.submit(job(2)).await.unwrap();
    queue.lease(limit).await.unwrap();
    let waiting = queue.submit(job(3)).await.unwrap();
    tokio::time::sleep(limit - LONG).await;
    let in_time = queue.submit(job(4)).await.unwrap();
    tokio::time::sleep(LONG * 2).await;
    let waiting_id = waiting.id;
    assert_eq!(queue.lease(LONG).await.unwrap().id, in_time.id);
    let (one, two, three) = tokio::join!(delayed.outcome(), expired.outcome(), waiting.outcome());
    let message = three.unwrap_err().message;
    assert!(
        message.contains("has waited for 11 min, longer") && message.ends_with("it was not sent"),
        "{message}"
    );
    for failure in [one, two] {
        let message = failure.unwrap_err().message;
        assert!(message.ends_with("it was not sent again"), "{message}");
    }
    let failed = queue.job(waiting_id).await.unwrap().unwrap().record;
    assert_eq!((failed.state, failed.error), (JobState::Failed, Some(message)));
    // What an operator retries is wanted now.
    assert!(queue.retry(waiting_id).await.unwrap());
    assert_eq!(queue.lease(LONG).await.unwrap().id, waiting_id);
}

/// The chain accepts them once, and its submitter would only fetch them again.
#[tokio::test(start_paused = true)]
async fn messages_are_leased_at_any_age() {
    let queue = MemoryQueue::new(Config::default().with_max_age(LONG));
    let message = Message { sender: MessageOrigin::Reserved, destination: vec![], payload: vec![] };
    let call = Call::SyncOffchainMessage(SignedMessage { message, sequence: 1, signature: vec![0; 64] });
    let job = conformance::queue::job(1, 0);
    let old = queue.submit(Job { calls: vec![call.clone()], ..job.clone() }).await.unwrap();
    let mixed = queue.submit(Job { calls: vec![call, job.calls[0].clone()], ..job }).await.unwrap();
    tokio::time::sleep(LONG * 2).await;
    let in_time = queue.submit(conformance::queue::job(1, 0)).await.unwrap();
    for id in [old.id, in_time.id] {
        assert_eq!(queue.lease(LONG).await.unwrap().id, id);
    }
    assert!(mixed.outcome().await.unwrap_err().message.contains("longer than the queue's limit"));
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_a_job_waits_for_ever() {
    let queue = MemoryQueue::new(Config::default().with_max_age(Duration::ZERO));
    let _handle = queue.submit(conformance::queue::job(1, 0)).await.unwrap();
    tokio::time::sleep(Config::MAX_AGE * 100).await;
    timeout(LONG, queue.lease(LONG)).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn handle_of_a_dropped_queue_completes() {
    let queue = MemoryQueue::default();
    let handle = queue.submit(conformance::queue::job(1, 0)).await.unwrap();
    drop(queue);
    assert!(timeout(LONG, handle.outcome()).await.unwrap().is_err());
}

/// What a consumer, or its crash, does next.
#[derive(Clone, Copy, Debug)]
enum Op {
    Submit,
    Lease { secs: u8 },
    Complete,
    Fail { retry: bool },
    Heartbeat,
    HandBack,
    Forget,
    Advance { secs: u8 },
    Withdraw { job: u8 },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Submit),
        4 => (1u8..20).prop_map(|secs| Op::Lease { secs }),
        2 => Just(Op::Complete),
        1 => any::<bool>().prop_map(|retry| Op::Fail { retry }),
        1 => Just(Op::Heartbeat),
        1 => Just(Op::HandBack),
        1 => Just(Op::Forget),
        2 => (1u8..20).prop_map(|secs| Op::Advance { secs }),
        2 => any::<u8>().prop_map(|job| Op::Withdraw { job }),
    ]
}

/// Runs the operations, then consumes what is left: every submitter must learn one outcome, and counts fit.
async fn run(ops: Vec<Op>) {
    let queue = MemoryQueue::default();
    let mut handles = Vec::new();
    let mut leases = Vec::new();
    let (mut withdrawn, mut leased) = (HashSet::new(), HashSet::new());
    for op in ops {
        match op {
            Op::Submit => handles.push(queue.submit(conformance::queue::job(1, 2)).await.unwrap()),
            Op::Lease { secs } => {
                let lease = timeout(Duration::ZERO, queue.lease(Duration::from_secs(secs.into()))).await;
                if let Ok(lease) = lease.map(Result::unwrap) {
                    assert!(!withdrawn.contains(&lease.id), "a withdrawn job was leased");
                    leased.insert(lease.id);
                    leases.push(lease);
                }
            }
            Op::Complete => {
                if let Some(l) = leases.pop() {
                    let _ = queue.complete(l.id, l.token, outcome()).await;
                }
            }
            Op::Fail { retry } => {
                if let Some(l) = leases.pop() {
                    let failure = prb_core::queue::JobFailure { message: "x".into() };
                    let _ = queue.fail(l.id, l.token, failure, retry.then_some(Duration::from_secs(3))).await;
                }
            }
            Op::Heartbeat | Op::HandBack => {
                let held: Vec<_> = leases.iter().map(|l| (l.id, l.token)).collect();
                let ttl = Duration::from_secs(if matches!(op, Op::Heartbeat) { 10 } else { 0 });
                let lost = queue.heartbeat(&held, ttl).await.unwrap();
                leases.retain(|l| !lost.contains(&l.id));
            }
            Op::Forget => leases.clear(),
            Op::Withdraw { job } => {
                let ids: Vec<_> = handles.iter().map(|handle: &JobHandle| handle.id).collect();
                let Some(id) = ids.get(usize::from(job) % ids.len().max(1)).copied() else { continue };
                match queue.withdraw(id).await.unwrap() {
                    Withdrawal::Refused => {}
                    taken_back => {
                        assert!(withdrawn.insert(id), "withdrawn twice");
                        assert_eq!(taken_back == Withdrawal::MaybeSent, leased.contains(&id));
                    }
                }
            }
            Op::Advance { secs } => tokio::time::advance(Duration::from_secs(secs.into())).await,
        }
        let s = queue.stats().await.unwrap();
        let open = s.waiting + s.delayed + s.active;
        let all = open as u64 + s.succeeded + s.failed + withdrawn.len() as u64;
        assert_eq!(all, handles.len() as u64, "{s:?}");
    }
    drop(leases);
    every_job_ends(&queue, handles, &withdrawn).await;
}

/// Ends the jobs that are left, then checks what each submitter was told.
async fn every_job_ends(queue: &MemoryQueue, handles: Vec<JobHandle>, withdrawn: &HashSet<JobId>) {
    while queue.stats().await.unwrap().waiting
        + queue.stats().await.unwrap().delayed
        + queue.stats().await.unwrap().active
        > 0
    {
        let lease = timeout(LONG, queue.lease(LONG)).await.expect("a job is stuck").unwrap();
        queue.complete(lease.id, lease.token, outcome()).await.unwrap();
    }
    for handle in handles {
        let id = handle.id;
        let outcome = timeout(Duration::ZERO, handle.outcome()).await.expect("a submitter learned nothing");
        let says_so = outcome.is_err_and(|failure| failure.message.contains("withdrawn"));
        assert_eq!(says_so, withdrawn.contains(&id), "{id}");
    }
}

fn outcome() -> prb_core::queue::JobOutcome {
    prb_core::queue::JobOutcome {
        calls: vec![prb_core::queue::CallOutcome::Done],
        block: prb_core::primitives::ParaNumber(1),
        extrinsic: None,
        fee: None,
    }
}

proptest! {
    #[test]
    fn every_submitter_learns_one_outcome(ops in proptest::collection::vec(op(), 0..80)) {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
            .block_on(run(ops));
    }
}
