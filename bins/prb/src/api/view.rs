//! Pools and workers in answers. None of them contains a key, sealed or not.

use std::{collections::HashMap, time::SystemTime};

use prb_core::{
    chain::{ChainView, PoolOnChain, Session, WorkerOnChain},
    inventory::{Pool, Snapshot, Worker},
    primitives::{AccountId, PHALA_SS58_PREFIX},
    worker::{Event, EventKind, InFlight, WorkerStatus},
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::entry_version;

/// A worker's entry.
#[derive(Serialize, ToSchema)]
pub(super) struct WorkerEntry {
    id: Uuid,
    /// Changes with every edit of the entry; the entity tag of its address.
    version: String,
    name: String,
    pid: u64,
    endpoint: String,
    /// In 10^-12 PHA.
    stake: String,
    enabled: bool,
    sync_only: bool,
    gatekeeper: bool,
    endpoints: Vec<String>,
    after_stop: Option<&'static str>,
}

/// A worker's entry and its status.
#[derive(Serialize, ToSchema)]
pub(super) struct WorkerSummary {
    #[serde(flatten)]
    entry: WorkerEntry,
    /// Its state, such as `S_ACTIVE`.
    state: &'static str,
    /// The reason of its state: a code of docs/worker-states.md.
    #[schema(value_type = String)]
    reason: &'static str,
    /// The reason as text.
    message: String,
    /// When the state began, RFC 3339.
    message_at: String,
    /// Number of finalised parachain blocks that it has not dispatched.
    lag: Option<u32>,
    /// Whether it makes no progress although more blocks are available.
    stalled: bool,
    /// Number of consecutive failures to reach or sync it.
    failures: u32,
    /// The next relay header, parachain header and parachain block that it needs.
    #[schema(value_type = Option<Object>)]
    position: Option<prb_core::sync::Position>,
    public_key: Option<String>,
    /// Its goal.
    #[schema(value_type = String)]
    goal: prb_core::inventory::Goal,
    /// The state of its computing session on chain.
    #[schema(value_type = Option<String>)]
    session: Option<prb_core::chain::SessionState>,
    pruntime_version: Option<String>,
    /// When its key last changed, RFC 3339, and the newest parachain block at that time; null if no change was
    /// observed.
    #[schema(value_type = Option<Object>)]
    key_change: Option<Value>,
    /// The operation in flight to the chain, or `messages`: its stage (`preparing`, `submitting`, `queued`), since
    /// when, and its job once the queue has it.
    #[schema(value_type = Option<Object>)]
    in_flight: Option<Value>,
}

/// All known details of a worker.
#[derive(Serialize, ToSchema)]
pub(super) struct WorkerDetail {
    #[serde(flatten)]
    summary: WorkerSummary,
    runner: Option<usize>,
    /// What is persisted about it: goal, last key, whether it was computing.
    #[schema(value_type = Object)]
    saved: prb_core::inventory::FleetRecord,
    /// The last requested checkpoint: when, and the block or the error.
    #[schema(value_type = Option<Object>)]
    checkpoint: Option<Value>,
    /// Its key's on-chain state: registration, pool, session, endpoints.
    #[schema(value_type = Option<Object>)]
    on_chain: Option<Value>,
    /// pRuntime's last answer to GetInfo.
    #[schema(value_type = Option<Object>)]
    pruntime: Option<Value>,
}

/// A pool's entry.
#[derive(Serialize, ToSchema)]
pub(super) struct PoolEntry {
    id: Uuid,
    /// Changes with every edit of the entry; the entity tag of its address.
    version: String,
    pid: u64,
    name: String,
    enabled: bool,
    sync_only: bool,
    /// The operator's account, as Phala's SS58 address.
    operator: Option<String>,
    /// The account that owns the pool, if the operator is its proxy.
    proxied: Option<String>,
    after_stop: Option<&'static str>,
    /// How many workers of the inventory belong to it.
    workers: usize,
    /// Its on-chain state, as far as it is known: owner, stake, withdrawals, the operator's balance.
    #[schema(value_type = Option<Object>)]
    on_chain: Option<Value>,
}

impl WorkerEntry {
    pub(super) fn of(worker: &Worker) -> Self {
        Self {
            id: worker.id,
            version: entry_version::of_worker(worker),
            name: worker.name.clone(),
            pid: worker.pid.0,
            endpoint: worker.endpoint.clone(),
            stake: worker.stake.to_string(),
            enabled: worker.enabled,
            sync_only: worker.sync_only,
            gatekeeper: worker.gatekeeper,
            endpoints: worker.endpoints.clone(),
            after_stop: worker.after_stop.map(prb_core::inventory::AfterExternalStop::as_str),
        }
    }
}

impl WorkerSummary {
    pub(super) fn of(status: &WorkerStatus) -> Self {
        Self {
            entry: WorkerEntry::of(&status.worker),
            state: status.state.as_str(),
            reason: status.reason.code(),
            message: status.message.to_string(),
            message_at: time(status.message_at),
            lag: status.lag,
            stalled: status.stalled,
            failures: status.failures,
            position: status.position,
            public_key: status.public_key.map(|key| key.to_string()),
            goal: status.saved.goal,
            session: status.session_state(),
            pruntime_version: status.info.as_ref().map(|info| info.version.clone()),
            key_change: status
                .key_change()
                .map(|change| json!({ "at": time(change.at()), "block": change.block })),
            in_flight: status.in_flight.as_ref().map(in_flight),
        }
    }
}

fn in_flight(of: &InFlight) -> Value {
    json!({ "operation": of.operation, "stage": of.stage.as_str(), "since": time(of.since), "job": of.job })
}

impl WorkerDetail {
    pub(super) fn of(status: &WorkerStatus) -> Self {
        let checkpoint = status.checkpoint.as_ref().map(|last| match &last.result {
            Ok(block) => json!({ "at": time(last.at), "block": block }),
            Err(error) => json!({ "at": time(last.at), "error": error.as_ref() }),
        });
        Self {
            summary: WorkerSummary::of(status),
            runner: status.runner,
            saved: status.saved,
            checkpoint,
            on_chain: status.chain.as_deref().map(on_chain),
            pruntime: status.info.as_deref().and_then(|info| serde_json::to_value(info).ok()),
        }
    }
}

impl PoolEntry {
    /// `workers` are the numbers of workers by pool.
    pub(super) fn of(pool: &Pool, workers: &HashMap<u64, usize>, chain: Option<&ChainView>) -> Self {
        let operator = pool.operator.as_ref().map(|operator| operator.account);
        Self {
            id: pool.id,
            version: entry_version::of_pool(pool),
            pid: pool.pid.0,
            name: pool.name.clone(),
            enabled: pool.enabled,
            sync_only: pool.sync_only,
            operator: operator.map(address),
            proxied: pool.proxied.map(address),
            after_stop: pool.after_stop.map(prb_core::inventory::AfterExternalStop::as_str),
            workers: workers.get(&pool.pid.0).copied().unwrap_or_default(),
            on_chain: chain.and_then(|chain| pool_on_chain(pool, chain)),
        }
    }
}

/// Counts the workers of each pool.
pub(super) fn worker_counts(snapshot: &Snapshot) -> HashMap<u64, usize> {
    let mut counts = HashMap::new();
    for worker in &snapshot.workers {
        *counts.entry(worker.pid.0).or_default() += 1;
    }
    counts
}

pub(super) fn address(account: AccountId) -> String {
    account.to_ss58(PHALA_SS58_PREFIX)
}

/// Formats a time as RFC 3339, with milliseconds.
pub(super) fn time(at: SystemTime) -> String {
    let stamp = jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    stamp.round(jiff::Unit::Millisecond).unwrap_or(stamp).to_string()
}

fn on_chain(state: &WorkerOnChain) -> Value {
    let registration = state.registration.as_ref().map(|registration| {
        json!({
            "operator": registration.operator.map(address),
            "confidence_level": registration.confidence_level,
            "initial_score": registration.initial_score,
            "features": registration.features,
            "runtime_version": registration.runtime_version,
            "last_updated": registration.last_updated,
            "attestation_provider": registration.attestation_provider.as_ref().map(|p| format!("{p:?}")),
        })
    });
    json!({
        "registration": registration,
        "pool": state.pool,
        "session": state.session.as_ref().map(session),
        "ingress_sequence": state.ingress_sequence,
        "endpoints": state.endpoints,
        "endpoints_unreadable": state.endpoints_unreadable.as_ref().map(ToString::to_string),
    })
}

/// Amounts and U64F64 bits are strings: JSON's numbers are too small for them.
fn session(session: &Session) -> Value {
    json!({
        "account": address(session.account),
        "state": session.state,
        "v_bits": session.v.to_string(),
        "ve_bits": session.ve.to_string(),
        "v_updated_at": session.v_updated_at,
        "p_init": session.p_init,
        "p_instant": session.p_instant,
        "iterations": session.iterations,
        "working_start_time": session.working_start_time,
        "challenge_time_last": session.challenge_time_last,
        "cool_down_start": session.cool_down_start,
        "total_reward": session.total_reward.to_string(),
        "stake": session.stake.map(|stake| stake.to_string()),
    })
}

fn pool_on_chain(pool: &Pool, chain: &ChainView) -> Option<Value> {
    let balance = pool.operator.as_ref().and_then(|operator| chain.accounts.get(&operator.account));
    let balance = balance.and_then(|reading| reading.as_ref().ok()).map(|account| account.free.to_string());
    let mut shown = match chain.pools.get(&pool.pid)? {
        Err(error) => json!({ "unreadable": error.to_string() }),
        Ok(state) => match state.as_ref() {
            None => json!({ "missing": true }),
            Some(state) => known_pool(state, chain),
        },
    };
    shown["operator_balance"] = json!(balance);
    shown["block"] = json!(chain.block);
    Some(shown)
}

fn known_pool(state: &PoolOnChain, chain: &ChainView) -> Value {
    json!({
        "owner": address(state.owner),
        "is_vault": state.is_vault,
        "free_stake": state.free_stake.to_string(),
        "releasing_stake": state.releasing_stake.to_string(),
        "total_value": state.total_value.to_string(),
        "cap": state.cap.map(|cap| cap.to_string()),
        "commission_millionths": state.commission_millionths,
        "workers": state.workers.len(),
        "cooling_down": state.cooling_down.len(),
        "is_full": state.is_full(chain.max_pool_workers),
        "withdrawals": state.withdrawals.len(),
        "forced_to_stop_at": state.forced_to_stop_at(chain.withdrawal_grace_secs),
    })
}

/// Returns an event with its fields.
pub(super) fn event(event: &Event) -> Value {
    let (kind, fields) = match &event.kind {
        EventKind::State { before, after, reason, message } => (
            "state",
            json!({ "before": before, "after": after, "reason": reason, "message": message.as_ref() }),
        ),
        EventKind::Commanded(command) => ("commanded", json!({ "command": command.as_str() })),
        EventKind::Edited => ("edited", json!({})),
        EventKind::Initialised => ("initialised", json!({})),
        EventKind::LostState => ("lost-state", json!({})),
        EventKind::KeyChanged { last, now } => ("key-changed", json!({ "last": last, "now": now })),
        EventKind::Goal { before, after } => ("goal", json!({ "before": before, "after": after })),
        EventKind::OperationSent { operation } => ("operation-sent", json!({ "operation": operation })),
        EventKind::OperationWithdrawn { operation } => {
            ("operation-withdrawn", json!({ "operation": operation }))
        }
        EventKind::OperationDone { operation, block, extrinsic } => {
            ("operation-done", json!({ "operation": operation, "block": block, "extrinsic": extrinsic }))
        }
        EventKind::OperationFailed { operation, error } => {
            ("operation-failed", json!({ "operation": operation, "error": error.as_ref() }))
        }
        EventKind::Checkpoint(Ok(block)) => ("checkpoint", json!({ "block": block })),
        EventKind::Checkpoint(Err(error)) => ("checkpoint", json!({ "error": error.as_ref() })),
        EventKind::Stalled => ("stalled", json!({})),
        EventKind::Panicked { text } => ("panicked", json!({ "text": text.as_ref() })),
        // `EventKind` is non-exhaustive.
        other => ("other", json!({ "text": format!("{other:?}") })),
    };
    // After the fields, so that no kind can replace these three.
    let mut shown = fields;
    shown["number"] = json!(event.number);
    shown["at"] = json!(time(event.at));
    shown["kind"] = json!(kind);
    shown
}
