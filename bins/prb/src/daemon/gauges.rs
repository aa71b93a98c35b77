//! What a daemon's view is as metrics, and what the metrics of all crates mean.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram, gauge};
use prb_core::{chain::ChainView, fleet::FleetStatus};

use crate::{
    ops::Reason,
    progress::{Shown, View},
    readiness,
};

const BUILD: &str = "prb_build_info";
const STARTED: &str = "process_start_time_seconds";
const READY: &str = "prb_ready";
const UNREADY: &str = "prb_unready_reason";
const HEIGHT: &str = "prb_height";
const JOBS: &str = "prb_jobs";
const PEERS: &str = "prb_usable_peers";
const UNRESPONSIVE: &str = "prb_workers_unresponsive";
const TROUBLE: &str = "prb_workers_in_trouble";
const LAG: &str = "prb_pool_lag_blocks";
const BALANCE: &str = "prb_operator_balance_pha";

/// The chain's smallest units in a PHA.
const PHA: f64 = 1e12;

const GAUGES: [(&str, &str); 14] = [
    (BUILD, "1, with the version that runs"),
    (STARTED, "When the process started, in seconds since the Unix epoch"),
    (READY, "1 where the daemon does its work as /readyz says, else 0"),
    (UNREADY, "1 where the daemon does not do its work for the reason of that code, else 0"),
    (HEIGHT, "Newest block by chain (relay, para) and kind (held: can be given; target: finalised)"),
    (JOBS, "Jobs of the trade queue that are not ended, by state"),
    (PEERS, "Connected peers of this chain and bridge identity; of a lifecycle manager, its data providers"),
    (UNRESPONSIVE, "Workers that compute and whose heartbeats the chain misses"),
    (TROUBLE, "Workers in S_ERROR, stalled or unresponsive"),
    (LAG, "Finalised parachain blocks that the slowest worker of the pool has not dispatched"),
    (BALANCE, "PHA that the account of an operator can pay fees from"),
    ("prb_chain_finalized", "Newest finalised block that a node has told, by chain"),
    ("prb_reader_block", "Parachain block of the newest view of the chain"),
    ("prb_rpc_node_lacks", "1 where a chain node lacks what is wanted of it, by chain, node and capability"),
];

const COUNTERS: [(&str, &str); 15] = [
    (
        "prb_blob_cache_forgotten_total",
        "Cached blobs that were forgotten because they turned out to be wrong, by kind",
    ),
    ("prb_blob_cache_total", "Requests to the blob cache, by kind and outcome"),
    ("prb_history_faults_total", "Failures of sources of past blocks, by part"),
    ("prb_ingest_failures_total", "Failures to fetch or verify blocks, by part"),
    ("prb_ingest_rechecks_total", "Ranges of storage changes fetched again from another node, by outcome"),
    (
        "prb_ingest_suspects_total",
        "Blocks whose storage changes a worker refused, by outcome: taken for a recheck, or full",
    ),
    ("prb_queue_redis_events_lost_total", "Lost connections to the queue's events"),
    ("prb_queue_redis_jobs_gone_total", "Submitted jobs that Redis does not know any more"),
    ("prb_reader_failures_total", "Failures to read the state on chain"),
    ("prb_reader_snapshots_total", "Views of the chain that were read whole, by the cause"),
    ("prb_reader_unreadable_values_total", "Values on chain that could not be read"),
    ("prb_rpc_calls_total", "Calls to chain nodes, by chain and method"),
    ("prb_rpc_connections_total", "Connections to chain nodes that were made, by chain and node"),
    (
        "prb_rpc_node_demotions_total",
        "Times that a chain node was put behind the others for a wrong answer, by chain and node",
    ),
    ("prb_rpc_round_trips_total", "Round trips to chain nodes, by chain; a batch is one"),
];

const HISTOGRAMS: [(&str, &str); 2] = [
    ("prb_blob_assembly_seconds", "Time to assemble a blob from the store, by kind"),
    ("prb_rpc_request_seconds", "Time of a request to a chain node, by chain"),
];

