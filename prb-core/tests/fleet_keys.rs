//! Tests of keys: what happens when another key answers at a worker's endpoint. On parts in memory, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use prb_core::{
    chain::{Call, SessionState, memory as chain_memory},
    fleet::Command,
    inventory::Inventory,
    pruntime::scripted::ScriptedWorker,
    queue::{JobQueue, JobState, admin::QueueAdmin},
    worker::{EventKind, Settings, State, WorkerStatus},
};

#[path = "fleet_rig/rig.rs"]
mod rig;
use rig::{BLOCK, POOL, Rig, STAKE, account};

const HOUR: Duration = Duration::from_secs(3600);

/// A rig whose workers compute.
async fn computing(workers: usize) -> Rig {
    let mut rig = Rig::with(chain_memory::Config::default().with_cool_down_secs(600), workers, 10).await;
    rig.run();
    rig.start_with(Rig::config().with_settings(Settings::default()));
    rig.until_all(State::Active).await;
    rig
}

/// The machine at an entry's endpoint is another one now.
async fn swap_machine(rig: &mut Rig, index: usize, seed: u32) -> ScriptedWorker {
    let other = ScriptedWorker::new(seed);
    rig.adopt(&other);
    let place = format!("http://machine-{seed}");
    rig.connect.add(&place, other.clone());
    rig.edit_worker(index, |w| w.endpoint = place).await;
    other
}

#[tokio::test(start_paused = true)]
async fn nothing_is_staked_for_a_new_key_until_the_operator_confirms_it() {
    let mut rig = computing(2).await;
    let (old, sent) = (rig.key(0), rig.chain.events().len());
    let other = swap_machine(&mut rig, 0, 777).await;
    rig.until_worker(0, "the new key", |w| w.reason.code() == "key-changed").await;
    let status = rig.status(0);
    for text in [old.to_string(), other.key().to_string(), "100 PHA".into(), "confirm".into()] {
        assert!(status.message.contains(&text), "{text} in {}", status.message);
    }
    tokio::time::sleep(HOUR).await;
    assert_eq!(rig.chain.events().len(), sent, "nothing is sent for it");
    assert_eq!(rig.status(0).lag, Some(0), "it is kept in sync");
    // A restart does not forget.
    rig.fleet().stop().await;
    rig.start();
    rig.until_worker(0, "the new key", |w| w.reason.code() == "key-changed").await;
    let answer = rig.fleet().command(rig.ids[0], Command::ConfirmKey).unwrap();
    assert!(answer.contains("replaces") && answer.contains("100 PHA"), "{answer}");
    rig.until_all(State::Active).await;
    assert_eq!(rig.chain.worker(other.key()).pool, Some(POOL));
    let events = rig.fleet().events(rig.ids[0]).unwrap();
    let changed = |kind: &EventKind| *kind == EventKind::KeyChanged { last: old, now: other.key() };
    assert!(events.iter().any(|event| changed(&event.kind)), "{events:?}");
    assert_eq!(rig.inventory.snapshots().borrow().saved(rig.ids[0]).key, Some(other.key()));
}

#[tokio::test(start_paused = true)]
async fn new_key_is_used_once_the_last_has_no_stake() {
    let mut rig = computing(1).await;
    let old = rig.key(0);
    let other = swap_machine(&mut rig, 0, 777).await;
    rig.until_worker(0, "the new key", |w| w.reason.code() == "key-changed").await;
    rig.submit(Call::StopComputing { pool: POOL, worker: old }).await;
    tokio::time::sleep(Duration::from_secs(700)).await;
    assert_eq!(rig.status(0).reason.code(), "key-changed", "its stake is still locked");
    rig.submit(Call::ReclaimWorker { pool: POOL, worker: old }).await;
    rig.until_all(State::Active).await;
    assert_eq!(rig.chain.worker(other.key()).session.unwrap().state, SessionState::WorkerIdle);
}

#[tokio::test(start_paused = true)]
async fn last_key_is_stopped_and_reclaimed_while_another_answers() {
    let mut rig = computing(1).await;
    let old = rig.key(0);
    let other = swap_machine(&mut rig, 0, 777).await;
    rig.until_worker(0, "the new key", |w| w.reason.code() == "key-changed").await;
    let answer = rig.fleet().command(rig.ids[0], Command::Stop).unwrap();
    assert!(answer.contains(&old.to_string()), "{answer}");
    let session = |rig: &Rig| rig.chain.worker(old).session.map(|session| session.state);
    rig.until("its cool-down", |_| session(&rig) == Some(SessionState::WorkerCoolingDown)).await;
    rig.fleet().command(rig.ids[0], Command::Reclaim).unwrap();
    rig.until("its stake", |_| session(&rig) == Some(SessionState::Ready)).await;
    // With nothing to lose, the new key takes its place; it starts on command.
    rig.until_worker(0, "the new key", |w| w.saved.key == Some(other.key())).await;
    tokio::time::sleep(BLOCK * 20).await;
    assert_eq!(rig.chain.worker(other.key()).session.map(|session| session.state), None);
    rig.fleet().command(rig.ids[0], Command::Start).unwrap();
    rig.until_all(State::Active).await;
}

