//! Tests jobs in Redis that are not wanted any more: withdrawn by their submitters, or too old.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use prb_core::{
    chain::Call,
    conformance::queue::job,
    queue::{
        CallOutcome, Job, JobFailure, JobHandle, JobId, JobOutcome, JobQueue, JobState, Lease, Withdrawal,
        admin::QueueAdmin,
    },
    wire::{Message, MessageOrigin, SignedMessage},
};
use prb_queue::redis::{Config, RedisQueue};
use support::{LONG, Server, fresh_name};
use tokio::time::timeout;

async fn lease(queue: &RedisQueue) -> Lease {
    timeout(LONG, queue.lease(LONG)).await.expect("no job was leased in time").unwrap()
}

async fn outcome_of(handle: JobHandle) -> Result<JobOutcome, JobFailure> {
    timeout(LONG, handle.outcome()).await.expect("the job has no outcome in time")
}

fn done() -> JobOutcome {
    let block = prb_core::primitives::ParaNumber(1);
    JobOutcome { calls: vec![CallOutcome::Done], block, extrinsic: None, fee: None }
}

/// Each field of a job's index entry: mark, pool, action, time of the submission, bytes.
async fn index_entry(server: &Server, config: &Config, id: u64) -> Vec<String> {
    let entry: String = server.command(&format!("HGET bq:{}:prb:books {id}", config.name)).await;
    entry.split('|').map(str::to_owned).collect()
}

/// Makes a job look as if it had been submitted earlier.
async fn make_older(server: &Server, config: &Config, id: u64, by: Duration) {
    let mut entry = index_entry(server, config, id).await;
    assert_eq!(entry.len(), 5, "{entry:?}");
    let submitted: u64 = entry[3].parse().unwrap();
    entry[3] = (submitted - by.as_millis() as u64).to_string();
    let command = format!("HSET bq:{}:prb:books {id} {}", config.name, entry.join("|"));
    let _: u64 = server.command(&command).await;
}

#[tokio::test]
async fn a_job_that_has_waited_for_too_long_fails_by_the_servers_clock() {
    let server = Server::start();
    let config = server.config().with_name(fresh_name());
    let queue = RedisQueue::start(config.clone()).unwrap();
    // One that waits, one that was leased before and is delayed, one within the limit.
    let delayed = queue.submit(job(1, 3)).await.unwrap();
    let first = lease(&queue).await;
    let failure = JobFailure { message: "later".into() };
    queue.fail(first.id, first.token, failure, Some(Duration::from_millis(1))).await.unwrap();
    let waiting = queue.submit(job(2, 3)).await.unwrap();
    let in_time = queue.submit(job(3, 3)).await.unwrap();
    for id in [1, 2] {
        make_older(&server, &config, id, Config::MAX_AGE + LONG).await;
    }
    make_older(&server, &config, 3, Config::MAX_AGE - LONG).await;
    let (waiting_id, leased) = (waiting.id, lease(&queue).await);
    assert_eq!(leased.id, in_time.id);
    queue.complete(leased.id, leased.token, done()).await.unwrap();
    // The delayed one may become due after the others.
    let next = tokio::spawn({
        let queue = queue.clone();
        async move { queue.lease(LONG).await.unwrap() }
    });
    let (waiting, delayed) = (outcome_of(waiting).await.unwrap_err(), outcome_of(delayed).await.unwrap_err());
    assert!(waiting.message.contains("has waited for 31 min"), "{waiting}");
    assert!(waiting.message.ends_with("it was not sent"), "{waiting}");
    assert!(delayed.message.ends_with("it was not sent again"), "{delayed}");
    let failed = queue.job(waiting_id).await.unwrap().unwrap().record;
    assert_eq!((failed.state, failed.error), (JobState::Failed, Some(waiting.message)));
    assert_eq!(queue.stats().await.unwrap().failed, 2);
    // What an operator puts back is wanted now.
    assert!(queue.retry(waiting_id).await.unwrap());
    assert_eq!(timeout(LONG, next).await.unwrap().unwrap().id, waiting_id);
}

