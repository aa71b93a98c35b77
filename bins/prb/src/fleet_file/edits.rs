//! From the file to the edits that make an inventory hold just what it names.

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
    /// Seals the keys and gives the edits that make an inventory hold just this file. An entry that is there
    /// already, as the file has it, is left alone.
    ///
    /// What the fleet keeps of a worker goes on with its name, and with its endpoint where it is renamed: a
    /// stopped worker does not start because of a new name.
    ///
    /// # Errors
    /// Names the pool at fault; nothing was changed.
    pub async fn edits(self, inventory: &dyn Inventory, vault: &dyn Vault) -> anyhow::Result<Vec<Edit>> {
        let snapshots = inventory.snapshots();
        let before = Arc::clone(&snapshots.borrow());
        let known: HashMap<Uuid, &Arc<Pool>> = before.pools.iter().map(|pool| (pool.id, pool)).collect();
        let mut pools = Vec::with_capacity(self.pools.len());
        for placed in self.pools {
            let (pid, place) = (placed.entry.pid, placed.place);
            let known = known.get(&placed.entry.id()).and_then(|pool| pool.operator.as_ref());
            let pool = placed.entry.into_pool(known, vault).await;
            pools.push(pool.with_context(|| format!("pool {pid} at {place}"))?);
        }
        // Read again: the fleet may have saved something while keys were sealed.
        let now = Arc::clone(&snapshots.borrow());
        Ok(differences(&now, pools, self.workers))
    }
}

fn differences(old: &Snapshot, pools: Vec<Pool>, workers: Vec<Worker>) -> Vec<Edit> {
    let old_pools: HashMap<Uuid, &Pool> = old.pools.iter().map(|pool| (pool.id, &**pool)).collect();
    let old_workers: HashMap<Uuid, &Worker> = old.workers.iter().map(|w| (w.id, &**w)).collect();
    let pool_ids: HashSet<Uuid> = pools.iter().map(|pool| pool.id).collect();
    let worker_ids: HashSet<Uuid> = workers.iter().map(|worker| worker.id).collect();

    let gone: Vec<&Worker> =
        old_workers.values().copied().filter(|worker| !worker_ids.contains(&worker.id)).collect();
    let by_endpoint: HashMap<String, Uuid> =
        gone.iter().map(|worker| (normal_endpoint(&worker.endpoint), worker.id)).collect();
    let mut edits: Vec<Edit> = gone.iter().map(|worker| Edit::RemoveWorker(worker.id)).collect();
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
        edits.push(Edit::PutWorker(worker));
        edits.extend(saved);
    }
    edits
}

impl PoolEntry {
    /// The pool, with the key as it is sealed already where it is the same.
    async fn into_pool(self, known: Option<&Operator>, vault: &dyn Vault) -> anyhow::Result<Pool> {
        let (id, name) = (self.id(), self.name());
        let secret = match (self.operator, self.operator_env, self.operator_file) {
            (None, None, None) => None,
            (Some(secret), None, None) => Some(secret),
            (None, Some(name), None) => Some(from_environment(&name)?),
            (None, None, Some(file)) => Some(first_line(&file, MAX_SECRET_BYTES as u64)?),
            _ => bail!("it has more than one of operator, operator_env and operator_file; give one"),
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

/// The secret in a variable. A secret that stands in the place of the variable's name is not shown.
fn from_environment(name: &str) -> anyhow::Result<SecretString> {
    let letter = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    if !(name.chars().all(letter) && name.starts_with(|c: char| !c.is_ascii_digit())) {
        let is_set = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if let (true, Ok(secret)) = (is_set, std::env::var(name)) {
            return Ok(secret.into());
        }
        bail!(
            "operator_env must be the name of an environment variable that is set, such as POOL_1_OPERATOR; what \
             stands there is not shown, it may be a secret: a mnemonic itself goes into `operator`"
        );
    }
    match std::env::var(name) {
        Ok(secret) => Ok(secret.into()),
        Err(_) => bail!("it names the environment variable {name}, which is not set to a text"),
    }
}

fn proxied(address: &str) -> anyhow::Result<AccountId> {
    let read = AccountId::from_address(address);
    read.map_err(|_| {
        anyhow::anyhow!("proxied must be an SS58 address; what stands there is not shown, it may be a secret")
    })
}

/// Seals a key. Two seals of one secret differ, and each would pass for an edit of the pool: the present one
/// stays where it opens to the same secret. It does not where the identity was replaced.
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