/// Sets what the view shows; knows which pools and accounts it has set before.
#[derive(Debug)]
pub(super) struct Gauges {
    pools: BTreeMap<u64, u32>,
    /// Codes that were a reason once.
    reasons: BTreeSet<&'static str>,
}

impl Gauges {
    /// Says what every metric means, and which version this is.
    pub(super) fn describe() -> Self {
        for (name, text) in GAUGES {
            describe_gauge!(name, text);
        }
        for (name, text) in COUNTERS {
            describe_counter!(name, text);
        }
        for (name, text) in HISTOGRAMS {
            describe_histogram!(name, Unit::Seconds, text);
        }
        gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1);
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        gauge!(STARTED).set(started.map_or(0.0, |time| time.as_secs_f64()));
        gauge!(READY).set(0);
        Self { pools: BTreeMap::new(), reasons: BTreeSet::new() }
    }

    /// Whether the daemon does its work, and what keeps it from that.
    pub(super) fn ready(&mut self, reasons: &[Reason]) {
        gauge!(READY).set(f64::from(u8::from(reasons.is_empty())));
        self.reasons.extend(reasons.iter().map(|reason| reason.code));
        for code in &self.reasons {
            let holds = reasons.iter().any(|reason| reason.code == *code);
            gauge!(UNREADY, "code" => *code).set(f64::from(u8::from(holds)));
        }
    }

    pub(super) fn set(&mut self, view: &View) {
        heights(view);
        match view.shown {
            Shown::Provider { peers: n } | Shown::Manager { providers: n } | Shown::Monitor { peers: n } => {
                gauge!(PEERS).set(n as f64);
            }
            Shown::Everything | Shown::Trader => {}
        }
        if matches!(view.shown, Shown::Provider { .. } | Shown::Monitor { .. }) {
            return;
        }
        let jobs = &view.jobs;
        for (state, count) in [("waiting", jobs.waiting), ("delayed", jobs.delayed), ("active", jobs.active)]
        {
            gauge!(JOBS, "state" => state).set(count as f64);
        }
        if view.shown != Shown::Trader {
            self.fleet(&view.fleet);
        }
        if let Some(chain) = &view.chain {
            balances(chain);
        }
    }

    fn fleet(&mut self, fleet: &FleetStatus) {
        let count = |fits: fn(&prb_core::worker::WorkerStatus) -> bool| {
            fleet.workers.iter().filter(|worker| fits(worker)).count() as f64
        };
        gauge!(UNRESPONSIVE).set(count(|worker| worker.is_unresponsive()));
        gauge!(TROUBLE).set(count(readiness::in_trouble));
        // A pool that is gone has no lag; its series would keep the last one.
        self.pools.values_mut().for_each(|lag| *lag = 0);
        for worker in fleet.workers.iter().filter(|worker| worker.runner.is_some()) {
            let lag = self.pools.entry(worker.worker.pid.0).or_default();
            *lag = (*lag).max(worker.lag.unwrap_or_default());
        }
        for (pool, lag) in &self.pools {
            gauge!(LAG, "pool" => pool.to_string()).set(*lag);
        }
    }
}

fn heights(view: &View) {
    let heights = &view.heights;
    for (chain, kind, height) in [
        ("relay", "held", heights.relay.map(|n| n.0)),
        ("relay", "target", heights.relay_target.map(|n| n.0)),
        ("para", "held", heights.para.map(|n| n.0)),
        ("para", "target", heights.para_target.map(|n| n.0)),
    ] {
        if let Some(height) = height {
            gauge!(HEIGHT, "chain" => chain, "kind" => kind).set(height);
        }
    }
}

/// What cannot be read keeps the value that it had.
fn balances(chain: &ChainView) {
    for (account, reading) in &chain.accounts {
        if let Ok(account_state) = reading {
            gauge!(BALANCE, "account" => account.to_string()).set(account_state.free as f64 / PHA);
        }
    }
}