/// They may not submit again, and their clocks may be wrong.
#[tokio::test]
async fn jobs_of_other_programs_have_no_limit() {
    let server = Server::start();
    let config = server.config().with_name(fresh_name());
    let queue = RedisQueue::start(config.clone()).unwrap();
    let data = r#"{"action":"ADD_WORKER","payload":{"pid":"1","publicKey":"0x00"}}"#;
    let json =
        format!(r#"{{"data":{data},"options":{{"timestamp":1,"stacktraces":[]}},"status":"created"}}"#);
    let _: u64 = server.command(&format!("HSET bq:{}:jobs 101 {json}", config.name)).await;
    let _: u64 = server.command(&format!("LPUSH bq:{}:waiting 101", config.name)).await;
    let wanted = queue.submit(job(1, 0)).await.unwrap();
    assert_eq!(lease(&queue).await.id, wanted.id);
    // It was refused for another reason, so it came to the consumer.
    let error = queue.job(JobId(101)).await.unwrap().unwrap().record.error.unwrap();
    assert!(error.contains("publicKey"), "{error}");
}

#[tokio::test]
async fn without_a_limit_an_old_job_is_leased() {
    let server = Server::start();
    let config = server.config().with_name(fresh_name()).with_max_age(Duration::ZERO);
    let queue = RedisQueue::start(config.clone()).unwrap();
    let handle = queue.submit(job(1, 0)).await.unwrap();
    make_older(&server, &config, 1, Config::MAX_AGE * 100).await;
    assert_eq!(lease(&queue).await.id, handle.id);
}

/// The chain accepts them once, and their submitter would only fetch them again.
#[tokio::test]
async fn messages_are_leased_at_any_age() {
    let server = Server::start();
    let config = server.config().with_name(fresh_name());
    let queue = RedisQueue::start(config.clone()).unwrap();
    let message = Message { sender: MessageOrigin::Reserved, destination: vec![], payload: vec![] };
    let call = Call::SyncOffchainMessage(SignedMessage { message, sequence: 1, signature: vec![0; 64] });
    let handle = queue.submit(Job { calls: vec![call], ..job(1, 0) }).await.unwrap();
    make_older(&server, &config, 1, Config::MAX_AGE * 100).await;
    assert_eq!(lease(&queue).await.id, handle.id);
}

/// Redis has lost its data, so that another manager's job has the number.
#[tokio::test]
async fn another_job_of_the_same_number_is_not_withdrawn() {
    let server = Server::start();
    // Polling is slow: the first queue still waits for its job.
    let config = server.config().with_name(fresh_name()).with_poll_interval(LONG);
    let (first, second) = (RedisQueue::start(config.clone()).unwrap(), RedisQueue::start(config).unwrap());
    let lost = first.submit(job(1, 0)).await.unwrap();
    let _: () = server.command("FLUSHALL").await;
    let other = second.submit(job(2, 0)).await.unwrap();
    assert_eq!(lost.id, other.id);
    assert_eq!(first.withdraw(lost.id).await.unwrap(), Withdrawal::Refused);
    assert_eq!(lease(&second).await.job, job(2, 0));
}

/// As after a lost connection: the script has run, and is run again.
#[tokio::test]
async fn a_repeated_withdrawal_has_the_same_answer() {
    let server = Server::start();
    let config = server.config().with_name(fresh_name()).with_poll_interval(LONG);
    let (first, second) =
        (RedisQueue::start(config.clone()).unwrap(), RedisQueue::start(config.clone()).unwrap());
    let handle = first.submit(job(1, 0)).await.unwrap();
    let mark = index_entry(&server, &config, 1).await.remove(0);
    // The first run, by another process, leaves its answer under the job's mark.
    assert_eq!(second.withdraw(handle.id).await.unwrap(), Withdrawal::Unsent);
    let _: () = server.command(&format!("SET bq:{}:prb:withdrawn:{mark} U", config.name)).await;
    assert_eq!(first.withdraw(handle.id).await.unwrap(), Withdrawal::Unsent);
    let failure = outcome_of(handle).await.unwrap_err();
    assert!(failure.message.contains("withdrawn"), "{failure}");
}

/// A withdrawal leaves no trace in the sums from which the queue's limits are enforced.
#[tokio::test]
async fn a_withdrawn_job_gives_its_bytes_back() {
    let server = Server::start();
    let config = server.config().with_name(fresh_name()).with_max_bytes(1_500);
    let queue = RedisQueue::start(config.clone()).unwrap();
    for _ in 0..5 {
        let handle = queue.submit(job(1, 0)).await.unwrap();
        assert_eq!(queue.withdraw(handle.id).await.unwrap(), Withdrawal::Unsent);
    }
    let names: Vec<String> = server.command(&format!("KEYS bq:{}:*", config.name)).await;
    let left =
        names.iter().filter(|name| !["id", "meta", "stallBlock"].iter().any(|kept| name.ends_with(kept)));
    let left: Vec<_> =
        left.filter(|name| !name.contains(":prb:last:") && !name.contains(":prb:withdrawn:")).collect();
    assert!(left.is_empty(), "{left:?}");
}
