//! Checks of [`QueueAdmin`](crate::queue::admin::QueueAdmin).

use super::*;

async fn listed(queue: &impl QueueAdmin, filter: Filter, offset: usize, limit: usize) -> (usize, Vec<u64>) {
    let page = ok(queue.list(filter, offset, limit).await, "listing");
    (page.total, page.jobs.iter().map(|job| job.id.0).collect())
}

/// Jobs 1 succeeded, 2 failed, 3 delayed, 4 active, 5 and 6 waiting; odd ones for pool 1, even ones for pool
/// 2.
async fn one_in_each_state<Q: JobQueue + QueueAdmin>(queue: &Q) -> Vec<JobHandle> {
    let mut handles = Vec::new();
    for n in 0..6 {
        handles.push(submit(queue, job(1 + n % 2, 3)).await);
    }
    let leased = lease(queue, LONG).await;
    end(queue, &leased).await;
    let leased = lease(queue, LONG).await;
    ok(queue.fail(leased.id, leased.token, failure("bad"), None).await, "failing");
    let leased = lease(queue, LONG).await;
    ok(queue.fail(leased.id, leased.token, failure("later"), Some(LONG)).await, "failing");
    let leased = lease(queue, LONG).await;
    ok(queue.progress(&[(leased.id, leased.token)], Progress::Sent).await, "reporting progress");
    handles
}

pub(super) async fn lists_jobs<Q: JobQueue + QueueAdmin>(queue: &Q) {
    one_in_each_state(queue).await;
    let all = Filter::default();
    assert_eq!(listed(queue, all, 0, 100).await, (6, vec![6, 5, 4, 3, 2, 1]), "newest first");
    assert_eq!(listed(queue, all, 2, 2).await, (6, vec![4, 3]), "a page");
    assert_eq!(listed(queue, all, 6, 2).await, (6, vec![]), "beyond the last");
    for (state, ids) in [
        (JobState::Waiting, vec![6, 5]),
        (JobState::Active, vec![4]),
        (JobState::Delayed, vec![3]),
        (JobState::Failed, vec![2]),
        (JobState::Succeeded, vec![1]),
    ] {
        let filter = Filter { state: Some(state), pool: None };
        assert_eq!(listed(queue, filter, 0, 100).await, (ids.len(), ids), "{state:?} jobs");
    }
    let filter = Filter { state: None, pool: Some(PoolId(2)) };
    assert_eq!(listed(queue, filter, 0, 100).await, (3, vec![6, 4, 2]), "jobs of a pool");
    let filter = Filter { state: Some(JobState::Waiting), pool: Some(PoolId(1)) };
    assert_eq!(listed(queue, filter, 0, 100).await, (1, vec![5]), "waiting jobs of a pool");
}

async fn shown(queue: &impl QueueAdmin, id: u64) -> JobDetail {
    match ok(queue.job(JobId(id)).await, "showing") {
        Some(detail) => detail,
        None => panic!("job {id} is not shown"),
    }
}

pub(super) async fn shows_a_job<Q: JobQueue + QueueAdmin>(queue: &Q) {
    one_in_each_state(queue).await;
    let states = |detail: &JobDetail| detail.record.history.iter().map(|step| step.state).collect::<Vec<_>>();
    let succeeded = shown(queue, 1).await;
    assert_eq!(succeeded.record.outcome, Some(done(1)), "the outcome is shown");
    assert_eq!(
        states(&succeeded),
        [JobState::Waiting, JobState::Active, JobState::Succeeded],
        "`history` of a job that succeeded"
    );
    assert!(succeeded.record.ended_ms >= Some(succeeded.record.created_ms), "it ended after it began");
    assert_eq!(
        (succeeded.record.attempts, succeeded.record.error),
        (1, None),
        "attempts and error of a job that succeeded"
    );
    assert!(succeeded.calls[0].contains("PhalaStakePoolv2::add_worker"), "{:?}", succeeded.calls);
    // `0405` is the sealed key of `job` in hexadecimal.
    assert!(!succeeded.data.to_string().contains("0405"), "the sealed key is shown");
    let failed = shown(queue, 2).await.record;
    assert_eq!(
        (failed.state, failed.error.as_deref()),
        (JobState::Failed, Some("bad")),
        "state and error of a failed job"
    );
    let delayed = shown(queue, 3).await;
    assert_eq!(
        states(&delayed),
        [JobState::Waiting, JobState::Active, JobState::Delayed],
        "`history` of a job that failed with a delay"
    );
    assert_eq!(
        (delayed.record.retries_left, delayed.record.error.as_deref()),
        (2, Some("later")),
        "retries and error of a job that failed with a delay"
    );
    assert_eq!(delayed.record.history[2].note.as_deref(), Some("later"), "why it is delayed");
    let active = shown(queue, 4).await.record;
    assert_eq!(
        (active.state, active.pool, active.attempts),
        (JobState::Active, Some(PoolId(2)), 1),
        "state, pool and attempts of a leased job"
    );
    assert!(active.progress.is_some(), "a leased job shows its reported progress");
    assert_eq!(shown(queue, 5).await.record.attempts, 0, "a job that was never leased has no attempts");
    assert_eq!(ok(queue.job(JobId(7)).await, "showing"), None, "an unknown job is shown");
}

