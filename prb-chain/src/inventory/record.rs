//! Stored forms of pools and workers. A field that is added later needs a default.

use prb_core::{
    inventory::{AfterExternalStop, Operator, Pool, Worker},
    primitives::{AccountId, Balance, PoolId},
    vault::Sealed,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Serialize, Deserialize)]
pub(super) struct PoolRecord {
    pid: PoolId,
    name: String,
    enabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operator: Option<OperatorRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxied: Option<AccountId>,
    #[serde(default)]
    sync_only: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after_stop: Option<AfterExternalStop>,
}

#[derive(Serialize, Deserialize)]
struct OperatorRecord {
    account: AccountId,
    key: Sealed,
}

#[derive(Serialize, Deserialize)]
pub(super) struct WorkerRecord {
    pid: PoolId,
    name: String,
    endpoint: String,
    #[serde(with = "decimal")]
    stake: Balance,
    enabled: bool,
    #[serde(default)]
    sync_only: bool,
    #[serde(default)]
    gatekeeper: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after_stop: Option<AfterExternalStop>,
}

impl From<&Pool> for PoolRecord {
    fn from(pool: &Pool) -> Self {
        let operator = pool.operator.as_ref();
        Self {
            pid: pool.pid,
            name: pool.name.clone(),
            enabled: pool.enabled,
            operator: operator.map(|o| OperatorRecord { account: o.account, key: o.key.clone() }),
            proxied: pool.proxied,
            sync_only: pool.sync_only,
            after_stop: pool.after_stop,
        }
    }
}

impl PoolRecord {
    pub(super) fn into_pool(self, id: Uuid) -> Pool {
        let mut pool = Pool::new(id, self.pid, self.name);
        pool.enabled = self.enabled;
        pool.operator = self.operator.map(|o| Operator { account: o.account, key: o.key });
        pool.proxied = self.proxied;
        pool.sync_only = self.sync_only;
        pool.after_stop = self.after_stop;
        pool
    }
}

impl From<&Worker> for WorkerRecord {
    fn from(worker: &Worker) -> Self {
        Self {
            pid: worker.pid,
            name: worker.name.clone(),
            endpoint: worker.endpoint.clone(),
            stake: worker.stake,
            enabled: worker.enabled,
            sync_only: worker.sync_only,
            gatekeeper: worker.gatekeeper,
            endpoints: worker.endpoints.clone(),
            after_stop: worker.after_stop,
        }
    }
}

impl WorkerRecord {
    pub(super) fn into_worker(self, id: Uuid) -> Worker {
        let mut worker = Worker::new(id, self.pid, self.name, self.endpoint, self.stake);
        worker.enabled = self.enabled;
        worker.sync_only = self.sync_only;
        worker.gatekeeper = self.gatekeeper;
        worker.endpoints = self.endpoints;
        worker.after_stop = self.after_stop;
        worker
    }
}

/// An amount as a decimal string, because JSON numbers lose digits in many programs.
mod decimal {
    use prb_core::primitives::Balance;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(amount: &Balance, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(amount)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Balance, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}
