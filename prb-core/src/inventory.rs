//! The seam [`Inventory`]: the pools and workers that the operator wants managed, edited while running.
//!
//! Not for: what became of them (see [`crate::fleet`]).

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
pub mod memory;

pub use edit::{Limits, MAX_ANNOUNCED, MAX_ENDPOINT_BYTES, MAX_NAME_BYTES, normal_endpoint};

/// A pool's operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Its account.
    pub account: AccountId,
    /// Its key, sealed.
    pub key: Sealed,
}

/// What happens to a worker that stopped computing although the operator did not stop it here: its owner
/// stopped it elsewhere, or withdrawals forced it to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterStop {
    /// Nothing: it stays stopped, and its stake stays where it is, until somebody starts or reclaims it.
    #[default]
    StayStopped,
    /// Its stake is reclaimed when the cool-down is over; it stays stopped.
    Reclaim,
    /// Its stake is reclaimed when the cool-down is over, and it starts again.
    StartAgain,
}

/// A stake pool to be managed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pool {
    /// Its id here.
    pub id: Uuid,
    /// Its number on chain; one entry a number.
    pub pid: PoolId,
    /// Its name, for people; unique.
    pub name: String,
    /// Whether its workers run.
    pub enabled: bool,
    /// Who signs for it; nothing is sent without.
    pub operator: Option<Operator>,
    /// The account that owns the pool, where the operator acts for it as a proxy.
    pub proxied: Option<AccountId>,
    /// Sync its workers, send nothing on chain.
    pub sync_only: bool,
    /// What happens after a stop from elsewhere; `None` leaves it to the fleet's setting.
    pub after_stop: Option<AfterStop>,
}

impl AfterStop {
    /// Every setting.
    pub const ALL: [Self; 3] = [Self::StayStopped, Self::Reclaim, Self::StartAgain];

    /// Its name, as in files and on command lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StayStopped => "stay-stopped",
            Self::Reclaim => "reclaim",
            Self::StartAgain => "start-again",
        }
    }
}

impl fmt::Display for AfterStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no [`AfterStop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be stay-stopped, reclaim or start-again")]
pub struct UnknownAfterStop;

impl FromStr for AfterStop {
    type Err = UnknownAfterStop;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|setting| setting.as_str() == text.trim()).ok_or(UnknownAfterStop)
    }
}

impl Pool {
    /// An enabled pool without an operator.
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

    /// The same pool with an operator.
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

/// A worker to be managed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Worker {
    /// Its id here.
    pub id: Uuid,
    /// The pool that it belongs to.
    pub pid: PoolId,
    /// Its name, for people; unique.
    pub name: String,
    /// Its pRuntime's URL; unique.
    pub endpoint: String,
    /// The stake to compute with.
    pub stake: Balance,
    /// Whether it runs.
    pub enabled: bool,
    /// Sync it, send nothing on chain.
    pub sync_only: bool,
    /// A gatekeeper: registered and synced, its messages are carried, but it is not put to computing.
    pub gatekeeper: bool,
    /// Endpoints that it announces on chain: http or https URLs such as `https://worker.example.org`, at most
    /// [`MAX_ANNOUNCED`]. Empty announces none.
    pub endpoints: Vec<String>,
    /// What happens after a stop from elsewhere; `None` leaves it to the pool's setting.
    pub after_stop: Option<AfterStop>,
}

impl Worker {
    /// An enabled worker that is to compute with `stake`, in the chain's smallest unit.
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

/// What is meant to become of a worker, as commands and stops from elsewhere have left it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Goal {
    /// Compute: register, add to the pool, start.
    #[default]
    Compute,
    /// Stop computing; becomes [`Goal::StayStopped`] once it has.
    Stop,
    /// Stay as it is: neither stopped nor started. A worker that is seen computing again has been started by
    /// its owner: the goal becomes [`Goal::Compute`].
    StayStopped,
    /// Reclaim the stake when the cool-down is over, then [`Goal::StayStopped`].
    Reclaim,
    /// Reclaim the stake when the cool-down is over, then [`Goal::Compute`].
    StartAgain,
    /// Reclaim the stake when the cool-down is over and leave the pool, then [`Goal::StayStopped`].
    LeavePool,
}

