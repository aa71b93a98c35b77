//! Signers of pools from an inventory, for jobs that name only their pool, as those of original lifecycle
//! managers do.

use std::sync::Arc;

use async_trait::async_trait;
use prb_core::{
    inventory::{Inventory, Snapshot},
    primitives::PoolId,
    queue::JobSigner,
};
use prb_queue::redis::PoolSigners;
use tokio::sync::watch;

/// The current operators of an inventory's pools.
#[derive(Debug)]
pub(crate) struct InventorySigners {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Keeps the inventory alive, because its snapshots end with it.
    _inventory: Arc<dyn Inventory>,
}

impl InventorySigners {
    pub(crate) fn new(inventory: Arc<dyn Inventory>) -> Self {
        Self { snapshots: inventory.snapshots(), _inventory: inventory }
    }
}

#[async_trait]
impl PoolSigners for InventorySigners {
    async fn signer(&self, pool: PoolId) -> Option<JobSigner> {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let pool = snapshot.pools.iter().find(|known| known.pid == pool)?;
        let operator = pool.operator.clone()?;
        Some(JobSigner { operator: operator.account, key: operator.key, proxied: pool.proxied })
    }
}
