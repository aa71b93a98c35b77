//! Pools of the chain in memory: what views show, what the pallets refuse and in which order, and what
//! happens without the bridge.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{sync::Arc, time::Duration};

use prb_core::{
    chain::{
        Call, CallBatch, ChainReader, ChainSubmitter, ChainView, Followed, PoolOnChain, Registration,
        SessionState, StakeRules, known_error,
        memory::{Config, MemoryChain},
    },
    primitives::{AccountId, Balance, PoolId, WorkerKey},
    signer::memory::MemorySigner,
    wire::MessageOrigin,
};
use tokio::time::timeout;

const PHA: Balance = 1_000_000_000_000;
const POOL: PoolId = PoolId(1);
const W: WorkerKey = WorkerKey([7; 32]);
const STAKE: Balance = 100 * PHA;

/// A chain with one pool of the operator, and workers that are registered and scored.
struct Rig {
    chain: MemoryChain,
    operator: AccountId,
}

impl Rig {
    fn new(config: Config) -> Self {
        let (chain, operator) = (MemoryChain::new(config), MemoryChain::account_of("operator"));
        chain.add_pool(POOL, operator, 1_000 * PHA);
        let rig = Self { chain, operator };
        rig.scored(W);
        rig.chain.follow(
            Followed::default()
                .with_workers([W].into())
                .with_pools([POOL].into())
                .with_accounts([operator].into())
                .with_senders([MessageOrigin::Gatekeeper].into()),
        );
        rig
    }

    fn scored(&self, worker: WorkerKey) {
        let registration = Registration {
            pubkey: worker,
            ecdh_pubkey: [0; 32],
            runtime_version: 1,
            last_updated: Config::GENESIS_SECS,
            operator: Some(self.operator),
            attestation_provider: None,
            confidence_level: 1,
            initial_score: Some(1_600),
            features: vec![],
        };
        self.chain.set_registration(worker, Some(registration));
    }

    /// Sends one call in a block of its own; gives the error's name.
    async fn call(&self, call: Call) -> Option<String> {
        let batch = CallBatch::new(Arc::new(MemorySigner::new("operator")), vec![call]);
        let submit = self.chain.submit(&batch, tokio::sync::mpsc::channel(1).0);
        tokio::pin!(submit);
        assert!(timeout(Duration::ZERO, &mut submit).await.is_err());
        self.chain.produce_block();
        let error = submit.await.unwrap().calls.remove(0).err()?;
        assert_ne!(known_error(&error.name).name, "unknown", "{error} is not in the table");
        Some(error.name)
    }

    fn view(&self) -> Arc<ChainView> {
        self.chain.views().borrow().clone().unwrap()
    }

    fn pool(&self) -> PoolOnChain {
        let shown = self.view().pools[&POOL].as_ref().unwrap().as_ref().clone();
        assert_eq!(shown, self.chain.pool(POOL), "the view is the chain's newest state");
        shown.unwrap()
    }

    fn state(&self) -> Option<SessionState> {
        self.view().workers[&W].as_ref().unwrap().session.as_ref().map(|session| session.state)
    }
}

const fn add(worker: WorkerKey) -> Call {
    Call::AddWorker { pool: POOL, worker }
}

const fn start(stake: Balance) -> Call {
    Call::StartComputing { pool: POOL, worker: W, stake }
}

const fn restart(stake: Balance) -> Call {
    Call::RestartComputing { pool: POOL, worker: W, stake }
}

const STOP: Call = Call::StopComputing { pool: POOL, worker: W };
const RECLAIM: Call = Call::ReclaimWorker { pool: POOL, worker: W };
const REMOVE: Call = Call::RemoveWorker { pool: POOL, worker: W };

fn named(name: &str) -> Option<String> {
    Some(name.to_owned())
}

