//! Conversions between the wire's messages and the manager's values.

use std::sync::Arc;

use prb_core::{
    inventory::{self, AfterExternalStop},
    manage::{Change, PoolValue, Selector, WorkerValue},
    primitives::{AccountId, PHALA_SS58_PREFIX, POLKADOT_SS58_PREFIX, PoolId},
    text::shorten,
};
use secrecy::SecretString;

use crate::{
    proto::{FullAccount, Identity, QueryIdentity, db, lifecycle as lm},
    rpc::{MAX_QUOTED_BYTES, ResponseError},
};

/// Converts an entry of a call. Without [`settings`](db::Pool::settings), the fields that the original does not know
/// keep their values.
pub(super) fn pool_value(list: &str, index: usize, pool: db::Pool) -> Result<PoolValue, ResponseError> {
    let of = |text: &str| after_stop(list, index, text);
    let after_stop = pool.settings.map(|settings| of(&settings.after_stop)).transpose()?;
    // Moved, not copied: the message's own is wiped when it is dropped.
    let secret = pool.owner.map(|mut owner| SecretString::from(std::mem::take(&mut *owner.take_mnemonic())));
    Ok(PoolValue::default()
        .with_pid(PoolId(pool.pid))
        .with_name(pool.name)
        .with_secret(secret)
        .with_proxied(pool.real_phala_ss58)
        .with_enabled(pool.enabled)
        .with_sync_only(pool.sync_only)
        .with_after_stop(after_stop))
}

/// As [`pool_value`].
pub(super) fn worker_value(
    list: &str,
    index: usize,
    worker: db::Worker,
) -> Result<WorkerValue, ResponseError> {
    let value = WorkerValue::default()
        .with_pid(PoolId(worker.pid))
        .with_name(worker.name)
        .with_endpoint(worker.endpoint)
        .with_stake(worker.stake)
        .with_enabled(worker.enabled)
        .with_sync_only(worker.sync_only);
    let Some(settings) = worker.settings else { return Ok(value) };
    Ok(value
        .with_gatekeeper(Some(settings.gatekeeper))
        .with_endpoints(Some(settings.endpoints))
        .with_after_stop(Some(after_stop(list, index, &settings.after_stop)?)))
}

/// Parses what happens after an external stop; an empty text inherits the setting of the level above.
fn after_stop(list: &str, index: usize, text: &str) -> Result<Option<AfterExternalStop>, ResponseError> {
    if text.is_empty() {
        return Ok(None);
    }
    let named = |error| ResponseError::server(format!("{list}[{index}]: what happens after a stop {error}"));
    text.parse().map(Some).map_err(named)
}

pub(super) fn pool_changes(
    request: lm::UpdatePool,
) -> Result<Vec<(Selector, Change<PoolValue>)>, ResponseError> {
    let change = |(index, item): (usize, lm::UpdatePoolItem)| {
        let selector = selector("pool", index, item.id)?;
        let pool = item.pool.ok_or_else(|| no_value("pool", index))?;
        let deleted = pool.deleted;
        Ok((selector, if deleted { Change::Delete } else { Change::Put(pool_value("items", index, pool)?) }))
    };
    request.items.into_iter().enumerate().map(change).collect()
}

pub(super) fn worker_changes(
    request: lm::UpdateWorker,
) -> Result<Vec<(Selector, Change<WorkerValue>)>, ResponseError> {
    let change = |(index, item): (usize, lm::UpdateWorkerItem)| {
        let selector = selector("worker", index, item.id)?;
        let worker = item.worker.ok_or_else(|| no_value("worker", index))?;
        let deleted = worker.deleted;
        Ok((
            selector,
            if deleted { Change::Delete } else { Change::Put(worker_value("items", index, worker)?) },
        ))
    };
    request.items.into_iter().enumerate().map(change).collect()
}

fn selector(what: &str, index: usize, id: Option<QueryIdentity>) -> Result<Selector, ResponseError> {
    match id.and_then(|id| id.identity) {
        Some(Identity::Uuid(text)) => match text.parse() {
            Ok(id) => Ok(Selector::Id(id)),
            Err(_) => {
                let text = shorten(&text, MAX_QUOTED_BYTES);
                Err(ResponseError::not_found(format!("items[{index}]: there is no {what} {text:?}")))
            }
        },
        Some(Identity::Name(name)) => Ok(Selector::Name(name)),
        Some(Identity::Pid(pid)) => Ok(Selector::Pid(PoolId(pid))),
        None => Err(ResponseError::server(format!("items[{index}]: it names no {what}"))),
    }
}

fn no_value(what: &str, index: usize) -> ResponseError {
    ResponseError::server(format!("items[{index}]: it has no value for the {what}"))
}

pub(super) fn pool_list(pools: &[Arc<inventory::Pool>]) -> lm::PoolList {
    lm::PoolList { pools: pools.iter().map(|pool| self::pool(pool)).collect() }
}

pub(super) fn worker_list(workers: &[Arc<inventory::Worker>]) -> lm::WorkerList {
    lm::WorkerList { workers: workers.iter().map(|worker| self::worker(worker)).collect() }
}

fn pool(pool: &inventory::Pool) -> db::Pool {
    // Set even if the pool has no operator: the original's pages read its fields unconditionally.
    let owner = pool.operator.as_ref().map(|operator| address(&operator.account)).unwrap_or_default();
    db::Pool {
        uuid: pool.id.to_string(),
        owner: Some(owner),
        pid: pool.pid.0,
        name: pool.name.clone(),
        enabled: pool.enabled,
        deleted: false,
        real_phala_ss58: pool.proxied.map(|owner| owner.to_ss58(PHALA_SS58_PREFIX)).unwrap_or_default(),
        sync_only: pool.sync_only,
        // Readers that know these settings get them in the details.
        settings: None,
    }
}

fn address(account: &AccountId) -> FullAccount {
    let mut full = FullAccount::default();
    full.ss58_phala = account.to_ss58(PHALA_SS58_PREFIX);
    full.ss58_polkadot = account.to_ss58(POLKADOT_SS58_PREFIX);
    full
}

pub(super) fn worker(worker: &inventory::Worker) -> db::Worker {
    db::Worker {
        uuid: worker.id.to_string(),
        pid: worker.pid.0,
        name: worker.name.clone(),
        endpoint: worker.endpoint.clone(),
        enabled: worker.enabled,
        deleted: false,
        stake: worker.stake.to_string(),
        sync_only: worker.sync_only,
        // Readers that know these settings get them in the details.
        settings: None,
    }
}
