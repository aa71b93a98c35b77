//! Fleets against pools as they are: too little stake, withdrawals, other owners, views that come late or
//! cannot be read. On parts in memory, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{sync::Arc, time::Duration};

use prb_core::{
    chain::{
        Call, ChainReader, ChainView, Followed, SessionState,
        memory::{self as chain_memory, MemoryChain},
    },
    fleet::{self, Command, Fleet},
    inventory::{AfterExternalStop, Goal},
    primitives::AccountId,
    prpc::Method,
    pruntime::scripted::Failure,
    worker::{Settings, State},
};
use tokio::sync::watch;

#[path = "fleet_rig/rig.rs"]
mod rig;
use rig::{BLOCK, PHA, POOL, Rig, STAKE, account};

const HOUR: Duration = Duration::from_secs(3600);

fn refused(rig: &Rig) -> Vec<chain_memory::Event> {
    rig.chain.events().into_iter().filter(|event| event.result.is_err()).collect()
}

/// Which workers compute, by index.
fn computing(rig: &Rig) -> Vec<usize> {
    let computes = |index: &usize| {
        let session = rig.chain.worker(rig.key(*index)).session;
        session.is_some_and(|session| session.state.is_computing())
    };
    (0..rig.workers.len()).filter(computes).collect()
}

