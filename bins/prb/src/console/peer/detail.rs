//! What a manager of this implementation tells beyond the original's fields, put into the views.

use std::{collections::HashMap, sync::Arc};

use prb_core::worker::Command;
use prb_walkie::{
    manage::detail::{ToldPool, ToldWorker},
    proto::{db, detail as wire},
};
use uuid::Uuid;

use super::{pool_view, worker_view};
use crate::console::view::{FleetView, PoolView, Tip, WorkerView};

/// A peer's fleet, and whether it takes every command.
pub(super) struct Read {
    pub(super) fleet: FleetView,
    pub(super) takes_all: bool,
}

pub(super) fn fleet_view(update: wire::StatusUpdate, pools: &[db::Pool], tip: Tip) -> Read {
    let states = update.worker_states;
    let known = |state| worker_view(state, tip.para_target);
    let mut workers: Vec<_> = states.into_iter().filter_map(known).collect();
    let mut pools: Vec<_> = pools.iter().filter_map(pool_view).collect();
    let mut fleet = FleetView { tip, ..FleetView::default() };
    let mut takes_all = false;
    if let Some(detail) = update.detail {
        takes_all = detail.known_commands().count() == Command::ALL.len();
        (fleet.chain_block, fleet.notes) = (detail.chain_block, detail.bounded_notes());
        fleet.jobs = detail.job_stats();
        add_worker_details(&mut workers, detail.workers);
        add_pool_details(&mut pools, detail.pools);
    }
    workers.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
    pools.sort_by_key(|pool| pool.pid);
    (fleet.workers, fleet.pools) = (workers, pools);
    Read { fleet, takes_all }
}

fn add_worker_details(workers: &mut [WorkerView], details: Vec<wire::Worker>) {
    let id = |detail: &wire::Worker| detail.uuid.parse::<Uuid>().ok();
    let mut details: HashMap<_, _> =
        details.into_iter().filter_map(|detail| Some((id(&detail)?, detail))).collect();
    for worker in workers {
        let Some(detail) = details.remove(&worker.id()) else { continue };
        let told = ToldWorker::from(detail);
        let entry = Arc::make_mut(&mut worker.entry);
        (entry.gatekeeper, entry.endpoints, entry.after_stop) =
            (told.gatekeeper, told.endpoints, told.after_stop);
        (worker.reason, worker.message_at, worker.lag) = (told.reason, Some(told.since), told.lag);
        (worker.goal, worker.stalled, worker.failures) = (told.goal, Some(told.stalled), Some(told.failures));
        (worker.checkpoint, worker.info) = (told.checkpoint, told.info.map(Arc::new));
        worker.chain = told.chain.map(Arc::new);
    }
}

fn add_pool_details(pools: &mut [PoolView], details: Vec<wire::Pool>) {
    let mut details: HashMap<_, _> = details.into_iter().map(|detail| (detail.pid, detail)).collect();
    for pool in pools {
        let Some(detail) = details.remove(&pool.pid) else { continue };
        let told = ToldPool::from(detail);
        (pool.after_stop, pool.chain, pool.account) = (Some(told.after_stop), told.chain, told.account);
    }
}
