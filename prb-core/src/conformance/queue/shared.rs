//! Checks of a queue that a submitter and a trader have opened in processes of their own.

use super::*;

pub(super) async fn outcomes_reach_another_process(submitter: &impl JobQueue, trader: &impl JobQueue) {
    let done_there = submit(submitter, job(1, 0)).await;
    let failed_there = submit(submitter, job(2, 0)).await;
    let leased = lease(trader, LONG).await;
    assert_eq!((leased.id, &leased.job), (done_there.id, &job(1, 0)), "the job of another process");
    ok(trader.complete(leased.id, leased.token, done(7)).await, "completing");
    assert_eq!(
        outcome_of(done_there).await,
        Ok(done(7)),
        "the outcome of a job that another process completed"
    );
    let leased = lease(trader, LONG).await;
    ok(trader.fail(leased.id, leased.token, failure("no key"), None).await, "failing");
    assert_eq!(
        outcome_of(failed_there).await,
        Err(failure("no key")),
        "the failure of a job that another process failed"
    );
    assert!(is_empty(submitter).await, "a job that another process has ended is counted");
}

/// The second lease is of the process that submitted the job.
pub(super) async fn a_late_lease_of_another_process_is_lost(
    submitter: &impl JobQueue,
    trader: &impl JobQueue,
) {
    let handle = submit(submitter, job(1, 0)).await;
    let first = lease(trader, SHORT).await;
    let second = lease(submitter, LONG).await;
    assert_eq!((second.id, second.attempt), (first.id, 1), "the job of an expired lease");
    assert_ne!(second.token, first.token, "leases of different processes have the same token");
    let late = trader.complete(first.id, first.token, done(1)).await;
    assert_lost(late, first.id, "completing after another process has leased the job");
    ok(submitter.complete(second.id, second.token, done(2)).await, "completing");
    assert_eq!(outcome_of(handle).await, Ok(done(2)), "the second process's outcome counts");
}
