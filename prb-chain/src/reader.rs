//! [`ChainReader`] over a pool of parachain nodes.
//!
//! The reader takes a snapshot of everything that is followed at a finalised block (lists of keys in few
//! round trips), and from then on asks one question a block, however much is followed: what the block
//! changed (`pha_getStorageChanges`). It takes a new snapshot where that is not enough: after a long gap, a
//! runtime upgrade, a node that does not offer the method, and now and then, because storage changes are
//! taken from the node without proof.
//!
//! What cannot be read shows as [`Unreadable`](prb_core::chain::Unreadable) with the item's name and the
//! reason, until a block changes the value or a snapshot reads it; nothing else is held up by it.
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
//! Not for: what workers are to be fed with (see [`prb_core::blob`]).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prb_core::chain::{ChainReader, ChainView, Followed};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::rpc::NodePool;

mod cells;
mod decode;
mod engine;
mod layout;
mod state;
pub(crate) mod storage;

/// How a [`Reader`] reads.
#[derive(Clone, Debug, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Workers followed at most; further ones show as unreadable, in the order of their keys.
    pub max_workers: usize,
    /// Pools followed at most.
    pub max_pools: usize,
    /// Accounts followed at most.
    pub max_accounts: usize,
    /// Senders of messages followed at most.
    pub max_senders: usize,
    /// Cooling-down workers of a pool whose stakes are read at most; a pool with more shows as unreadable.
    pub max_cooling_down: usize,
    /// Blocks caught up by their changes; after a longer gap a snapshot is taken.
    pub max_gap_blocks: u32,
    /// Blocks after which a snapshot is taken anyway. Spread by up to a quarter.
    pub resnapshot_blocks: u32,
    /// Blocks to go without asking a pool for changes that refused them.
    pub refused_blocks: u32,
    /// Keys in one storage query.
    pub keys_per_call: usize,
    /// Shortest pause after a failure.
    pub retry_min: Duration,
    /// Longest pause after a failure.
    pub retry_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_workers: 20_000,
            max_pools: 2_000,
            max_accounts: 2_000,
            max_senders: 2_000,
            // Twice what the chain lets a pool have.
            max_cooling_down: 400,
            // What nodes answer to one call without strain.
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

/// The state on chain of what is followed. Cheap to clone; clones share everything.
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

/// The reader's work, to be run as one task.
#[derive(Debug)]
pub struct ReaderTask {
    engine: engine::Engine,
}

impl Reader {
    /// A reader, and its work: views appear while [`ReaderTask::run`] runs.
    pub fn new(pool: NodePool, config: Config) -> (Self, ReaderTask) {
        let (sender, views) = watch::channel(None);
        let shared = Arc::new(Shared::default());
        let engine = engine::Engine::new(pool, config, Arc::clone(&shared), sender);
        (Self { shared, views }, ReaderTask { engine })
    }
}

impl ReaderTask {
    /// Follows the chain until cancelled. Failures are logged and tried again.
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