#[tokio::test(start_paused = true)]
async fn operations_of_the_last_key_do_not_affect_the_new_one() {
    let mut rig = computing(1).await;
    // A registration of the last key is with the trader, and hangs there.
    rig.chain.hang(account(POOL), true);
    rig.fleet().command(rig.ids[0], Command::RegisterAgain).unwrap();
    let sent = rig.chain.events().len();
    let jobs = async |rig: &Rig| {
        let stats = rig.queue.stats().await.unwrap();
        stats.waiting + stats.active + stats.delayed
    };
    while jobs(&rig).await == 0 {
        tokio::time::sleep(BLOCK).await;
    }
    swap_machine(&mut rig, 0, 777).await;
    rig.until_worker(0, "the new key", |w| w.reason.code() == "key-changed").await;
    rig.fleet().command(rig.ids[0], Command::ConfirmKey).unwrap();
    tokio::time::sleep(BLOCK * 20).await;
    assert_eq!(jobs(&rig).await, 2, "the new key waits for nothing of the last");
    rig.chain.hang(account(POOL), false);
    rig.until_all(State::Active).await;
    tokio::time::sleep(BLOCK * 10).await;
    assert_eq!(rig.chain.events().len(), sent + 4, "the old one's, and registered, added and started");
}

/// A rig whose worker was ready to start when its pool got stake, and whose start is on its way: with the trader, which
/// hangs, or in the queue.
async fn starting(with_trader: bool) -> Rig {
    let mut rig = Rig::new(1, 20).await;
    rig.chain.add_pool(POOL, account(POOL), 0);
    rig.run();
    rig.start();
    rig.until_worker(0, "short of stake", |w| w.reason.code() == "free-stake-short").await;
    if with_trader {
        rig.chain.hang(account(POOL), true);
    } else {
        rig.stop_trading().await;
    }
    // Enough for two: only the manager keeps the stake from being locked twice.
    rig.chain.contribute(POOL, 2 * STAKE);
    rig.until_worker(0, "its start", |w| w.in_flight.is_some_and(|it| it.operation == "start")).await;
    tokio::time::sleep(BLOCK).await;
    rig
}

/// The number of workers that were started.
fn starts(rig: &Rig) -> usize {
    let is_start = |call: &Call| matches!(call, Call::StartComputing { .. });
    rig.chain.events().iter().filter(|event| is_start(&event.call) && event.result.is_ok()).count()
}

#[tokio::test(start_paused = true)]
async fn stake_is_not_locked_for_a_new_key_while_the_last_one_starts() {
    for restarts in [false, true] {
        let mut rig = starting(true).await;
        swap_machine(&mut rig, 0, 777).await;
        rig.until_worker(0, "the new key", |w| w.reason.code() == "last-key-starting").await;
        if restarts {
            rig.fleet().stop().await;
            rig.start();
        }
        tokio::time::sleep(BLOCK * 20).await;
        assert_eq!(rig.status(0).reason.code(), "last-key-starting", "its outcome is not known");
        rig.chain.hang(account(POOL), false);
        rig.until_worker(0, "the stake of the last", |w| w.reason.code() == "key-changed").await;
        tokio::time::sleep(HOUR).await;
        assert_eq!((starts(&rig), rig.status(0).reason.code()), (1, "key-changed"), "restarts: {restarts}");
    }
}

/// Keys that come and go while the start of the recorded one is on its way.
#[tokio::test(start_paused = true)]
async fn further_keys_do_not_end_the_wait_for_a_start() {
    let mut rig = starting(true).await;
    for seed in [777, 778] {
        let other = swap_machine(&mut rig, 0, seed).await;
        let starting =
            |w: &WorkerStatus| w.reason.code() == "last-key-starting" && w.public_key == Some(other.key());
        rig.until_worker(0, "another key", starting).await;
    }
    tokio::time::sleep(BLOCK * 20).await;
    assert_eq!(rig.status(0).reason.code(), "last-key-starting");
    rig.chain.hang(account(POOL), false);
    rig.until_worker(0, "the stake of the last", |w| w.reason.code() == "key-changed").await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(starts(&rig), 1);
}

#[tokio::test(start_paused = true)]
async fn new_key_is_used_once_the_start_of_the_last_is_withdrawn() {
    let mut rig = starting(false).await;
    let other = swap_machine(&mut rig, 0, 777).await;
    rig.until_worker(0, "the new key", |w| w.saved.key == Some(other.key())).await;
    rig.trade();
    rig.until_all(State::Active).await;
    tokio::time::sleep(HOUR).await;
    assert_eq!((starts(&rig), rig.status(0).public_key), (1, Some(other.key())));
}

