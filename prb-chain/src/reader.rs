//! [`ChainReader`] over a pool of parachain nodes.
//!
//! The reader takes a snapshot of everything that is followed at a finalised block (lists of keys, in few
//! round trips). From then on it makes one call for each block, however much is followed: which values the
//! block changed (`pha_getStorageChanges`). It takes a new snapshot if that is not sufficient: after a long
//! gap, a runtime upgrade, on a node without that method, and at intervals, because storage changes are not
//! proven.
//!
//! A value that cannot be read appears as [`Unreadable`](prb_core::chain::Unreadable) with its name and the
//! reason, until a block changes it or a snapshot reads it; other values are not affected.
//!
//! ```no_run
//! use prb_chain::{reader::{Config, Reader}, rpc::{self, NodePool}};
//! use prb_core::{chain::{ChainReader, Followed}, primitives::PoolId};
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let nodes = NodePool::new("para", rpc::Config::new(["ws://127.0.0.1:9944"]))?;
//! let (reader, task) = Reader::new(nodes, Config::default());
//! let cancel = CancellationToken::new();
//! let running = tokio::spawn(task.run(cancel.clone()));
//! reader.follow(Followed::default().with_pools([PoolId(12)].into()));
//! let mut views = reader.views();
//! let view = views.wait_for(Option::is_some).await?.clone();
//! println!("{view:?}");
//! cancel.cancel();
//! running.await?;
//! # Ok(())
//! # }
//! ```
//!
//! Not for: the data that workers are fed with (see [`prb_core::blob`]).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prb_core::chain::{ChainReader, ChainView, Followed};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::rpc::NodePool;

mod decode;
mod engine;
mod layout;
mod raw_values;
mod state;
pub(crate) mod storage;

/// Limits and intervals of a [`Reader`].
#[derive(Clone, Debug, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Most workers followed; further ones are unreadable, in the order of their keys. Default: 20,000.
    pub max_workers: usize,
    /// Most pools followed. Default: 2,000.
    pub max_pools: usize,
    /// Most accounts followed. Default: 2,000.
    pub max_accounts: usize,
    /// Most message senders followed. Default: 2,000.
    pub max_senders: usize,
    /// Most workers in cool-down of a pool whose stakes are read; a pool with more is unreadable. Default: 400.
    pub max_cooling_down: usize,
    /// Most blocks to catch up by their changes; after a longer gap a snapshot is taken. Default: 100.
    pub max_gap_blocks: u32,
    /// Blocks after which a snapshot is taken anyway, jittered by up to a quarter. Default: 600.
    pub resnapshot_blocks: u32,
    /// Blocks for which a pool is not asked for changes after all its nodes refused them. Default: 100.
    pub refused_blocks: u32,
    /// Keys in one storage query. Default: 1,000.
    pub keys_per_call: usize,
    /// Shortest pause after a failure. Default: 200 ms.
    pub retry_min: Duration,
    /// Longest pause after a failure. Default: 10 s.
    pub retry_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_workers: 20_000,
            max_pools: 2_000,
            max_accounts: 2_000,
            max_senders: 2_000,
            // Twice the chain's maximum for a pool.
            max_cooling_down: 400,
            // The number that nodes answer in one call without problems.
            max_gap_blocks: 100,
            // Two hours of 12 s blocks.
            resnapshot_blocks: 600,
            refused_blocks: 100,
            keys_per_call: 1_000,
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(10),
        }
    }
}

/// The on-chain state of what is followed. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    views: watch::Receiver<Option<Arc<ChainView>>>,
}

#[derive(Debug, Default)]
struct Shared {
    followed: Mutex<Arc<Followed>>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Arc<Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn followed(&self) -> Arc<Followed> {
        Arc::clone(&self.lock())
    }
}

/// The reader's background work, to be run as one task.
#[derive(Debug)]
pub struct ReaderTask {
    engine: engine::Engine,
}

impl Reader {
    /// Creates a reader and its task: views appear while [`ReaderTask::run`] runs.
    pub fn new(pool: NodePool, config: Config) -> (Self, ReaderTask) {
        let (sender, views) = watch::channel(None);
        let shared = Arc::new(Shared::default());
        let engine = engine::Engine::new(pool, config, Arc::clone(&shared), sender);
        (Self { shared, views }, ReaderTask { engine })
    }
}

impl ReaderTask {
    /// Follows the chain until cancelled. Failures are logged and retried.
    pub async fn run(self, cancel: CancellationToken) {
        self.engine.run(cancel).await;
    }
}

impl ChainReader for Reader {
    fn views(&self) -> watch::Receiver<Option<Arc<ChainView>>> {
        self.views.clone()
    }

    fn follow(&self, followed: Followed) {
        *self.shared.lock() = Arc::new(followed);
        self.shared.changed.notify_one();
    }
}
