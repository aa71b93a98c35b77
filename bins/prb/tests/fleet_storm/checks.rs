//! The expected state of every worker after the storm.

use std::{collections::BTreeMap, time::Duration};

use prb_core::{
    inventory::Goal,
    worker::{InFlight, State},
};
use prb_devnet::{
    runtime::{PHA, para::Operation, types::WorkerState},
    truth,
};

use crate::{
    chain::{free_stake, refusals},
    scene::{Entry, Observed, POOLS, Scene},
};

/// How long a command may wait for a machine that is away.
const COMMAND_WAITS: Duration = Duration::from_secs(30);
/// Maximum lag of a worker at the tip, in blocks.
const TIP: u32 = 3;

/// Lists the entries that are not in the state that their settings require.
pub(crate) fn misplaced(scene: &Scene) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting: BTreeMap<usize, Vec<u128>> = BTreeMap::new();
    let free: Vec<u128> =
        scene.net.devnet.pools().iter().map(|pool| free_stake(scene.net.devnet.para(), pool.pid)).collect();
    for (at, observed) in scene.observed() {
        let entry = &scene.entries[at];
        let mut wrong = faults(scene, at, entry, &observed);
        if wrong.is_empty() && wants_stake(entry, &observed) {
            waiting.entry(entry.pool).or_default().push(entry.stake);
        }
        if let (Some(stake), true) =
            (observed.truth.stake, runs(entry) && observed.saved.goal == Goal::Compute)
            && stake < entry.stake
            && free[entry.pool] >= entry.stake
        {
            wrong.push(format!("computes with {} of {} PHA", stake / PHA, entry.stake / PHA));
        }
        found.extend(
            wrong.into_iter().map(|wrong| format!("{}: {wrong}; {}", entry.name, shown(entry, &observed))),
        );
    }
    // Whatever the order is: the first worker's stake would fit.
    for (pool, stakes) in waiting {
        if stakes.iter().all(|stake| *stake <= free[pool]) {
            found.push(format!(
                "{} workers of pool {} wait, though it has {} PHA free",
                stakes.len(),
                scene.net.devnet.pools()[pool].pid,
                free[pool] / PHA
            ));
        }
    }
    found
}

/// Describes an entry's worker: what its manager shows, and what is true.
fn shown(entry: &Entry, observed: &Observed) -> String {
    let Observed { status, saved, truth, key, .. } = observed;
    format!(
        "shows {} {:?}, goal {:?}, sent {:?}, key {key} known {}, expected {:?}, {truth:?}",
        status.state,
        status.message,
        saved.goal,
        saved.sent,
        saved.key == Some(*key),
        entry.expected,
    )
}

/// Describes some entries' workers.
pub(crate) fn described(scene: &Scene, entries: &[usize]) -> Vec<String> {
    let observed = scene.observed().into_iter().filter(|(at, _)| entries.contains(at));
    observed
        .map(|(at, observed)| format!("{}: {}", scene.entries[at].name, shown(&scene.entries[at], &observed)))
        .collect()
}

/// Returns whether the entry's worker should run and calls should be sent for it.
fn runs(entry: &Entry) -> bool {
    entry.enabled && !entry.sync_only
}

fn is_confirmed(observed: &Observed) -> bool {
    observed.saved.key == Some(observed.key)
}

/// Returns whether it should compute and lacks only stake.
pub(crate) fn wants_stake(entry: &Entry, observed: &Observed) -> bool {
    runs(entry)
        && is_confirmed(observed)
        && observed.saved.goal == Goal::Compute
        && !observed.truth.session.is_some_and(WorkerState::is_computing)
}

