//! `/status` and `/providers`: the state of the daemon, and its data providers.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use axum::{Json, extract::State};
use prb_core::worker::WorkerStatus;
use prb_walkie::{
    node::{Membership, Peer},
    proto::{Role, provider_detail::Provider as Known},
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Api, problem::Problem, view};
use crate::{ops::Reason, readiness};

/// Maximum number of workers in trouble listed in the status.
const MAX_TROUBLED: usize = 20;

pub(super) fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(status)).routes(routes!(providers))
}

/// The state of the daemon.
#[derive(Serialize, ToSchema)]
struct Status {
    /// The program's version.
    #[schema(value_type = String)]
    version: &'static str,
    /// `all` or `lifecycle`.
    #[schema(value_type = String)]
    daemon: &'static str,
    at: String,
    /// Why the daemon is not ready, as in `/readyz` of its ops port; empty if it is.
    not_ready: Vec<NotReady>,
    /// Whether pools and workers can be edited here; otherwise they come from a file.
    editable: bool,
    pools: usize,
    workers: WorkerCounts,
    /// Up to 20 of the workers in trouble.
    troubled: Vec<TroubledWorker>,
    /// The newest blocks of both chains: available here, and known to the nodes.
    #[schema(value_type = Object)]
    heights: Value,
    /// The newest finalised parachain block whose state was read, and its time in ms since the Unix epoch.
    #[schema(value_type = Option<Object>)]
    chain: Option<Value>,
    /// Jobs by state; null if there is no queue or it does not answer.
    #[schema(value_type = Option<Object>)]
    jobs: Option<Value>,
    /// Number of connected data providers; null if this daemon reads the chains itself.
    providers: Option<usize>,
}

/// A reason why the daemon is not ready.
#[derive(Serialize, ToSchema)]
struct NotReady {
    /// A stable code of docs/readiness.md.
    #[schema(value_type = String)]
    code: &'static str,
    message: String,
    /// What to do.
    #[schema(value_type = String)]
    remedy: &'static str,
}

/// Workers by state and by reason.
#[derive(Serialize, ToSchema)]
struct WorkerCounts {
    total: usize,
    #[schema(value_type = Object)]
    by_state: BTreeMap<&'static str, usize>,
    #[schema(value_type = Object)]
    by_reason: BTreeMap<&'static str, usize>,
    stalled: usize,
    /// Workers that need attention, as `prb_workers_in_trouble` and `/readyz` count them.
    in_trouble: usize,
    /// The largest lag of a worker, in blocks.
    max_lag: Option<u32>,
    /// The total stake locked by sessions, in 10^-12 PHA.
    at_stake: String,
}

/// A worker that needs attention.
#[derive(Serialize, ToSchema)]
struct TroubledWorker {
    name: String,
    #[schema(value_type = String)]
    state: &'static str,
    #[schema(value_type = String)]
    reason: &'static str,
    message: String,
    /// What the trouble is: `unresponsive`, `stalled`, `overdue` (docs/worker-states.md), or the code of the reason.
    #[schema(value_type = String)]
    trouble: &'static str,
    stalled: bool,
    /// Whether the chain counts its session as unresponsive, which costs stake.
    unresponsive: bool,
}

/// Data providers discovered so far, of any chain.
#[derive(Serialize, ToSchema)]
struct Providers {
    providers: Vec<Provider>,
}

/// A data provider.
#[derive(Serialize, ToSchema)]
struct Provider {
    peer_id: String,
    hostname: String,
    address: Option<String>,
    chain_identity: String,
    bridge_identity: String,
    /// Whether it is connected and of this chain and bridge identity.
    usable: bool,
    /// `accepted`, or why it is not used: `own-chain-unknown`, `chain-unknown`, `other-chain` or `other-bridge`.
    #[schema(value_type = String)]
    standing: &'static str,
    connected: bool,
    last_seen: String,
    round_trip_ms: Option<u64>,
    /// Its provenance, how it was found or what it has proved: `discovered`, `trusted_network`, `same_machine`,
    /// `boot_node`, `named` or `shared_key`.
    provenance: String,
    /// The address of its blob server, if it is used.
    blob_server: Option<String>,
    /// Whether chain data is fetched from it: `ready`, `connecting`, `down`, `aside` (suspended) or `unused`.
    state: String,
    /// Why it is not used, if so.
    reason: Option<String>,
    /// Whether it is an original, which is asked with the original's keys.
    original: bool,
    /// The newest relay block that its batches can end at.
    relay: Option<u32>,
    /// Its newest parachain block.
    para: Option<u32>,
    latency_ms: Option<u64>,
    /// Number of answered requests, including those for missing blobs.
    answered: u64,
    /// Number of failed requests.
    failed: u64,
    /// Number of its answers that a worker refused.
    refused: u64,
}

/// Shows the state of the daemon.
#[utoipa::path(get, path = "/status", tag = "status", responses((status = 200, body = Status)))]
async fn status(State(api): State<Api>) -> Result<Json<Status>, Problem> {
    let workers = api.manager().status(&[])?;
    let jobs = match api.queue() {
        Some(queue) => {
            // A Redis that does not answer must not hold back the rest of the status.
            let stats = tokio::time::timeout(std::time::Duration::from_secs(2), queue.queue.stats()).await;
            stats.ok().and_then(Result::ok).map(|stats| json!(stats))
        }
        None => None,
    };
    let heights = api.heights().unwrap_or_default();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        daemon: api.daemon(),
        at: view::time(std::time::SystemTime::now()),
        not_ready: api.not_ready().into_iter().map(not_ready).collect(),
        editable: api.fleet_file().is_none(),
        pools: api.snapshot().pools.len(),
        workers: counts(&workers),
        troubled: troubled(&workers),
        heights: json!({
            "relay": heights.relay,
            "para": heights.para,
            "relay_target": heights.relay_target,
            "para_target": heights.para_target,
        }),
        chain: api.chain().map(|chain| json!({ "block": chain.block, "time_ms": chain.time_ms })),
        jobs,
        providers: api.peers().map(|peers| peers.usable(Role::DataProviderInt).count()),
    }))
}

