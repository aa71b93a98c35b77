//! Commands that come while what was sent before them is on its way. On parts in memory, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use prb_core::{
    chain::{Call, memory as chain_memory},
    fleet::Command,
    inventory::{Edit, Goal, Inventory, Worker},
    primitives::{PoolId, WorkerKey},
    prpc::Method,
    pruntime::scripted::{Failure, ScriptedWorker},
    worker::{State, WorkerStatus},
};
use uuid::Uuid;

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

/// How an entry is renamed and gets another address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    /// In one edit.
    AtOnce,
    /// The new entry is added, and the old one is removed later.
    AddedFirst,
    /// Its old address belongs to another machine now.
    AddressTaken,
    /// It is commanded to start before it answers.
    ThenStarted,
}

/// As when a fleet gets a new naming scheme, or names of hosts in place of addresses.
#[tokio::test(start_paused = true)]
async fn renamed_worker_at_another_address_keeps_its_goal() {
    for how in [Move::AtOnce, Move::AddedFirst, Move::AddressTaken, Move::ThenStarted] {
        let mut rig = computing().await;
        tell(&rig, Command::Stop);
        until_reason(&rig, "cooled-down").await;
        tell(&rig, Command::Reclaim);
        until_reason(&rig, "stopped").await;
        let old = rig.inventory.snapshots().borrow().workers[0].as_ref().clone();
        rig.connect.add("http://moved", rig.workers[0].clone());
        let (id, name) = (Uuid::from_u128(50), "renamed");
        let new = Edit::PutWorker(Worker::new(id, old.pid, name, "http://moved", old.stake));
        let other = Worker::new(Uuid::from_u128(51), old.pid, "another", old.endpoint.clone(), old.stake);
        match how {
            Move::AtOnce | Move::ThenStarted => {
                rig.workers[0].set_down(how == Move::ThenStarted);
                rig.inventory.apply(vec![Edit::RemoveWorker(old.id), new]).await.unwrap();
            }
            Move::AddedFirst => {
                rig.edit_worker(0, |w| w.endpoint = "http://gone".into()).await;
                rig.inventory.apply(vec![new]).await.unwrap();
            }
            Move::AddressTaken => {
                let machine = ScriptedWorker::new(7);
                rig.adopt(&machine);
                rig.connect.add(&old.endpoint, machine);
                let edits = vec![Edit::RemoveWorker(old.id), Edit::PutWorker(other), new];
                rig.inventory.apply(edits).await.unwrap();
            }
        }
        rig.ids[0] = id;
        rig.until(name, |s| s.workers.iter().any(|w| w.worker.id == id)).await;
        if how == Move::ThenStarted {
            tell(&rig, Command::Start);
            rig.workers[0].set_down(false);
            rig.until_all(State::Active).await;
            assert_eq!(starts(&rig), 2, "it was told to");
            continue;
        }
        until_reason(&rig, "stopped").await;
        if how == Move::AddedFirst {
            rig.inventory.apply(vec![Edit::RemoveWorker(old.id)]).await.unwrap();
        }
        tokio::time::sleep(HOUR).await;
        until_reason(&rig, "stopped").await;
        let status = rig.status(0);
        assert_eq!((status.saved.goal, status.saved.key), (Goal::StayStopped, Some(rig.key(0))), "{how:?}");
        assert!(
            rig.inventory.snapshots().borrow().removed.is_empty(),
            "{how:?}: the old record is not needed"
        );
        assert_eq!(starts(&rig), 1, "{how:?}");
    }
}

/// How two entries exchange their addresses.
#[derive(Clone, Copy, Debug)]
enum Exchange {
    /// In one edit.
    AtOnce,
    /// One after the other, over an address where nothing answers.
    InSteps,
}

/// A stopped worker, and one that is to compute and has not started: with nothing at stake, each entry takes the key
/// that answers at its new address.
#[tokio::test(start_paused = true)]
async fn stopped_worker_stays_stopped_when_entries_exchange_their_addresses() {
    for (how, stopped) in
        [(Exchange::AtOnce, 0), (Exchange::AtOnce, 1), (Exchange::InSteps, 0), (Exchange::InSteps, 1)]
    {
        let case = format!("{how:?} {stopped}");
        let mut rig = Rig::new(2, 10).await;
        // No trader: nothing is started yet.
        rig.tick();
        rig.start();
        for index in 0..2 {
            rig.until_worker(index, "its key", |w| w.saved.key == Some(rig.key(index))).await;
        }
        rig.fleet().command(rig.ids[stopped], Command::Stop).unwrap();
        rig.until_worker(stopped, "stopped", |w| w.saved.goal == Goal::StayStopped).await;
        exchange(&rig, how, stopped).await;
        for index in 0..2 {
            let key = rig.key(1 - index);
            rig.until_worker(index, "the other's key", |w| w.saved.key == Some(key)).await;
        }
        rig.trade();
        tokio::time::sleep(HOUR).await;
        assert_eq!(started(&rig, rig.key(stopped)), 0, "{case}: the stopped worker");
        assert_eq!(rig.status(1 - stopped).saved.goal, Goal::StayStopped, "{case}: where it answers");
        // The entry was stopped, too: it starts on command.
        assert_eq!(starts(&rig), 0, "{case}: at the stopped entry");
        rig.fleet().command(rig.ids[stopped], Command::Start).unwrap();
        rig.until_worker(stopped, "computing", |w| w.state == State::Active).await;
        assert_eq!(started(&rig, rig.key(1 - stopped)), 1, "{case}");
        assert!(rig.inventory.snapshots().borrow().removed.is_empty(), "{case}: both keys are back");
    }
}

