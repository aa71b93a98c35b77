//! [`ChainReader`] over a pool of parachain nodes.
//!
//! The reader takes a snapshot of all tracked workers at a finalised block (lists of keys in few round
//! trips), and from then on asks one question a block, however many workers there are: what the block
//! changed (`pha_getStorageChanges`). It takes a new snapshot where that is not enough: after a long gap, a
//! runtime upgrade, a node that does not offer the method, and now and then, because storage changes are
//! taken from the node without proof.
//!
//! Not for: what workers are to be fed with (see [`prb_core::blob`]).

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prb_core::{
    chain::{ChainReader, ChainView, Followed},
    primitives::WorkerKey,
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::rpc::NodePool;

mod engine;
mod layout;
mod state;
pub(crate) mod storage;

/// How a [`Reader`] reads.
#[derive(Clone, Debug)]
pub struct Config {
    /// Workers tracked at most.
    pub max_workers: usize,
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

/// The tracked workers' state on chain. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    views: watch::Receiver<Option<Arc<ChainView>>>,
}

#[derive(Debug)]
struct Shared {
    max_workers: usize,
    wanted: Mutex<HashSet<WorkerKey>>,
    changed: Notify,
}

impl Shared {
    fn wanted(&self) -> MutexGuard<'_, HashSet<WorkerKey>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
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
        let shared = Arc::new(Shared {
            max_workers: config.max_workers,
            wanted: Mutex::default(),
            changed: Notify::new(),
        });
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
        *self.shared.wanted() = followed.workers.into_iter().take(self.shared.max_workers).collect();
        self.shared.changed.notify_one();
    }
}
