//! A daemon's view as metrics. The library crates describe metrics of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use metrics::{describe_gauge, gauge};
use prb_core::{chain::ChainView, fleet::FleetStatus, worker::Stage};

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
const OLDEST_JOB: &str = "prb_worker_oldest_job_seconds";
const LAG: &str = "prb_pool_lag_blocks";
const BALANCE: &str = "prb_operator_balance_pha";

/// The chain's smallest units in one PHA.
const PHA: f64 = 1e12;

const GAUGES: [(&str, &str); 12] = [
    (BUILD, "1, with the version that runs"),
    (STARTED, "When the process started, in seconds since the Unix epoch"),
    (READY, "1 if the daemon is ready according to /readyz, otherwise 0"),
    (UNREADY, "1 if the daemon is not ready for the reason with that code, otherwise 0"),
    (HEIGHT, "Newest block by chain (relay, para) and kind (held: can be served; target: finalised)"),
    (JOBS, "Jobs of the trade queue that are not ended, by state"),
    (
        PEERS,
        "Connected peers of this chain and bridge identity; of a lifecycle manager, its data providers; of a monitor, \
         all peers",
    ),
    (UNRESPONSIVE, "Computing workers whose heartbeats the chain misses"),
    (
        TROUBLE,
        "Workers in S_ERROR, stalled or unresponsive, with an overdue score, or with an operation or messages in flight, or \
         failing messages, for ten minutes",
    ),
    (
        OLDEST_JOB,
        "Time since the oldest operation or message of a worker that is not on chain yet was submitted",
    ),
    (LAG, "Finalised parachain blocks that the slowest worker of the pool has not executed yet"),
    (BALANCE, "PHA that the account of an operator can pay fees from"),
];

/// Sets gauges from views; remembers pools and accounts whose gauges were set before.
#[derive(Debug)]
pub(super) struct Gauges {
    pools: BTreeMap<u64, u32>,
    /// Codes that have been a reason before.
    reasons: BTreeSet<&'static str>,
}

impl Gauges {
    /// Registers the descriptions of these metrics, and the version.
    pub(super) fn describe() -> Self {
        for (name, text) in GAUGES {
            describe_gauge!(name, text);
        }
        gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1);
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        gauge!(STARTED).set(started.map_or(0.0, |time| time.as_secs_f64()));
        // From the start: otherwise a daemon that takes long to start has no such series.
        gauge!(READY).set(0);
        Self { pools: BTreeMap::new(), reasons: BTreeSet::new() }
    }

    /// Sets whether the daemon is ready, and the reasons if not.
    pub(super) fn ready(&mut self, reasons: &[Reason]) {
        gauge!(READY).set(f64::from(u8::from(reasons.is_empty())));
        self.reasons.extend(reasons.iter().map(|reason| reason.code));
        // A code that does not apply any more is set to 0: its series would keep the value 1 otherwise.
        for code in &self.reasons {
            let applies = reasons.iter().any(|reason| reason.code == *code);
            gauge!(UNREADY, "code" => *code).set(f64::from(u8::from(applies)));
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
        // These have neither a queue nor workers: a 0 would be read as an empty queue.
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
        gauge!(OLDEST_JOB).set(oldest_job(fleet).as_secs_f64());
        // A removed pool's series would keep its last value, so it is set to 0.
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

/// How long the oldest job of the fleet's workers has been on its way to the chain.
fn oldest_job(fleet: &FleetStatus) -> Duration {
    let jobs = fleet.workers.iter().filter_map(|worker| worker.in_flight.as_ref());
    let sent = jobs.filter(|job| job.stage != Stage::Preparing);
    // Zero for a time that a corrected clock has put into the future.
    sent.map(|job| job.since.elapsed().unwrap_or_default()).max().unwrap_or_default()
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

/// Balances that cannot be read keep their previous value.
fn balances(chain: &ChainView) {
    for (account, reading) in &chain.accounts {
        if let Ok(account_state) = reading {
            gauge!(BALANCE, "account" => account.address()).set(account_state.free as f64 / PHA);
        }
    }
}
