//! Tests that what Redis holds stays bounded, whoever adds and ends jobs, and that the job index stays
//! correct.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use prb_core::{
    conformance::queue::job,
    queue::{Error, JobId, JobQueue, Stats, admin::QueueAdmin},
};
use prb_queue::redis::{Config, RedisQueue};
use support::{LONG, Node, Server, done, fresh_name, lease, outcome_of};

fn quick(server: &Server) -> Config {
    server
        .config()
        .with_name(fresh_name())
        .with_stall_interval(Duration::from_millis(200))
        .with_poll_interval(Duration::from_millis(50))
}

async fn run(queue: &RedisQueue, count: u8) {
    for n in 0..count {
        let handle = queue.submit(job(n, 0)).await.unwrap();
        let leased = lease(queue, LONG).await;
        queue.complete(leased.id, leased.token, done(1)).await.unwrap();
        outcome_of(handle).await.unwrap();
    }
}

/// Waits for the effect of maintenance.
async fn comes(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let until = tokio::time::Instant::now() + LONG;
    while !is_so().await {
        assert!(tokio::time::Instant::now() < until, "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn count(server: &Server, command: &str, config: &Config, key: &str) -> u64 {
    server.command(&format!("{command} bq:{}:{key}", config.name)).await
}

/// Counts everything that Redis holds of ended jobs.
async fn kept(server: &Server, config: &Config) -> [u64; 4] {
    [
        count(server, "HLEN", config, "jobs").await,
        count(server, "HLEN", config, "prb:books").await,
        count(server, "SCARD", config, "succeeded").await,
        count(server, "ZCARD", config, "prb:ended").await,
    ]
}

async fn sum(server: &Server, config: &Config, field: &str) -> i64 {
    let sum: Option<i64> = server.command(&format!("HGET bq:{}:prb:meta {field}", config.name)).await;
    sum.unwrap_or_default()
}

#[tokio::test]
async fn ended_jobs_are_trimmed_by_count() {
    let server = Server::start();
    let config = quick(&server).with_keep_jobs(3);
    let queue = RedisQueue::start(config.clone()).unwrap();
    run(&queue, 20).await;
    comes("retention", async || kept(&server, &config).await == [3; 4]).await;
    assert!(queue.job(JobId(20)).await.unwrap().is_some(), "the newest was forgotten");
    assert_eq!(queue.job(JobId(17)).await.unwrap(), None);
    let Stats { succeeded, failed, .. } = queue.stats().await.unwrap();
    assert_eq!((succeeded, failed), (20, 0), "trimmed jobs still count");
}

#[tokio::test]
async fn ended_jobs_are_trimmed_by_age() {
    let server = Server::start();
    let config = quick(&server).with_keep_age(Duration::from_millis(300));
    let queue = RedisQueue::start(config.clone()).unwrap();
    run(&queue, 10).await;
    comes("retention", async || kept(&server, &config).await == [0; 4]).await;
    comes("no sums", async || sum(&server, &config, "ended_bytes").await == 0).await;
    assert_eq!(sum(&server, &config, "open_bytes").await, 0);
}

#[tokio::test]
async fn ended_jobs_are_trimmed_by_bytes() {
    let server = Server::start();
    let config = quick(&server).with_keep_bytes(2_000);
    let queue = RedisQueue::start(config.clone()).unwrap();
    run(&queue, 20).await;
    comes("retention", async || {
        let bytes = sum(&server, &config, "ended_bytes").await;
        let left = kept(&server, &config).await[0];
        bytes <= 2_000 && (1..20).contains(&left)
    })
    .await;
}

#[tokio::test]
async fn open_jobs_are_bounded_by_bytes() {
    let server = Server::start();
    let config = quick(&server).with_max_bytes(2_000);
    let queue = RedisQueue::start(config.clone()).unwrap();
    let mut taken = 0;
    let refused = loop {
        match queue.submit(job(1, 0)).await {
            Ok(_) => taken += 1,
            Err(e) => break e,
        }
    };
    assert!(
        matches!(refused, Error::FullBytes { limit_bytes: 2_000 }) && taken > 1,
        "{refused} after {taken}"
    );
    let leased = lease(&queue, LONG).await;
    assert!(queue.submit(job(1, 0)).await.is_err(), "a leased job's bytes were given away");
    queue.complete(leased.id, leased.token, done(1)).await.unwrap();
    queue.submit(job(1, 0)).await.unwrap();
    for _ in 0..taken {
        let leased = lease(&queue, LONG).await;
        queue.complete(leased.id, leased.token, done(1)).await.unwrap();
    }
    assert_eq!(sum(&server, &config, "open_bytes").await, 0, "the sum returns to 0");
}

#[tokio::test]
async fn jobs_of_other_programs_are_counted_and_trimmed() {
    let server = Server::start();
    let config = quick(&server).with_keep_jobs(0);
    let queue = RedisQueue::start(config.clone()).unwrap();
    let _worker = Node::worker(&server, &config).await;
    let data = serde_json::json!({"action": "ADD_WORKER", "payload": {"pid": "1"}});
    let mut producer = Node::producer(&server, &config, &serde_json::json!({"data": data}));
    producer.lines_until("event").await;
    let ours = queue.submit(job(1, 0)).await.unwrap();
    outcome_of(ours).await.unwrap();
    comes("retention", async || kept(&server, &config).await == [0; 4]).await;
    comes("no sums", async || {
        (sum(&server, &config, "open_bytes").await, sum(&server, &config, "ended_bytes").await) == (0, 0)
    })
    .await;
    let Stats { succeeded, .. } = queue.stats().await.unwrap();
    assert_eq!(succeeded, 2);
}