pub(super) async fn shows_a_mixed_job<Q: JobQueue + QueueAdmin>(queue: &Q) {
    let (pool, key) = (PoolId(7), |n: u8| WorkerKey([n; 32]));
    let calls = vec![
        Call::AddWorker { pool, worker: key(0xa1) },
        Call::AddWorker { pool, worker: key(0xa2) },
        Call::StartComputing { pool, worker: key(0xa1), stake: u128::MAX },
    ];
    submit(queue, Job { pool, calls, ..job(7, 3) }).await;
    let JobDetail { record, calls, data } = shown(queue, 1).await;
    assert_eq!(record.workers, [key(0xa1), key(0xa2)], "each worker once");
    let page = ok(queue.list(Filter::default(), 0, 1).await, "listing");
    assert_eq!(page.jobs, std::slice::from_ref(&record), "the list has the same record");
    let action = record.action.to_lowercase();
    assert!(action.contains("add_worker ×2, ") && action.contains("start_computing"), "{action}");
    assert_eq!(calls.len(), 3, "one description per call");
    let data = data.to_string();
    for text in [key(0xa2).to_string(), u128::MAX.to_string(), "(sealed)".into()] {
        assert!(data.contains(&text), "{text} is missing in {data}");
    }
    assert!(!data.contains("0405"), "the sealed key is shown");
}

/// With a capacity of two.
pub(super) async fn retries_a_failed_job<Q: JobQueue + QueueAdmin>(queue: &Q) {
    submit(queue, job(1, 0)).await;
    let leased = lease(queue, LONG).await;
    assert!(!ok(queue.retry(leased.id).await, "retrying"), "an active job was queued again");
    ok(queue.fail(leased.id, leased.token, failure("bad"), None).await, "failing");
    submit(queue, job(2, 0)).await;
    submit(queue, job(3, 0)).await;
    let full = queue.retry(leased.id).await;
    assert!(matches!(full, Err(Error::Full { limit: 2 })), "retrying without room gave {full:?}");
    end(queue, &lease(queue, LONG).await).await;
    assert!(ok(queue.retry(leased.id).await, "retrying"), "a failed job was not queued again");
    assert!(!ok(queue.retry(leased.id).await, "retrying"), "it was queued twice");
    let mut seen = Vec::new();
    for _ in 0..2 {
        let again = lease(queue, LONG).await;
        seen.push((again.id, again.attempt > 0));
        end(queue, &again).await;
    }
    seen.sort_unstable();
    assert_eq!(seen, [(leased.id, true), (JobId(3), false)], "the job, and that it had been tried");
    assert!(!ok(queue.retry(leased.id).await, "retrying"), "a job that succeeded was queued again");
    assert!(is_empty(queue).await, "all jobs have ended");
}

pub(super) async fn removes_jobs<Q: JobQueue + QueueAdmin>(queue: &Q) {
    let mut handles = one_in_each_state(queue).await;
    let held = JobId(4);
    for id in 1..=6 {
        assert!(ok(queue.remove(JobId(id)).await, "removing"), "job {id} was not there");
        assert!(!ok(queue.remove(JobId(id)).await, "removing"), "job {id} was there again");
    }
    assert_eq!(listed(queue, Filter::default(), 0, 100).await, (0, vec![]), "removed jobs are listed");
    assert!(is_empty(queue).await, "a removed job is counted");
    let lost = queue.complete(held, 1, done(1)).await;
    assert_lost(lost, held, "completing a removed job");
    // The first two jobs have ended before they were removed.
    for handle in handles.drain(2..) {
        assert!(outcome_of(handle).await.is_err(), "the submitter of a removed job");
    }
    submit(queue, job(9, 0)).await;
    assert_eq!(lease(queue, LONG).await.job, job(9, 0), "a removed job was handed out");
}
