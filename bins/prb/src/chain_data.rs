//! [`ChainData`]: the state of the chains' nodes and of the disk, for pages and peers.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prb_chain::{
    rpc::{Health, NodePool},
    store::Store,
};
use prb_walkie::proto::provider_detail::{Detail, Node};
use tokio::sync::Semaphore;

/// How long disk figures are cached.
const DISK_MAX_AGE: Duration = Duration::from_secs(5);
/// Timeout of a disk query; a network file system may never answer.
const DISK_TIMEOUT: Duration = Duration::from_secs(2);

/// The nodes and the disk of a process. Clones share one.
#[derive(Clone, Debug)]
pub(crate) struct ChainData(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pools: Vec<NodePool>,
    folder: PathBuf,
    store: Option<Arc<Store>>,
    disk: Mutex<Option<(Instant, Disk)>>,
    /// Allows one disk query at a time: if the disk hangs, so does the querying thread.
    asking: Arc<Semaphore>,
}

/// Disk figures, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Disk {
    store: Option<u64>,
    free: Option<u64>,
    all: Option<u64>,
}

impl ChainData {
    /// Creates a view of these pools, and of the disk with the data folder.
    pub(crate) fn new(pools: Vec<NodePool>, folder: PathBuf, store: Option<Arc<Store>>) -> Self {
        let asking = Arc::new(Semaphore::new(1));
        Self(Arc::new(Inner { pools, folder, store, disk: Mutex::default(), asking }))
    }

    /// Returns the current state.
    pub(crate) async fn detail(&self) -> Detail {
        let inner = &self.0;
        let nodes = inner.pools.iter().flat_map(|pool| {
            pool.nodes().iter().map(|shown| node(pool.chain(), &shown.health())).collect::<Vec<_>>()
        });
        let problems = inner.pools.iter().flat_map(NodePool::problems).map(|problem| problem.message);
        let (nodes, problems) = (nodes.collect(), problems.collect());
        let Disk { store, free, all } = self.disk().await;
        Detail { nodes, problems, store_bytes: store, free_bytes: free, disk_bytes: all }
    }

    /// The same for threads that may block.
    pub(crate) fn detail_blocking(&self) -> Detail {
        tokio::runtime::Handle::current().block_on(self.detail())
    }

    /// Returns the disk's figures, or the last known ones.
    async fn disk(&self) -> Disk {
        let inner = &self.0;
        let cached = *inner.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let old = match cached {
            Some((at, disk)) if at.elapsed() < DISK_MAX_AGE => return disk,
            cached => cached.map(|(_, disk)| disk).unwrap_or_default(),
        };
        let Ok(permit) = Arc::clone(&inner.asking).try_acquire_owned() else { return old };
        let (folder, store) = (inner.folder.clone(), inner.store.clone());
        let asked = tokio::task::spawn_blocking(move || {
            // Moved here: a query that outlives its timeout keeps the permit, so that a hung disk occupies
            // one thread only.
            let _permit = permit;
            let system = rustix::fs::statvfs(&folder).ok();
            let system = system.as_ref();
            Disk {
                store: store.and_then(|store| store.disk_bytes().ok()),
                // Not `f_bfree`, which includes blocks that only root may use.
                free: system.map(|system| system.f_bavail.saturating_mul(system.f_frsize)),
                all: system.map(|system| system.f_blocks.saturating_mul(system.f_frsize)),
            }
        });
        let Ok(Ok(disk)) = tokio::time::timeout(DISK_TIMEOUT, asked).await else { return old };
        *inner.disk.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), disk));
        disk
    }
}

fn node(chain: &str, health: &Health) -> Node {
    Node {
        chain: chain.to_owned(),
        name: health.name.to_string(),
        connected: health.connected,
        demoted: health.demoted,
        deferred: health.deferred,
        backing_off: health.backing_off,
        other_chain: health.other_chain,
        lacks: health
            .lacks
            .iter()
            .map(|lack| format!("{}: {}", lack.capability.name(), lack.reason))
            .collect(),
        last_error: health.last_error.clone(),
    }
}