#[tokio::test(start_paused = true)]
async fn views_show_pools_accounts_and_senders() {
    let rig = Rig::new(Config::default());
    rig.chain.fund(rig.operator, 5 * PHA);
    rig.chain.set_sender(&MessageOrigin::Gatekeeper, 3);
    rig.chain.set_endpoints(W, vec!["http://w".into()]);
    rig.chain.set_cap(POOL, Some(2_000 * PHA));
    assert_eq!(rig.call(add(W)).await, None);
    assert_eq!(rig.call(start(STAKE)).await, None);
    let pool = rig.pool();
    assert_eq!((pool.owner, pool.free_stake, pool.total_value), (rig.operator, 900 * PHA, 1_000 * PHA));
    assert_eq!((pool.workers.as_slice(), pool.releasing_stake, pool.cap), (&[W][..], 0, Some(2_000 * PHA)));
    let view = rig.view();
    assert_eq!(view.accounts[&rig.operator].as_ref().unwrap().free, 5 * PHA);
    assert_eq!(**view.senders[&MessageOrigin::Gatekeeper].as_ref().unwrap(), 3);
    assert_eq!(view.workers[&W].as_ref().unwrap().endpoints, ["http://w"]);
    assert_eq!(view.time_ms, rig.chain.now_secs() * 1_000);
    assert_eq!((view.max_pool_workers, view.withdrawal_grace_secs), (Some(200), Some(604_800)));

    // The owner stops it from elsewhere.
    assert!(rig.chain.stop_worker(W) && !rig.chain.stop_worker(W));
    rig.chain.produce_block();
    let pool = rig.pool();
    assert_eq!((pool.cooling_down.as_slice(), pool.releasing_stake), (&[W][..], STAKE));
    assert_eq!(rig.state(), Some(SessionState::WorkerCoolingDown));
    assert_eq!(rig.call(STOP).await, named("PhalaStakePoolv2::WorkerAlreadyStopped"));
    assert_eq!(rig.call(REMOVE).await, named("PhalaStakePoolv2::WorkerIsNotReady"));
    assert_eq!(rig.call(RECLAIM).await, named("PhalaComputation::CoolDownNotReady"));
    rig.chain.advance(7 * 24 * 3600);
    assert_eq!(rig.call(RECLAIM).await, None);
    let pool = rig.pool();
    assert_eq!((pool.free_stake, pool.releasing_stake, pool.cooling_down.len()), (1_000 * PHA, 0, 0));
    assert_eq!(rig.call(REMOVE).await, None);
    assert!(rig.pool().workers.is_empty() && rig.state().is_none());
}

#[tokio::test(start_paused = true)]
async fn adding_is_checked_in_the_chains_order() {
    let rig = Rig::new(Config::default().with_max_pool_workers(1));
    let elsewhere = |pool| Call::AddWorker { pool, worker: W };
    assert_eq!(rig.call(elsewhere(PoolId(9))).await, named("PhalaBasePool::PoolDoesNotExist"));
    rig.chain.add_pool(PoolId(2), AccountId([9; 32]), 0);
    assert_eq!(rig.call(elsewhere(PoolId(2))).await, named("PhalaStakePoolv2::UnauthorizedPoolOwner"));
    rig.chain.set_vault(PoolId(2), true);
    assert_eq!(rig.call(elsewhere(PoolId(2))).await, named("PhalaBasePool::PoolTypeNotMatch"));
    assert_eq!(rig.call(add(W)).await, None);
    assert_eq!(rig.call(add(W)).await, named("PhalaStakePoolv2::WorkerExists"));
    let other = WorkerKey([8; 32]);
    rig.scored(other);
    assert_eq!(rig.call(add(other)).await, named("PhalaStakePoolv2::WorkersExceedLimit"));
    assert!(rig.pool().is_full(rig.view().max_pool_workers));
    rig.chain.add_pool(PoolId(3), rig.operator, 0);
    assert_eq!(rig.call(elsewhere(PoolId(3))).await, named("PhalaStakePoolv2::FailedToBindSessionAndWorker"));
    assert_eq!(
        rig.call(Call::RemoveWorker { pool: PoolId(3), worker: W }).await,
        named("PhalaStakePoolv2::WorkerInAnotherPool")
    );
    rig.chain.set_pool_owner(POOL, AccountId([9; 32]));
    for call in [add(W), start(STAKE), restart(STAKE), STOP, REMOVE] {
        assert_eq!(rig.call(call).await, named("PhalaStakePoolv2::UnauthorizedPoolOwner"));
    }
}

