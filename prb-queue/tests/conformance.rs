//! Every backend of this crate against the seam's suite.
#![allow(clippy::unwrap_used)]

mod support;

use prb_core::conformance;
use prb_queue::{
    memory::{self, MemoryQueue},
    redis::{Config, RedisQueue},
};
use support::{Server, fresh_name};

#[tokio::test(start_paused = true)]
async fn memory_conforms() {
    let make = async |max_jobs| MemoryQueue::new(memory::Config { max_jobs, ..memory::Config::default() });
    conformance::queue::all(make).await;
    conformance::queue::admin(make).await;
}

#[tokio::test]
async fn redis_conforms() {
    support::log();
    let server = Server::start();
    let make = async |max_jobs| {
        RedisQueue::start(Config { name: fresh_name(), max_jobs, ..server.config() }).unwrap()
    };
    conformance::queue::all(make).await;
    conformance::queue::admin(make).await;
}
