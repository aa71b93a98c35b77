//! Conformance suite of [`JobQueue`].
//!
//! Checks wait for the queue's behaviour rather than for the clock, so they run under paused time as well as
//! against a backend with its own clock.

mod admin;
mod shared;
mod withdrawal;

use std::{future::Future, time::Duration};

use self::{
    admin::{lists_jobs, removes_jobs, retries_a_failed_job, shows_a_job, shows_a_mixed_job},
    shared::{a_late_lease_of_another_process_is_lost, outcomes_reach_another_process},
    withdrawal::{refuses_to_withdraw_what_is_leased, withdraws_what_is_not_leased},
};

use crate::{
    chain::Call,
    primitives::{AccountId, Balance, Hash, ParaNumber, PoolId, WorkerKey},
    queue::{
        CallOutcome, Error, Job, JobFailure, JobHandle, JobId, JobOutcome, JobQueue, JobSigner, JobState,
        Lease, MAX_CALLS_PER_JOB, MAX_JOB_BYTES, Progress, Stats, Withdrawal,
        admin::{Filter, JobDetail, QueueAdmin},
    },
    vault::Sealed,
};

/// A lease that outlives its check.
const LONG: Duration = Duration::from_secs(60);
/// A lease or delay that a check waits for.
const SHORT: Duration = Duration::from_millis(200);

/// Runs all checks of a backend within one process, without restarts. Each call of `make` must return an empty queue
/// with this capacity, in jobs.
///
/// ```
/// use prb_core::{conformance, queue::memory::{Config, MemoryQueue}};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// // In a `#[tokio::test]` of the backend.
/// conformance::queue::all(async |max_jobs| MemoryQueue::new(Config::default().with_max_jobs(max_jobs))).await;
/// # }
/// ```
///
/// # Panics
/// If the backend violates the seam's contract.
pub async fn all<Q: JobQueue, F: Future<Output = Q>>(make: impl Fn(usize) -> F) {
    const CAPACITY: usize = 256;
    returns_the_outcome(&make(CAPACITY).await).await;
    returns_the_failure(&make(CAPACITY).await).await;
    leases_in_order(&make(CAPACITY).await).await;
    waits_for_a_job(&make(CAPACITY).await).await;
    leases_to_one_consumer(&make(CAPACITY).await).await;
    leases_again_after_expiry(&make(CAPACITY).await).await;
    keeps_renewed_leases(&make(CAPACITY).await).await;
    expiry_uses_no_retry(&make(CAPACITY).await).await;
    releases_jobs(&make(CAPACITY).await).await;
    releases_jobs_with_delay(&make(CAPACITY).await).await;
    releases_jobs_in_order(&make(CAPACITY).await).await;
    retries_as_requested(&make(CAPACITY).await).await;
    ends_a_job_once(&make(CAPACITY).await).await;
    loses_no_job_to_a_cancelled_lease(&make(CAPACITY).await).await;
    continues_without_its_submitter(&make(CAPACITY).await).await;
    counts(&make(CAPACITY).await).await;
    refuses_bad_jobs(&make(CAPACITY).await).await;
    enforces_its_limit(&make(3).await).await;
}

/// Runs all checks of [`JobQueue::withdraw`], for backends that can withdraw jobs. Each call of `make` must return an
/// empty queue with this capacity, in jobs.
///
/// # Panics
/// If the backend violates the seam's contract.
pub async fn withdrawal<Q: JobQueue, F: Future<Output = Q>>(make: impl Fn(usize) -> F) {
    withdraws_what_is_not_leased(&make(2).await).await;
    refuses_to_withdraw_what_is_leased(&make(256).await).await;
}

/// Runs all checks of a queue that processes share. Each call of `make` must open an empty queue twice, as a submitter's
/// and a trader's process would.
///
/// # Panics
/// If the backend violates the seam's contract.
pub async fn shared<Q: JobQueue, F: Future<Output = (Q, Q)>>(make: impl Fn() -> F) {
    let (submitter, trader) = make().await;
    outcomes_reach_another_process(&submitter, &trader).await;
    let (submitter, trader) = make().await;
    a_late_lease_of_another_process_is_lost(&submitter, &trader).await;
}

