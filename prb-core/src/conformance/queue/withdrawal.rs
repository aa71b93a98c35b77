//! Checks of [`JobQueue::withdraw`].

use super::*;

async fn withdraw(queue: &impl JobQueue, id: JobId) -> Withdrawal {
    ok(queue.withdraw(id).await, "withdrawing")
}

async fn assert_withdrawn(handle: JobHandle, what: &str) {
    match outcome_of(handle).await {
        Err(failure) => assert!(failure.message.contains("withdrawn"), "{what}: {failure}"),
        Ok(outcome) => panic!("{what} ended with {outcome:?}"),
    }
}

/// With a capacity of two.
pub(super) async fn withdraws_what_is_not_leased(queue: &impl JobQueue) {
    let waiting = submit(queue, job(1, 1)).await;
    assert_eq!(withdraw(queue, waiting.id).await, Withdrawal::Unsent, "a job that was never leased");
    assert_eq!(withdraw(queue, waiting.id).await, Withdrawal::Refused, "a job that was withdrawn");
    assert_withdrawn(waiting, "a waiting job").await;
    assert!(is_empty(queue).await, "a job that was withdrawn is counted");

    let delayed = submit(queue, job(2, 1)).await;
    let leased = lease(queue, LONG).await;
    ok(queue.fail(leased.id, leased.token, failure("later"), Some(LONG)).await, "failing");
    assert_eq!(withdraw(queue, delayed.id).await, Withdrawal::MaybeSent, "a delayed job");
    assert_withdrawn(delayed, "a delayed job").await;

    let released = submit(queue, job(3, 0)).await;
    let leased = lease(queue, LONG).await;
    ok(queue.release(&[(leased.id, leased.token)], Duration::ZERO).await, "releasing");
    assert_eq!(withdraw(queue, released.id).await, Withdrawal::MaybeSent, "a job that was released");
    assert_withdrawn(released, "a job that was released").await;
    assert_lost(
        queue.complete(leased.id, leased.token, done(1)).await,
        leased.id,
        "completing a job that was withdrawn",
    );

    // What was withdrawn takes no place, and the others come in their order.
    let first = submit(queue, job(4, 0)).await;
    let second = submit(queue, job(5, 0)).await;
    assert_eq!(withdraw(queue, first.id).await, Withdrawal::Unsent, "one of two jobs");
    submit(queue, job(6, 0)).await;
    assert_eq!(lease(queue, LONG).await.id, second.id, "the oldest job that is left");
    assert_eq!(lease(queue, LONG).await.job, job(6, 0), "the next one");
}

pub(super) async fn refuses_to_withdraw_what_is_leased(queue: &impl JobQueue) {
    let handle = submit(queue, job(1, 1)).await;
    let leased = lease(queue, LONG).await;
    assert_eq!(withdraw(queue, handle.id).await, Withdrawal::Refused, "a leased job");
    let lost = ok(queue.heartbeat(&[(leased.id, leased.token)], LONG).await, "heartbeat");
    assert_eq!(lost, [], "a refused withdrawal ended the lease");
    end(queue, &leased).await;
    assert_eq!(withdraw(queue, handle.id).await, Withdrawal::Refused, "a job that has ended");
    assert_eq!(outcome_of(handle).await, Ok(done(1)), "the outcome of a job that could not be withdrawn");
    assert_eq!(withdraw(queue, JobId(u64::MAX)).await, Withdrawal::Refused, "an unknown job");
}
