//! Every backend of this crate against the seam's suite.
#![allow(clippy::unwrap_used)]

mod support;

use prb_core::conformance;
use prb_queue::{
    memory::{self, MemoryQueue},
    redis::RedisQueue,
};
use support::{Server, fresh_name};

#[tokio::test(start_paused = true)]
async fn memory_conforms() {
    let make = async |max_jobs| MemoryQueue::new(memory::Config::default().with_max_jobs(max_jobs));
    conformance::queue::all(make).await;
    conformance::queue::admin(make).await;
}

#[tokio::test]
async fn redis_conforms() {
    support::log();
    let server = Server::start();
    let make = async |max_jobs| {
        RedisQueue::start(server.config().with_name(fresh_name()).with_max_jobs(max_jobs)).unwrap()
    };
    conformance::queue::all(make).await;
    conformance::queue::admin(make).await;
}