/// A job with one call, distinguished by `n`.
pub fn job(n: u8, retries: u32) -> Job {
    let call = Call::AddWorker { pool: PoolId(n.into()), worker: WorkerKey([n; 32]) };
    let signer = JobSigner {
        operator: AccountId([1; 32]),
        key: Sealed(vec![4, 5]),
        proxied: Some(AccountId([2; 32])),
    };
    Job { pool: PoolId(n.into()), signer, calls: vec![call], retries }
}

fn done(block: u32) -> JobOutcome {
    JobOutcome {
        calls: vec![CallOutcome::Done, CallOutcome::AlreadyDone, CallOutcome::Failed("A::B".into())],
        block: ParaNumber(block),
        extrinsic: Some(Hash([block as u8; 32])),
        // Above 2^53, the largest integer that every JSON parser keeps.
        fee: Some(Balance::from(u64::MAX) + 1),
    }
}

fn failure(message: &str) -> JobFailure {
    JobFailure { message: message.into() }
}

fn ok<T>(result: Result<T, Error>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(e) => panic!("{what}: {e}"),
    }
}

async fn submit(queue: &impl JobQueue, job: Job) -> JobHandle {
    ok(queue.submit(job).await, "a valid job was refused")
}

async fn lease(queue: &impl JobQueue, ttl: Duration) -> Lease {
    match tokio::time::timeout(LONG, queue.lease(ttl)).await {
        Ok(result) => ok(result, "a lease was refused"),
        Err(_) => panic!("no job was handed out within {LONG:?}"),
    }
}

async fn outcome_of(handle: JobHandle) -> Result<JobOutcome, JobFailure> {
    match tokio::time::timeout(LONG, handle.outcome()).await {
        Ok(outcome_of) => outcome_of,
        Err(_) => panic!("the submitter got no outcome within {LONG:?}"),
    }
}

async fn end(queue: &impl JobQueue, lease: &Lease) {
    ok(queue.complete(lease.id, lease.token, done(1)).await, "a leased job could not be ended");
}

async fn is_empty(queue: &impl JobQueue) -> bool {
    let Stats { waiting, delayed, active, .. } = ok(queue.stats().await, "no stats");
    waiting + delayed + active == 0
}

fn assert_lost(result: Result<(), Error>, lease: JobId, what: &str) {
    assert!(matches!(&result, Err(Error::LeaseLost { id }) if *id == lease), "{what} gave {result:?}");
}

async fn returns_the_outcome(queue: &impl JobQueue) {
    let handle = submit(queue, job(1, 0)).await;
    let leased = lease(queue, LONG).await;
    assert_eq!((leased.id, leased.attempt), (handle.id, 0), "the first hand-out");
    assert_eq!(leased.job, job(1, 0), "the job came out as it went in");
    ok(queue.complete(leased.id, leased.token, done(7)).await, "completing");
    assert_eq!(outcome_of(handle).await, Ok(done(7)), "the outcome came through unchanged");
    assert!(is_empty(queue).await, "a job that has ended is not counted");
}

async fn returns_the_failure(queue: &impl JobQueue) {
    // Retries left do not matter if the consumer requests none.
    let handle = submit(queue, job(1, 5)).await;
    let leased = lease(queue, LONG).await;
    ok(queue.fail(leased.id, leased.token, failure("no key"), None).await, "failing");
    assert_eq!(outcome_of(handle).await, Err(failure("no key")), "the failure came through unchanged");
    assert!(is_empty(queue).await, "a job that has failed is not counted");
}

async fn leases_in_order(queue: &impl JobQueue) {
    for n in 0..50 {
        submit(queue, job(n, 0)).await;
    }
    for n in 0..50 {
        assert_eq!(lease(queue, LONG).await.job, job(n, 0), "jobs come in the order of their submission");
    }
}

async fn waits_for_a_job(queue: &impl JobQueue) {
    let (leased, _handle) = tokio::join!(lease(queue, LONG), async {
        tokio::task::yield_now().await;
        submit(queue, job(1, 0)).await
    });
    assert_eq!(leased.job, job(1, 0), "a waiting consumer gets the next job");
}

async fn leases_to_one_consumer(queue: &impl JobQueue) {
    for n in 0..16 {
        submit(queue, job(n, 0)).await;
    }
    let leases = futures::future::join_all((0..16).map(|_| lease(queue, LONG))).await;
    let mut ids: Vec<_> = leases.iter().map(|l| l.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 16, "a job was handed out to two consumers");
}

