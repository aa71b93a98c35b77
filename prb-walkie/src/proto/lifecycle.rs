//! Messages of the package `prb.lifecycle`: edits and queries of pools and workers.

use prost::Message;

use super::{QueryIdentity, db};

/// Identifies workers or pools by UUID.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct UuidQueryRequest {
    /// The UUIDs. For `GetWorkerStatus` an empty list stands for all.
    #[prost(string, repeated, tag = "1")]
    pub ids: Vec<String>,
}

/// New pools.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CreatePool {
    /// The pools.
    #[prost(message, repeated, tag = "1")]
    pub pools: Vec<db::Pool>,
}

/// Changes of pools.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct UpdatePool {
    /// The changes.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<UpdatePoolItem>,
}

/// Change of a pool: `UpdatePool.Item`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct UpdatePoolItem {
    /// The pool to change.
    #[prost(message, optional, tag = "1")]
    pub id: Option<QueryIdentity>,
    /// The complete new value; without a mnemonic the operator stays.
    #[prost(message, optional, tag = "2")]
    pub pool: Option<db::Pool>,
}

/// New workers.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CreateWorker {
    /// The workers.
    #[prost(message, repeated, tag = "1")]
    pub workers: Vec<db::Worker>,
}

/// Changes of workers.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct UpdateWorker {
    /// The changes.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<UpdateWorkerItem>,
}

/// Change of a worker: `UpdateWorker.Item`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct UpdateWorkerItem {
    /// The worker to change.
    #[prost(message, optional, tag = "1")]
    pub id: Option<QueryIdentity>,
    /// The complete new value.
    #[prost(message, optional, tag = "2")]
    pub worker: Option<db::Worker>,
}

/// Pools.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct PoolList {
    /// The pools.
    #[prost(message, repeated, tag = "1")]
    pub pools: Vec<db::Pool>,
}

/// Workers.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct WorkerList {
    /// The workers.
    #[prost(message, repeated, tag = "1")]
    pub workers: Vec<db::Worker>,
}
