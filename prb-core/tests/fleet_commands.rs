//! Commands that come while what was sent before them is on its way. On parts in memory, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use prb_core::{
    chain::{Call, memory as chain_memory},
    fleet::Command,
    inventory::{Edit, Goal, Inventory},
    worker::{State, WorkerStatus},
};

#[path = "fleet_rig/rig.rs"]
mod rig;
use rig::{BLOCK, Rig};

const HOUR: Duration = Duration::from_secs(3600);

async fn computing() -> Rig {
    let config = chain_memory::Config::default().with_cool_down_secs(600);
    let mut rig = Rig::with(config, 1, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    rig
}

fn tell(rig: &Rig, command: Command) -> String {
    rig.fleet().command(rig.ids[0], command).unwrap()
}

fn starts(rig: &Rig) -> usize {
    rig.chain.events().iter().filter(|event| matches!(event.call, Call::StartComputing { .. })).count()
}

async fn until_reason(rig: &Rig, code: &str) {
    rig.until_worker(0, code, |w| w.reason.code() == code).await;
}

fn computes(status: &WorkerStatus) -> bool {
    status.session_state().is_some_and(|state| state.is_computing())
}

/// Tells it to stop, and waits until that cannot be taken back.
async fn stop_on_its_way(rig: &Rig) {
    tell(rig, Command::Stop);
    until_reason(rig, "stopping").await;
    tokio::time::sleep(BLOCK / 4).await;
    assert!(computes(&rig.status(0)));
}

#[tokio::test(start_paused = true)]
async fn start_after_a_sent_stop_starts_it_again() {
    let rig = computing().await;
    stop_on_its_way(&rig).await;
    let answer = tell(&rig, Command::Start);
    assert!(answer.contains("starts again after the cool-down"), "{answer}");
    rig.until_worker(0, "cooling down", |w| {
        w.message.contains("minutes left; then its stake is reclaimed and it starts again")
    })
    .await;
    rig.until_all(State::Active).await;
    assert_eq!((starts(&rig), rig.status(0).saved.goal), (2, Goal::Compute));
}

#[tokio::test(start_paused = true)]
async fn stop_included_during_an_outage_counts_as_own() {
    let rig = computing().await;
    stop_on_its_way(&rig).await;
    tell(&rig, Command::Start);
    // It moves to another address, and does not answer there yet.
    rig.workers[0].set_down(true);
    rig.connect.add("http://elsewhere", rig.workers[0].clone());
    rig.edit_worker(0, |w| w.endpoint = "http://elsewhere".into()).await;
    tokio::time::sleep(BLOCK * 20).await;
    rig.workers[0].set_down(false);
    rig.until_all(State::Active).await;
    assert_eq!((starts(&rig), rig.status(0).saved.goal), (2, Goal::Compute));
}

/// As when the entry is commented out for a while, or the fleet file is truncated.
#[tokio::test(start_paused = true)]
async fn removed_worker_that_is_back_keeps_its_goal() {
    let rig = computing().await;
    let entry = rig.inventory.snapshots().borrow().workers[0].as_ref().clone();
    let gone_and_back = async || {
        rig.inventory.apply(vec![Edit::RemoveWorker(entry.id)]).await.unwrap();
        rig.until("no worker", |s| s.workers.is_empty()).await;
        tokio::time::sleep(BLOCK * 5).await;
        rig.inventory.apply(vec![Edit::PutWorker(entry.clone())]).await.unwrap();
        rig.until("the worker", |s| !s.workers.is_empty()).await;
    };
    tell(&rig, Command::Stop);
    until_reason(&rig, "cooled-down").await;
    gone_and_back().await;
    until_reason(&rig, "cooled-down").await;
    tell(&rig, Command::Reclaim);
    // The reclaim goes on, too, although it is not stored yet when the entry goes.
    gone_and_back().await;
    until_reason(&rig, "stopped").await;
    gone_and_back().await;
    tokio::time::sleep(HOUR).await;
    until_reason(&rig, "stopped").await;
    assert_eq!((starts(&rig), rig.status(0).saved.goal), (1, Goal::StayStopped));
}

#[tokio::test(start_paused = true)]
async fn stop_after_a_sent_start_stops_it() {
    let rig = computing().await;
    tell(&rig, Command::Stop);
    until_reason(&rig, "cooled-down").await;
    tell(&rig, Command::Reclaim);
    until_reason(&rig, "stopped").await;
    for command in [Command::Stop, Command::Reclaim] {
        let before = starts(&rig);
        tell(&rig, Command::Start);
        until_reason(&rig, "starting-computing").await;
        tokio::time::sleep(BLOCK / 4).await;
        assert_eq!(starts(&rig), before, "not landed yet");
        tell(&rig, command);
        until_reason(&rig, "cooled-down").await;
        tokio::time::sleep(HOUR).await;
        assert_eq!((starts(&rig), rig.status(0).saved.goal), (before + 1, Goal::StayStopped), "{command}");
        tell(&rig, Command::Reclaim);
        until_reason(&rig, "stopped").await;
    }
}

/// Whatever makes a fleet forget its jobs: what it sent may land all the same.
#[tokio::test(start_paused = true)]
async fn stop_of_a_removed_job_counts_as_own() {
    for by_restart_of_the_fleet in [false, true] {
        let mut rig = computing().await;
        stop_on_its_way(&rig).await;
        if by_restart_of_the_fleet {
            rig.fleet.take().unwrap().stop().await;
            rig.start();
            rig.until_worker(0, "seen", |w| w.chain.is_some()).await;
        } else {
            tell(&rig, Command::Restart);
        }
        tell(&rig, Command::Start);
        until_reason(&rig, "cooling-down").await;
        rig.until_all(State::Active).await;
        assert_eq!((starts(&rig), rig.status(0).saved.goal), (2, Goal::Compute));
        assert_eq!(rig.status(0).saved.sent, None, "seen");
    }
}

#[tokio::test(start_paused = true)]
async fn stop_after_the_owners_is_not_counted_as_own() {
    let rig = computing().await;
    stop_on_its_way(&rig).await;
    until_reason(&rig, "cooled-down").await;
    tell(&rig, Command::Start);
    rig.until_all(State::Active).await;
    let pool = rig.status(0).worker.pid;
    rig.submit(Call::StopComputing { pool, worker: rig.key(0) }).await;
    until_reason(&rig, "cooled-down").await;
    tokio::time::sleep(HOUR).await;
    assert_eq!((starts(&rig), rig.status(0).saved.goal), (2, Goal::StayStopped));
}
