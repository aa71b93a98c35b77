//! Merges the details that a manager of this implementation reports into the views.

use std::{collections::HashMap, sync::Arc};

use prb_core::worker::Command;
use prb_walkie::{
    manage::detail::{PoolDetail, WorkerDetail},
    proto::{db, detail as wire},
};
use uuid::Uuid;

use super::values::{pool_view, worker_view};
use crate::{
    console::view::{FleetView, PoolView, Tip, WorkerView},
    entry_version,
};

/// A peer's fleet, and whether it supports all commands.
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
    if let Some(mut detail) = update.detail {
        // An older version reports neither.
        fleet.chain_nodes = detail.chain_nodes.take();
        fleet.providers = fleet.chain_nodes.is_some().then(|| detail.bounded_providers());
        takes_all = detail.known_commands().count() == Command::ALL.len();
        (fleet.chain_block, fleet.notes) = (detail.chain_block, detail.bounded_notes());
        fleet.jobs = detail.job_stats();
        fleet.takes_settings = detail.takes_settings;
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
        // An entry without a detail keeps what the original's message says.
        let Some(detail) = details.remove(&worker.id()) else { continue };
        let reported = WorkerDetail::from(detail);
        let entry = Arc::make_mut(&mut worker.entry);
        (entry.gatekeeper, entry.endpoints, entry.after_stop) =
            (reported.gatekeeper, reported.endpoints, reported.after_stop);
        (worker.reason, worker.message_at, worker.lag) =
            (reported.reason, Some(reported.since), reported.lag);
        (worker.goal, worker.stalled, worker.failures) =
            (reported.goal, Some(reported.stalled), Some(reported.failures));
        (worker.checkpoint, worker.info) = (reported.checkpoint, reported.info.map(Arc::new));
        worker.chain = reported.chain.map(Arc::new);
        (worker.key_change, worker.in_flight) = (reported.key_change, reported.in_flight);
    }
}

fn add_pool_details(pools: &mut [PoolView], details: Vec<wire::Pool>) {
    let mut details: HashMap<_, _> = details.into_iter().map(|detail| (detail.pid, detail)).collect();
    for pool in pools {
        let Some(detail) = details.remove(&pool.pid) else { continue };
        let reported = PoolDetail::from(detail);
        // The original's message, which the version was computed from, lacks this setting.
        pool.version =
            entry_version::of_bytes(format!("{} {:?}", pool.version, reported.after_stop).as_bytes());
        (pool.after_stop, pool.chain, pool.account) =
            (Some(reported.after_stop), reported.chain, reported.account);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use prb_core::worker::State;
    use prb_walkie::proto::{WorkerState, WorkerStatus};

    use super::*;

    fn state(n: u128) -> WorkerState {
        let uuid = Uuid::from_u128(n).to_string();
        let worker = db::Worker { uuid, name: format!("w{n}"), enabled: true, ..db::Worker::default() };
        WorkerState {
            status: WorkerStatus::Error.into(),
            para_block_dispatched_to: 90,
            worker: Some(worker),
            ..WorkerState::default()
        }
    }

    fn pool() -> db::Pool {
        db::Pool { uuid: Uuid::nil().to_string(), pid: 7, ..db::Pool::default() }
    }

    #[test]
    fn an_original_is_shown_with_the_fields_it_reports() {
        let update = wire::StatusUpdate { worker_states: vec![state(2), state(1)], detail: None };
        let tip = Tip { para_target: Some(100), ..Tip::default() };
        let Read { fleet, takes_all } = fleet_view(update, &[pool()], tip);
        assert!(!takes_all && fleet.jobs.is_none() && fleet.chain_block.is_none());
        assert!(!fleet.takes_settings);
        let names: Vec<_> = fleet.workers.iter().map(|worker| worker.entry.name.as_str()).collect();
        assert_eq!(names, ["w1", "w2"]);
        let worker = &fleet.workers[0];
        assert_eq!((worker.state, worker.lag, worker.reason), (State::Error, Some(10), None));
        assert_eq!((worker.stalled, worker.goal), (None, None));
        assert!(fleet.pools[0].after_stop.is_none() && fleet.pools[0].chain.is_none());
    }

    #[test]
    fn details_are_matched_to_their_workers() {
        let reported = |n: u128| wire::Worker {
            uuid: Uuid::from_u128(n).to_string(),
            reason: "unreachable".into(),
            lag: Some(3),
            stalled: n == 1,
            gatekeeper: true,
            ..wire::Worker::default()
        };
        let chain =
            wire::PoolOnChain { exists: true, free_stake: "5".into(), ..wire::PoolOnChain::default() };
        let detail = wire::Fleet {
            // A worker that is not in the list, a different order, and a missing worker.
            workers: vec![reported(9), reported(1)],
            pools: vec![wire::Pool { pid: 7, chain: Some(chain), ..wire::Pool::default() }],
            commands: Command::ALL.map(|command| command.to_string()).into(),
            takes_settings: true,
            ..wire::Fleet::default()
        };
        let update = wire::StatusUpdate { worker_states: vec![state(1), state(2)], detail: Some(detail) };
        let Read { fleet, takes_all } = fleet_view(update, &[pool()], Tip::default());
        assert!(takes_all && fleet.takes_settings);
        let (first, second) = (&fleet.workers[0], &fleet.workers[1]);
        assert_eq!((first.reason, first.lag, first.stalled), (Some("unreachable"), Some(3), Some(true)));
        assert!(first.entry.gatekeeper && second.reason.is_none() && second.stalled.is_none());
        assert_eq!(fleet.pools[0].on_chain().unwrap().free_stake, 5);
        assert_eq!(fleet.pools[0].after_stop, Some(None));
    }
}
