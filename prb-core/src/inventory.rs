//! The seam [`Inventory`]: the pools and workers to manage, editable while running.
//!
//! Not for: the state of workers (see [`crate::fleet`]).

use std::{collections::HashMap, fmt, str::FromStr, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    primitives::{AccountId, Balance, ParaNumber, PoolId, WorkerKey},
    vault::Sealed,
};

mod edit;
pub(crate) mod endpoint;
pub mod memory;
mod name;
mod removed;
mod seen_keys;

pub use edit::{Limits, MAX_ANNOUNCED, MAX_ENDPOINT_BYTES, MAX_NAME_BYTES};
pub use endpoint::normal_endpoint;
pub use name::{clean_name, shown_name};
pub use removed::RemovedWorker;
pub use seen_keys::{KeyChange, SeenKeys};

/// A pool's operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Its account.
    pub account: AccountId,
    /// Its key, sealed.
    pub key: Sealed,
}

/// What happens to a worker that stopped computing without a stop command of this fleet (an external stop):
/// its owner stopped it elsewhere, or withdrawals forced the stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterExternalStop {
    /// Nothing: it stays stopped, and its stake stays in place, until an operator starts or reclaims it.
    #[default]
    StayStopped,
    /// Its stake is reclaimed when the cool-down is over; it stays stopped.
    Reclaim,
    /// Its stake is reclaimed when the cool-down is over, and it starts again.
    StartAgain,
}

/// A stake pool to manage.
#[derive(Clone, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Pool {
    /// The id of this entry.
    #[setters(skip)]
    pub id: Uuid,
    /// Its number on chain; unique.
    #[setters(skip)]
    pub pid: PoolId,
    /// Its name, for operators; unique.
    #[setters(skip)]
    pub name: String,
    /// Whether its workers run.
    pub enabled: bool,
    /// The operator that signs for it; without one nothing is sent on chain.
    #[setters(skip)]
    pub operator: Option<Operator>,
    /// The account that owns the pool, if the operator acts for it as a proxy.
    pub proxied: Option<AccountId>,
    /// Only sync its workers; send nothing on chain.
    pub sync_only: bool,
    /// What happens after an external stop; `None` inherits the fleet's setting.
    pub after_stop: Option<AfterExternalStop>,
}

impl AfterExternalStop {
    /// Every setting.
    pub const ALL: [Self; 3] = [Self::StayStopped, Self::Reclaim, Self::StartAgain];

    /// The setting's name in files and on command lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StayStopped => "stay-stopped",
            Self::Reclaim => "reclaim",
            Self::StartAgain => "start-again",
        }
    }
}

impl fmt::Display for AfterExternalStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not the name of an [`AfterExternalStop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be stay-stopped, reclaim or start-again")]
pub struct UnknownAfterExternalStop;

impl FromStr for AfterExternalStop {
    type Err = UnknownAfterExternalStop;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|setting| setting.as_str() == text.trim()).ok_or(UnknownAfterExternalStop)
    }
}

impl Pool {
    /// Creates an enabled pool without an operator.
    pub fn new(id: Uuid, pid: PoolId, name: impl Into<String>) -> Self {
        Self {
            id,
            pid,
            name: name.into(),
            enabled: true,
            operator: None,
            proxied: None,
            sync_only: false,
            after_stop: None,
        }
    }

    /// Sets the operator.
    #[must_use]
    pub fn with_operator(mut self, operator: Operator) -> Self {
        self.operator = Some(operator);
        self
    }

    /// The account that must be a worker's operator on chain: the proxied one, else the signer's.
    pub fn operator_account(&self) -> Option<AccountId> {
        self.proxied.or(self.operator.as_ref().map(|o| o.account))
    }
}

/// A worker to manage.
#[derive(Clone, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Worker {
    /// The id of this entry.
    #[setters(skip)]
    pub id: Uuid,
    /// The pool that it belongs to.
    #[setters(skip)]
    pub pid: PoolId,
    /// Its name, for operators; unique.
    #[setters(skip)]
    pub name: String,
    /// Its pRuntime's URL; unique.
    #[setters(skip)]
    pub endpoint: String,
    /// The stake to compute with.
    #[setters(skip)]
    pub stake: Balance,
    /// Whether it runs.
    pub enabled: bool,
    /// Only sync it; send nothing on chain.
    pub sync_only: bool,
    /// Whether it is a gatekeeper: registered and synced, and its messages are relayed, but it does not
    /// compute.
    pub gatekeeper: bool,
    /// Endpoints that it announces on chain: http or https URLs such as `https://worker.example.org`, at most
    /// [`MAX_ANNOUNCED`]. If empty, none are announced.
    pub endpoints: Vec<String>,
    /// What happens after an external stop; `None` inherits the pool's setting.
    pub after_stop: Option<AfterExternalStop>,
}