#[tokio::test(start_paused = true)]
async fn confirmed_key_does_not_wait_for_the_start_of_the_last() {
    let mut rig = starting(true).await;
    let other = swap_machine(&mut rig, 0, 777).await;
    rig.until_worker(0, "the new key", |w| w.reason.code() == "last-key-starting").await;
    let answer = rig.fleet().command(rig.ids[0], Command::ConfirmKey).unwrap();
    assert!(answer.contains("whose start may still lock stake"), "{answer}");
    rig.until_worker(0, "confirmed", |w| w.saved.key == Some(other.key())).await;
    rig.chain.hang(account(POOL), false);
    rig.until_all(State::Active).await;
}

#[tokio::test(start_paused = true)]
async fn new_key_is_used_once_a_start_of_unknown_outcome_is_lost() {
    let mut rig = starting(true).await;
    rig.fleet().stop().await;
    // Nobody is there that could tell.
    rig.stop_trading().await;
    swap_machine(&mut rig, 0, 777).await;
    rig.start();
    rig.until_worker(0, "the new key", |w| w.reason.code() == "last-key-starting").await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(rig.status(0).reason.code(), "last-key-starting");
    tokio::time::sleep(2 * HOUR).await;
    assert_ne!(rig.status(0).reason.code(), "last-key-starting");
}

/// Waits until a trader has the operation in flight.
async fn until_leased(rig: &Rig) {
    let is_leased = async || {
        let Some(job) = rig.status(0).in_flight.and_then(|it| it.job) else { return false };
        rig.queue.job(job).await.unwrap().unwrap().record.state == JobState::Active
    };
    let leased = async {
        while !is_leased().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HOUR, leased).await.expect("no trader has the job");
}

#[tokio::test(start_paused = true)]
async fn start_that_is_submitted_again_is_waited_for_as_long_as_the_first() {
    let mut rig = starting(false).await;
    // Nobody takes it within `Tuning::job_timeout`: it is withdrawn, and submitted again.
    tokio::time::sleep(2 * HOUR + HOUR / 6).await;
    rig.chain.hang(account(POOL), true);
    rig.trade();
    until_leased(&rig).await;
    swap_machine(&mut rig, 0, 777).await;
    rig.until_worker(0, "the new key", |w| w.reason.code() == "last-key-starting").await;
    rig.chain.hang(account(POOL), false);
    rig.until_worker(0, "the stake of the last", |w| w.reason.code() == "key-changed").await;
    tokio::time::sleep(HOUR).await;
    assert_eq!((starts(&rig), rig.status(0).reason.code()), (1, "key-changed"));
}

/// A trader has had the start for long when another key answers, or the manager ends.
#[tokio::test(start_paused = true)]
async fn start_that_was_in_flight_until_now_is_not_lost() {
    for restarts in [false, true] {
        let mut rig = starting(false).await;
        let _lease = rig.queue.lease(10 * HOUR).await.unwrap();
        tokio::time::sleep(2 * HOUR - HOUR / 6).await;
        if restarts {
            rig.fleet().stop().await;
        }
        swap_machine(&mut rig, 0, 777).await;
        if restarts {
            rig.start();
        }
        rig.until_worker(0, "the new key", |w| w.reason.code() == "last-key-starting").await;
        tokio::time::sleep(HOUR).await;
        assert_eq!(rig.status(0).reason.code(), "last-key-starting", "restarts: {restarts}");
    }
}

/// The machine whose start is awaited is back, and its key is confirmed although it is the entry's.
#[tokio::test(start_paused = true)]
async fn confirming_the_recorded_key_does_not_start_it_twice() {
    let mut rig = starting(true).await;
    let old = rig.key(0);
    swap_machine(&mut rig, 0, 777).await;
    rig.until_worker(0, "the new key", |w| w.reason.code() == "last-key-starting").await;
    rig.edit_worker(0, |w| w.endpoint = rig::endpoint(0)).await;
    rig.until_worker(0, "the recorded key", |w| w.reason.code() == "starting-computing").await;
    let answer = rig.fleet().command(rig.ids[0], Command::ConfirmKey).unwrap();
    assert_eq!(answer, format!("{old} is the worker's key"));
    tokio::time::sleep(BLOCK * 20).await;
    let stats = rig.queue.stats().await.unwrap();
    assert_eq!(stats.waiting + stats.active + stats.delayed, 1, "its start");
    rig.chain.hang(account(POOL), false);
    rig.until_all(State::Active).await;
    assert_eq!((starts(&rig), rig.status(0).saved.key), (1, Some(old)));
}
