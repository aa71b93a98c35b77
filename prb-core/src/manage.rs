//! [`Manager`]: what operators do to pools and workers, whatever the protocol that they speak.
//!
//! Values come as people write them ([`PoolValue`], [`WorkerValue`]); the manager reads, checks and seals
//! them. A call's entries are one transaction: all are applied, or none and the error names the entry and the
//! field at fault. Commands go to the fleet; without one (`PHALA_LIFECYCLE_CONFIG_MODE`) only the inventory is
//! served.
//!
//! Not for: who may call (the protocols' own gates), or what an answer looks like on a wire.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::{Mutex, watch};

use crate::{
    fleet::Fleet,
    inventory::{Inventory, Limits, Pool, Snapshot, Worker},
    vault::Vault,
};

mod command;
mod condition;
mod dry_run;
mod edit;
mod error;
mod keys;
#[cfg(feature = "testing")]
pub mod memory;
mod refusal;
mod values;

pub use command::{Commanded, Preview};
pub use error::Error;
pub use keys::{KeyError, OperatorKeys};
pub use values::{Change, PoolValue, Selector, WorkerValue};

/// The most entries or ids of one call: as many as an inventory holds workers.
pub const MAX_ENTRIES: usize = Limits::WORKERS;

/// What a manager works on.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The pools and workers.
    pub inventory: Arc<dyn Inventory>,
    /// Seals the operators' secrets.
    pub vault: Arc<dyn Vault>,
    /// Says whose they are.
    pub keys: Arc<dyn OperatorKeys>,
    /// What runs the workers; `None` where only the inventory is edited.
    pub fleet: Option<Fleet>,
}

/// Lists, edits and commands pools and workers. Clones share one.
///
/// Edits follow one another: what one reads and writes is not changed by another in between. The inventory's
/// other writers are not held back.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use prb_core::{
///     inventory::memory::MemoryInventory,
///     manage::{Change, Manager, Parts, PoolValue, Selector, memory::MemoryKeys},
///     primitives::PoolId,
///     vault::memory::MemoryVault,
/// };
///
/// let manager = Manager::new(Parts {
///     inventory: Arc::new(MemoryInventory::default()),
///     vault: Arc::new(MemoryVault::new()),
///     keys: Arc::new(MemoryKeys),
///     fleet: None,
/// });
/// let value = PoolValue {
///     pid: PoolId(12),
///     name: "pool 12".into(),
///     secret: Some("operator".into()),
///     enabled: true,
///     ..PoolValue::default()
/// };
/// let pool = manager.create_pools(vec![value.clone()]).await?.remove(0);
/// // No secret: the operator stays.
/// let renamed = PoolValue { name: "twelve".into(), secret: None, ..value };
/// manager.update_pools(vec![(Selector::Pid(PoolId(12)), Change::Put(renamed))]).await?;
/// assert_eq!(manager.pools()[0].operator, pool.operator);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Manager {
    parts: Arc<Parts>,
    /// Held from reading the snapshot to the end of the edit.
    editing: Arc<Mutex<()>>,
    condition: condition::Condition,
    since: SystemTime,
    /// Edits are of a copy, which nobody runs.
    dry_run: bool,
}

impl Manager {
    /// A manager of these parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            editing: Arc::default(),
            condition: condition::Condition::default(),
            since: SystemTime::now(),
            dry_run: false,
        }
    }

    /// The same manager, whose edits are applied only where `test` holds for the inventory that they would
    /// change; else they are refused with [`Error::Changed`]. Protects against lost updates: what a caller has
    /// read, decided on and sent must still be so.
    ///
    /// `test` runs while other edits wait: it must neither block nor edit.
    #[must_use]
    pub fn only_if(&self, test: impl Fn(&Snapshot) -> bool + Send + Sync + 'static) -> Self {
        Self { condition: condition::Condition::new(test), ..self.clone() }
    }

    /// All pools, by pid.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.snapshot().pools.clone()
    }

    /// All workers, by name.
    pub fn workers(&self) -> Vec<Arc<Worker>> {
        self.snapshot().workers.clone()
    }

    /// All pools and workers, now and after every edit.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.parts.inventory.snapshots()
    }

    /// The fleet, where there is one.
    pub fn fleet(&self) -> Option<&Fleet> {
        self.parts.fleet.as_ref()
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.parts.inventory.snapshots().borrow())
    }
}
