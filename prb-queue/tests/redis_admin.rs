//! Tests the cost of the operator's lists in Redis: it does not grow with the number of jobs kept.
#![allow(clippy::unwrap_used)]

mod support;

use prb_core::queue::{
    JobState,
    admin::{Filter, QueueAdmin},
};
use prb_queue::redis::{Config, RedisQueue};
use support::{Server, fresh_name};

/// Bytes that the server has sent so far, and list entries that its scripts have read.
async fn cost(server: &Server) -> (u64, u64) {
    let info: String = server.command("INFO everything").await;
    let number = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split([',', '=']).find_map(|part| part.trim().parse().ok()).unwrap()
    };
    (number("total_net_output_bytes:"), number("total_commands_processed:"))
}

/// Adds jobs 1 to `jobs`, all ended a millisecond apart; every hundredth failed.
async fn fill(server: &Server, config: &Config, jobs: u64) {
    let mut connection = server.connection().await;
    let key = |name: &str| format!("bq:{}:{name}", config.name);
    let mut pipe = redis::pipe();
    for id in 1..=jobs {
        let json = r#"{"data":{"action":"X","payload":{"pid":"1"}},"options":{},"status":"succeeded"}"#;
        let set = if id % 100 == 0 { "failed" } else { "succeeded" };
        pipe.hset(key("jobs"), id, json).ignore().hset(key("prb:books"), id, "|1|X").ignore();
        pipe.sadd(key(set), id).ignore().zadd(key("prb:ended"), id, id).ignore();
    }
    pipe.set(key("id"), jobs).ignore();
    let () = pipe.query_async(&mut connection).await.unwrap();
}

#[tokio::test]
async fn page_cost_does_not_grow_with_kept_jobs() {
    const LIMIT: usize = 50;
    let mut costs = Vec::new();
    for jobs in [1_000, 10_000u64] {
        let server = Server::start();
        // Nothing is trimmed, and no maintenance runs in between.
        let config = server
            .config()
            .with_name(fresh_name())
            .with_keep_jobs(1_000_000)
            .with_stall_interval(std::time::Duration::from_secs(3600));
        let queue = RedisQueue::start(config.clone()).unwrap();
        queue.ready().await.unwrap();
        fill(&server, &config, jobs).await;
        for (state, total, newest) in [
            (None, jobs, jobs),
            (Some(JobState::Succeeded), jobs - jobs / 100, jobs - 1),
            (Some(JobState::Failed), jobs / 100, jobs),
            (Some(JobState::Waiting), 0, 0),
        ] {
            let filter = Filter::default().with_state(state).with_pool(None);
            // Load the scripts first.
            queue.list(filter, 0, 1).await.unwrap();
            let before = cost(&server).await;
            let page = queue.list(filter, 0, LIMIT).await.unwrap();
            let after = cost(&server).await;
            let expected = LIMIT.min(total as usize);
            assert_eq!((page.total, page.jobs.len()), (total as usize, expected), "{state:?} of {jobs}");
            assert_eq!(page.jobs.first().map_or(0, |job| job.id.0), newest, "{state:?} of {jobs}");
            let mut ids: Vec<_> = page.jobs.iter().map(|job| job.id.0).collect();
            assert!(ids.is_sorted_by(|a, b| a > b), "{state:?} of {jobs}: {ids:?}");
            let next = queue.list(filter, LIMIT, LIMIT).await.unwrap();
            ids.extend(next.jobs.iter().map(|job| job.id.0));
            assert!(ids.is_sorted_by(|a, b| a > b), "{state:?} of {jobs}: pages overlap: {ids:?}");
            costs.push((state, after.0 - before.0, after.1 - before.1));
        }
    }
    let (few, many) = costs.split_at(costs.len() / 2);
    for (few, many) in few.iter().zip(many) {
        // `INFO` is included, and ids have one more digit.
        assert!(many.1 < few.1 * 3 / 2 + 10_000, "bytes sent: {few:?} of 1,000 jobs, {many:?} of 10,000");
        assert!(many.1 < 100_000 && many.2 < 1_000, "a page of {LIMIT} cost {many:?}");
    }
}
