//! Computes the edits that make an inventory match the file.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use anyhow::{Context, bail};
use prb_chain::keys::OperatorKey;
use prb_core::{
    inventory::{Edit, Inventory, Operator, Pool, Snapshot, Worker, normal_endpoint},
    primitives::{AccountId, PoolId},
    vault::{MAX_SECRET_BYTES, Vault},
};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::{FleetFile, PoolEntry};
use crate::config::first_line;

impl FleetFile {
    /// Seals the keys and returns the edits that make an inventory match this file. Unchanged entries are left
    /// alone.
    ///
    /// A worker's saved state follows its name, or its endpoint if it is renamed: a stopped worker does not start
    /// because of a new name.
    ///
    /// # Errors
    /// Names the pool with an error; nothing was changed.
    pub async fn edits(self, inventory: &dyn Inventory, vault: &dyn Vault) -> anyhow::Result<Vec<Edit>> {
        let snapshots = inventory.snapshots();
        let before = Arc::clone(&snapshots.borrow());
        let known: HashMap<Uuid, &Arc<Pool>> = before.pools.iter().map(|pool| (pool.id, pool)).collect();
        let mut pools = Vec::with_capacity(self.pools.len());
        for positioned in self.pools {
            let (pid, position) = (positioned.entry.pid, positioned.position);
            let known = known.get(&positioned.entry.id()).and_then(|pool| pool.operator.as_ref());
            let pool = positioned.entry.into_pool(known, vault).await;
            pools.push(pool.with_context(|| format!("pool {pid} at {position}"))?);
        }
        // Read again: the fleet may have saved state while keys were being sealed.
        let now = Arc::clone(&snapshots.borrow());
        Ok(differences(&now, pools, self.workers))
    }
}

fn differences(old: &Snapshot, pools: Vec<Pool>, workers: Vec<Worker>) -> Vec<Edit> {
    let old_pools: HashMap<Uuid, &Pool> = old.pools.iter().map(|pool| (pool.id, &**pool)).collect();
    let old_workers: HashMap<Uuid, &Worker> = old.workers.iter().map(|w| (w.id, &**w)).collect();
    let pool_ids: HashSet<Uuid> = pools.iter().map(|pool| pool.id).collect();
    let worker_ids: HashSet<Uuid> = workers.iter().map(|worker| worker.id).collect();

    let removed: Vec<&Worker> =
        old_workers.values().copied().filter(|worker| !worker_ids.contains(&worker.id)).collect();
    let by_endpoint: HashMap<String, Uuid> =
        removed.iter().map(|worker| (normal_endpoint(&worker.endpoint), worker.id)).collect();
    let mut edits: Vec<Edit> = removed.iter().map(|worker| Edit::RemoveWorker(worker.id)).collect();
    edits.extend(old_pools.keys().filter(|id| !pool_ids.contains(*id)).map(|id| Edit::RemovePool(*id)));
    edits.extend(pools.into_iter().filter(|pool| old_pools.get(&pool.id) != Some(&pool)).map(Edit::PutPool));
    for worker in workers {
        let known = old_workers.get(&worker.id);
        if known == Some(&&worker) {
            continue;
        }
        let renamed = by_endpoint.get(&normal_endpoint(&worker.endpoint)).filter(|_| known.is_none());
        let saved = renamed
            .and_then(|before| old.saved.get(before))
            .map(|saved| Edit::PutFleetRecord(worker.id, *saved));
        // In this order: the inventory refuses a record of a worker that it does not have yet.
        edits.push(Edit::PutWorker(worker));
        edits.extend(saved);
    }
    edits
}

impl PoolEntry {
    /// Converts a pool; its sealed key is reused if it is unchanged.
    async fn into_pool(self, known: Option<&Operator>, vault: &dyn Vault) -> anyhow::Result<Pool> {
        let (id, name) = (self.id(), self.name());
        let secret = match (self.operator, self.operator_env, self.operator_file) {
            (None, None, None) => None,
            (Some(secret), None, None) => Some(secret),
            (None, Some(name), None) => Some(from_environment(&name)?),
            (None, None, Some(file)) => {
                // May block for a while if the file is a pipe.
                let read = move || {
                    let place = if file.is_relative() { working_folder() } else { String::new() };
                    let secret = first_line(&file, MAX_SECRET_BYTES as u64);
                    secret.with_context(|| format!("its operator_file{place}"))
                };
                Some(tokio::task::spawn_blocking(read).await??)
            }
            _ => bail!("it has more than one of operator, operator_env and operator_file; set only one"),
        };
        let mut pool = Pool::new(id, PoolId(self.pid), name);
        if let Some(secret) = secret {
            pool.operator = Some(operator(&secret, known, vault).await?);
        }
        pool.proxied = self.proxied.as_deref().map(proxied).transpose()?;
        (pool.enabled, pool.sync_only) = (self.enabled, self.sync_only);
        pool.after_stop = self.after_stop;
        pool.check()?;
        Ok(pool)
    }
}

/// What a relative path is relative to. Not the fleet file's folder, which may be a pipe's.
fn working_folder() -> String {
    std::env::current_dir().map_or_else(
        |_| String::new(),
        |folder| format!(", relative to the working directory {}", folder.display()),
    )
}

/// Reads the secret from a variable. A secret given in place of the variable's name is not shown.
fn from_environment(name: &str) -> anyhow::Result<SecretString> {
    let letter = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    if !(name.chars().all(letter) && name.starts_with(|c: char| !c.is_ascii_digit())) {
        let is_set = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if let (true, Ok(secret)) = (is_set, std::env::var(name)) {
            return Ok(secret.into());
        }
        bail!(
            "operator_env must be the name of an existing environment variable, such as POOL_1_OPERATOR; its \
             value is not shown because it may be a secret: a mnemonic itself belongs into `operator`"
        );
    }
    match std::env::var(name) {
        Ok(secret) => Ok(secret.into()),
        Err(_) => bail!("it names the environment variable {name}, which is not set to a valid text"),
    }
}

fn proxied(address: &str) -> anyhow::Result<AccountId> {
    let read = AccountId::from_address(address);
    read.map_err(|_| {
        anyhow::anyhow!("proxied must be an SS58 address; its value is not shown because it may be a secret")
    })
}

/// Seals a key. Sealing is randomised, so sealing again would count as an edit of the pool: the present seal
/// is kept if it opens to the same secret. It does not if the identity was replaced.
async fn operator(
    secret: &SecretString,
    known: Option<&Operator>,
    vault: &dyn Vault,
) -> anyhow::Result<Operator> {
    let account = OperatorKey::from_secret(secret)?.account();
    if let Some(known) = known.filter(|known| known.account == account)
        && let Ok(opened) = vault.open(&known.key).await
        && opened.expose_secret() == secret.expose_secret()
    {
        return Ok(known.clone());
    }
    Ok(Operator { account, key: vault.seal(secret).await? })
}
