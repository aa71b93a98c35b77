//! Tests with a real Khala runtime and hand-encoded values.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use codec::{Compact, Encode};
use prb_core::chain::{SessionState, StakeRules, Withdrawal, session_account};

use super::*;
use crate::metadata::{Runtime, real_runtimes::runtime};

const PHA: u128 = 1_000_000_000_000;
const POOL: PoolId = PoolId(7);
const OWNER: AccountId = AccountId([3; 32]);
const POOL_ACCOUNT: [u8; 32] = [4; 32];
const ONE: WorkerKey = WorkerKey([1; 32]);
const TWO: WorkerKey = WorkerKey([2; 32]);
const BOUNDS: Bounds = Bounds { workers: 3, pools: 3, accounts: 3, senders: 3 };

fn khala() -> Option<Runtime> {
    runtime("khala-metadata-v14.scale")
}

/// A chain whose values the test sets.
struct Chain {
    runtime: Runtime,
    values: Values,
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Chain {
    fn new(runtime: Runtime) -> Self {
        Self { runtime, values: Values::new(), changes: Vec::new() }
    }

    fn key(&self, item: &str, key: &[u8]) -> Vec<u8> {
        let (pallet, entry) = item.split_once("::").unwrap();
        self.runtime.item(pallet, entry).unwrap().key(key)
    }

    fn set(&mut self, item: &str, key: &[u8], value: impl Into<Option<Vec<u8>>>) {
        let (key, value) = (self.key(item, key), value.into());
        self.put(key, value);
    }

    fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.values.insert(key.clone(), value.clone());
        self.changes.push((key, value));
    }

    fn set_free_stake(&mut self, stake: u128) {
        let item = self.runtime.double_map("Assets", "Account").unwrap();
        let asset: u32 = self.runtime.constant("PhalaWrappedBalances", "WPhaAssetId").unwrap();
        // Balance, `AccountStatus::Liquid` or `is_frozen` as false, `ExistenceReason::Consumer`, no extra.
        let account = (stake, 0_u8, 0_u8).encode();
        self.put(item.double_key(&asset.encode(), &POOL_ACCOUNT), Some(account));
    }

    fn state(&self, followed: Followed) -> (State, Arc<Followed>) {
        let layout = Layout::new(&self.runtime, 2);
        let mut state = State::new(10, Hash([10; 32]), layout, BOUNDS);
        let followed = Arc::new(followed);
        state.follow(&followed);
        self.read(&mut state);
        (state, followed)
    }

    /// Answers the state's reads until it has none; returns the number of rounds.
    fn read(&self, state: &mut State) -> usize {
        for round in 0.. {
            let keys = state.unread();
            if keys.is_empty() {
                return round;
            }
            let value = |key: Vec<u8>| (key.clone(), self.values.get(&key).cloned().flatten());
            state.fill(&keys.into_iter().map(value).collect());
        }
        unreachable!()
    }

    /// Applies the next block, with the values set since the last one.
    fn block(&mut self, state: &mut State) -> usize {
        let (block, changes) = (state.block + 1, std::mem::take(&mut self.changes));
        assert!(!state.apply(block, Hash([block as u8; 32]), &changes));
        self.read(state)
    }
}

fn base_pool(owner: AccountId, withdrawals: &[u64]) -> Vec<u8> {
    let mut base = (POOL.0, owner, 5_000 * PHA, 6_000 * PHA).encode();
    Compact(withdrawals.len() as u32).encode_to(&mut base);
    for start_time in withdrawals {
        // The withdrawer, its start time, and the token that holds the shares.
        base.extend(([9_u8; 32], *start_time, 1_u32).encode());
    }
    // No subscribers, the collection, the account.
    base.extend((Vec::<u64>::new(), 10_000_u32, POOL_ACCOUNT).encode());
    base
}

fn stake_pool(
    owner: AccountId,
    workers: &[WorkerKey],
    cooling: &[WorkerKey],
    withdrawals: &[u64],
) -> Vec<u8> {
    let mut pool = vec![0];
    pool.extend(base_pool(owner, withdrawals));
    pool.extend((Some(100_000_u32), Some(9_000 * PHA), workers.to_vec(), cooling.to_vec()).encode());
    // The accounts of the locked stake and of the owner's rewards.
    pool.extend([[5_u8; 32], [6; 32]].concat());
    pool
}

fn registration(worker: WorkerKey) -> Vec<u8> {
    let provider: Option<u8> = Some(1);
    (
        worker,
        [8_u8; 32],
        7_u32,
        1_700_000_000_u64,
        Some(OWNER),
        provider,
        1_u8,
        Some(1_234_u32),
        vec![4_u32, 1],
    )
        .encode()
}

