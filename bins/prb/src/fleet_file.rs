//! The file that names pools and workers for `prb all` (TOML, or JSON where its name ends in `.json`).
//!
//! Read and checked whole before anything starts; unknown keys are refused. Mnemonics may stand in it, or in
//! environment variables that it names; they are sealed at once and never shown.

use std::{fmt, path::Path, sync::Arc};

use anyhow::{Context, bail};
use prb_chain::keys::OperatorKey;
use prb_core::{
    inventory::{Edit, Inventory, Operator, Pool, Worker},
    primitives::{AccountId, Balance, PoolId},
    vault::Vault,
};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};
use uuid::Uuid;

/// The largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Names in this namespace give entries the same id at every start.
const NAMESPACE: Uuid = Uuid::from_u128(0x9f1c_6f6e_4d3a_4f0e_8b52_70f6_a1d9_3c11);

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetFile {
    /// Pools.
    #[serde(default)]
    pub pools: Vec<PoolEntry>,
    /// Workers.
    #[serde(default)]
    pub workers: Vec<WorkerEntry>,
}

/// A pool as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolEntry {
    /// Its number on chain.
    pub pid: u64,
    /// Its name; `pool-{pid}` where absent.
    pub name: Option<String>,
    /// The operator's mnemonic or secret URI.
    #[serde(default, deserialize_with = "secret")]
    pub operator: Option<SecretString>,
    /// Name of the environment variable that holds it.
    pub operator_env: Option<String>,
    /// SS58 address of the account that owns the pool, where the operator is its proxy.
    pub proxied: Option<String>,
    /// Whether its workers run.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Sync its workers, send nothing on chain.
    #[serde(default)]
    pub sync_only: bool,
}

impl fmt::Debug for PoolEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolEntry").field("pid", &self.pid).field("name", &self.name).finish_non_exhaustive()
    }
}

/// A worker as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerEntry {
    /// Its name; its endpoint where absent.
    pub name: Option<String>,
    /// Its pool's number.
    pub pid: u64,
    /// Its pRuntime's URL.
    pub endpoint: String,
    /// The stake to compute with, in the chain's smallest unit (10^-12 PHA); a string or an integer.
    #[serde(deserialize_with = "stake")]
    pub stake: Balance,
    /// Whether it runs.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Sync it, send nothing on chain.
    #[serde(default)]
    pub sync_only: bool,
}

const fn yes() -> bool {
    true
}

fn secret<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.map(SecretString::from))
}

/// Reads an amount from an integer or, beyond what every parser keeps exactly, a decimal string.
fn stake<'de, D: Deserializer<'de>>(d: D) -> Result<Balance, D::Error> {
    struct Stake;
    impl de::Visitor<'_> for Stake {
        type Value = Balance;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a stake in the chain's smallest unit, as an integer or a decimal string")
        }
        fn visit_u64<E: de::Error>(self, v: u64) -> Result<Balance, E> {
            Ok(v.into())
        }
        fn visit_i64<E: de::Error>(self, v: i64) -> Result<Balance, E> {
            v.try_into().map_err(|_| E::invalid_value(de::Unexpected::Signed(v), &self))
        }
        fn visit_str<E: de::Error>(self, v: &str) -> Result<Balance, E> {
            v.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(v), &self))
        }
    }
    d.deserialize_any(Stake)
}