async fn leases_again_after_expiry(queue: &impl JobQueue) {
    let handle = submit(queue, job(1, 0)).await;
    let first = lease(queue, SHORT).await;
    let second = lease(queue, LONG).await;
    assert_eq!((second.id, second.attempt), (first.id, 1), "the job of an expired lease");
    assert_ne!(second.token, first.token, "each hand-out has its own token");
    // A consumer that was suspended for longer than its lease still acts as if it had the job.
    let late = queue.complete(first.id, first.token, done(1)).await;
    assert_lost(late, first.id, "completing after the job was handed out again");
    let late = queue.fail(first.id, first.token, failure("late"), None).await;
    assert_lost(late, first.id, "failing after the job was handed out again");
    let lost = ok(queue.heartbeat(&[(first.id, first.token)], LONG).await, "heartbeat");
    assert_eq!(lost, [first.id], "a heartbeat names the leases that are lost");
    ok(queue.complete(second.id, second.token, done(2)).await, "completing");
    assert_eq!(outcome_of(handle).await, Ok(done(2)), "the second consumer's outcome counts");
}

async fn keeps_renewed_leases(queue: &impl JobQueue) {
    submit(queue, job(1, 0)).await;
    submit(queue, job(2, 0)).await;
    let renewed = lease(queue, SHORT).await;
    let left = lease(queue, SHORT).await;
    let lost = ok(queue.heartbeat(&[(renewed.id, renewed.token)], LONG).await, "heartbeat");
    assert_eq!(lost, [], "a lease in time is not lost");
    assert_eq!(lease(queue, LONG).await.id, left.id, "only the job that was not renewed comes again");
    end(queue, &renewed).await;
}

async fn expiry_uses_no_retry(queue: &impl JobQueue) {
    let handle = submit(queue, job(1, 1)).await;
    let lost = lease(queue, SHORT).await;
    assert_eq!(lost.retries_left, 1, "a lease reports the retries left");
    let again = lease(queue, LONG).await;
    assert_eq!((again.id, again.attempt, again.retries_left), (lost.id, 1, 1), "after an expired lease");
    ok(queue.fail(again.id, again.token, failure("x"), Some(SHORT)).await, "failing");
    let last = lease(queue, LONG).await;
    assert_eq!((last.id, last.attempt, last.retries_left), (lost.id, 2, 0), "after the only retry");
    ok(queue.fail(last.id, last.token, failure("y"), Some(SHORT)).await, "failing");
    assert_eq!(outcome_of(handle).await, Err(failure("y")), "the retry was used up by the failure alone");
}

fn pair(lease: &Lease) -> (JobId, u64) {
    (lease.id, lease.token)
}

async fn releases_jobs(queue: &impl JobQueue) {
    let handle = submit(queue, job(1, 1)).await;
    let first = lease(queue, LONG).await;
    ok(queue.release(&[pair(&first)], Duration::ZERO).await, "releasing");
    assert_lost(
        queue.complete(first.id, first.token, done(1)).await,
        first.id,
        "completing a job that was released",
    );
    let lost = ok(queue.heartbeat(&[pair(&first)], LONG).await, "heartbeat");
    assert_eq!(lost, [first.id], "a lease that was released cannot be renewed");
    let second = lease(queue, LONG).await;
    assert_eq!((second.id, second.attempt), (first.id, 1), "a job that was released is handed out again");
    assert_eq!(second.retries_left, 1, "releasing uses up no retry");
    ok(queue.release(&[pair(&first)], LONG).await, "a lost lease is skipped");
    ok(queue.complete(second.id, second.token, done(1)).await, "completing");
    assert_eq!(outcome_of(handle).await, Ok(done(1)), "an old lease ended the job of another lease");
}