fn started(rig: &Rig, key: WorkerKey) -> usize {
    let is = |call: &Call| matches!(call, Call::StartComputing { worker, .. } if *worker == key);
    rig.chain.events().iter().filter(|event| is(&event.call)).count()
}

async fn exchange(rig: &Rig, how: Exchange, stopped: usize) {
    let entry = |index: usize| {
        let snapshot = rig.inventory.snapshots().borrow().clone();
        snapshot.workers.iter().find(|w| w.id == rig.ids[index]).unwrap().as_ref().clone()
    };
    let (mut a, mut b) = (entry(stopped), entry(1 - stopped));
    std::mem::swap(&mut a.endpoint, &mut b.endpoint);
    match how {
        Exchange::AtOnce => {
            rig.inventory.apply(vec![Edit::PutWorker(a), Edit::PutWorker(b)]).await.unwrap();
        }
        Exchange::InSteps => {
            rig.edit_worker(1 - stopped, |w| w.endpoint = "http://nowhere".into()).await;
            rig.inventory.apply(vec![Edit::PutWorker(a)]).await.unwrap();
            let key = rig.key(1 - stopped);
            rig.until_worker(stopped, "the other's key", |w| w.saved.key == Some(key)).await;
            rig.inventory.apply(vec![Edit::PutWorker(b)]).await.unwrap();
        }
    }
}

/// A worker that has left its pool is added to another one in order to compute there.
#[tokio::test(start_paused = true)]
async fn worker_that_has_left_its_pool_starts_in_another_one() {
    for leaves in [true, false] {
        let mut rig = computing().await;
        let second = PoolId(2);
        rig.put_pool(second, true).await;
        tell(&rig, Command::Stop);
        until_reason(&rig, "cooled-down").await;
        tell(&rig, Command::Reclaim);
        until_reason(&rig, "stopped").await;
        if leaves {
            tell(&rig, Command::LeavePool);
            rig.until_worker(0, "out", |w| w.chain.as_ref().is_some_and(|chain| chain.pool.is_none())).await;
            until_reason(&rig, "stopped").await;
        }
        let old = rig.inventory.snapshots().borrow().workers[0].as_ref().clone();
        rig.connect.add("http://moved", rig.workers[0].clone());
        let new = Worker::new(Uuid::from_u128(50), second, "renamed", "http://moved", old.stake);
        rig.inventory.apply(vec![Edit::RemoveWorker(old.id), Edit::PutWorker(new)]).await.unwrap();
        rig.ids[0] = Uuid::from_u128(50);
        rig.until("it", |s| s.workers.iter().any(|w| w.worker.id == rig.ids[0])).await;
        if leaves {
            rig.until_all(State::Active).await;
            continue;
        }
        // The number was a mistake, which is corrected later.
        until_reason(&rig, "in-other-pool").await;
        rig.edit_worker(0, |w| w.pid = old.pid).await;
        until_reason(&rig, "stopped").await;
        tokio::time::sleep(HOUR).await;
        assert_eq!((starts(&rig), rig.status(0).saved.goal), (1, Goal::StayStopped));
    }
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

async fn takes_checkpoint(rig: &Rig) {
    rig.workers[0].set_latency(Method::TakeCheckpoint, Duration::from_secs(60));
    tell(rig, Command::Checkpoint);
    rig.until_worker(0, "the checkpoint", |w| w.reason.code() == "taking-checkpoint").await;
}

/// After a time-out pRuntime may still be writing.
#[tokio::test(start_paused = true)]
async fn kick_that_waits_for_a_failed_checkpoint_is_dropped() {
    let rig = computing().await;
    rig.workers[0].fail_next(Method::TakeCheckpoint, Failure::TimedOut);
    takes_checkpoint(&rig).await;
    tell(&rig, Command::Kick);
    tell(&rig, Command::Stop);
    rig.until_worker(0, "its end", |w| w.checkpoint.is_some()).await;
    until_reason(&rig, "cooling-down").await;
    assert_eq!(rig.workers[0].kicks(), 0);
    let error = rig.status(0).checkpoint.clone().unwrap().result.unwrap_err();
    assert!(error.contains("the kick that waited for it was dropped"), "{error}");
    tell(&rig, Command::Kick);
    rig.until_worker(0, "the kick", |_| rig.workers[0].kicks() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn checkpoint_ends_before_a_worker_is_asked_at_its_new_address() {
    let rig = computing().await;
    takes_checkpoint(&rig).await;
    rig.connect.add("http://elsewhere", rig.workers[0].clone());
    rig.edit_worker(0, |w| w.endpoint = "http://elsewhere".into()).await;
    let head = rig.chain.head();
    let before = rig.workers[0].calls().len();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.workers[0].calls().len(), before, "it is still writing");
    rig.until_worker(0, "its end", |w| w.checkpoint.is_some()).await;
    assert!(rig.status(0).checkpoint.as_ref().unwrap().result.is_ok());
    rig.until_worker(0, "sync", |w| w.position.is_some_and(|at| at.dispatched_to() > Some(head))).await;
}