/// What the fleet keeps of a worker between restarts. Written by the fleet, not by operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Saved {
    /// The public key that the worker at this entry is known by: another one needs the operator's word before
    /// anything is staked for it.
    pub key: Option<WorkerKey>,
    /// What is meant to become of it.
    pub goal: Goal,
    /// Whether its session was computing when it was last seen: if not any more, it was stopped elsewhere.
    pub was_computing: bool,
    /// The start or stop that was sent last, until its effect is seen: such an effect is not from elsewhere,
    /// also where the process that sent it has ended, or never learned its outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<Sent>,
}

/// A start or a stop that was sent and may still be included in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Sent {
    /// What was sent.
    pub operation: SentOperation,
    /// The newest parachain block known when it was.
    pub at: ParaNumber,
}

impl Sent {
    /// `operation`, sent when `at` was the newest block.
    pub const fn new(operation: SentOperation, at: ParaNumber) -> Self {
        Self { operation, at }
    }
}

/// What of a worker's operations is remembered beyond a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SentOperation {
    /// Start computing.
    Start,
    /// Stop computing.
    Stop,
}

/// All pools and workers at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Counts the edits.
    pub revision: u64,
    /// Pools, by pid.
    pub pools: Vec<Arc<Pool>>,
    /// Workers, by name.
    pub workers: Vec<Arc<Worker>>,
    /// What the fleet keeps of workers, by id; a worker without an entry has [`Saved::default`].
    pub saved: HashMap<Uuid, Saved>,
}

impl Snapshot {
    /// The pool of that number.
    pub fn pool(&self, pid: PoolId) -> Option<&Arc<Pool>> {
        self.pools.binary_search_by_key(&pid, |p| p.pid).ok().map(|i| &self.pools[i])
    }

    /// What is saved of a worker.
    pub fn saved(&self, worker: Uuid) -> Saved {
        self.saved.get(&worker).copied().unwrap_or_default()
    }
}

/// One change.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Edit {
    /// Adds or replaces the pool of that id.
    PutPool(Pool),
    /// Removes a pool; its workers stay and wait for it.
    RemovePool(Uuid),
    /// Adds or replaces the worker of that id.
    PutWorker(Worker),
    /// Removes a worker, and what was saved of it.
    RemoveWorker(Uuid),
    /// Replaces what is saved of a worker. Putting a worker leaves it as it is.
    Save(Uuid, Saved),
}

/// Why an edit is refused; nothing of it was applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two entries with one name, endpoint or pid.
    #[error("{what} {value:?} is taken by {holder:?}")]
    Duplicate {
        /// `pid`, `pool name`, `worker name` or `worker endpoint`.
        what: &'static str,
        /// The value.
        value: String,
        /// The name of the entry that has it.
        holder: String,
    },
    /// A value that cannot be.
    #[error("{what} is not valid: {reason}")]
    Invalid {
        /// What.
        what: String,
        /// Why.
        reason: String,
    },
    /// One transaction puts the same entry twice: the first would be lost.
    #[error("two edits of one transaction put the {what} {id}")]
    PutTwice {
        /// `pool` or `worker`.
        what: &'static str,
        /// Its id.
        id: Uuid,
    },
    /// No entry of that id.
    #[error("there is no {what} {id}")]
    Unknown {
        /// `pool` or `worker`.
        what: &'static str,
        /// Its id.
        id: Uuid,
    },
    /// The bound on entries is reached.
    #[error("the inventory holds its {limit} {what}s")]
    Full {
        /// `pool` or `worker`.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The backend failed.
    #[error("the inventory cannot be stored")]
    Storage(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Pools and workers, with transactional edits and a feed of them.
#[async_trait]
pub trait Inventory: Send + Sync + fmt::Debug {
    /// The pools and workers, now and after every edit.
    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>>;

    /// Applies all edits or none, and gives the snapshot that holds them.
    ///
    /// # Errors
    /// See [`Error`].
    async fn apply(&self, edits: Vec<Edit>) -> Result<Arc<Snapshot>, Error>;
}
