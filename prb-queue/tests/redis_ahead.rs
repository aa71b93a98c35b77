//! Jobs that are taken ahead of consumers who come back quickly: they save round trips, keep their order, and none
//! stays with a consumer that stopped coming.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use prb_core::{
    conformance::queue::job,
    queue::{JobId, JobQueue},
};
use prb_queue::redis::{Config, RedisQueue};
use support::{LONG, Server, fresh_name, lease};
use tokio::time::{Instant, sleep};

const JOBS: usize = 300;
/// Longer than the test may take: a job that is in line again was handed back.
const TTL: Duration = Duration::from_secs(300);

async fn line(queue: &RedisQueue) -> Vec<JobId> {
    let mut ids = Vec::new();
    for _ in 0..JOBS {
        ids.push(queue.submit(job(7, 0)).await.unwrap().id);
    }
    ids
}

/// Leases the first `count` jobs in line, one after the other.
async fn fetch(queue: &RedisQueue, count: usize) -> Vec<JobId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let job = lease(queue, TTL).await;
        assert_eq!(job.attempt, 0, "job {} was handed out before", job.id);
        ids.push(job.id);
    }
    ids
}

/// Waits until only so many jobs are handed out.
async fn all_back_but(held: usize, queue: &RedisQueue) {
    let until = Instant::now() + LONG;
    while queue.stats().await.unwrap().active > held {
        assert!(Instant::now() < until, "a job stays with a consumer that stopped coming");
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(queue.stats().await.unwrap().waiting, JOBS - held);
}

async fn takes(server: &Server) -> usize {
    let stats: String = server.command("INFO commandstats").await;
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_blmove:calls="));
    calls.and_then(|calls| calls.split(',').next()).map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test]
async fn a_long_line_takes_fewer_round_trips_and_keeps_its_order() {
    let server = Server::start();
    let config = Config { name: fresh_name(), ..server.config() };
    let (queue, other) = (RedisQueue::start(config.clone()).unwrap(), RedisQueue::start(config).unwrap());
    let ids = line(&queue).await;
    let half = JOBS / 2;
    assert_eq!(fetch(&queue, half).await, ids[..half]);
    let takes = takes(&server).await;
    assert!(takes < half * 9 / 10, "{takes} takes for {half} jobs");
    // The consumer stays away: what was taken ahead is the first in line again, for anybody.
    all_back_but(half, &queue).await;
    assert_eq!(fetch(&other, JOBS - half).await, ids[half..]);
}

#[tokio::test]
async fn a_consumer_that_closes_hands_back_what_it_took_ahead() {
    let server = Server::start();
    let config = Config { name: fresh_name(), ..server.config() };
    let watcher = RedisQueue::start(config.clone()).unwrap();
    let ids = line(&watcher).await;
    let mut from = 0;
    // Whatever number of jobs waits at the moment of closing.
    for count in 20..28 {
        let queue = RedisQueue::start(config.clone()).unwrap();
        assert_eq!(fetch(&queue, count).await, ids[from..from + count]);
        from += count;
        queue.shutdown().await;
        let stats = watcher.stats().await.unwrap();
        assert_eq!((stats.active, stats.waiting), (from, JOBS - from));
    }
}
