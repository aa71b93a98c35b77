//! The seam [`Inventory`]: the pools and workers that the operator wants managed, edited while running.
//!
//! Not for: what became of them (see [`crate::fleet`]).

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    primitives::{AccountId, Balance, PoolId},
    vault::Sealed,
};

mod edit;
pub mod memory;

pub(crate) use edit::normal_endpoint;
pub use edit::{Limits, MAX_ENDPOINT_BYTES, MAX_NAME_BYTES};

/// A pool's operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Its account.
    pub account: AccountId,
    /// Its key, sealed.
    pub key: Sealed,
}

/// A stake pool to be managed.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

impl Pool {
    /// The account that must be a worker's operator on chain: the proxied one, else the signer's.
    pub fn operator_account(&self) -> Option<AccountId> {
        self.proxied.or(self.operator.as_ref().map(|o| o.account))
    }
}

/// A worker to be managed.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

impl Snapshot {
    /// The pool of that number.
    pub fn pool(&self, pid: PoolId) -> Option<&Arc<Pool>> {
        self.pools.binary_search_by_key(&pid, |p| p.pid).ok().map(|i| &self.pools[i])
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
    /// Removes a worker.
    RemoveWorker(Uuid),
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
