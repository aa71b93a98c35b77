//! [`Manager::dry_run`]: validates edits without applying them.

use std::sync::Arc;

use secrecy::SecretString;

use super::{Error, KeyError, Manager, OperatorKeys, Parts};
use crate::{
    inventory::{Edit, Inventory, memory::MemoryInventory},
    primitives::AccountId,
    vault::DiscardVault,
};

/// Maps every secret to the same placeholder account.
#[derive(Clone, Copy, Debug)]
struct PlaceholderKeys;

impl OperatorKeys for PlaceholderKeys {
    fn account(&self, _secret: &SecretString) -> Result<AccountId, KeyError> {
        Ok(AccountId::default())
    }
}

impl Manager {
    /// A manager of a copy of the inventory, without a fleet. It refuses the edits that this one would refuse,
    /// and its edits change the copy only.
    ///
    /// Secrets are accepted unread and discarded: checking one takes thousands of hashes. A caller that wants
    /// the check calls [`OperatorKeys`] itself.
    ///
    /// # Errors
    /// [`Error::Storage`], when the entries cannot be copied.
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
            keys: Arc::new(PlaceholderKeys),
            fleet: None,
        };
        Ok(Self { dry_run: true, ..Self::new(parts) })
    }
}
