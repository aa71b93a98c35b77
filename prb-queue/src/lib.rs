//! Job queues of Phala Runtime Bridge: they carry on-chain operations from lifecycle managers to traders.
//!
//! A lifecycle manager submits a job (register this worker, relay these messages) and gets a handle that
//! resolves to the job's outcome. A trader leases jobs, sends them in batches, and completes or fails each
//! one. The seam between the two is [`prb_core::queue::JobQueue`]; this crate has its backends.
//!
//! ```text
//!  lifecycle manager                                                  trader
//!  (worker engine)                                               (trade engine)
//!        │  submit ──▶ ┌───────── JobQueue ─────────┐ ◀── lease         │
//!        │             │ waiting ─▶ active ─▶ ended │ ◀── heartbeat     │
//!        ◀── outcome ──│    ▲          │            │ ◀── complete      │
//!                      │    └─ delayed ◀ (retry)    │ ◀── fail          │
//!                      └────────────────────────────┘
//! ```
//!
//! # Guarantees
//!
//! - An accepted job is leased at least once, oldest first, to one consumer at a time.
//! - A consumer that disappears loses its lease when it expires, and the job is leased again. The next
//!   consumer checks what the first one may have done: operations are idempotent against the chain.
//! - A job ends exactly once, and its submitter is notified: an outcome with a result for each call, or a
//!   failure.
//! - A job that failed with a temporary error is leased again after a delay, up to its number of retries.
//! - Everything is bounded. A full queue refuses jobs with an error, and the submitter tries again later.
//!
//! A conformance suite, `prb_core::conformance::queue` (feature `conformance` of prb-core), checks these
//! guarantees; every backend passes it.
//!
//! # Backends
//!
//! [`memory`]: within one process, for `prb all` and for programs that embed the engines. Jobs live as long as
//! the process. Nothing is lost with them, because after a restart the engines derive the operations again from the
//! chain and the workers.
//!
//! [`redis`]: between processes, in the layout of bee-queue 1.4. Lifecycle managers and traders of the original
//! Runtime Bridge (the Node.js program), and dashboards for bee-queue, work on the same queue. A Redis that is
//! killed, flushed or restarted empty loses no operation either: submitters are notified that their jobs are gone,
//! and submit those that are still needed. Ended jobs are deleted by age, count and bytes.
//!
//! Both also implement [`QueueAdmin`](prb_core::queue::admin::QueueAdmin) for operator pages: lists of jobs,
//! one job with its history and outcome, retry and removal.
//!
//! ```no_run
//! use prb_queue::redis::{Config, RedisQueue};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let queue = RedisQueue::start(Config::new("redis://10.0.0.2:6379").with_max_jobs(20_000))?;
//! queue.ready().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it is not
//!
//! - Not the trade engine: batches, order and retries of transactions are [`prb_core::trade`].
//! - Not a general job queue, although bee-queue itself is one: jobs are lists of
//!   [`Call`](prb_core::chain::Call)s with a signer.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//!
//! use prb_core::{
//!     chain::Call,
//!     primitives::{AccountId, ParaNumber, PoolId, WorkerKey},
//!     queue::{CallOutcome, Job, JobOutcome, JobQueue, JobSigner},
//!     vault::Sealed,
//! };
//! use prb_queue::memory::{Config, MemoryQueue};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let queue = MemoryQueue::new(Config::default().with_max_jobs(100));
//!
//! // A lifecycle manager adds a worker to its pool.
//! let (pool, worker) = (PoolId(7), WorkerKey([1; 32]));
//! let operator = AccountId([2; 32]);
//! let signer = JobSigner { operator, key: Sealed(vec![]), proxied: None };
//! let calls = vec![Call::AddWorker { pool, worker }];
//! let handle = queue.submit(Job { pool, signer, calls, retries: 3 }).await?;
//!
//! // A trader takes the job and ends it.
//! let lease = queue.lease(Duration::from_secs(30)).await?;
//! let calls = vec![CallOutcome::Done; lease.job.calls.len()];
//! let outcome = JobOutcome { calls, block: ParaNumber(42), extrinsic: None, fee: None };
//! queue.complete(lease.id, lease.token, outcome).await?;
//!
//! assert_eq!(handle.outcome().await?.block, ParaNumber(42));
//! # Ok(())
//! # }
//! ```
//!
//! # Seams
//!
//! | trait | in memory | in Redis |
//! |---|---|---|
//! | [`JobQueue`](prb_core::queue::JobQueue), [`QueueAdmin`](prb_core::queue::admin::QueueAdmin) | [`memory::MemoryQueue`] | [`redis::RedisQueue`] |
//! | [`AccountLeases`](prb_core::trade::accounts::AccountLeases) | [`MemoryAccounts`](prb_core::trade::accounts::MemoryAccounts) | [`redis::RedisAccounts`] |
//!
//! # Features
//!
//! None.
//!
//! # Dependencies
//!
//! The minimum Rust version is 1.89. The example needs:
//!
//! ```toml
//! [dependencies]
//! prb-core = { version = "0.1", default-features = false }
//! prb-queue = "0.1"
//! tokio = { version = "1", features = ["macros", "rt"] }
//! ```
//!
//! # Foreign crates in this API
//!
//! `async-trait` 0.1, to implement [`redis::PoolSigners`]. No type of the Redis client is public. The seams'
//! traits are `prb-core`'s.
//!
//! # Development builds
//!
//! The queues need no optimised packages. Programs that also run prb-core's engines do: see its front page.

// docs.rs shows which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod redis;

pub use prb_core::queue::memory;

/// For the fuzz targets only: no part of the public interface.
#[doc(hidden)]
pub mod internals {
    pub use crate::redis::{read_job, write_job};
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
