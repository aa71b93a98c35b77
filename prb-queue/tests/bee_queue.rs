//! The real bee-queue 1.4 on the other side: its producer and our consumer, our submitter and its worker.
#![allow(clippy::unwrap_used)]

mod support;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use prb_core::{
    chain::Call,
    conformance::queue::job,
    primitives::{AccountId, ParaNumber, PoolId, WorkerKey},
    queue::{CallOutcome, JobFailure, JobQueue, JobSigner, Progress, Stats},
    vault::Sealed,
};
use prb_queue::redis::{Config, PoolSigners, RedisQueue};
use serde_json::{Value, json};
use support::{LONG, Node, Server, done, fate, fresh_name, lease};

/// Longer than a lease is renewed in the original's eyes, short enough for a test.
const STALL: Duration = Duration::from_millis(1000);

fn config(server: &Server) -> Config {
    server.config().with_name(fresh_name()).with_stall_interval(STALL)
}

/// An operator for every pool below 100.
#[derive(Debug)]
struct Operators;

#[async_trait]
impl PoolSigners for Operators {
    async fn signer(&self, pool: PoolId) -> Option<JobSigner> {
        (pool.0 < 100).then(|| signer(pool))
    }
}

fn signer(pool: PoolId) -> JobSigner {
    JobSigner { operator: AccountId([pool.0 as u8; 32]), key: Sealed(vec![9]), proxied: None }
}

/// What the original submits.
fn original(pid: &str) -> Value {
    let key = format!("0x{}", "07".repeat(32));
    json!({"action": "START_COMPUTING", "payload": {"pid": pid, "publicKey": key, "stake": "30000000000000001"}})
}

#[tokio::test]
async fn an_originals_job_is_carried_out_by_ours() {
    let server = Server::start();
    let config = config(&server).with_signers(Some(Arc::new(Operators)));
    let queue = RedisQueue::start(config.clone()).unwrap();
    let mut producer = Node::producer(&server, &config, &json!({"data": original("12")}));

    let leased = lease(&queue, LONG).await;
    let (pool, worker) = (PoolId(12), WorkerKey([7; 32]));
    assert_eq!(leased.job.calls, [Call::StartComputing { pool, worker, stake: 30_000_000_000_000_001 }]);
    assert_eq!((leased.job.signer, leased.job.retries, leased.attempt), (signer(pool), 0, 0));
    assert_eq!(producer.line().await["id"], leased.id.to_string());
    let lease_of = [(leased.id, leased.token)];
    for progress in [Progress::Taken, Progress::Prepared, Progress::Sent] {
        queue.progress(&lease_of, progress).await.unwrap();
    }
    queue.complete(leased.id, leased.token, done(7)).await.unwrap();

    let lines = producer.lines_until("health").await;
    assert_eq!(
        lines[..3].iter().map(|line| &line["data"]).collect::<Vec<_>>(),
        ["RP_INIT", "RP_PREPROCESSED", "RP_WORKING"]
    );
    assert_eq!((&lines[3]["event"], &lines[3]["data"]["block"]), (&json!("succeeded"), &json!(7)));
    let counts =
        json!({"waiting": 0, "active": 0, "succeeded": 1, "failed": 0, "delayed": 0, "newestJob": 1});
    assert_eq!(lines[4]["health"], counts);
    // What it keeps is bee-queue's.
    let stored: String = server.command(&format!("HGET bq:{}:jobs {}", config.name, leased.id)).await;
    let stored: Value = serde_json::from_str(&stored).unwrap();
    assert_eq!((&stored["data"], &stored["status"]), (&original("12"), &json!("succeeded")));
    assert_eq!((&stored["progress"], &stored["options"]["stacktraces"]), (&json!("RP_FINISHED"), &json!([])));
}

#[tokio::test]
async fn an_originals_job_is_retried_and_fails() {
    let server = Server::start();
    let config = config(&server).with_signers(Some(Arc::new(Operators)));
    let queue = RedisQueue::start(config.clone()).unwrap();
    let mut producer = Node::producer(&server, &config, &json!({"data": original("12"), "retries": 2}));
    for attempt in 0..3 {
        let leased = lease(&queue, LONG).await;
        assert_eq!((leased.attempt, leased.job.retries), (attempt, 2 - attempt));
        let failure = JobFailure { message: format!("attempt {attempt}") };
        queue.fail(leased.id, leased.token, failure, Some(Duration::from_millis(50))).await.unwrap();
    }
    let events = producer.lines_until("health").await;
    let events: Vec<_> = events.iter().filter(|e| e.get("event").is_some()).collect();
    assert_eq!(
        events,
        [
            &json!({"event": "retrying", "data": "attempt 0"}),
            &json!({"event": "retrying", "data": "attempt 1"}),
            &json!({"event": "failed", "data": "attempt 2"}),
        ]
    );
}

#[tokio::test]
async fn a_job_that_nobody_can_sign_fails_and_says_so() {
    let server = Server::start();
    let config = config(&server).with_signers(Some(Arc::new(Operators)));
    let queue = RedisQueue::start(config.clone()).unwrap();
    let waiting = tokio::spawn(async move { lease(&queue, LONG).await });
    let bad = [
        (original("100"), "no operator of pool 100"),
        (json!({"action": "DANCE", "payload": {"pid": "1"}}), "the action \"DANCE\""),
        (json!({"action": "ADD_WORKER", "payload": {"pid": "1"}}), "no publicKey"),
        (json!("text"), "not what a trader knows"),
        (
            json!({"action": "REGISTER_WORKER", "payload": {"pid": "1", "runtimeInfo": "0x00", "attestation": "0x00"}}),
            "runtimeInfo cannot be decoded",
        ),
    ];
    for (data, why) in bad {
        let mut producer = Node::producer(&server, &config, &json!({"data": data}));
        let event = producer.lines_until("event").await.pop().unwrap();
        assert_eq!(event["event"], "failed");
        assert!(event["data"].as_str().unwrap().contains(why), "{event} does not say {why:?}");
    }
    // And the next good one is handed out.
    let _producer = Node::producer(&server, &config, &json!({"data": original("3")}));
    assert_eq!(waiting.await.unwrap().job.pool, PoolId(3));
}

