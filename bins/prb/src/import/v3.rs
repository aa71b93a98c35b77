//! Reads the output of the configuration program of Phala's worker manager (PRB v3).
//!
//! `get-all-pools-with-workers`: `[{id, name, pid, enabled, sync_only, workers: [{id, name, endpoint, stake,
//! enabled, sync_only, gatekeeper}]}]`. `get-all-pool-operators`: `[{pid, operator_account_id,
//! proxied_account_id}]`. Neither contains keys.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, bail};
use secrecy::SecretString;
use serde::{Deserialize, de::DeserializeOwned};
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::plan::{PoolRow, Rows, WorkerRow};
use crate::{config::V3Args, input, redact};

/// The largest file, in bytes.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Deserialize)]
struct Pool {
    id: String,
    name: String,
    pid: u64,
    enabled: bool,
    sync_only: bool,
    workers: Option<Vec<Worker>>,
}

#[derive(Deserialize)]
struct Worker {
    id: String,
    name: String,
    endpoint: String,
    stake: String,
    enabled: bool,
    sync_only: bool,
    #[serde(default)]
    gatekeeper: bool,
}

#[derive(Deserialize)]
struct PoolOperator {
    pid: u64,
    operator_account_id: String,
    proxied_account_id: Option<String>,
}

/// Reads the files.
///
/// # Errors
/// A file cannot be read, or they do not fit together. Errors of a row are reported with the row.
pub(super) fn read(args: &V3Args) -> anyhow::Result<Rows> {
    let pools: Vec<Pool> = json(&args.pools, "get-all-pools-with-workers")?;
    let operators =
        args.operators.as_deref().map(|file| json::<Vec<PoolOperator>>(file, "get-all-pool-operators"));
    let mut by_pool: HashMap<u64, PoolOperator> = HashMap::new();
    for operator in operators.transpose()?.unwrap_or_default() {
        if let Some(other) = by_pool.insert(operator.pid, operator) {
            bail!("pool {} has two operators in the output of get-all-pool-operators: remove one", other.pid);
        }
    }
    let mut operators = by_pool;
    let mut keys = args.keys.as_deref().map(keys).transpose()?.unwrap_or_default();
    let mut rows = Rows::default();
    for pool in pools {
        let Some(workers) = pool.workers else {
            bail!(
                "pool {} in {} has no list of workers: the output of get-all-pools-with-workers is needed, not that of \
                 get-all-pools",
                pool.pid,
                args.pools.display()
            );
        };
        let operator = operators.remove(&pool.pid);
        rows.pools.push(PoolRow {
            id: pool.id,
            pid: Ok(pool.pid),
            name: pool.name,
            secret: Ok(keys.remove(&pool.pid)),
            account: operator.as_ref().map(|operator| operator.operator_account_id.clone()),
            proxied: operator.and_then(|operator| operator.proxied_account_id),
            enabled: pool.enabled,
            sync_only: pool.sync_only,
        });
        rows.workers.extend(workers.into_iter().map(|worker| row(worker, pool.pid)));
    }
    // What no pool has taken is a mistake in the files, and would be lost unnoticed.
    for (what, left) in [("an operator", operators.keys().next()), ("a key", keys.keys().next())] {
        if let Some(pid) = left {
            bail!("there is {what} for pool {pid}, which is not in {}", args.pools.display());
        }
    }
    Ok(rows)
}

fn row(worker: Worker, pid: u64) -> WorkerRow {
    let Worker { id, name, endpoint, stake, enabled, sync_only, gatekeeper } = worker;
    WorkerRow { id, pid: Ok(pid), name, endpoint, stake, enabled, sync_only, gatekeeper }
}

fn json<T: DeserializeOwned>(file: &Path, command: &str) -> anyhow::Result<T> {
    let text = text(file)?;
    serde_json::from_str(&text).map_err(|error| {
        let error = redact::scrubbed(&error.to_string());
        anyhow::anyhow!("{} is not the output of {command}: {error}", file.display())
    })
}

/// Reads secrets by pool. Errors do not quote the file.
fn keys(file: &Path) -> anyhow::Result<HashMap<u64, SecretString>> {
    let shown = file.display();
    let text = text(file)?;
    let line = |byte: usize| text.as_bytes()[..byte].iter().filter(|byte| **byte == b'\n').count() + 1;
    // Not the parser's message, which quotes the line with the secret.
    let table = DeTable::parse(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| line(span.start));
        anyhow::anyhow!(
            "line {line} of {shown} is not TOML such as 12 = \"the mnemonic of pool 12's operator\""
        )
    })?;
    let mut keys = HashMap::new();
    for (key, secret) in table.get_ref() {
        // In one spelling only: 1, 01 and +1 are different keys to TOML, and one of them would be lost.
        let pid = key.get_ref().parse().ok().filter(|pid: &u64| pid.to_string() == **key.get_ref());
        let (Some(pid), DeValue::String(secret)) = (pid, secret.get_ref()) else {
            bail!(
                "line {} of {shown} is not a pool's number, without a sign or zeros in front, and its operator's secret \
                 in quotes",
                line(key.span().start)
            );
        };
        keys.insert(pid, SecretString::from(secret.to_string()));
    }
    Ok(keys)
}

fn text(file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let cannot = || format!("cannot read {}", file.display());
    let input = input::read(file, MAX_FILE_BYTES).with_context(cannot)?;
    Ok(Zeroizing::new(input.text().with_context(cannot)?.to_owned()))
}
