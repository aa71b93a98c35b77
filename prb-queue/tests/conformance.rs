//! Every backend of this crate against the seam's suite.

use prb_core::conformance;
use prb_queue::memory::{Config, MemoryQueue};

#[tokio::test(start_paused = true)]
async fn memory_conforms() {
    conformance::queue::all(async |max_jobs| MemoryQueue::new(Config { max_jobs, ..Config::default() }))
        .await;
}
