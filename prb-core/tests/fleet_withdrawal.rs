//! Jobs that wait in the queue while no trader is there, and that are not wanted any more. On parts in memory, in
//! virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use prb_core::{
    chain::{Call, SessionState, memory as chain_memory},
    fleet::Command,
    inventory::{Edit, Goal, Inventory, Operator, Worker},
    primitives::AccountId,
    pruntime::scripted::ScriptedWorker,
    queue::{
        JobQueue, JobState,
        admin::{Filter, QueueAdmin},
        memory,
    },
    vault::Vault,
    worker::{Stage, State},
};
use uuid::Uuid;

#[path = "fleet_rig/rig.rs"]
mod rig;
use rig::{BLOCK, PHA, POOL, Rig, STAKE, account};

/// Blocks within which everything that is wanted happens.
const SOON: Duration = Duration::from_secs(12 * 30);

fn tell(rig: &Rig, command: Command) -> String {
    rig.fleet().command(rig.ids[0], command).unwrap()
}

/// The stakes of the starts on chain so far.
fn starts(rig: &Rig) -> Vec<u128> {
    let stake = |call: &Call| match call {
        Call::StartComputing { stake, .. } => Some(*stake),
        _ => None,
    };
    rig.chain.events().iter().filter_map(|event| stake(&event.call)).collect()
}

fn stops(rig: &Rig) -> usize {
    rig.chain.events().iter().filter(|event| matches!(event.call, Call::StopComputing { .. })).count()
}

async fn until_reason(rig: &Rig, code: &str) {
    rig.until_worker(0, code, |w| w.reason.code() == code).await;
}

async fn until_queued(rig: &Rig, operation: &str) {
    rig.until_worker(0, "a job in the queue", |w| {
        w.in_flight.is_some_and(|it| it.operation == operation && it.stage == Stage::Queued)
    })
    .await;
}

async fn waiting(rig: &Rig) -> usize {
    let stats = rig.queue.stats().await.unwrap();
    assert_eq!((stats.active, stats.delayed), (0, 0), "no trader is there");
    stats.waiting
}

/// Waits until no job of an operation is in the queue.
async fn until_withdrawn(rig: &Rig) {
    tokio::time::timeout(SOON, async {
        while waiting(rig).await > 0 {
            tokio::time::sleep(BLOCK / 8).await;
        }
    })
    .await
    .expect("the job is still in the queue");
}