fn not_ready(reason: Reason) -> NotReady {
    let Reason { code, message } = reason;
    NotReady { code, message, remedy: readiness::remedy(code) }
}

fn counts(workers: &[Arc<WorkerStatus>]) -> WorkerCounts {
    let (mut by_state, mut by_reason) = (BTreeMap::new(), BTreeMap::new());
    for worker in workers {
        *by_state.entry(worker.state.as_str()).or_default() += 1;
        *by_reason.entry(worker.reason.code()).or_default() += 1;
    }
    let at_stake: u128 =
        workers.iter().filter_map(|worker| worker.chain.as_ref()).map(|chain| chain.at_stake()).sum();
    WorkerCounts {
        total: workers.len(),
        by_state,
        by_reason,
        stalled: workers.iter().filter(|worker| worker.stalled).count(),
        in_trouble: workers.iter().filter(|worker| readiness::in_trouble(worker)).count(),
        max_lag: workers.iter().filter_map(|worker| worker.lag).max(),
        at_stake: at_stake.to_string(),
    }
}

fn troubled(workers: &[Arc<WorkerStatus>]) -> Vec<TroubledWorker> {
    let shown = |worker: &Arc<WorkerStatus>| {
        Some(TroubledWorker {
            name: worker.worker.name.clone(),
            state: worker.state.as_str(),
            reason: worker.reason.code(),
            message: worker.message.to_string(),
            trouble: readiness::trouble(worker)?,
            stalled: worker.stalled,
            unresponsive: worker.is_unresponsive(),
        })
    };
    workers.iter().filter_map(shown).take(MAX_TROUBLED).collect()
}

/// Lists the discovered data providers. Empty if this daemon reads the chains itself.
#[utoipa::path(get, path = "/providers", tag = "status", responses((status = 200, body = Providers)))]
async fn providers(State(api): State<Api>) -> Json<Providers> {
    let peers = api.peers().unwrap_or_default();
    let roles = [Role::DataProviderInt, Role::DataProviderExt];
    let mut known: HashMap<String, Known> =
        api.providers().into_iter().map(|known| (known.peer_id.clone(), known)).collect();
    let of = |peer: &Arc<Peer>| provider(peer, known.remove(&peer.peer_id.to_string()).unwrap_or_default());
    let providers = peers.iter().filter(|peer| roles.contains(&peer.role)).map(of).collect();
    Json(Providers { providers })
}

fn provider(peer: &Peer, known: Known) -> Provider {
    // Empty: the table of data providers has no row for this peer.
    let is_used = known.state != "unused" && !known.state.is_empty();
    Provider {
        peer_id: peer.peer_id.to_string(),
        hostname: peer.hostname.clone(),
        address: peer.address.as_ref().map(ToString::to_string),
        chain_identity: peer.chain_identity.clone(),
        bridge_identity: peer.bridge_identity.clone(),
        usable: peer.is_usable(),
        standing: match peer.membership {
            Membership::Accepted => "accepted",
            Membership::OwnChainUnknown => "own-chain-unknown",
            Membership::ChainUnknown => "chain-unknown",
            Membership::OtherChain => "other-chain",
            Membership::OtherBridge => "other-bridge",
            _ => "other",
        },
        connected: peer.connected,
        last_seen: view::time(peer.last_seen),
        round_trip_ms: peer.round_trip.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        provenance: peer.provenance.as_str().to_owned(),
        blob_server: is_used.then_some(known.address),
        state: known.state,
        reason: Some(known.reason).filter(|reason| !reason.is_empty()),
        original: known.original,
        relay: known.relay,
        para: known.para,
        latency_ms: known.latency_ms,
        answered: known.answered,
        failed: known.failed,
        refused: known.refused,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use prb_core::{
        inventory::Worker,
        primitives::PoolId,
        worker::{Desired, Reason as WorkerReason, State as WorkerState},
    };

    use super::*;

    #[test]
    fn workers_in_trouble_are_those_that_readiness_counts() {
        let worker = |name: &str, state, reason: WorkerReason, stalled| {
            let worker = Worker::new(uuid::Uuid::nil(), PoolId(1), name, "http://w", 1);
            let desired = Desired { worker: worker.into(), pool: None };
            let mut status = WorkerStatus::idle(&desired, reason, SystemTime::now());
            (status.state, status.stalled) = (state, stalled);
            Arc::new(status)
        };
        let workers = [
            worker("well", WorkerState::Active, WorkerReason::Computing, false),
            worker("unscored", WorkerState::PreActive, WorkerReason::ScoreOverdue, false),
            worker("stalled", WorkerState::Active, WorkerReason::Computing, true),
            worker("broken", WorkerState::Error, WorkerReason::Kicked, false),
        ];
        let names: Vec<_> = troubled(&workers).into_iter().map(|worker| worker.name).collect();
        assert_eq!(names, ["unscored", "stalled", "broken"]);
        assert_eq!(counts(&workers).in_trouble, names.len());
    }
}
