//! Tests a Redis that returns to an older snapshot: jobs of then, which have ended or were withdrawn since, are not
//! carried out again.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use prb_core::{
    chain::Call,
    conformance::queue::job,
    primitives::WorkerKey,
    queue::{Job, JobFailure, JobId, JobQueue, JobState, Withdrawal, admin::Filter, admin::QueueAdmin},
    wire::{Message, MessageOrigin, SignedMessage},
};
use prb_queue::redis::{Config, RedisQueue};
use support::{LONG, Server, done, fresh_name, lease, outcome_of};
use tokio::time::{Instant, sleep, timeout};

fn config(server: &Server) -> Config {
    server.config().with_name(fresh_name()).with_poll_interval(Duration::from_millis(200))
}

/// Ends the server, and starts it with its last snapshot.
fn return_to_snapshot(server: &mut Server) {
    server.kill();
    server.restart();
}

async fn snapshot(server: &Server) {
    assert_eq!(server.command::<String>("SAVE").await, "OK");
}

/// Waits until the jobs in a state are these.
async fn until(queue: &RedisQueue, state: JobState, wanted: &[JobId]) {
    let until = Instant::now() + LONG;
    loop {
        // While the server restarts there is no answer.
        if let Ok(page) = queue.list(Filter::default().with_state(Some(state)), 0, 100).await {
            let mut ids: Vec<_> = page.jobs.iter().map(|job| job.id).collect();
            ids.sort_unstable();
            if ids == wanted {
                return;
            }
            assert!(Instant::now() < until, "{state:?}: {ids:?}, not {wanted:?}");
        }
        assert!(Instant::now() < until, "{state:?}: no answer");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn jobs_that_have_ended_are_not_carried_out_again() {
    support::log();
    let mut server = Server::start();
    let config = config(&server);
    let (submitter, consumer) =
        (RedisQueue::start(config.clone()).unwrap(), RedisQueue::start(config).unwrap());
    let (stop, start) =
        (submitter.submit(job(1, 0)).await.unwrap(), submitter.submit(job(2, 0)).await.unwrap());
    let (stopped, started) = (stop.id, start.id);
    snapshot(&server).await;
    let leased = lease(&consumer, LONG).await;
    consumer.complete(leased.id, leased.token, done(5)).await.unwrap();
    assert_eq!(outcome_of(stop).await, Ok(done(5)));
    let leased = lease(&consumer, LONG).await;
    let failure = JobFailure { message: "no".into() };
    consumer.fail(leased.id, leased.token, failure, None).await.unwrap();
    outcome_of(start).await.unwrap_err();
    return_to_snapshot(&mut server);
    until(&submitter, JobState::Waiting, &[stopped, started]).await;
    let next = submitter.submit(job(3, 0)).await.unwrap();
    assert_eq!(lease(&consumer, LONG).await.id, next.id);
    let shown = async |id| consumer.job(id).await.unwrap().unwrap().record;
    let (first, second) = (shown(stopped).await, shown(started).await);
    assert_eq!((first.state, first.outcome), (JobState::Succeeded, Some(done(5))));
    assert_eq!((second.state, second.error.as_deref()), (JobState::Failed, Some("no")));
    // What an operator puts back is carried out.
    assert!(consumer.retry(started).await.unwrap());
    assert_eq!(lease(&consumer, LONG).await.id, started);
}

#[tokio::test]
async fn jobs_that_nobody_awaits_are_withdrawn_when_redis_returns() {
    support::log();
    let mut server = Server::start();
    let config = config(&server);
    let named = |name: &str| RedisQueue::start(config.clone().with_submitter(Some(name.into()))).unwrap();
    let (ours, theirs) = (named("ours"), named("theirs"));
    let unnamed = RedisQueue::start(config.clone()).unwrap();
    let withdrawn = ours.submit(job(1, 0)).await.unwrap();
    let awaited = ours.submit(job(2, 0)).await.unwrap();
    let others = [theirs.submit(job(3, 0)).await.unwrap(), unnamed.submit(job(4, 0)).await.unwrap()];
    snapshot(&server).await;
    assert_eq!(ours.withdraw(withdrawn.id).await.unwrap(), Withdrawal::Unsent);
    return_to_snapshot(&mut server);
    let left = [awaited.id, others[0].id, others[1].id];
    until(&unnamed, JobState::Waiting, &left).await;
    // It was there again, and the queue goes on.
    let next = ours.submit(job(5, 0)).await.unwrap();
    until(&unnamed, JobState::Waiting, &[left[0], left[1], left[2], next.id]).await;
    for id in left {
        let leased = lease(&unnamed, LONG).await;
        assert_eq!(leased.id, id);
        unnamed.complete(leased.id, leased.token, done(7)).await.unwrap();
    }
    assert_eq!(outcome_of(awaited).await, Ok(done(7)));
}

#[tokio::test]
async fn jobs_of_an_earlier_process_are_withdrawn_before_the_first_is_added() {
    let server = Server::start();
    let config = config(&server);
    let named = |name: &str| RedisQueue::start(config.clone().with_submitter(Some(name.into()))).unwrap();
    let (before, theirs) = (named("ours"), named("theirs"));
    let mut awaited = Vec::new();
    for n in 1..=3 {
        awaited.push(before.submit(job(n, 3)).await.unwrap());
    }
    let other = theirs.submit(job(4, 0)).await.unwrap();
    // One is with a trader, and one is delayed.
    let taken = lease(&theirs, LONG).await;
    let delayed = lease(&theirs, LONG).await;
    let failure = JobFailure { message: "later".into() };
    theirs.fail(delayed.id, delayed.token, failure, Some(LONG)).await.unwrap();
    before.shutdown().await;
    drop(awaited);
    let ours = named("ours");
    let next = ours.submit(job(5, 0)).await.unwrap();
    until(&theirs, JobState::Waiting, &[other.id, next.id]).await;
    until(&theirs, JobState::Delayed, &[]).await;
    until(&theirs, JobState::Active, &[taken.id]).await;
}

/// A worker's message, which nobody can submit again while the worker does not answer.
fn message() -> Job {
    let sender = MessageOrigin::Worker(WorkerKey([9; 32]));
    let message = Message { sender, destination: b"phala/mining".to_vec(), payload: vec![1] };
    let message = SignedMessage { message, sequence: 1, signature: vec![2] };
    Job { calls: vec![Call::SyncOffchainMessage(message)], ..job(1, 0) }
}

#[tokio::test]
async fn messages_of_workers_and_what_an_operator_has_put_back_stay() {
    let server = Server::start();
    let config = config(&server);
    let named = || RedisQueue::start(config.clone().with_submitter(Some("ours".into()))).unwrap();
    let (before, trader) = (named(), RedisQueue::start(config.clone()).unwrap());
    let failed = before.submit(job(1, 0)).await.unwrap().id;
    let leased = lease(&trader, LONG).await;
    let failure = JobFailure { message: "no".into() };
    trader.fail(leased.id, leased.token, failure, None).await.unwrap();
    let messages = before.submit(message()).await.unwrap().id;
    before.submit(job(2, 0)).await.unwrap();
    assert!(trader.retry(failed).await.unwrap());
    before.shutdown().await;
    let ours = named();
    let next = ours.submit(job(3, 0)).await.unwrap();
    until(&trader, JobState::Waiting, &[failed, messages, next.id]).await;
}

/// A lifecycle manager with its own trader, which waits for jobs before the first is submitted.
#[tokio::test]
async fn jobs_of_an_earlier_process_are_withdrawn_before_this_one_leases_any() {
    let mut server = Server::start();
    let config = config(&server);
    let named = || RedisQueue::start(config.clone().with_submitter(Some("ours".into()))).unwrap();
    let before = named();
    let given_up = before.submit(job(1, 0)).await.unwrap().id;
    before.shutdown().await;
    snapshot(&server).await;
    let ours = named();
    // Again on the connection that is made when Redis has returned.
    for n in 2..=3 {
        let leasing = tokio::spawn({
            let ours = ours.clone();
            async move { lease(&ours, LONG).await }
        });
        if n == 3 {
            return_to_snapshot(&mut server);
        }
        until(&ours, JobState::Waiting, &[]).await;
        let next = ours.submit(job(n, 0)).await.unwrap();
        let leased = timeout(LONG, leasing).await.unwrap().unwrap();
        assert_eq!((leased.id, leased.job), (next.id, job(n, 0)), "not {given_up}");
    }
}

#[tokio::test]
async fn what_a_trader_hands_back_is_withdrawn_then() {
    let server = Server::start();
    let config = config(&server);
    let named = || RedisQueue::start(config.clone().with_submitter(Some("ours".into()))).unwrap();
    let (before, trader) = (named(), RedisQueue::start(config.clone()).unwrap());
    before.submit(job(1, 3)).await.unwrap();
    before.submit(job(2, 3)).await.unwrap();
    let (first, second) = (lease(&trader, LONG).await, lease(&trader, LONG).await);
    before.shutdown().await;
    let ours = named();
    let next = ours.submit(job(3, 0)).await.unwrap();
    until(&trader, JobState::Active, &[first.id, second.id]).await;
    trader.release(&[(first.id, first.token)], LONG).await.unwrap();
    until(&trader, JobState::Delayed, &[]).await;
    let failure = JobFailure { message: "later".into() };
    trader.fail(second.id, second.token, failure, Some(LONG)).await.unwrap();
    until(&trader, JobState::Delayed, &[]).await;
    until(&trader, JobState::Active, &[]).await;
    until(&trader, JobState::Waiting, &[next.id]).await;
}
