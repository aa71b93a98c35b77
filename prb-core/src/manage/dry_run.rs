//! [`Manager::dry_run`]: validates edits without applying them.

use std::sync::Arc;

use secrecy::SecretString;

use super::{KeyError, Manager, OperatorKeys, Parts};
use crate::{
    inventory::{Limits, memory::MemoryInventory},
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
    pub fn dry_run(&self) -> Self {
        // Not put one by one: an earlier version may have accepted entries that are refused now.
        let inventory = MemoryInventory::from_snapshot(self.snapshot(), Limits::default());
        let parts = Parts {
            inventory: Arc::new(inventory),
            vault: Arc::new(DiscardVault),
            keys: Arc::new(PlaceholderKeys),
            fleet: None,
        };
        Self { dry_run: true, ..Self::new(parts) }
    }
}