#[tokio::test(start_paused = true)]
async fn free_stake_is_assigned_by_name_and_no_refused_call_is_paid() {
    let mut computed = Vec::new();
    for _ in 0..2 {
        let mut rig = Rig::new(9, 20).await;
        rig.chain.add_pool(POOL, account(POOL), 6 * STAKE + STAKE / 2);
        rig.run();
        rig.start();
        rig.until("six of nine", |s| s.count(State::Active) == 6).await;
        rig.until("the others report it", |s| {
            s.workers.iter().filter(|w| w.reason.code() == "free-stake-short").count() == 3
        })
        .await;
        let texts = [
            "Pool 1 has 50 PHA of free stake",
            "3 workers wait",
            "50 PHA are missing",
            "InsufficientFreeStake",
        ];
        let is_shown = |w: &fleet::WorkerStatus| texts.iter().all(|text| w.message.contains(text));
        rig.until_worker(6, "how much is missing", is_shown).await;
        tokio::time::sleep(HOUR).await;
        assert!(refused(&rig).is_empty(), "{:?}", refused(&rig));
        computed.push(computing(&rig));
        // A restart changes nothing, and more stake goes to the next in line.
        rig.fleet().stop().await;
        rig.start();
        rig.until("six of nine", |s| s.count(State::Active) == 6).await;
        rig.chain.contribute(POOL, STAKE);
        rig.until("seven of nine", |s| s.count(State::Active) == 7).await;
        tokio::time::sleep(HOUR).await;
        computed.push(computing(&rig));
        assert!(refused(&rig).is_empty());
    }
    let (six, seven) = (vec![0, 1, 2, 3, 4, 5], vec![0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(computed, [six.clone(), seven.clone(), six, seven]);
}

/// The first worker by name cannot be registered: the stake does not lie idle for it.
#[tokio::test(start_paused = true)]
async fn stake_is_not_kept_for_a_worker_that_cannot_start() {
    let mut rig = Rig::new(2, 20).await;
    rig.chain.add_pool(POOL, account(POOL), STAKE + STAKE / 2);
    rig.workers[0].fail_always(Method::GetRuntimeInfo, Some(Failure::refuse("no quote")));
    rig.run();
    rig.start();
    rig.until_worker(0, "not registered", |w| w.state == State::Error).await;
    rig.until_worker(1, "computing", |w| w.state == State::Active).await;
    // Once it can, it asks for what is left.
    rig.workers[0].fail_always(Method::GetRuntimeInfo, None);
    rig.fleet().command(rig.ids[0], Command::Restart).unwrap();
    rig.until_worker(0, "its turn", |w| w.reason.code() == "free-stake-short").await;
    rig.chain.contribute(POOL, STAKE);
    rig.until_all(State::Active).await;
}

/// Two workers that wait for stake.
async fn waiting_for_stake() -> Rig {
    let mut rig = Rig::new(2, 20).await;
    rig.chain.add_pool(POOL, account(POOL), STAKE / 2);
    rig.run();
    rig.start();
    for index in 0..2 {
        rig.until_worker(index, "short of stake", |w| w.reason.code() == "free-stake-short").await;
    }
    rig
}

/// The free stake was taken by somebody else while the start was on its way: it is started once there is stake again, however
/// much there was when it was submitted.
#[tokio::test(start_paused = true)]
async fn start_that_was_overtaken_is_repeated_when_there_is_stake_again() {
    let rig = waiting_for_stake().await;
    rig.chain.hang(account(POOL), true);
    rig.chain.contribute(POOL, STAKE);
    rig.until_worker(0, "its start", |w| w.in_flight.is_some_and(|it| it.operation == "start")).await;
    rig.chain.add_pool(POOL, account(POOL), STAKE / 2);
    rig.chain.hang(account(POOL), false);
    rig.until("its refusal", |_| !refused(&rig).is_empty()).await;
    tokio::time::sleep(BLOCK * 20).await;
    assert_eq!((computing(&rig), refused(&rig).len()), (vec![], 1));
    // As much as there was before.
    rig.chain.contribute(POOL, STAKE);
    rig.until_worker(0, "computing", |w| w.state == State::Active).await;
    tokio::time::sleep(HOUR).await;
    assert_eq!((computing(&rig), refused(&rig).len()), (vec![0], 1));
}

#[tokio::test(start_paused = true)]
async fn raises_wait_for_stake_and_for_withdrawals() {
    let mut rig = Rig::new(2, 20).await;
    rig.chain.add_pool(POOL, account(POOL), 3 * STAKE);
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    for index in 0..2 {
        rig.edit_worker(index, |w| w.stake = 2 * STAKE).await;
    }
    let stake = |index: usize| rig.chain.worker(rig.key(index)).session.unwrap().stake;
    rig.until_worker(1, "short", |w| w.reason.code() == "free-stake-short").await;
    rig.until("the first raised", |_| stake(0) == Some(2 * STAKE)).await;
    assert_eq!(rig.status(1).state, State::Active, "it computes with what it has");
    rig.chain.withdraw(POOL, 10 * PHA);
    rig.chain.contribute(POOL, 5 * STAKE);
    tokio::time::sleep(BLOCK * 5).await;
    rig.until("the second raised", |_| stake(1) == Some(2 * STAKE)).await;
    assert!(refused(&rig).is_empty(), "{:?}", refused(&rig));
}

#[tokio::test(start_paused = true)]
async fn other_owner_is_reported_before_anything_is_sent_and_resolves_by_itself() {
    let mut rig = Rig::new(2, 20).await;
    rig.chain.set_pool_owner(POOL, AccountId([7; 32]));
    rig.run();
    rig.start();
    rig.until("the reason is shown", |s| s.workers.iter().all(|w| w.reason.code() == "not-pool-owner")).await;
    tokio::time::sleep(HOUR).await;
    assert!(refused(&rig).is_empty(), "{:?}", refused(&rig));
    rig.chain.set_pool_owner(POOL, account(POOL));
    rig.until_all(State::Active).await;
    // A vault, later: what computes goes on.
    rig.chain.set_vault(POOL, true);
    tokio::time::sleep(BLOCK * 10).await;
    assert_eq!(rig.fleet().status().count(State::Active), 2);
}

#[tokio::test(start_paused = true)]
async fn deleted_assignment_is_reported_and_not_repeated() {
    let config = chain_memory::Config::default().with_cool_down_secs(1200);
    let mut rig = Rig::with(config, 2, 20).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    rig.submit(Call::StopComputing { pool: POOL, worker: rig.key(1) }).await;
    rig.until_worker(1, "cooling", |w| w.reason.code() == "cooling-down").await;
    let sent = rig.chain.events().len();
    for index in 0..2 {
        rig.chain.delete_assignment(rig.key(index));
        rig.until_worker(index, "the reason is shown", |w| w.reason.code() == "assignment-gone").await;
    }
    assert_eq!((rig.status(0).state, rig.status(1).state), (State::Active, State::Synched));
    // Its heartbeats are carried all the same: without them it would be slashed.
    let key = rig.key(0);
    rig.workers[0].edit(|s| s.push_message(key, 0, b"heartbeat"));
    let chain = rig.chain.clone();
    rig.until("the heartbeat", |_| chain.worker(key).ingress_sequence == 1).await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(rig.chain.events().len(), sent + 1, "{:?}", rig.chain.events());
}

#[tokio::test(start_paused = true)]
async fn forced_stop_is_reported_and_not_undone_while_it_would_recur() {
    let config = chain_memory::Config::default().with_cool_down_secs(1200);
    let mut rig = Rig::with(config, 2, 20).await;
    rig.run();
    let settings = Settings::default().with_after_stop(AfterExternalStop::StartAgain);
    rig.start_with(Rig::config().with_settings(settings));
    rig.until_all(State::Active).await;
    rig.chain.withdraw(POOL, 10_000_000 * PHA);
    rig.chain.advance(8 * 24 * 3600);
    tokio::time::sleep(BLOCK * 2).await;
    rig.chain.force_stop(POOL);
    let forced = |w: &fleet::WorkerStatus| w.message.contains("forced");
    rig.until("the reason is shown", |s| s.workers.iter().all(|w| forced(w))).await;
    tokio::time::sleep(HOUR).await;
    rig.until("not started", |s| s.workers.iter().all(|w| w.reason.code() == "withdrawals-queued")).await;
    assert!(computing(&rig).is_empty());
    assert!(refused(&rig).is_empty(), "{:?}", refused(&rig));
}

#[tokio::test(start_paused = true)]
async fn unreadable_worker_state_blocks_no_other_worker() {
    let mut rig = Rig::new(3, 20).await;
    rig.chain.set_unreadable(rig.key(1), Some("Sessions does not decode"));
    rig.run();
    rig.start();
    rig.until("two of three", |s| s.count(State::Active) == 2).await;
    let is_shown = |w: &fleet::WorkerStatus| w.reason.code() == "chain-state-unreadable";
    rig.until_worker(1, "the reason is shown", |w| {
        is_shown(w) && w.message.contains("Sessions does not decode")
    })
    .await;
    // Workers that are added later are followed.
    let added = rig.add_worker(POOL).await;
    rig.until_worker(added, "computing", |w| w.state == State::Active).await;
    rig.chain.set_unreadable(rig.key(1), None);
    rig.until_all(State::Active).await;
}

#[tokio::test(start_paused = true)]
async fn restarts_at_any_moment_do_not_stop_following() {
    let config = chain_memory::Config::default().with_view_delay_blocks(3);
    let mut rig = Rig::with(config, 8, 20).await;
    rig.run();
    rig.start();
    // Restarts, kicks, edits and removals while keys are about to be followed.
    for round in 0u64..200 {
        tokio::time::sleep(Duration::from_millis(700 * (round % 5))).await;
        let index = (round * 7 % 8) as usize;
        match round % 4 {
            0 | 1 => drop(rig.fleet().command(rig.ids[index], Command::Restart)),
            2 => drop(rig.fleet().command(rig.ids[index], Command::Kick)),
            _ => {
                rig.edit_worker(index, |w| w.enabled = false).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                rig.edit_worker(index, |w| w.enabled = true).await;
            }
        }
    }
    rig.until_all(State::Active).await;
    let added = rig.add_worker(POOL).await;
    rig.until_worker(added, "computing", |w| w.state == State::Active).await;
    assert!(refused(&rig).is_empty(), "{:?}", refused(&rig));
    assert_eq!(computing(&rig).len(), 9);
}

/// A reader that shows no pools, as an embedder's may.
#[derive(Debug)]
struct WithoutPools(MemoryChain, watch::Receiver<Option<Arc<ChainView>>>);

impl ChainReader for WithoutPools {
    fn views(&self) -> watch::Receiver<Option<Arc<ChainView>>> {
        self.1.clone()
    }

    fn follow(&self, followed: Followed) {
        self.0.follow(followed);
    }
}

#[tokio::test(start_paused = true)]
async fn unpredictable_refusal_costs_a_fee_once() {
    let mut rig = Rig::new(3, 20).await;
    rig.chain.add_pool(POOL, account(POOL), 2 * STAKE);
    rig.run();
    let (shown, views) = watch::channel(None);
    let mut full = rig.chain.views();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        while full.changed().await.is_ok() {
            let mut view = full.borrow_and_update().as_deref().cloned().unwrap();
            view.pools.clear();
            shown.send_replace(Some(Arc::new(view)));
        }
    });
    let mut parts = rig.parts(rig.source.clone());
    parts.chain = Arc::new(WithoutPools(rig.chain.clone(), views));
    rig.fleet = Some(Fleet::start(parts, Rig::config()));
    rig.until("two of three", |s| s.count(State::Active) == 2).await;
    let is_shown = |s: &fleet::FleetStatus| s.workers.iter().any(|w| w.reason.code() == "operation-refused");
    rig.until("the third reports it", is_shown).await;
    tokio::time::sleep(5 * HOUR).await;
    assert_eq!(refused(&rig).len(), 1, "{:?}", refused(&rig));
    // It is tried again after long, and at once where an operator says so.
    rig.chain.contribute(POOL, STAKE);
    for id in rig.ids.clone() {
        rig.fleet().command(id, Command::Restart).unwrap();
    }
    rig.until_all(State::Active).await;
}

#[tokio::test(start_paused = true)]
async fn unresponsive_worker_is_shown_in_its_status() {
    let mut rig = Rig::new(1, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    assert!(!rig.status(0).is_unresponsive());
    rig.chain.set_session_state(rig.key(0), SessionState::WorkerUnresponsive);
    rig.until_worker(0, "unresponsive", |w| w.is_unresponsive() && w.reason.code() == "unresponsive").await;
    assert_eq!((rig.status(0).state, rig.status(0).saved.goal), (State::Active, Goal::Compute));
}