#[tokio::test]
async fn our_jobs_are_carried_out_by_an_originals_worker() {
    let server = Server::start();
    let config = config(&server).with_block_hint(Some(Arc::new(|| ParaNumber(99))));
    let queue = RedisQueue::start(config.clone()).unwrap();
    let mut worker = Node::worker(&server, &config).await;
    // Many, because a fast worker's event may come before its submitter knows the id.
    for _ in 0..50 {
        let handle = queue.submit(job(1, 0)).await.unwrap();
        let id = handle.id;
        let outcome = fate(handle).await.unwrap();
        assert_eq!((outcome.calls, outcome.block), (vec![CallOutcome::Done], ParaNumber(99)));
        let took = worker.line().await;
        let payload = json!({"pid": "1", "publicKey": format!("0x{}", "01".repeat(32))});
        assert_eq!((&took["took"], &took["data"]["payload"]), (&json!(id.to_string()), &payload));
        assert_eq!(took["data"]["action"], "ADD_WORKER");
    }
    let failed = fate(queue.submit(job(2, 0)).await.unwrap()).await;
    assert_eq!(failed, Err(JobFailure { message: "boom".into() }));
    let retried = fate(queue.submit(job(3, 3)).await.unwrap()).await.unwrap();
    assert_eq!(retried.calls, [CallOutcome::Done], "its worker retried it by our count");
    let Stats { waiting, active, succeeded, failed, .. } = queue.stats().await.unwrap();
    assert_eq!((waiting, active, succeeded, failed), (0, 0, 51, 1));
}

#[tokio::test]
async fn a_dead_workers_job_comes_to_us() {
    let server = Server::start();
    let config = config(&server);
    let queue = RedisQueue::start(config.clone()).unwrap();
    let mut worker = Node::worker(&server, &config).await;
    let handle = queue.submit(job(4, 0)).await.unwrap();
    assert_eq!(worker.line().await["took"], handle.id.to_string());
    worker.kill().await;
    let leased = lease(&queue, LONG).await;
    assert_eq!(leased.id, handle.id);
    assert!(leased.attempt > 0, "a job that another program had looks new");
    queue.complete(leased.id, leased.token, done(3)).await.unwrap();
    assert_eq!(fate(handle).await, Ok(done(3)));
}

#[tokio::test]
async fn our_dead_consumers_job_goes_to_a_worker() {
    let server = Server::start();
    let config = config(&server);
    let submitter = RedisQueue::start(config.clone()).unwrap();
    let consumer = RedisQueue::start(config.clone()).unwrap();
    let handle = submitter.submit(job(1, 0)).await.unwrap();
    lease(&consumer, LONG * 60).await;
    drop(consumer);
    let mut worker = Node::worker(&server, &config).await;
    assert_eq!(worker.line().await["took"], handle.id.to_string());
    assert_eq!(fate(handle).await.unwrap().calls, [CallOutcome::Done]);
}

#[tokio::test]
async fn a_job_that_we_hold_is_not_taken_away() {
    let server = Server::start();
    let config = config(&server);
    let queue = RedisQueue::start(config.clone()).unwrap();
    let held = queue.submit(job(1, 0)).await.unwrap();
    let leased = lease(&queue, LONG).await;
    let mut worker = Node::worker(&server, &config).await;
    // Three times what makes a silent worker's job stalled, by the rounds of the real check.
    let mut rounds = 0;
    let until = tokio::time::Instant::now() + LONG;
    while rounds < 6 {
        let key = format!("bq:{}:stallBlock", config.name);
        let left: i64 = server.command(&format!("PTTL {key}")).await;
        assert!(tokio::time::Instant::now() < until, "no rounds of the stalled check");
        tokio::time::sleep(Duration::from_millis(u64::try_from(left).unwrap_or(10) + 5)).await;
        rounds += 1;
    }
    let other = queue.submit(job(1, 0)).await.unwrap();
    assert_eq!(worker.line().await["took"], other.id.to_string(), "the worker took a job that is held");
    fate(other).await.unwrap();
    queue.complete(leased.id, leased.token, done(5)).await.unwrap();
    assert_eq!(fate(held).await, Ok(done(5)));
}

#[tokio::test]
async fn delayed_jobs_are_raised_by_either_side() {
    let server = Server::start();
    let config = config(&server).with_signers(Some(Arc::new(Operators)));
    let queue = RedisQueue::start(config.clone()).unwrap();
    // Theirs by us.
    let _producer = Node::producer(&server, &config, &json!({"data": original("12"), "delayMs": 300}));
    let leased = lease(&queue, LONG).await;
    assert_eq!(leased.job.pool, PoolId(12));
    queue.complete(leased.id, leased.token, done(1)).await.unwrap();
    // Ours by them.
    let handle = queue.submit(job(1, 1)).await.unwrap();
    let leased = lease(&queue, LONG).await;
    let failure = JobFailure { message: "later".into() };
    queue.fail(leased.id, leased.token, failure, Some(Duration::from_millis(300))).await.unwrap();
    let mut worker = Node::worker(&server, &config).await;
    assert_eq!(worker.line().await["took"], leased.id.to_string());
    assert_eq!(fate(handle).await.unwrap().calls, [CallOutcome::Done]);
}
