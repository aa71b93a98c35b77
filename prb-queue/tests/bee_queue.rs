//! Tests with the real bee-queue 1.4: its producer with our consumer, and our submitter with its worker.
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
use support::{LONG, Node, Server, done, fresh_name, lease, outcome_of};

/// Longer than the interval at which leases are marked alive, and short enough for a test.
const STALL: Duration = Duration::from_millis(1000);

fn config(server: &Server) -> Config {
    server.config().with_name(fresh_name()).with_stall_interval(STALL)
}

/// Operators for all pools below 100.
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

/// A job as the original submits it.
fn original(pid: &str) -> Value {
    let key = format!("0x{}", "07".repeat(32));
    json!({"action": "START_COMPUTING", "payload": {"pid": pid, "publicKey": key, "stake": "30000000000000001"}})
}

#[tokio::test]
async fn original_job_is_carried_out_by_our_consumer() {
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
    // The stored job has bee-queue's format.
    let stored: String = server.command(&format!("HGET bq:{}:jobs {}", config.name, leased.id)).await;
    let stored: Value = serde_json::from_str(&stored).unwrap();
    assert_eq!((&stored["data"], &stored["status"]), (&original("12"), &json!("succeeded")));
    assert_eq!((&stored["progress"], &stored["options"]["stacktraces"]), (&json!("RP_FINISHED"), &json!([])));
}