impl Worker {
    /// Creates an enabled worker that computes with `stake`, in 10^-12 PHA.
    pub fn new(
        id: Uuid,
        pid: PoolId,
        name: impl Into<String>,
        endpoint: impl Into<String>,
        stake: Balance,
    ) -> Self {
        Self {
            id,
            pid,
            name: name.into(),
            endpoint: endpoint.into(),
            stake,
            enabled: true,
            sync_only: false,
            gatekeeper: false,
            endpoints: Vec::new(),
            after_stop: None,
        }
    }
}

/// The goal of a worker, as set by commands and external stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Goal {
    /// Compute: register, add to the pool, start.
    #[default]
    Compute,
    /// Stop computing; becomes [`Goal::StayStopped`] once it has.
    Stop,
    /// Stay as it is: neither stopped nor started. A worker that is seen computing again was started by its
    /// owner: the goal becomes [`Goal::Compute`].
    StayStopped,
    /// Reclaim the stake when the cool-down is over, then [`Goal::StayStopped`].
    Reclaim,
    /// Reclaim the stake when the cool-down is over, then [`Goal::Compute`].
    StartAgain,
    /// Reclaim the stake when the cool-down is over and leave the pool, then [`Goal::StayStopped`].
    LeavePool,
}

impl Goal {
    /// The goal's name, as stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Stop => "stop",
            Self::StayStopped => "stay-stopped",
            Self::Reclaim => "reclaim",
            Self::StartAgain => "start-again",
            Self::LeavePool => "leave-pool",
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The persisted record of a worker. Written by the fleet, not by operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct FleetRecord {
    /// The last known public key of the worker at this entry. A different key needs an operator's
    /// confirmation before anything is staked for it.
    pub key: Option<WorkerKey>,
    /// The worker's goal.
    pub goal: Goal,
    /// Whether its session was computing when last observed: if it no longer is, it was stopped externally.
    pub was_computing: bool,
    /// The last start or stop that was sent, until its effect is observed: such an effect is not external,
    /// even if the process that sent it has ended, or never learned the outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<PendingOperation>,
    /// The keys that answered last, and when they changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_keys: Option<SeenKeys>,
    /// The newest parachain block that the fleet had seen when it changed this record: an older view of the chain
    /// changes no record. `None` in records of earlier versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<ParaNumber>,
}

/// A start or a stop that was sent and may still be included in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PendingOperation {
    /// The operation.
    pub operation: PendingOperationKind,
    /// The newest parachain block known when it was sent, or when it was last found to be in flight.
    pub at: ParaNumber,
}

impl PendingOperation {
    /// Creates the record of `operation`, sent when `at` was the newest block.
    pub const fn new(operation: PendingOperationKind, at: ParaNumber) -> Self {
        Self { operation, at }
    }
}

/// An operation whose submission is persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PendingOperationKind {
    /// Start computing.
    Start,
    /// Stop computing.
    Stop,
}

/// A snapshot of all pools and workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Number of edits so far.
    pub revision: u64,
    /// Pools, by pid.
    pub pools: Vec<Arc<Pool>>,
    /// Workers, by name.
    pub workers: Vec<Arc<Worker>>,
    /// The persisted records of workers, by id; a worker without one has [`FleetRecord::default`].
    pub saved: HashMap<Uuid, FleetRecord>,
    /// What is kept of removed workers, by id, and of stopped keys that were replaced at their entry: one that is back goes
    /// on with its goal.
    pub removed: HashMap<Uuid, Arc<RemovedWorker>>,
}

