//! The storage items that the reader shows: their keys for each subject, and their decoding.
//!
//! An item that the runtime lacks, or has in an unknown layout, makes unreadable what needs it, and nothing
//! else.

use std::sync::Arc;

use codec::Encode;
use prb_core::{
    chain::{AccountOnChain, PoolOnChain, Reading, StakeRules, Unreadable, WorkerOnChain, session_account},
    primitives::{AccountId, Balance, PoolId, WorkerKey},
    wire::MessageOrigin,
};
use scale_decode::DecodeAsType;
use scale_value::{At, Value};

use super::{
    decode::{AssetAccount, Endpoints, PoolProxy, SessionInfo, Tokenomics, WorkerInfo},
    raw_values::{Cells, Subject},
};
use crate::metadata::{Balances, Error, Item, Runtime};

/// Well-known key of the runtime's code.
const CODE: &[u8] = b":code";

/// A storage item, or why it cannot be used.
type Found = Result<Item, Error>;

/// The items that the reader follows.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    registrations: Found,
    bindings: Found,
    ingress: Found,
    assignments: Found,
    endpoints: Found,
    sessions: Found,
    stakes: Found,
    pools: Found,
    asset_accounts: Found,
    /// The asset in which stakes are held.
    stake_asset: Result<u32, Error>,
    accounts: Found,
    clock: Found,
    cool_down: Found,
    benchmark: Found,
    tokenomics: Found,
    last_upgrade: Found,
    max_pool_workers: Result<u32, Error>,
    withdrawal_grace: Result<u64, Error>,
    /// Most workers in cool-down of a pool whose stakes are read.
    max_cooling_down: usize,
}

/// The chain's own values.
#[derive(Clone, Debug, Default)]
pub(super) struct ChainValues {
    pub(super) time_ms: u64,
    pub(super) cool_down_period_secs: u64,
    pub(super) benchmark_blocks: u32,
    pub(super) max_pool_workers: Option<u32>,
    pub(super) withdrawal_grace_secs: Option<u64>,
    pub(super) stake_rules: Option<StakeRules>,
    pub(super) unreadable: Vec<Unreadable>,
}

impl Layout {
    pub(super) fn new(runtime: &Runtime, max_cooling_down: usize) -> Self {
        Self {
            registrations: runtime.item("PhalaRegistry", "Workers"),
            bindings: runtime.item("PhalaComputation", "WorkerBindings"),
            ingress: runtime.item("PhalaMq", "OffchainIngress"),
            assignments: runtime.item("PhalaStakePoolv2", "WorkerAssignments"),
            endpoints: runtime.item("PhalaRegistry", "Endpoints"),
            sessions: runtime.item("PhalaComputation", "Sessions"),
            stakes: runtime.item("PhalaComputation", "Stakes"),
            pools: runtime.item("PhalaBasePool", "Pools"),
            asset_accounts: runtime.double_map("Assets", "Account"),
            stake_asset: runtime.constant("PhalaWrappedBalances", "WPhaAssetId"),
            accounts: runtime.item("System", "Account"),
            clock: runtime.item("Timestamp", "Now"),
            cool_down: runtime.item("PhalaComputation", "CoolDownPeriod"),
            benchmark: runtime.item("PhalaRegistry", "BenchmarkDuration"),
            tokenomics: runtime.item("PhalaComputation", "TokenomicParameters"),
            last_upgrade: runtime.item("System", "LastRuntimeUpgrade"),
            max_pool_workers: runtime.constant("PhalaStakePoolv2", "MaxPoolWorkers"),
            withdrawal_grace: runtime.constant("PhalaStakePoolv2", "GracePeriod"),
            max_cooling_down,
        }
    }

    /// Whether a change of this key means that the runtime has changed, or has run for the first time, after
    /// which layouts may differ.
    pub(super) fn is_of_runtime(&self, key: &[u8]) -> bool {
        key == CODE || self.last_upgrade.as_ref().is_ok_and(|item| key == item.prefix())
    }

    /// Returns the storage keys that a subject needs, as far as they follow from the values known so far.
    pub(super) fn keys(&self, subject: &Subject, cells: &Cells) -> Vec<Vec<u8>> {
        match subject {
            Subject::Chain => [&self.clock, &self.cool_down, &self.benchmark, &self.tokenomics]
                .map(plain)
                .into_iter()
                .flatten()
                .collect(),
            Subject::Worker(worker) => self.worker_keys(*worker, cells),
            Subject::Pool(pool) => self.pool_keys(*pool, cells),
            Subject::Account(account) => keyed(&self.accounts, &account.0).into_iter().collect(),
            Subject::Sender(sender) => keyed(&self.ingress, &sender.encode()).into_iter().collect(),
        }
    }