#[tokio::test]
async fn original_job_is_retried_and_fails() {
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
async fn job_that_cannot_be_signed_or_decoded_fails_with_reason() {
    let server = Server::start();
    let limit = Duration::from_secs(1);
    let config = config(&server).with_signers(Some(Arc::new(Operators))).with_unsignable_limit(limit);
    let queue = RedisQueue::start(config.clone()).unwrap();
    let waiting = tokio::spawn(async move { lease(&queue, LONG).await });
    let bad = [
        (original("100"), "no operator of pool 100"),
        (json!({"action": "DANCE", "payload": {"pid": "1"}}), "the action \"DANCE\""),
        (json!({"action": "ADD_WORKER", "payload": {"pid": "1"}}), "no publicKey"),
        (json!("text"), "not in a known format"),
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
    // The next valid job is handed out.
    let _producer = Node::producer(&server, &config, &json!({"data": original("3")}));
    assert_eq!(waiting.await.unwrap().job.pool, PoolId(3));
}

/// Operators for all other pools.
#[derive(Debug)]
struct OtherOperators;

#[async_trait]
impl PoolSigners for OtherOperators {
    async fn signer(&self, pool: PoolId) -> Option<JobSigner> {
        (pool.0 >= 100).then(|| signer(pool))
    }
}

#[tokio::test]
async fn traders_with_different_operators_leave_each_other_their_jobs() {
    let server = Server::start();
    let shared = config(&server);
    let start = |signers: Arc<dyn PoolSigners>| {
        let queue = RedisQueue::start(shared.clone().with_signers(Some(signers))).unwrap();
        async move {
            let mut pools = Vec::new();
            while pools.len() < 3 {
                let leased = lease(&queue, LONG).await;
                pools.push(leased.job.pool.0);
                queue.complete(leased.id, leased.token, done(1)).await.unwrap();
            }
            // It goes on as a trader that takes jobs and cannot sign them.
            let waiting = tokio::spawn(async move { queue.lease(LONG).await });
            (pools, waiting)
        }
    };
    let traders =
        tokio::spawn(futures::future::join(start(Arc::new(Operators)), start(Arc::new(OtherOperators))));
    let mut producers = Vec::new();
    for pid in ["1", "101", "2", "102", "3", "103"] {
        producers.push(Node::producer(&server, &shared, &json!({"data": original(pid)})));
    }
    for mut producer in producers {
        let event = producer.lines_until("event").await.pop().unwrap();
        assert_eq!(event["event"], "succeeded", "{event}");
    }
    let ((mut first, _one), (mut second, _other)) =
        tokio::time::timeout(LONG, traders).await.unwrap().unwrap();
    first.sort_unstable();
    second.sort_unstable();
    assert_eq!((first, second), (vec![1, 2, 3], vec![101, 102, 103]));
}

#[tokio::test]
async fn our_job_is_carried_out_by_original_worker() {
    let server = Server::start();
    let config = config(&server).with_block_hint(Some(Arc::new(|| ParaNumber(99))));
    let queue = RedisQueue::start(config.clone()).unwrap();
    let mut worker = Node::worker(&server, &config).await;
    // Repeated, because a fast worker's event may arrive before its submitter knows the id.
    for _ in 0..50 {
        let handle = queue.submit(job(1, 0)).await.unwrap();
        let id = handle.id;
        let outcome = outcome_of(handle).await.unwrap();
        assert_eq!((outcome.calls, outcome.block), (vec![CallOutcome::Done], ParaNumber(99)));
        let took = worker.line().await;
        let payload = json!({"pid": "1", "publicKey": format!("0x{}", "01".repeat(32))});
        assert_eq!((&took["took"], &took["data"]["payload"]), (&json!(id.to_string()), &payload));
        assert_eq!(took["data"]["action"], "ADD_WORKER");
    }
    let failed = outcome_of(queue.submit(job(2, 0)).await.unwrap()).await;
    assert_eq!(failed, Err(JobFailure { message: "boom".into() }));
    let retried = outcome_of(queue.submit(job(3, 3)).await.unwrap()).await.unwrap();
    assert_eq!(retried.calls, [CallOutcome::Done], "its worker retried it as often as we set");
    let Stats { waiting, active, succeeded, failed, .. } = queue.stats().await.unwrap();
    assert_eq!((waiting, active, succeeded, failed), (0, 0, 51, 1));
}

#[tokio::test]
async fn job_of_dead_original_worker_is_leased_by_us() {
    let server = Server::start();
    let config = config(&server);
    let queue = RedisQueue::start(config.clone()).unwrap();
    let mut worker = Node::worker(&server, &config).await;
    let handle = queue.submit(job(4, 0)).await.unwrap();
    assert_eq!(worker.line().await["took"], handle.id.to_string());
    worker.kill().await;
    let leased = lease(&queue, LONG).await;
    assert_eq!(leased.id, handle.id);
    assert!(leased.attempt > 0, "a job that another program has taken looks new");
    queue.complete(leased.id, leased.token, done(3)).await.unwrap();
    assert_eq!(outcome_of(handle).await, Ok(done(3)));
}

#[tokio::test]
async fn job_of_our_dead_consumer_goes_to_original_worker() {
    let server = Server::start();
    let config = config(&server);
    let submitter = RedisQueue::start(config.clone()).unwrap();
    let consumer = RedisQueue::start(config.clone()).unwrap();
    let handle = submitter.submit(job(1, 0)).await.unwrap();
    lease(&consumer, LONG * 60).await;
    drop(consumer);
    let mut worker = Node::worker(&server, &config).await;
    assert_eq!(worker.line().await["took"], handle.id.to_string());
    assert_eq!(outcome_of(handle).await.unwrap().calls, [CallOutcome::Done]);
}

#[tokio::test]
async fn leased_job_survives_original_stall_checks() {
    let server = Server::start();
    let config = config(&server);
    let queue = RedisQueue::start(config.clone()).unwrap();
    let held = queue.submit(job(1, 0)).await.unwrap();
    let leased = lease(&queue, LONG).await;
    let mut worker = Node::worker(&server, &config).await;
    // Three times as many rounds of the real check as make a silent worker's job stalled.
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
    assert_eq!(worker.line().await["took"], other.id.to_string(), "the worker took a leased job");
    outcome_of(other).await.unwrap();
    queue.complete(leased.id, leased.token, done(5)).await.unwrap();
    assert_eq!(outcome_of(held).await, Ok(done(5)));
}

#[tokio::test]
async fn either_side_promotes_delayed_jobs_of_the_other() {
    let server = Server::start();
    let config = config(&server).with_signers(Some(Arc::new(Operators)));
    let queue = RedisQueue::start(config.clone()).unwrap();
    // Their job, promoted by us.
    let _producer = Node::producer(&server, &config, &json!({"data": original("12"), "delayMs": 300}));
    let leased = lease(&queue, LONG).await;
    assert_eq!(leased.job.pool, PoolId(12));
    queue.complete(leased.id, leased.token, done(1)).await.unwrap();
    // Our job, promoted by them.
    let handle = queue.submit(job(1, 1)).await.unwrap();
    let leased = lease(&queue, LONG).await;
    let failure = JobFailure { message: "later".into() };
    queue.fail(leased.id, leased.token, failure, Some(Duration::from_millis(300))).await.unwrap();
    let mut worker = Node::worker(&server, &config).await;
    assert_eq!(worker.line().await["took"], leased.id.to_string());
    assert_eq!(outcome_of(handle).await.unwrap().calls, [CallOutcome::Done]);
}