async fn releases_jobs_with_delay(queue: &impl JobQueue) {
    submit(queue, job(1, 0)).await;
    let first = lease(queue, LONG).await;
    ok(queue.release(&[pair(&first)], SHORT).await, "releasing");
    let Stats { waiting, delayed, active, .. } = ok(queue.stats().await, "no stats");
    assert_eq!((waiting, delayed, active), (0, 1, 0), "a job that was released for a while is delayed");
    assert_lost(
        queue.complete(first.id, first.token, done(1)).await,
        first.id,
        "completing a job that was released for a while",
    );
    submit(queue, job(2, 0)).await;
    let second = lease(queue, LONG).await;
    assert_eq!(second.job, job(2, 0), "a job that was released with a delay is not waiting");
    end(queue, &second).await;
    let again = lease(queue, LONG).await;
    assert_eq!((again.id, again.attempt), (first.id, 1), "it is waiting again after the delay");
    end(queue, &again).await;
}

/// Twelve jobs, so that an order of ids as text would differ from their order as numbers.
async fn releases_jobs_in_order(queue: &impl JobQueue) {
    for n in 1..=12 {
        submit(queue, job(n, 0)).await;
    }
    for after in [Duration::ZERO, SHORT] {
        let mut leases = Vec::new();
        for _ in 0..12 {
            leases.push(pair(&lease(queue, LONG).await));
        }
        // The order of the call must not matter: jobs return in the order of their ids.
        leases.reverse();
        ok(queue.release(&leases, after).await, "releasing");
        submit(queue, job(100, 0)).await;
        if !after.is_zero() {
            let younger = lease(queue, LONG).await;
            assert_eq!(younger.job, job(100, 0), "no other job is waiting meanwhile");
            end(queue, &younger).await;
        }
        let mut again = Vec::new();
        for n in 1..=12 {
            let next = lease(queue, LONG).await;
            assert_eq!(next.job, job(n, 0), "jobs released together keep their order, before younger ones");
            again.push(pair(&next));
        }
        if after.is_zero() {
            let younger = lease(queue, LONG).await;
            assert_eq!(younger.job, job(100, 0), "the younger one comes behind them");
            end(queue, &younger).await;
        }
        ok(queue.release(&again, Duration::ZERO).await, "releasing");
    }
}

async fn retries_as_requested(queue: &impl JobQueue) {
    let handle = submit(queue, job(1, 2)).await;
    for attempt in 0..3 {
        let leased = lease(queue, LONG).await;
        assert_eq!(leased.attempt, attempt, "attempts are counted");
        let message = format!("attempt {attempt}");
        ok(queue.fail(leased.id, leased.token, failure(&message), Some(SHORT)).await, "failing");
        let again = queue.complete(leased.id, leased.token, done(1)).await;
        assert_lost(again, leased.id, "ending a job after failing it");
        let Stats { delayed, failed, .. } = ok(queue.stats().await, "no stats");
        let expected = if attempt < 2 { (1, 0) } else { (0, 1) };
        assert_eq!((delayed, failed), expected, "delayed and failed jobs after attempt {attempt}");
    }
    assert_eq!(outcome_of(handle).await, Err(failure("attempt 2")), "the last failure is reported");
}

async fn ends_a_job_once(queue: &impl JobQueue) {
    submit(queue, job(1, 3)).await;
    let leased = lease(queue, LONG).await;
    // A neighbouring token is the likeliest mistake of a backend that counts them per job.
    let forged = queue.complete(leased.id, leased.token.wrapping_add(1), done(1)).await;
    assert_lost(forged, leased.id, "another token");
    end(queue, &leased).await;
    let again = queue.complete(leased.id, leased.token, done(1)).await;
    assert_lost(again, leased.id, "completing twice");
    let again = queue.fail(leased.id, leased.token, failure("x"), Some(SHORT)).await;
    assert_lost(again, leased.id, "failing after the end");
    let unknown = JobId(u64::MAX);
    assert_lost(queue.complete(unknown, 0, done(1)).await, unknown, "an unknown job");
    submit(queue, job(2, 0)).await;
    let next = lease(queue, LONG).await;
    assert_eq!(next.job, job(2, 0), "an ended job is not handed out again");
    end(queue, &next).await;
}

async fn loses_no_job_to_a_cancelled_lease(queue: &impl JobQueue) {
    for n in 0..8 {
        // Polled while the queue is empty, then dropped when the job arrives.
        let waiting = queue.lease(LONG);
        let submitted = async {
            tokio::task::yield_now().await;
            submit(queue, job(n, 0)).await
        };
        let taken = tokio::select! { biased; _ = submitted => None, lease = waiting => Some(lease) };
        let leased = match taken {
            Some(result) => ok(result, "lease"),
            None => lease(queue, LONG).await,
        };
        assert_eq!((leased.job.pool, leased.attempt), (PoolId(n.into()), 0), "a cancelled lease took a job");
        end(queue, &leased).await;
    }
}