fn session(state: u8) -> Vec<u8> {
    (state, 1_u128, 2_u128, 3_u64, (4_u32, 5_u32, 6_u64, 7_u64, 8_u64), 9_u64, 10_u128).encode()
}

fn workers(workers: &[WorkerKey]) -> Followed {
    Followed::default().with_workers(workers.iter().copied().collect())
}

#[test]
fn pool_shows_free_and_releasing_stake() {
    let Some(runtime) = khala() else { return };
    let mut chain = Chain::new(runtime);
    let pool = POOL.0.encode();
    chain.set("PhalaBasePool::Pools", &pool, stake_pool(OWNER, &[ONE, TWO], &[TWO], &[2_000, 1_000]));
    chain.set_free_stake(123 * PHA);
    let stake_of_two = session_account(POOL, TWO);
    chain.set("PhalaComputation::Stakes", &stake_of_two.0, (40 * PHA).encode());
    let none = PoolId(8);
    let (mut state, followed) = chain.state(Followed::default().with_pools([POOL, none].into()));
    let view = state.view(&followed);
    assert_eq!(*view.pools[&none].as_ref().unwrap().as_ref(), None);
    let shown = view.pools[&POOL].as_ref().unwrap().as_ref().as_ref().unwrap().clone();
    assert_eq!((shown.owner, shown.is_vault), (OWNER, false));
    assert_eq!((shown.free_stake, shown.releasing_stake), (123 * PHA, 40 * PHA));
    assert_eq!((shown.total_value, shown.cap), (6_000 * PHA, Some(9_000 * PHA)));
    assert_eq!(shown.commission_millionths, Some(100_000));
    assert_eq!((shown.workers.as_slice(), shown.cooling_down.as_slice()), (&[ONE, TWO][..], &[TWO][..]));
    assert_eq!(shown.withdrawals, [1_000, 2_000].map(|start_time| Withdrawal { start_time }));
    assert_eq!(shown.forced_to_stop_at(view.withdrawal_grace_secs), Some(1_000 + 604_800));
    assert_eq!(view.max_pool_workers, Some(200));
    assert!(!shown.is_full(view.max_pool_workers) && shown.is_full(Some(2)));

    // Balance changes need no read; another worker in cool-down needs one for its stake.
    chain.set_free_stake(100 * PHA);
    assert_eq!(chain.block(&mut state), 0);
    chain.set("PhalaComputation::Stakes", &session_account(POOL, ONE).0, (2 * PHA).encode());
    chain.set("PhalaBasePool::Pools", &pool, stake_pool(OWNER, &[ONE, TWO], &[TWO, ONE], &[]));
    assert_eq!(chain.block(&mut state), 1);
    let view = state.view(&followed);
    let shown = view.pools[&POOL].as_ref().unwrap().as_ref().as_ref().unwrap();
    assert_eq!((shown.free_stake, shown.releasing_stake), (100 * PHA, 42 * PHA));
    // More than the reader follows.
    chain.set("PhalaBasePool::Pools", &pool, stake_pool(OWNER, &[], &[TWO, ONE, WorkerKey([3; 32])], &[]));
    chain.block(&mut state);
    let reason = state.view(&followed).pools[&POOL].as_ref().unwrap_err().to_string();
    assert!(reason.starts_with("3 workers of pool 7 are cooling down"), "{reason}");
}

#[test]
fn vault_is_recognised() {
    let Some(runtime) = khala() else { return };
    let mut chain = Chain::new(runtime);
    let mut vault = vec![1];
    vault.extend(base_pool(OWNER, &[]));
    // Checkpoint of the share price, commission, owner's shares, pools invested in.
    vault.extend((1_u128, Some(50_000_u32), 0_u128, vec![1_u64]).encode());
    chain.set("PhalaBasePool::Pools", &POOL.0.encode(), vault);
    let (mut state, followed) = chain.state(Followed::default().with_pools([POOL].into()));
    let view = state.view(&followed);
    let shown = view.pools[&POOL].as_ref().unwrap().as_ref().as_ref().unwrap();
    assert_eq!((shown.is_vault, shown.owner, shown.free_stake), (true, OWNER, 0));
    assert_eq!(shown.commission_millionths, Some(50_000));
}