fn faults(scene: &Scene, at: usize, entry: &Entry, observed: &Observed) -> Vec<String> {
    let Observed { status, saved, truth, key, .. } = observed;
    let mut wrong = Vec::new();
    let mut check = |holds: bool, what: &str| {
        if !holds {
            wrong.push(what.to_owned());
        }
    };
    if !entry.enabled {
        check(status.state == State::Idle, "is disabled and runs");
        return wrong;
    }
    let tip = scene.net.devnet.para().finalized_number();
    check(!status.message.contains("its on-chain state"), "waits for its on-chain state");
    check(status.public_key == Some(*key), "another public key is shown, or none");
    check(scene.handle(at).info().blocknum + TIP > tip, "is behind");
    check(!status.stalled, "is stalled");
    if entry.sync_only {
        return wrong;
    }
    let computing = truth.session.is_some_and(WorkerState::is_computing);
    check(saved.key.is_some(), "its key is not kept");
    if !is_confirmed(observed) {
        check(truth.stake.is_none(), "has stake, and its key is not confirmed");
        return wrong;
    }
    match saved.goal {
        // Whether its stake is available is checked with all others of its pool.
        Goal::Compute => {
            let ready = truth.registered && truth.pool == Some(scene.net.devnet.pools()[entry.pool].pid);
            check(ready, "is not in its pool");
            check(truth.session != Some(WorkerState::WorkerCoolingDown), "still cools down");
            check(truth.session != Some(WorkerState::WorkerUnresponsive), "is unresponsive");
            check(!computing || status.state == State::Active, "computes and is not shown so");
            check(computing || status.state != State::Active, "is shown as computing");
        }
        Goal::StayStopped => check(!computing, "computes and is to stay stopped"),
        Goal::LeavePool => {
            check(
                truth.pool.is_none() || truth.stake.is_some(),
                "has not left its pool, and nothing is locked",
            );
        }
        // A computing worker has nothing to reclaim yet.
        Goal::Reclaim => check(computing, "has not been reclaimed"),
        Goal::Stop => check(false, "has not been stopped"),
        _ => check(false, "has a goal that this test does not know"),
    }
    if let Some(expected) = entry.expected {
        let has_left = expected.goal == Goal::LeavePool && truth.pool.is_none() && truth.session.is_none();
        let reached = has_left && saved.goal == Goal::StayStopped;
        check(saved.goal == expected.goal || reached, "has another goal than expected");
        check(!expected.reclaimed || truth.stake.is_none(), "was to be reclaimed");
    }
    wrong
}

/// Lists keys that got stake while an earlier key of their entry had some, without an operator's
/// confirmation.
pub(crate) fn staked_twice(scene: &Scene) -> Vec<String> {
    let para = scene.net.devnet.para();
    let mut started: BTreeMap<[u8; 32], Vec<u32>> = BTreeMap::new();
    for (block, operation) in truth::operations(para).unwrap() {
        if let Operation::Started(worker) | Operation::Restarted(worker) = operation {
            started.entry(worker.0).or_default().push(block);
        }
    }
    let mut found = Vec::new();
    for (entry, machine) in scene.entries.iter().zip(&scene.machines) {
        for (n, (key, since)) in machine.keys.iter().enumerate().skip(1) {
            // A confirmation may have waited for a machine that was away.
            if entry.trusted.iter().any(|at| *at + COMMAND_WAITS >= *since) {
                continue;
            }
            let had_stake = |block: &&u32| {
                let earlier = machine.keys[..n].iter();
                earlier
                    .map(|(key, _)| truth::worker_at(para, **block, key.0).unwrap())
                    .any(|w| w.stake.is_some())
            };
            if let Some(block) = started.get(&key.0).into_iter().flatten().find(had_stake) {
                let earlier: Vec<_> =
                    machine.keys[..n].iter().map(|(key, _)| (key, started.get(&key.0))).collect();
                found.push(format!(
                    "{}: stake was locked for another key, {key}, in block {block}; earlier keys and their starts: \
                     {earlier:?}",
                    entry.name
                ));
            }
        }
    }
    found
}

/// Lists refused calls that fees were paid for more than once.
pub(crate) fn paid_again(scene: &Scene) -> Vec<String> {
    let name = |key: &[u8; 32]| {
        let mut all = scene.entries.iter().zip(&scene.machines);
        let of = all.find(|(_, machine)| machine.keys.iter().any(|(known, _)| known.0 == *key));
        of.map_or_else(|| "?".to_owned(), |(entry, _)| entry.name.clone())
    };
    let refusals = refusals(scene.net.devnet.para());
    eprintln!("{} refusals were paid for", refusals.values().sum::<u32>());
    let again = refusals.iter().filter(|(_, count)| **count > 1);
    again
        .map(|((call, key, error), count)| format!("{}: {call} failed {count} times: {error}", name(key)))
        .collect()
}

/// Finds a pool in which several workers wait for stake, nothing is on its way, and nobody else would take any;
/// returns the indexes of those workers, by name.
pub(crate) fn waiting_for_stake(scene: &Scene) -> Option<(usize, Vec<usize>)> {
    let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); POOLS];
    let mut unsuitable = [false; POOLS];
    for (at, observed) in scene.observed() {
        let entry = &scene.entries[at];
        let in_flight = observed.status.in_flight.is_some_and(|it| it.operation != InFlight::MESSAGES);
        unsuitable[entry.pool] |= in_flight || observed.truth.stake.is_some_and(|stake| stake < entry.stake);
        if wants_stake(entry, &observed) {
            waiting[entry.pool].push(at);
        }
    }
    let pools = waiting.into_iter().enumerate().filter(|(pool, _)| !unsuitable[*pool]);
    let (pool, mut workers) = pools.max_by_key(|(_, workers)| workers.len())?;
    workers.sort_by(|a, b| scene.entries[*a].name.cmp(&scene.entries[*b].name));
    (workers.len() > 1).then_some((pool, workers))
}