    fn worker_keys(&self, worker: WorkerKey, cells: &Cells) -> Vec<Vec<u8>> {
        let items = [&self.registrations, &self.bindings, &self.assignments, &self.endpoints];
        let mut keys: Vec<_> = items.into_iter().filter_map(|item| keyed(item, &worker.0)).collect();
        // The next sequence that the chain accepts: gaps in a worker's messages show here.
        keys.extend(keyed(&self.ingress, &MessageOrigin::Worker(worker).encode()));
        // The session's key contains the account that the binding names, so it is known only afterwards.
        if let Ok(Some(session)) = self.binding(worker, cells) {
            keys.extend(keyed(&self.sessions, &session.0));
            keys.extend(keyed(&self.stakes, &session.0));
        }
        keys
    }

    fn pool_keys(&self, pool: PoolId, cells: &Cells) -> Vec<Vec<u8>> {
        let mut keys: Vec<_> = keyed(&self.pools, &pool.0.encode()).into_iter().collect();
        // The pool's account and its cooling workers are part of the pool's own value.
        let Ok(Some(proxy)) = self.pool_proxy(pool, cells) else { return keys };
        keys.extend(self.free_stake_key(&proxy).ok());
        if let PoolProxy::StakePool(stake_pool) = proxy {
            let cooling = stake_pool.cd_workers.iter().take(self.max_cooling_down);
            // The chain has no sum of the stakes that cool-downs will release.
            keys.extend(cooling.filter_map(|worker| self.session_stake_key(pool, *worker)));
        }
        keys
    }

    fn free_stake_key(&self, proxy: &PoolProxy) -> Result<Vec<u8>, Unreadable> {
        let (item, asset) = (usable(&self.asset_accounts)?, usable(&self.stake_asset)?);
        Ok(item.double_key(&asset.encode(), &proxy.basepool().pool_account_id))
    }

    fn session_stake_key(&self, pool: PoolId, worker: [u8; 32]) -> Option<Vec<u8>> {
        keyed(&self.stakes, &session_account(pool, WorkerKey(worker)).0)
    }

    fn binding(&self, worker: WorkerKey, cells: &Cells) -> Result<Option<AccountId>, Unreadable> {
        Ok(read::<[u8; 32]>(&self.bindings, &worker.0, cells)?.map(AccountId))
    }

    fn pool_proxy(&self, pool: PoolId, cells: &Cells) -> Result<Option<PoolProxy>, Unreadable> {
        read(&self.pools, &pool.0.encode(), cells)
    }

    pub(super) fn chain(&self, cells: &Cells) -> ChainValues {
        let mut unreadable = Vec::new();
        let time_ms = or_unreadable(read(&self.clock, &[], cells), &mut unreadable);
        let cool_down_period_secs = or_unreadable(read(&self.cool_down, &[], cells), &mut unreadable);
        let benchmark_blocks = or_unreadable(read(&self.benchmark, &[], cells), &mut unreadable);
        let max_pool_workers = or_unreadable(constant(&self.max_pool_workers), &mut unreadable);
        let withdrawal_grace_secs = or_unreadable(constant(&self.withdrawal_grace), &mut unreadable);
        let rules: Option<Tokenomics> = or_unreadable(read(&self.tokenomics, &[], cells), &mut unreadable);
        ChainValues {
            // Zero is never taken for a value: `unreadable` says that it could not be read.
            time_ms: time_ms.unwrap_or(0),
            cool_down_period_secs: cool_down_period_secs.unwrap_or(0),
            benchmark_blocks: benchmark_blocks.unwrap_or(0),
            max_pool_workers,
            withdrawal_grace_secs,
            stake_rules: rules.map(|r| StakeRules::new(r.k, r.v_max, r.re, r.rig_k, r.rig_b)),
            unreadable,
        }
    }

    pub(super) fn worker(&self, worker: WorkerKey, cells: &Cells) -> Reading<WorkerOnChain> {
        let mut shown = WorkerOnChain::default();
        shown.registration = read::<WorkerInfo>(&self.registrations, &worker.0, cells)?.map(Into::into);
        shown.pool = read(&self.assignments, &worker.0, cells)?.map(PoolId);
        shown.ingress_sequence =
            read(&self.ingress, &MessageOrigin::Worker(worker).encode(), cells)?.unwrap_or(0);
        if let Some(session) = self.binding(worker, cells)? {
            let stake = read(&self.stakes, &session.0, cells)?;
            let info: Option<SessionInfo> = read(&self.sessions, &session.0, cells)?;
            shown.session = info.map(|info| info.with(session, stake));
        }
        // Endpoints neither earn nor cost anything, so a failure to read them affects nothing else of the worker.
        match read(&self.endpoints, &worker.0, cells) {
            Ok(Some(Endpoints::V1(endpoints))) => shown.endpoints = endpoints,
            Ok(None) => {}
            Err(unreadable) => shown.endpoints_unreadable = Some(unreadable),
        }
        Ok(Arc::new(shown))
    }