#[test]
fn chain_clock_and_parameters_show() {
    let Some(runtime) = khala() else { return };
    let mut chain = Chain::new(runtime);
    chain.set("Timestamp::Now", &[], 1_700_000_000_123_u64.encode());
    chain.set("PhalaComputation::CoolDownPeriod", &[], 604_800_u64.encode());
    // pha_rate, rho, budget, v_max, cost_k, cost_b, slash_rate, treasury_ratio, window, rig_k, rig_b, re, k, kappa.
    let first: Vec<u128> = (1..=8).collect();
    let mut rules: Vec<u8> = first.iter().flat_map(Encode::encode).collect();
    rules.extend((20_u32, 9_u128, 10_u128, 11_u128, 12_u128, 13_u128).encode());
    chain.set("PhalaComputation::TokenomicParameters", &[], rules);
    let (mut state, followed) = chain.state(Followed::default());
    let view = state.view(&followed);
    assert_eq!((view.time_ms, view.cool_down_period_secs), (1_700_000_000_123, 604_800));
    assert_eq!(view.stake_rules, Some(StakeRules::new(12, 4, 11, 9, 10)));
    assert_eq!(view.unreadable, []);
    // An undecodable value is named, and the others stay.
    chain.set("PhalaComputation::TokenomicParameters", &[], vec![1; 5]);
    chain.set("Timestamp::Now", &[], 1_700_000_012_000_u64.encode());
    chain.block(&mut state);
    let view = state.view(&followed);
    assert_eq!((view.time_ms, view.cool_down_period_secs), (1_700_000_012_000, 604_800));
    assert_eq!(view.stake_rules, None);
    let named: Vec<_> = view.unreadable.iter().map(ToString::to_string).collect();
    assert!(named.len() == 1 && named[0].contains("PhalaComputation::TokenomicParameters"), "{named:?}");
}

#[test]
fn accounts_and_senders_show() {
    let Some(runtime) = khala() else { return };
    let mut chain = Chain::new(runtime);
    let account = |free: u128, frozen: [u128; 2]| (1_u32, [0_u32, 1, 0], free, 5_u128, frozen).encode();
    chain.set("System::Account", &OWNER.0, account(100, [70, 30]));
    chain.set("PhalaMq::OffchainIngress", &MessageOrigin::Gatekeeper.encode(), 5_u64.encode());
    let cluster = MessageOrigin::Cluster(Hash([1; 32]));
    let followed = Followed::default()
        .with_accounts([OWNER, AccountId([9; 32])].into())
        .with_senders([MessageOrigin::Gatekeeper, cluster.clone()].into());
    let (mut state, followed) = chain.state(followed);
    let view = state.view(&followed);
    // `frozen` includes what is reserved.
    assert_eq!(view.accounts[&OWNER].as_ref().unwrap().free, 35);
    assert_eq!(view.accounts[&AccountId([9; 32])].as_ref().unwrap().free, 0);
    assert_eq!(**view.senders[&MessageOrigin::Gatekeeper].as_ref().unwrap(), 5);
    assert_eq!(**view.senders[&cluster].as_ref().unwrap(), 0);
}

#[test]
fn unreadable_value_affects_nothing_else_and_recovers() {
    let Some(runtime) = khala() else { return };
    let mut chain = Chain::new(runtime);
    let unknown = WorkerKey([3; 32]);
    chain.set("PhalaRegistry::Workers", &ONE.0, registration(ONE));
    // One byte short, and a session state that does not exist in that runtime.
    chain.set("PhalaRegistry::Workers", &TWO.0, registration(TWO)[1..].to_vec());
    let (mut state, followed) = chain.state(workers(&[ONE, TWO, unknown]));
    let view = state.view(&followed);
    assert_eq!(
        view.workers[&ONE].as_ref().unwrap().registration.as_ref().unwrap().initial_score,
        Some(1_234)
    );
    assert_eq!(*view.workers[&unknown].as_ref().unwrap().as_ref(), WorkerOnChain::default());
    let reason = view.workers[&TWO].as_ref().unwrap_err().to_string();
    assert!(reason.contains("PhalaRegistry::Workers"), "{reason}");

    // Other subjects are still updated; a new value recovers the unreadable one.
    chain.set("PhalaMq::OffchainIngress", &MessageOrigin::Worker(ONE).encode(), 4_u64.encode());
    chain.block(&mut state);
    let view = state.view(&followed);
    assert_eq!(view.workers[&ONE].as_ref().unwrap().ingress_sequence, 4);
    assert!(view.workers[&TWO].is_err());
    chain.set("PhalaRegistry::Workers", &TWO.0, registration(TWO));
    chain.block(&mut state);
    assert!(state.view(&followed).workers[&TWO].as_ref().unwrap().registration.is_some());

    // A session in an unknown state, and back.
    let account = session_account(POOL, TWO);
    chain.set("PhalaComputation::Sessions", &account.0, session(9));
    chain.set("PhalaComputation::WorkerBindings", &TWO.0, account.0.to_vec());
    assert_eq!(chain.block(&mut state), 1);
    let reason = state.view(&followed).workers[&TWO].as_ref().unwrap_err().to_string();
    assert!(reason.contains("PhalaComputation::Sessions"), "{reason}");
    chain.set("PhalaComputation::Sessions", &account.0, session(1));
    assert_eq!(chain.block(&mut state), 0);
    let view = state.view(&followed);
    let shown = view.workers[&TWO].as_ref().unwrap().session.as_ref().unwrap();
    assert_eq!((shown.state, shown.account, shown.total_reward), (SessionState::WorkerIdle, account, 10));
}