#[tokio::test(start_paused = true)]
async fn stakes_follow_the_chains_rules() {
    let one = 1 << 64;
    let rules = StakeRules::new(50 * one, 30_000 * one, one + one / 2, 0, 0);
    let rig = Rig::new(Config::default().with_stake_rules(Some(rules)));
    rig.chain.contribute(POOL, 1_000_000 * PHA);
    rig.call(add(W)).await;
    assert_eq!(rig.view().stake_rules, Some(rules));
    let (min, max) = (rules.min_stake(1_600), rules.max_stake(1_600, 1));
    assert_eq!((min, max), (2_000 * PHA, 20_000 * PHA));
    assert_eq!(rig.call(start(min - 1)).await, named("PhalaComputation::InsufficientStake"));
    assert_eq!(rig.call(start(max + PHA)).await, named("PhalaComputation::TooMuchStake"));
    assert_eq!(rig.call(start(max)).await, None);
    let ve = rig.view().workers[&W].as_ref().unwrap().session.as_ref().unwrap().ve;
    assert_eq!(ve, 30_000 * one);
    assert_eq!(rig.call(start(max)).await, named("PhalaComputation::WorkerNotReady"));
}

#[tokio::test(start_paused = true)]
async fn waiting_withdrawals_hold_up_restarts_and_may_stop_a_pool() {
    let rig = Rig::new(Config::default());
    rig.call(add(W)).await;
    rig.call(start(900 * PHA)).await;
    rig.chain.withdraw(POOL, 300 * PHA);
    let asked = rig.chain.now_secs();
    rig.chain.produce_block();
    let pool = rig.pool();
    assert_eq!((pool.free_stake, pool.withdrawals.len()), (0, 1));
    assert_eq!(pool.forced_to_stop_at(rig.view().withdrawal_grace_secs), Some(asked + 604_800));
    assert_eq!(rig.call(restart(950 * PHA)).await, named("PhalaStakePoolv2::WithdrawQueueNotEmpty"));
    rig.chain.force_stop(POOL);
    rig.chain.produce_block();
    assert_eq!((rig.state(), rig.pool().releasing_stake), (Some(SessionState::WorkerCoolingDown), 900 * PHA));
    // What is reclaimed goes to who waits.
    rig.chain.advance(7 * 24 * 3600);
    assert_eq!(rig.call(RECLAIM).await, None);
    let pool = rig.pool();
    assert_eq!((pool.free_stake, pool.withdrawals.len()), (700 * PHA, 0));
    assert_eq!(pool.forced_to_stop_at(Some(1)), None);
}

#[tokio::test(start_paused = true)]
async fn a_refused_restart_changes_nothing() {
    let rig = Rig::new(Config::default());
    rig.call(add(W)).await;
    assert_eq!(rig.call(restart(STAKE)).await, named("PhalaComputation::WorkerNotComputing"));
    rig.call(start(STAKE)).await;
    let before = (rig.pool(), rig.chain.worker(W));
    assert_eq!(rig.call(restart(STAKE)).await, named("PhalaStakePoolv2::CannotRestartWithLessStake"));
    assert_eq!(rig.call(restart(1_001 * PHA)).await, named("PhalaStakePoolv2::InsufficientFreeStake"));
    assert_eq!((rig.pool(), rig.chain.worker(W)), before);
    assert_eq!(rig.call(restart(2 * STAKE)).await, None);
    assert_eq!(rig.pool().free_stake, 800 * PHA);
}

#[tokio::test(start_paused = true)]
async fn an_assignment_may_be_deleted_and_values_unreadable() {
    let rig = Rig::new(Config::default());
    rig.call(add(W)).await;
    rig.call(start(STAKE)).await;
    rig.chain.delete_assignment(W);
    rig.chain.set_unreadable_pool(POOL, Some("PhalaBasePool::Pools has another layout"));
    rig.chain.produce_block();
    let view = rig.view();
    let worker = view.workers[&W].as_ref().unwrap();
    assert_eq!((worker.pool, rig.state()), (None, Some(SessionState::WorkerIdle)));
    let reason = view.pools[&POOL].as_ref().unwrap_err().to_string();
    assert_eq!(reason, "PhalaBasePool::Pools has another layout");
    assert_eq!(rig.call(REMOVE).await, named("PhalaStakePoolv2::WorkerDoesNotExist"));
    rig.chain.set_unreadable_pool(POOL, None);
    rig.chain.set_unreadable(W, Some("garbled"));
    rig.chain.produce_block();
    assert_eq!(rig.pool().workers, [W]);
    assert_eq!(rig.view().workers[&W].as_ref().unwrap_err().to_string(), "garbled");
    rig.chain.set_unreadable(W, None);
    rig.chain.produce_block();
    assert!(rig.view().workers[&W].is_ok());
}
