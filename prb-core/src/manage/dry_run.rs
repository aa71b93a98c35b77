//! [`Manager::dry_run`]: tries edits without making them.

use std::sync::Arc;

use secrecy::SecretString;

use super::{Error, KeyError, Manager, OperatorKeys, Parts};
use crate::{
    inventory::{Edit, Inventory, memory::MemoryInventory},
    primitives::AccountId,
    vault::DiscardVault,
};

/// Gives every secret one made-up account.
#[derive(Clone, Copy, Debug)]
struct AnyKey;

impl OperatorKeys for AnyKey {
    fn account(&self, _secret: &SecretString) -> Result<AccountId, KeyError> {
        Ok(AccountId::default())
    }
}

impl Manager {
    /// A manager of a copy of the inventory, without a fleet: it refuses what this one would and changes
    /// nothing. It takes any secret: whether one is an operator's, [`OperatorKeys`] says, and that takes long.
    ///
    /// # Errors
    /// [`Error::Storage`], where the copy does not hold the inventory's entries.
    pub async fn dry_run(&self) -> Result<Self, Error> {
        let snapshot = self.snapshot();
        let inventory = MemoryInventory::default();
        let pools = snapshot.pools.iter().map(|pool| Edit::PutPool(pool.as_ref().clone()));
        let workers = snapshot.workers.iter().map(|worker| Edit::PutWorker(worker.as_ref().clone()));
        let copied = inventory.apply(pools.chain(workers).collect()).await;
        copied.map_err(|error| Error::Storage(Box::new(error)))?;
        let parts = Parts {
            inventory: Arc::new(inventory),
            vault: Arc::new(DiscardVault),
            keys: Arc::new(AnyKey),
            fleet: None,
        };
        Ok(Self { dry_run: true, ..Self::new(parts) })
    }
}