#[test]
fn unreadable_endpoints_affect_nothing_else() {
    let Some(runtime) = khala() else { return };
    let mut chain = Chain::new(runtime);
    chain.set("PhalaRegistry::Workers", &ONE.0, registration(ONE));
    let mut endpoints = vec![0];
    endpoints.extend(vec!["http://one", "http://two"].encode());
    chain.set("PhalaRegistry::Endpoints", &ONE.0, endpoints);
    let (mut state, followed) = chain.state(workers(&[ONE]));
    let view = state.view(&followed);
    let shown = view.workers[&ONE].as_ref().unwrap();
    assert_eq!((shown.endpoints.len(), &shown.endpoints_unreadable), (2, &None));
    chain.set("PhalaRegistry::Endpoints", &ONE.0, vec![7, 7]);
    chain.block(&mut state);
    let view = state.view(&followed);
    let shown = view.workers[&ONE].as_ref().unwrap();
    assert!(shown.registration.is_some() && shown.endpoints.is_empty());
    let reason = shown.endpoints_unreadable.as_ref().unwrap().to_string();
    assert!(reason.contains("PhalaRegistry::Endpoints"), "{reason}");
}

#[test]
fn unread_subject_is_missing_or_unreadable() {
    let Some(runtime) = khala() else { return };
    let mut chain = Chain::new(runtime);
    chain.set("PhalaRegistry::Workers", &ONE.0, registration(ONE));
    let (mut state, _) = chain.state(workers(&[ONE]));
    let both = Arc::new(workers(&[ONE, TWO]));
    state.follow(&both);
    // The node does not answer for the new subject, and blocks continue.
    let ingress = chain.key("PhalaMq::OffchainIngress", &MessageOrigin::Worker(ONE).encode());
    assert!(!state.apply(11, Hash([11; 32]), &[(ingress, Some(1_u64.encode()))]));
    let view = state.view(&both);
    assert_eq!((view.block.0, view.workers[&ONE].as_ref().unwrap().ingress_sequence), (11, 1));
    assert!(!view.workers.contains_key(&TWO));
    // A new session's values are missing: the previous reading is of an older block.
    let binding = chain.key("PhalaComputation::WorkerBindings", &ONE.0);
    assert!(!state.apply(12, Hash([12; 32]), &[(binding, Some(vec![1; 32]))]));
    let view = state.view(&both);
    assert_eq!(view.workers[&ONE].as_ref().unwrap_err().to_string(), "some of its values are not read yet");
    chain.read(&mut state);
    assert!(state.view(&both).workers.values().all(Result::is_ok));
    // A removed subject is gone with all values that it needed.
    let none = Arc::new(Followed::default());
    state.follow(&none);
    assert!(state.view(&none).workers.is_empty() && state.shown.workers.is_empty());
    assert_eq!(state.cells.subjects().collect::<Vec<_>>(), [&Subject::Chain]);
}

#[test]
fn runtime_without_an_item_lacks_only_that_part() {
    // A relay chain's runtime: balances and a clock, but no workers.
    let Some(runtime) = runtime("polkadot-v14.scale") else { return };
    let mut chain = Chain::new(runtime);
    let account = (1_u32, [0_u32, 1, 0], 100_u128, 5_u128, 35_u128, 0_u128).encode();
    chain.set("System::Account", &OWNER.0, account);
    chain.set("Timestamp::Now", &[], 42_u64.encode());
    let followed = Followed::default()
        .with_workers([ONE].into())
        .with_pools([POOL].into())
        .with_accounts([OWNER].into())
        .with_senders([MessageOrigin::Gatekeeper].into());
    let (mut state, followed) = chain.state(followed);
    let view = state.view(&followed);
    // `frozen` includes what is reserved.
    assert_eq!((view.time_ms, view.accounts[&OWNER].as_ref().unwrap().free), (42, 70));
    for (reason, item) in [
        (view.workers[&ONE].as_ref().unwrap_err().to_string(), "PhalaRegistry::Workers"),
        (view.pools[&POOL].as_ref().unwrap_err().to_string(), "PhalaBasePool::Pools"),
        (
            view.senders[&MessageOrigin::Gatekeeper].as_ref().unwrap_err().to_string(),
            "PhalaMq::OffchainIngress",
        ),
    ] {
        assert_eq!(reason, format!("the chain's runtime has no {item}"));
    }
    assert_eq!(view.max_pool_workers, None);
    assert_eq!(view.unreadable.len(), 5, "{:?}", view.unreadable);
}