impl FleetFile {
    /// Reads the file.
    ///
    /// # Errors
    /// Says the file, and the line where the text is at fault.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let meta = std::fs::metadata(path).with_context(|| format!("cannot read the fleet file {shown}"))?;
        if meta.len() > MAX_FILE_BYTES {
            bail!("the fleet file {shown} has {} bytes; at most {MAX_FILE_BYTES} are read", meta.len());
        }
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read the fleet file {shown}"))?;
        let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        let file = Self::parse(&text, json).with_context(|| format!("in the fleet file {shown}"))?;
        if file.pools.iter().any(|p| p.operator.is_some()) {
            warn_if_open(path, &meta);
        }
        Ok(file)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// Says the line where the text is at fault, without quoting it: it may hold a mnemonic.
    pub fn parse(text: &str, json: bool) -> anyhow::Result<Self> {
        if json {
            return serde_json::from_str(text).map_err(|e| anyhow::anyhow!("{e}"));
        }
        toml::from_str(text).map_err(|e: toml::de::Error| {
            let line = e.span().map(|s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            match line {
                Some(line) => anyhow::anyhow!("line {line}: {}", e.message()),
                None => anyhow::anyhow!("{}", e.message()),
            }
        })
    }

    /// Seals the keys and gives the edits that make an inventory hold just this file.
    ///
    /// # Errors
    /// Names the pool or worker at fault; nothing was changed.
    pub async fn edits(self, inventory: &dyn Inventory, vault: &dyn Vault) -> anyhow::Result<Vec<Edit>> {
        let old = Arc::clone(&inventory.snapshots().borrow());
        let mut edits = Vec::with_capacity(self.pools.len() + self.workers.len());
        let mut pools = Vec::with_capacity(self.pools.len());
        for entry in self.pools {
            pools.push(entry.into_pool(vault).await?);
        }
        let workers: Vec<Worker> = self.workers.into_iter().map(WorkerEntry::into_worker).collect();
        for worker in &workers {
            if !pools.iter().any(|p| p.pid == worker.pid) {
                bail!(
                    "worker {:?} belongs to pool {}, which the file does not name",
                    worker.name,
                    worker.pid
                );
            }
        }
        for gone in old.workers.iter().filter(|w| !workers.iter().any(|n| n.id == w.id)) {
            edits.push(Edit::RemoveWorker(gone.id));
        }
        for gone in old.pools.iter().filter(|p| !pools.iter().any(|n| n.id == p.id)) {
            edits.push(Edit::RemovePool(gone.id));
        }
        edits.extend(pools.into_iter().map(Edit::PutPool));
        edits.extend(workers.into_iter().map(Edit::PutWorker));
        Ok(edits)
    }
}

impl PoolEntry {
    async fn into_pool(self, vault: &dyn Vault) -> anyhow::Result<Pool> {
        let pid = self.pid;
        let at = || format!("pool {pid}");
        let secret = match (self.operator, self.operator_env) {
            (Some(_), Some(_)) => bail!("pool {pid} has both operator and operator_env; give one"),
            (Some(secret), None) => Some(secret),
            (None, Some(name)) => Some(SecretString::from(std::env::var(&name).with_context(|| {
                format!("pool {pid} names the environment variable {name}, which is not set to a text")
            })?)),
            (None, None) => None,
        };
        let operator = match secret {
            None => None,
            Some(secret) => {
                let key = OperatorKey::from_secret(&secret).with_context(at)?;
                let sealed = vault.seal(&secret).await.with_context(at)?;
                Some(Operator { account: key.account(), key: sealed })
            }
        };
        let proxied = self.proxied.map(|a| AccountId::from_address(&a)).transpose().with_context(at)?;
        let id = Uuid::new_v5(&NAMESPACE, format!("pool:{pid}").as_bytes());
        let mut pool = Pool::new(id, PoolId(pid), self.name.unwrap_or_else(|| format!("pool-{pid}")));
        (pool.enabled, pool.sync_only) = (self.enabled, self.sync_only);
        (pool.operator, pool.proxied) = (operator, proxied);
        Ok(pool)
    }
}

impl WorkerEntry {
    fn into_worker(self) -> Worker {
        let name = self.name.unwrap_or_else(|| self.endpoint.clone());
        let id = Uuid::new_v5(&NAMESPACE, format!("worker:{name}").as_bytes());
        let mut worker = Worker::new(id, PoolId(self.pid), name, self.endpoint, self.stake);
        (worker.enabled, worker.sync_only) = (self.enabled, self.sync_only);
        worker
    }
}

#[cfg(unix)]
fn warn_if_open(path: &Path, meta: &std::fs::Metadata) {
    use std::os::unix::fs::PermissionsExt;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(
            file = %path.display(),
            mode = format!("{mode:o}"),
            "the fleet file holds mnemonics and others can read it; `chmod 600` it"
        );
    }
}

#[cfg(not(unix))]
fn warn_if_open(_: &Path, _: &std::fs::Metadata) {}