    pub(super) fn pool(&self, pool: PoolId, cells: &Cells) -> Reading<Option<PoolOnChain>> {
        let Some(proxy) = self.pool_proxy(pool, cells)? else { return Ok(Arc::new(None)) };
        let free = cells.value(&self.free_stake_key(&proxy)?);
        let free: Option<AssetAccount> = value(usable(&self.asset_accounts)?, free)?;
        let base = proxy.basepool();
        let mut shown = PoolOnChain::default();
        shown.owner = AccountId(base.owner);
        shown.free_stake = free.map_or(0, |account| account.balance);
        shown.total_value = base.total_value;
        shown.withdrawals = base.withdrawals();
        match &proxy {
            PoolProxy::Vault(vault) => {
                shown.is_vault = true;
                shown.commission_millionths = vault.commission;
            }
            PoolProxy::StakePool(stake_pool) => {
                shown.cap = stake_pool.cap;
                shown.commission_millionths = stake_pool.payout_commission;
                shown.workers = stake_pool.workers.iter().copied().map(WorkerKey).collect();
                shown.cooling_down = stake_pool.cd_workers.iter().copied().map(WorkerKey).collect();
                shown.releasing_stake = self.releasing(pool, &shown.cooling_down, cells)?;
            }
        }
        Ok(Arc::new(Some(shown)))
    }

    fn releasing(&self, pool: PoolId, cooling: &[WorkerKey], cells: &Cells) -> Result<Balance, Unreadable> {
        let (count, limit) = (cooling.len(), self.max_cooling_down);
        // A partial sum would be shown as if it were the whole.
        if count > limit {
            let reason = format!(
                "{count} workers of pool {pool} are cooling down, but the reader follows at most {limit}"
            );
            return Err(Unreadable::new(reason));
        }
        cooling.iter().try_fold(0, |sum: Balance, worker| {
            let session = session_account(pool, *worker);
            let stake: Option<Balance> = read(&self.stakes, &session.0, cells)?;
            Ok(sum.saturating_add(stake.unwrap_or(0)))
        })
    }

    pub(super) fn account(&self, account: AccountId, cells: &Cells) -> Reading<AccountOnChain> {
        let mut shown = AccountOnChain::default();
        let info: Option<Value<()>> = read(&self.accounts, &account.0, cells)?;
        if let Some(info) = info {
            let Some(Balances { free, frozen }) = info.at("data").and_then(Balances::read) else {
                return Err(Unreadable::new("System::Account of the chain's runtime has no `free` balance"));
            };
            shown.free = free.saturating_sub(frozen);
        }
        Ok(Arc::new(shown))
    }

    pub(super) fn sender(&self, sender: &MessageOrigin, cells: &Cells) -> Reading<u64> {
        let next: Option<u64> = read(&self.ingress, &sender.encode(), cells)?;
        Ok(Arc::new(next.unwrap_or(0)))
    }
}

/// The key of a plain item.
fn plain(item: &Found) -> Option<Vec<u8>> {
    keyed(item, &[])
}

fn keyed(item: &Found, encoded: &[u8]) -> Option<Vec<u8>> {
    Some(item.as_ref().ok()?.key(encoded))
}

fn usable<T>(part: &Result<T, Error>) -> Result<&T, Unreadable> {
    part.as_ref().map_err(unreadable)
}

fn unreadable(error: &Error) -> Unreadable {
    Unreadable::new(error.to_string())
}

/// Decodes a value of a map, by its encoded key.
fn read<T: DecodeAsType>(item: &Found, encoded: &[u8], cells: &Cells) -> Result<Option<T>, Unreadable> {
    let item = usable(item)?;
    value(item, cells.value(&item.key(encoded)))
}

fn value<T: DecodeAsType>(item: &Item, bytes: Option<&[u8]>) -> Result<Option<T>, Unreadable> {
    item.read(bytes).map_err(|e| unreadable(&e))
}

fn constant<T: Copy>(constant: &Result<T, Error>) -> Result<Option<T>, Unreadable> {
    usable(constant).map(|value| Some(*value))
}

/// Returns the value; a failure is recorded in `unreadable`.
fn or_unreadable<T>(read: Result<Option<T>, Unreadable>, unreadable: &mut Vec<Unreadable>) -> Option<T> {
    read.unwrap_or_else(|why| {
        unreadable.push(why);
        None
    })
}
