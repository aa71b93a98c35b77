//! [`MemoryInventory`]: pools and workers within one process, for tests and for programs that persist them
//! elsewhere.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Edit, Error, Inventory, Limits, Snapshot};

/// Pools and workers in memory. Clones share them.
#[derive(Clone, Debug)]
pub struct MemoryInventory {
    snapshot: Arc<watch::Sender<Arc<Snapshot>>>,
    limits: Limits,
}

impl MemoryInventory {
    /// An empty inventory.
    pub fn new(limits: Limits) -> Self {
        Self::from_snapshot(Arc::default(), limits)
    }

    /// An inventory with the entries of `snapshot`, which are not checked.
    pub fn from_snapshot(snapshot: Arc<Snapshot>, limits: Limits) -> Self {
        Self { snapshot: Arc::new(watch::Sender::new(snapshot)), limits }
    }
}

impl Default for MemoryInventory {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

#[async_trait]
impl Inventory for MemoryInventory {
    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.subscribe()
    }

    async fn apply(&self, edits: Vec<Edit>) -> Result<Arc<Snapshot>, Error> {
        let mut result = Ok(Arc::default());
        // The closure runs under the channel's lock, which serialises concurrent edits.
        self.snapshot.send_if_modified(|current| {
            if edits.is_empty() {
                result = Ok(current.clone());
                return false;
            }
            result = current.edited(edits, &self.limits).map(Arc::new);
            if let Ok(next) = &result {
                *current = next.clone();
            }
            result.is_ok()
        });
        result
    }
}
