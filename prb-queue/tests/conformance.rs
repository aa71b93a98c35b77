//! Runs the seam's conformance suite on every backend of this crate.
#![allow(clippy::unwrap_used)]

mod support;

use prb_core::conformance;
use prb_queue::{
    memory::{self, MemoryQueue},
    redis::RedisQueue,
};
use support::{Server, fresh_name};

#[tokio::test(start_paused = true)]
async fn memory_queue_passes_conformance_suite() {
    let make = async |max_jobs| MemoryQueue::new(memory::Config::default().with_max_jobs(max_jobs));
    conformance::queue::all(make).await;
    conformance::queue::admin(make).await;
    conformance::queue::withdrawal(make).await;
}

#[tokio::test]
async fn redis_queue_passes_conformance_suite() {
    support::log();
    let server = Server::start();
    let make = async |max_jobs| {
        RedisQueue::start(server.config().with_name(fresh_name()).with_max_jobs(max_jobs)).unwrap()
    };
    conformance::queue::all(make).await;
    conformance::queue::admin(make).await;
    conformance::queue::withdrawal(make).await;
    conformance::queue::shared(async || {
        let config = server.config().with_name(fresh_name());
        (RedisQueue::start(config.clone()).unwrap(), RedisQueue::start(config).unwrap())
    })
    .await;
}
