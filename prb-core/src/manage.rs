//! [`Manager`]: operators' edits and commands, independent of the protocol.
//!
//! Values arrive as text and plain fields ([`PoolValue`], [`WorkerValue`]); the manager parses, validates and
//! seals them. All entries of a call are one transaction: either all are applied, or none and the error names
//! the entry and the field. Commands go to the fleet; without one only the inventory is
//! served.
//!
//! Not for: access control (each protocol has its own), or the wire format of answers.

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
mod inventory_error;
mod keys;
#[cfg(feature = "testing")]
pub mod memory;
mod values;

pub use command::{CommandResult, Preview, STORED_WITHIN};
pub use error::Error;
pub use keys::{KeyError, OperatorKeys};
pub use values::{Change, Item, PoolValue, Selector, WorkerValue};

/// Maximum number of entries or ids in a call: as many as an inventory holds workers.
pub const MAX_ENTRIES: usize = Limits::WORKERS;

/// The components of a [`Manager`].
#[derive(Clone, Debug)]
pub struct Parts {
    /// The pools and workers.
    pub inventory: Arc<dyn Inventory>,
    /// Seals the operators' secrets.
    pub vault: Arc<dyn Vault>,
    /// Derives the operators' accounts from their secrets.
    pub keys: Arc<dyn OperatorKeys>,
    /// The fleet that runs the workers; `None` if this process only manages the inventory.
    pub fleet: Option<Fleet>,
}

/// Lists, edits and commands pools and workers. Clones share the same manager.
///
/// Edits are serialised: no other edit of the manager comes between the read and the write of one. Other
/// writers of the inventory are not blocked.
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
/// let value = PoolValue::new(PoolId(12), "pool 12").with_secret(Some("operator".into()));
/// let pool = manager.create_pools(vec![value.clone()]).await?.remove(0);
/// // No secret: the operator stays.
/// let renamed = value.with_name("twelve".into()).with_secret(None);
/// manager.update_pools(vec![(Selector::Pid(PoolId(12)), Change::Put(renamed))]).await?;
/// assert_eq!(manager.pools()[0].operator, pool.operator);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Manager {
    parts: Arc<Parts>,
    /// Held from reading the snapshot until the edit is applied.
    editing: Arc<Mutex<()>>,
    condition: condition::Condition,
    since: SystemTime,
    /// Edits apply to a copy of the inventory that no fleet runs.
    dry_run: bool,
    fleet_setting: Option<&'static str>,
}

impl Manager {
    /// Creates a manager.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            editing: Arc::default(),
            condition: condition::Condition::default(),
            since: SystemTime::now(),
            dry_run: false,
            fleet_setting: None,
        }
    }

    /// Names the program's setting that decides whether a fleet runs in this process: [`Error::NoFleet`] shows it
    /// to operators.
    #[must_use]
    pub fn with_fleet_setting(self, name: &'static str) -> Self {
        Self { fleet_setting: Some(name), ..self }
    }

    /// Returns a handle whose edits are applied only if `test` holds for the inventory that they would
    /// change; otherwise they fail with [`Error::Changed`]. Protects against lost updates: what the caller
    /// has read and based its edit on must still be current.
    ///
    /// `test` runs while other edits wait: it must neither block nor edit.
    #[must_use]
    pub fn with_condition(&self, test: impl Fn(&Snapshot) -> bool + Send + Sync + 'static) -> Self {
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

    /// All pools and workers, as a watch.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.parts.inventory.snapshots()
    }

    /// The fleet, if there is one.
    pub fn fleet(&self) -> Option<&Fleet> {
        self.parts.fleet.as_ref()
    }

    fn running_fleet(&self) -> Result<&Fleet, Error> {
        self.fleet().ok_or(Error::NoFleet { setting: self.fleet_setting })
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.parts.inventory.snapshots().borrow())
    }
}