impl Snapshot {
    /// Returns the pool with that number.
    pub fn pool(&self, pid: PoolId) -> Option<&Arc<Pool>> {
        self.pools.binary_search_by_key(&pid, |p| p.pid).ok().map(|i| &self.pools[i])
    }

    /// Returns the persisted record of a worker.
    pub fn saved(&self, worker: Uuid) -> FleetRecord {
        self.saved.get(&worker).copied().unwrap_or_default()
    }
}

/// A change of the inventory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Edit {
    /// Adds or replaces the pool with that id.
    PutPool(Pool),
    /// Removes a pool; its workers stay, idle until it exists again.
    RemovePool(Uuid),
    /// Adds or replaces the worker with that id.
    PutWorker(Worker),
    /// Removes a worker. Its persisted record is kept aside ([`Snapshot::removed`]).
    RemoveWorker(Uuid),
    /// Replaces the persisted record of a worker, or the one that is kept of a removed worker. [`Edit::PutWorker`] does
    /// not change it.
    PutFleetRecord(Uuid, FleetRecord),
}

/// Why an edit was rejected; none of the transaction's edits was applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two entries have the same name, endpoint or pid.
    #[error("{what} {value:?} is taken by {holder:?}")]
    Duplicate {
        /// `pid`, `pool name`, `worker name` or `worker endpoint`.
        what: &'static str,
        /// The value.
        value: String,
        /// The name of the entry that already has it.
        holder: String,
    },
    /// A value is invalid.
    #[error("{what} is not valid: {reason}")]
    Invalid {
        /// The field.
        what: String,
        /// Why it is invalid.
        reason: String,
    },
    /// One transaction puts the same entry twice: the first edit would be lost.
    #[error("two edits of one transaction put the {what} {id}")]
    PutTwice {
        /// `pool` or `worker`.
        what: &'static str,
        /// Its id.
        id: Uuid,
    },
    /// There is no entry with that id.
    #[error("there is no {what} {id}")]
    Unknown {
        /// `pool` or `worker`.
        what: &'static str,
        /// Its id.
        id: Uuid,
    },
    /// The maximum number of entries is reached.
    #[error("the inventory is full: it holds its maximum of {limit} {what}s")]
    Full {
        /// `pool` or `worker`.
        what: &'static str,
        /// The maximum.
        limit: usize,
    },
    /// The backend failed.
    #[error("the inventory cannot be stored")]
    Storage(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Pools and workers with transactional edits and a watch on changes.
///
/// A backend validates edits with [`Snapshot::edited`] and stores the result:
///
/// ```
/// use std::sync::Arc;
/// use async_trait::async_trait;
/// use prb_core::inventory::{Edit, Error, Inventory, Limits, Snapshot};
/// use tokio::sync::{Mutex, watch};
///
/// /// Writes each snapshot to a database before publishing it.
/// #[derive(Debug)]
/// struct Stored {
///     snapshots: watch::Sender<Arc<Snapshot>>,
///     /// Serialises edits.
///     editing: Mutex<()>,
/// }
///
/// impl Stored {
///     async fn write(&self, _snapshot: &Snapshot) -> std::io::Result<()> {
///         // To your database.
///         Ok(())
///     }
/// }
///
/// #[async_trait]
/// impl Inventory for Stored {
///     fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
///         self.snapshots.subscribe()
///     }
///
///     async fn apply(&self, edits: Vec<Edit>) -> Result<Arc<Snapshot>, Error> {
///         let _editing = self.editing.lock().await;
///         let now = self.snapshots.borrow().clone();
///         let next = Arc::new(now.edited(edits, &Limits::default())?);
///         self.write(&next).await.map_err(|error| Error::Storage(Box::new(error)))?;
///         self.snapshots.send_replace(next.clone());
///         Ok(next)
///     }
/// }
/// ```
#[async_trait]
pub trait Inventory: Send + Sync + fmt::Debug {
    /// The pools and workers, as a watch.
    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>>;

    /// Applies all edits or none; returns the resulting snapshot.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Cancel safety
    /// A cancelled call may have applied all edits, never some of them: read [`snapshots`](Self::snapshots).
    async fn apply(&self, edits: Vec<Edit>) -> Result<Arc<Snapshot>, Error>;
}
