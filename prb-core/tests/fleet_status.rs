//! What a worker's status says of its keys and of what it has under way. On parts in memory, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use prb_core::{
    fleet::Command,
    inventory::Inventory,
    prpc::Method,
    pruntime::scripted::ScriptedWorker,
    queue::JobQueue,
    worker::{InFlight, Stage, State},
};

#[path = "fleet_rig/rig.rs"]
mod rig;
use rig::{BLOCK, POOL, Rig, account};

async fn computing(workers: usize) -> Rig {
    let mut rig = Rig::new(workers, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    rig
}

#[tokio::test(start_paused = true)]
async fn the_last_change_of_keys_is_known_and_outlives_restarts() {
    let mut rig = computing(2).await;
    for index in 0..2 {
        let seen = rig.status(index).saved.seen_keys.unwrap();
        assert_eq!((seen.key, seen.changed), (rig.key(index), None));
    }
    let block = rig.status(0).position.unwrap().dispatched_to().unwrap();
    let other = ScriptedWorker::new(777);
    rig.adopt(&other);
    rig.connect.add("http://another", other.clone());
    rig.edit_worker(0, |worker| worker.endpoint = "http://another".into()).await;
    rig.until_worker(0, "the new key", |w| w.reason.code() == "key-changed").await;

    // Before anybody has confirmed it.
    let seen = rig.status(0).saved.seen_keys.unwrap();
    let changed = seen.changed.expect("a change");
    assert_eq!(seen.key, other.key());
    assert!(changed.at_ms > 1_600_000_000_000 && changed.block.is_some_and(|at| at >= block), "{changed:?}");
    let stored = rig.inventory.snapshots().borrow().saved(rig.ids[0]);
    assert_eq!(stored.seen_keys, Some(seen));
    assert_eq!(rig.status(1).saved.seen_keys.unwrap().changed, None);

    // After a restart, and once it is confirmed, it is the same change.
    tokio::time::sleep(BLOCK * 10).await;
    rig.fleet().stop().await;
    rig.start();
    rig.until_worker(0, "the new key", |w| w.reason.code() == "key-changed").await;
    assert_eq!(rig.status(0).saved.seen_keys, Some(seen));
    rig.fleet().command(rig.ids[0], Command::ConfirmKey).unwrap();
    rig.until_all(State::Active).await;
    assert_eq!(rig.status(0).saved.seen_keys, Some(seen));
}

#[tokio::test(start_paused = true)]
async fn operations_in_flight_are_shown_with_their_jobs() {
    let rig = computing(1).await;
    rig.until_worker(0, "nothing under way", |w| w.in_flight.is_none()).await;
    // The trader hangs with what it is given.
    rig.chain.hang(account(POOL), true);
    rig.fleet().command(rig.ids[0], Command::Stop).unwrap();
    rig.until_worker(0, "the stop", |w| w.in_flight.is_some_and(|of| of.stage == Stage::Queued)).await;
    let InFlight { operation, job, since, .. } = rig.status(0).in_flight.unwrap();
    assert_eq!(operation, "stop");
    assert!(job.is_some());
    tokio::time::sleep(BLOCK * 5).await;
    assert_eq!(rig.status(0).in_flight.unwrap().since, since, "it is the same stage");
    rig.chain.hang(account(POOL), false);
    rig.until_worker(0, "the end of the stop", |w| w.in_flight.is_none()).await;
    assert_eq!(rig.queue.stats().await.unwrap().active, 0);
}

#[tokio::test(start_paused = true)]
async fn an_attestation_is_shown_while_it_is_made() {
    let rig = computing(1).await;
    rig.workers[0].set_latency(Method::GetRuntimeInfo, BLOCK);
    rig.fleet().command(rig.ids[0], Command::RegisterAgain).unwrap();
    rig.until_worker(0, "the attestation", |w| w.in_flight.is_some()).await;
    let in_flight = rig.status(0).in_flight.unwrap();
    assert_eq!((in_flight.operation, in_flight.stage, in_flight.job), ("register", Stage::Preparing, None));
    rig.until_worker(0, "the job", |w| w.in_flight.is_some_and(|of| of.stage == Stage::Queued)).await;
    rig.until_worker(0, "the registration's end", |w| w.in_flight.is_none()).await;
}