async fn continues_without_its_submitter(queue: &impl JobQueue) {
    // Dropping the handle gives up the outcome, not the job.
    drop(submit(queue, job(1, 0)).await);
    let leased = lease(queue, LONG).await;
    end(queue, &leased).await;
    let Stats { succeeded, .. } = ok(queue.stats().await, "no stats");
    assert_eq!(succeeded, 1, "a job whose submitter left is still carried out");
}

async fn counts(queue: &impl JobQueue) {
    for n in 0..5 {
        submit(queue, job(n, 1)).await;
    }
    let first = lease(queue, LONG).await;
    let second = lease(queue, LONG).await;
    let third = lease(queue, LONG).await;
    let _fourth = lease(queue, LONG).await;
    end(queue, &first).await;
    ok(queue.fail(second.id, second.token, failure("x"), None).await, "failing");
    ok(queue.fail(third.id, third.token, failure("x"), Some(LONG)).await, "failing");
    let stats = ok(queue.stats().await, "no stats");
    assert_eq!(
        stats,
        Stats { waiting: 1, delayed: 1, active: 1, succeeded: 1, failed: 1 },
        "one job in each state"
    );
}

async fn refuses_bad_jobs(queue: &impl JobQueue) {
    // The call's size is checked as well as their number: below, a single call exceeds it.
    for calls in [0, MAX_CALLS_PER_JOB + 1] {
        let call = job(1, 0).calls.remove(0);
        let result = queue.submit(Job { calls: vec![call; calls], ..job(1, 0) }).await;
        assert!(
            matches!(result, Err(Error::BadJob { calls: c }) if c == calls),
            "{calls} calls gave {result:?}"
        );
    }
    let register = Call::RegisterWorker {
        worker: WorkerKey([1; 32]),
        runtime_info: Vec::new(),
        attestation: vec![0; MAX_JOB_BYTES],
        replaces: None,
    };
    let result = queue.submit(Job { calls: vec![register], ..job(1, 0) }).await;
    assert!(matches!(result, Err(Error::TooLarge { .. })), "a job over the limit gave {result:?}");
    assert!(is_empty(queue).await, "a refused job is counted");
}

/// With a capacity of three.
async fn enforces_its_limit(queue: &impl JobQueue) {
    for n in 0..3 {
        submit(queue, job(n, 1)).await;
    }
    let result = queue.submit(job(9, 0)).await;
    assert!(matches!(result, Err(Error::Full { limit: 3 })), "a fourth job gave {result:?}");
    // A leased or delayed job still occupies its slot.
    let leased = lease(queue, LONG).await;
    assert!(queue.submit(job(9, 0)).await.is_err(), "a leased job's slot was given away");
    ok(queue.fail(leased.id, leased.token, failure("x"), Some(LONG)).await, "failing");
    assert!(queue.submit(job(9, 0)).await.is_err(), "a delayed job's slot was given away");
    let leased = lease(queue, LONG).await;
    end(queue, &leased).await;
    submit(queue, job(9, 0)).await;
}

/// Runs all checks of [`QueueAdmin`]. Each call of `make` must return an empty queue with this capacity, in
/// jobs.
///
/// ```
/// use prb_core::{conformance, queue::memory::{Config, MemoryQueue}};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// // In a `#[tokio::test]` of the backend.
/// conformance::queue::admin(async |max_jobs| MemoryQueue::new(Config::default().with_max_jobs(max_jobs))).await;
/// # }
/// ```
///
/// # Panics
/// If the backend violates the seam's contract.
pub async fn admin<Q: JobQueue + QueueAdmin, F: Future<Output = Q>>(make: impl Fn(usize) -> F) {
    lists_jobs(&make(256).await).await;
    shows_a_job(&make(256).await).await;
    shows_a_mixed_job(&make(256).await).await;
    retries_a_failed_job(&make(2).await).await;
    removes_jobs(&make(256).await).await;
}