/// A computing worker, without a trader.
async fn computing() -> Rig {
    let mut rig = Rig::with(chain_memory::Config::default().with_cool_down_secs(600), 1, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    rig
}

/// A stopped worker that was commanded to start, whose start waits for a trader.
async fn start_queued() -> Rig {
    let mut rig = computing().await;
    tell(&rig, Command::Stop);
    until_reason(&rig, "cooled-down").await;
    tell(&rig, Command::Reclaim);
    until_reason(&rig, "stopped").await;
    rig.stop_trading().await;
    tell(&rig, Command::Start);
    until_queued(&rig, "start").await;
    assert_eq!((starts(&rig), waiting(&rig).await), (vec![STAKE], 1));
    rig
}

/// The trader comes back; returns the stakes with which the worker is started from then on.
async fn starts_with_a_trader(rig: &mut Rig) -> Vec<u128> {
    let before = starts(rig).len();
    rig.trade();
    tokio::time::sleep(SOON).await;
    starts(rig).split_off(before)
}

#[tokio::test(start_paused = true)]
async fn a_start_is_taken_back_when_the_worker_is_stopped() {
    for command in [Command::Stop, Command::Reclaim, Command::LeavePool] {
        let mut rig = start_queued().await;
        let answer = tell(&rig, command);
        for part in
            ["its start is in the queue and is taken back", "if a trader already has it", "stopped again"]
        {
            assert!(answer.contains(part), "{answer}");
        }
        match command {
            Command::LeavePool => until_queued(&rig, "remove").await,
            _ => until_withdrawn(&rig).await,
        }
        assert_eq!(starts_with_a_trader(&mut rig).await, [], "{command}");
        let status = rig.status(0);
        assert_eq!((status.saved.goal, stops(&rig)), (Goal::StayStopped, 1), "{command}");
        assert_eq!((status.saved.sent, status.failures), (None, 0), "{command}");
        // A start by its owner is not taken for the one that was taken back.
        if command == Command::Stop {
            rig.submit(Call::StartComputing { pool: POOL, worker: rig.key(0), stake: STAKE }).await;
            rig.until_all(State::Active).await;
            tokio::time::sleep(SOON).await;
            assert_eq!((rig.status(0).saved.goal, stops(&rig)), (Goal::Compute, 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_is_taken_back_when_the_worker_is_removed_or_disabled() {
    for removed in [true, false] {
        let mut rig = start_queued().await;
        if removed {
            rig.inventory.apply(vec![Edit::RemoveWorker(rig.ids[0])]).await.unwrap();
        } else {
            rig.edit_worker(0, |worker| worker.enabled = false).await;
        }
        until_withdrawn(&rig).await;
        assert_eq!(starts_with_a_trader(&mut rig).await, [], "removed: {removed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_is_replaced_when_its_stake_is_edited() {
    for stake in [STAKE / 2, STAKE * 2] {
        let mut rig = start_queued().await;
        rig.edit_worker(0, |worker| worker.stake = stake).await;
        rig.until_worker(0, "the edit", |w| w.worker.stake == stake).await;
        tokio::time::sleep(SOON).await;
        assert_eq!(waiting(&rig).await, 1, "the start with the new stake");
        assert_eq!(starts_with_a_trader(&mut rig).await, [stake]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_is_taken_back_when_the_worker_only_syncs() {
    let mut rig = start_queued().await;
    rig.edit_worker(0, |worker| worker.sync_only = true).await;
    until_withdrawn(&rig).await;
    assert_eq!(starts_with_a_trader(&mut rig).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_start_is_taken_back_when_its_pool_or_operator_is_replaced() {
    let other = prb_core::primitives::PoolId(2);
    let mut rig = start_queued().await;
    rig.put_pool(other, true).await;
    rig.edit_worker(0, |worker| worker.pid = other).await;
    until_withdrawn(&rig).await;
    assert_eq!(starts_with_a_trader(&mut rig).await, [], "another pool");

    let mut rig = start_queued().await;
    let mut pool = (**rig.inventory.snapshots().borrow().pool(POOL).unwrap()).clone();
    let key = rig.vault.seal(&"//Somebody".to_owned().into()).await.unwrap();
    pool.operator = Some(Operator { account: AccountId([9; 32]), key });
    rig.inventory.apply(vec![Edit::PutPool(pool)]).await.unwrap();
    until_withdrawn(&rig).await;
    assert_eq!(starts_with_a_trader(&mut rig).await, [], "another operator");
}

#[tokio::test(start_paused = true)]
async fn a_start_of_a_key_that_no_longer_answers_is_taken_back() {
    let mut rig = start_queued().await;
    let other = ScriptedWorker::new(77);
    rig.adopt(&other);
    rig.connect.add("http://other", other.clone());
    rig.edit_worker(0, |worker| worker.endpoint = "http://other".into()).await;
    rig.until_worker(0, "the other key", |w| w.public_key == Some(other.key())).await;
    until_withdrawn(&rig).await;
    let old = rig.key(0);
    starts_with_a_trader(&mut rig).await;
    let of_old = |call: &Call| matches!(call, Call::StartComputing { worker, .. } if *worker == old);
    assert_eq!(rig.chain.events().iter().filter(|event| of_old(&event.call)).count(), 1, "the first one");
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_taken_back_when_the_worker_is_started() {
    let mut rig = computing().await;
    rig.stop_trading().await;
    tell(&rig, Command::Stop);
    until_queued(&rig, "stop").await;
    let answer = tell(&rig, Command::Start);
    assert!(answer.contains("its stop is in the queue and is taken back"), "{answer}");
    until_withdrawn(&rig).await;
    rig.trade();
    tokio::time::sleep(SOON).await;
    assert_eq!((stops(&rig), rig.status(0).saved.goal), (0, Goal::Compute));
    assert_eq!(rig.status(0).saved.sent, None);
}

/// The commands come before the job has been taken back, so that it is wanted again.
#[tokio::test(start_paused = true)]
async fn what_is_wanted_again_is_done_once() {
    let mut rig = start_queued().await;
    for _ in 0..3 {
        tell(&rig, Command::Stop);
        tokio::task::yield_now().await;
        tell(&rig, Command::Start);
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(SOON).await;
    assert_eq!(waiting(&rig).await, 1);
    assert_eq!(starts_with_a_trader(&mut rig).await, [STAKE]);
    rig.until_all(State::Active).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_does_not_duplicate_what_waits() {
    let mut rig = start_queued().await;
    for _ in 0..3 {
        tell(&rig, Command::Restart);
        tokio::time::sleep(SOON).await;
        until_queued(&rig, "start").await;
    }
    assert_eq!(waiting(&rig).await, 1);
    assert_eq!(starts_with_a_trader(&mut rig).await, [STAKE]);
}

/// Jobs survive a restart of the manager.
#[tokio::test(start_paused = true)]
async fn nothing_is_taken_back_when_the_fleet_stops() {
    let mut rig = start_queued().await;
    assert!(rig.fleet.take().unwrap().stop().await);
    tokio::time::sleep(SOON).await;
    assert_eq!(waiting(&rig).await, 1);
    // The next process does not know that job: it takes back its own one, and undoes what the other does.
    rig.start();
    until_queued(&rig, "start").await;
    assert_eq!(waiting(&rig).await, 2);
    tell(&rig, Command::Stop);
    rig.until_worker(0, "its start is taken back", |w| w.in_flight.is_none()).await;
    assert_eq!(waiting(&rig).await, 1);
    tokio::time::sleep(BLOCK * 2).await;
    let answer = rig.fleet().preview(rig.ids[0], Command::Stop).unwrap();
    assert!(answer.contains("a start was submitted earlier; if it still takes effect"), "{answer}");
    assert_eq!(starts_with_a_trader(&mut rig).await, [STAKE]);
    until_reason(&rig, "cooled-down").await;
    assert_eq!((stops(&rig), rig.status(0).saved.goal), (2, Goal::StayStopped));
}

/// As when the worker's machine is down, and is not coming back.
#[tokio::test(start_paused = true)]
async fn an_unreachable_worker_keeps_its_job_until_it_is_stopped() {
    let mut rig = start_queued().await;
    rig.workers[0].set_down(true);
    rig.until_all(State::Error).await;
    tokio::time::sleep(SOON).await;
    let submitted = rig.queue.list(Filter::default(), 0, 1).await.unwrap().jobs[0].id;
    assert_eq!(rig.status(0).in_flight.unwrap().job, Some(submitted));
    tell(&rig, Command::Stop);
    until_withdrawn(&rig).await;
    assert_eq!(starts_with_a_trader(&mut rig).await, []);
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
    tokio::time::timeout(SOON, leased).await.expect("no trader has the job");
}

/// The trader has it: it is awaited, and what it did is undone. Confirming the key that it is for changes nothing.
#[tokio::test(start_paused = true)]
async fn a_leased_start_is_not_taken_back() {
    for commands in [&[Command::Stop][..], &[Command::ConfirmKey, Command::Stop]] {
        let mut rig = start_queued().await;
        rig.trade();
        until_leased(&rig).await;
        for command in commands {
            tell(&rig, *command);
        }
        until_reason(&rig, "cooled-down").await;
        assert_eq!((starts(&rig).len(), stops(&rig)), (2, 2));
        assert_eq!(rig.status(0).saved.goal, Goal::StayStopped);
        let answer = rig.fleet().preview(rig.ids[0], Command::Stop).unwrap();
        assert_eq!(answer, "does not compute; it stays stopped");
    }
}

/// The trader has the stop when the worker is started: it starts again after the cool-down.
#[tokio::test(start_paused = true)]
async fn a_leased_stop_is_followed_by_a_start() {
    for commands in [&[Command::Start][..], &[Command::ConfirmKey, Command::Start]] {
        let rig = computing().await;
        rig.chain.hang(account(POOL), true);
        tell(&rig, Command::Stop);
        until_leased(&rig).await;
        for command in commands {
            tell(&rig, *command);
        }
        rig.until_worker(0, "its goal", |w| w.saved.goal == Goal::Compute).await;
        rig.chain.hang(account(POOL), false);
        rig.until_worker(0, "its cool-down", |w| w.session_state() == Some(SessionState::WorkerCoolingDown))
            .await;
        assert_eq!(rig.status(0).saved.goal, Goal::StartAgain, "{commands:?}");
        rig.until_all(State::Active).await;
    }
}

/// The trader stops, and hands the start back that it could not send: only then it is taken back.
#[tokio::test(start_paused = true)]
async fn a_start_that_a_trader_hands_back_is_taken_back() {
    let mut rig = start_queued().await;
    let lease = rig.queue.lease(SOON).await.unwrap();
    tell(&rig, Command::Stop);
    tokio::time::sleep(BLOCK * 4).await;
    assert_eq!(rig.queue.heartbeat(&[(lease.id, lease.token)], SOON).await.unwrap(), []);
    rig.queue.release(&[(lease.id, lease.token)], Duration::ZERO).await.unwrap();
    until_withdrawn(&rig).await;
    assert_eq!(starts_with_a_trader(&mut rig).await, []);
    // It may have been sent, for all that the fleet knows.
    assert!(rig.status(0).saved.sent.is_some());
}

/// The entry was removed while a trader had its start, and its machine was added under another name and address.
#[tokio::test(start_paused = true)]
async fn a_leased_start_of_the_former_entry_is_undone_when_the_worker_is_stopped() {
    let mut rig = start_queued().await;
    let _lease = rig.queue.lease(SOON * 10).await.unwrap();
    rig.connect.add("http://renamed", rig.workers[0].clone());
    let renamed = Worker::new(Uuid::from_u128(9), POOL, "renamed", "http://renamed", STAKE);
    let edits = vec![Edit::RemoveWorker(rig.ids[0]), Edit::PutWorker(renamed.clone())];
    rig.inventory.apply(edits).await.unwrap();
    rig.ids[0] = renamed.id;
    until_queued(&rig, "start").await;
    tell(&rig, Command::Stop);
    rig.until_worker(0, "its own start is taken back", |w| w.in_flight.is_none()).await;
    tokio::time::sleep(BLOCK * 2).await;
    rig.trade();
    // What the trader does that has the other one.
    rig.submit(Call::StartComputing { pool: POOL, worker: rig.key(0), stake: STAKE }).await;
    until_reason(&rig, "cooled-down").await;
    assert_eq!((stops(&rig), rig.status(0).saved.goal), (2, Goal::StayStopped));
}

/// A start that is still wanted when it is too old is submitted again, and carried out once.
#[tokio::test(start_paused = true)]
async fn a_start_that_is_too_old_is_submitted_again() {
    let mut rig = start_queued().await;
    let old = rig.status(0).in_flight.unwrap().job.unwrap();
    tokio::time::sleep(memory::Config::MAX_AGE + BLOCK).await;
    assert_eq!(starts_with_a_trader(&mut rig).await, [STAKE]);
    rig.until_all(State::Active).await;
    let failed = rig.queue.job(old).await.unwrap().unwrap().record;
    assert_eq!(failed.state, JobState::Failed);
    assert!(failed.error.unwrap().contains("it was not sent"));
    assert_eq!(rig.status(0).worker.stake, 100 * PHA);
}

#[tokio::test(start_paused = true)]
async fn lost_outcome_does_not_block_a_worker_forever() {
    let mut rig = Rig::new(1, 10).await;
    rig.tick();
    // The queue takes jobs, and nobody ends them.
    rig.start();
    rig.until("a job", |_| rig.chain.head().0 > 5).await;
    let only_job = async || {
        let page = rig.queue.list(Filter::default(), 0, 2).await.unwrap();
        // The one before was withdrawn: both would be carried out.
        assert_eq!(page.total, 1, "{:?}", page.jobs);
        page.jobs[0].id
    };
    tokio::time::sleep(Duration::from_secs(1800)).await;
    let first = only_job().await;
    // An operator who restarts it does not wait for that either.
    rig.fleet().command(rig.ids[0], Command::Restart).unwrap();
    tokio::time::sleep(BLOCK * 5).await;
    let second = only_job().await;
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    let third = only_job().await;
    assert!(first < second && second < third, "the wait is limited");
    rig.trade();
    rig.until_all(State::Active).await;
    let registers = |call: &Call| matches!(call, Call::RegisterWorker { .. });
    let registered = rig.chain.events().iter().filter(|event| registers(&event.call)).count();
    assert_eq!(registered, 1, "whatever was left in line");
}
