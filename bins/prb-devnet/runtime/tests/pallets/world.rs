//! A parachain's state with a few workers, and operations of workers and owners.

pub(crate) use codec::{Decode, Encode};
pub(crate) use frame_support::{assert_noop, assert_ok};
use frame_support::{
    storage::with_storage_layer,
    traits::{Hooks, UnfilteredDispatchable},
};
pub(crate) use prb_devnet_runtime::{
    PHA,
    pallets::{
        actions::{self, Action, PoolCall, Sender},
        base_pool, computation, load, mq, registry, stake_pool, wrapped_balances,
    },
    para::{
        Genesis,
        v1::{
            PhalaComputation, PhalaMq, PhalaRegistry, Runtime, RuntimeCall, RuntimeEvent, RuntimeOrigin,
            System, Timestamp, genesis,
        },
    },
    types::{report, *},
};
pub(crate) use sp_core::{H256, Pair as _, U256, sr25519};
pub(crate) use sp_runtime::DispatchError;

pub(crate) const PARA_ID: u32 = 2004;
const START_MS: u64 = 1_704_067_200_000;
pub(crate) const BLOCK_MS: u64 = 12_000;
pub(crate) const WINDOW: u32 = 3;
pub(crate) const COOL_DOWN_SECS: u64 = 60;
pub(crate) const GRACE_SECS: u64 = 120;
pub(crate) const MAX_POOL_WORKERS: u32 = 3;
/// The score that workers report; its minimum stake is 44.7 PHA.
pub(crate) const SCORE: u32 = 2000;
/// A vault of the owner of pool 1.
pub(crate) const VAULT: u64 = 9;

pub(crate) fn owner(pid: u64) -> AccountId {
    AccountId::new([pid as u8; 32])
}

pub(crate) fn worker(n: u8) -> sr25519::Pair {
    sr25519::Pair::from_seed(&[n + 9; 32])
}

/// The key of worker 0.
pub(crate) fn key() -> WorkerPublicKey {
    worker(0).public()
}

pub(crate) fn allowed_genesis() -> H256 {
    H256::repeat_byte(0xaa)
}

pub(crate) fn state() -> sp_io::TestExternalities {
    let storage = genesis(Genesis {
        para_id: PARA_ID,
        balances: vec![],
        pools: vec![(1, owner(1), 1000 * PHA), (2, owner(2), 1000 * PHA)],
        vaults: vec![(VAULT, owner(1))],
        max_pool_workers: MAX_POOL_WORKERS,
        grace_period: GRACE_SECS,
        weigh_calls: false,
        proxies: vec![],
        benchmark_duration: 8,
        none_attestation_enabled: true,
        ias_attestation_enabled: false,
        minimum_pruntime_version: (2, 1, 0),
        computation: computation::Parameters {
            heartbeat_interval: 1,
            heartbeat_window: WINDOW,
            ..Default::default()
        },
        cool_down_period: COOL_DOWN_SECS,
        load: load::Amount::default(),
    });
    storage.unwrap().into()
}

pub(crate) fn test(run: impl FnOnce()) {
    state().execute_with(|| {
        PhalaRegistry::allow_genesis_block(allowed_genesis());
        System::set_block_number(1);
        Timestamp::set_timestamp(START_MS);
        run();
    });
}

/// Advances to the next block; returns the last one's messages to the workers.
pub(crate) fn next_block() -> Vec<SystemEvent> {
    let number = System::block_number();
    PhalaComputation::on_finalize(number);
    let messages = messages();
    System::set_block_number(number + 1);
    System::reset_events();
    PhalaMq::on_initialize(number + 1);
    Timestamp::set_timestamp(now() + BLOCK_MS);
    messages
}

/// Advances the chain's time.
pub(crate) fn wait(seconds: u64) {
    Timestamp::set_timestamp(now() + seconds * 1000);
}

pub(crate) fn now() -> u64 {
    Timestamp::get()
}

pub(crate) fn messages() -> Vec<SystemEvent> {
    mq::OutboundMessages::<Runtime>::get()
        .into_iter()
        .filter(|message| message.destination == SYSTEM_EVENT_TOPIC)
        .map(|message| {
            assert!(matches!(message.sender, MessageOrigin::Pallet(_)));
            SystemEvent::decode(&mut &message.payload[..]).unwrap()
        })
        .collect()
}

pub(crate) fn events() -> Vec<RuntimeEvent> {
    System::events().into_iter().map(|record| record.event).collect()
}

pub(crate) fn worker_event(event: WorkerEvent) -> SystemEvent {
    SystemEvent::WorkerEvent(WorkerEventWithKey { pubkey: key(), event })
}

pub(crate) type Outcome = Result<(), DispatchError>;

pub(crate) fn send(who: &AccountId, call: impl Into<RuntimeCall>) -> Outcome {
    let origin = RuntimeOrigin::signed(who.clone());
    with_storage_layer(|| call.into().dispatch_bypass_filter(origin).map(drop).map_err(|error| error.error))
}

/// Carries out an external action.
pub(crate) fn act(action: Action) -> Outcome {
    with_storage_layer(|| actions::apply::<Runtime>(action))
}

/// Makes a pool call as its owner.
pub(crate) fn call(pid: u64, call: PoolCall) -> Outcome {
    act(Action::Call { who: owner(pid), pid, call })
}

pub(crate) fn info_of(n: u8, operator: Option<AccountId>) -> WorkerRegistrationInfoV2 {
    WorkerRegistrationInfoV2 {
        version: 1,
        machine_id: vec![1],
        pubkey: worker(n).public(),
        ecdh_pubkey: worker(n).public(),
        genesis_block_hash: allowed_genesis(),
        features: vec![4, 1],
        operator,
        para_id: PARA_ID,
        max_consensus_version: 1,
    }
}

pub(crate) fn info(operator: Option<AccountId>) -> WorkerRegistrationInfoV2 {
    info_of(0, operator)
}

pub(crate) fn register(info: WorkerRegistrationInfoV2, report: Option<AttestationReport>) -> Outcome {
    let call = registry::Call::register_worker_v2 { pruntime_info: info, attestation: Box::new(report) };
    send(&owner(1), call)
}

pub(crate) fn signed_by(
    pair: &sr25519::Pair,
    sender: MessageOrigin,
    topic: &[u8],
    payload: Vec<u8>,
    sequence: u64,
) -> SignedMessage {
    let message = Message { sender, destination: topic.to_vec(), payload };
    let signature = pair.sign(&SignedMessage::signed_bytes(&message, sequence)).0.to_vec();
    SignedMessage { message, sequence, signature }
}

pub(crate) fn signed(topic: &[u8], payload: Vec<u8>, sequence: u64) -> SignedMessage {
    signed_by(&worker(0), MessageOrigin::Worker(key()), topic, payload, sequence)
}

pub(crate) fn deliver(signed_message: SignedMessage) -> Outcome {
    send(&owner(2), mq::Call::sync_offchain_message { signed_message })
}

pub(crate) fn report_benchmark(topic: &[u8], sequence: u64, iterations: u64) -> Outcome {
    let start_time = now() - 6000;
    let report = RegistryEvent::BenchReport { start_time, iterations };
    deliver(signed(topic, report.encode(), sequence))
}

pub(crate) fn score() -> Option<u32> {
    registry::Workers::<Runtime>::get(key()).unwrap().initial_score
}

pub(crate) fn session() -> SessionInfo {
    computation::Sessions::<Runtime>::get(session_account(1, &key())).unwrap()
}

pub(crate) fn pool(pid: u64) -> StakePool {
    base_pool::Pallet::<Runtime>::stake_pool(pid).unwrap()
}

/// Returns a pool's stake: free, locked.
pub(crate) fn stakes(pid: u64) -> (u128, u128) {
    let (pool, balance) = (pool(pid), wrapped_balances::Pallet::<Runtime>::balance);
    (balance(&pool.basepool.pool_account_id) / PHA, balance(&pool.lock_account) / PHA)
}

/// Registers and scores worker `n` for pool 1.
pub(crate) fn scored(n: u8) -> WorkerPublicKey {
    let worker = worker(n).public();
    assert_ok!(register(info_of(n, Some(owner(1))), None));
    assert_ok!(act(Action::SetScore { worker, score: Some(SCORE) }));
    worker
}

/// Registers, scores and adds worker `n` to pool 1.
pub(crate) fn ready(n: u8) -> WorkerPublicKey {
    let worker = scored(n);
    assert_ok!(call(1, PoolCall::Add(worker)));
    worker
}

pub(crate) fn add(who: u64, pid: u64) -> Outcome {
    send(&owner(who), stake_pool::Call::add_worker { pid, pubkey: key() })
}

pub(crate) fn remove(pid: u64) -> Outcome {
    send(&owner(pid), stake_pool::Call::remove_worker { pid, worker: key() })
}

pub(crate) fn start(stake: u128) -> Outcome {
    send(&owner(1), stake_pool::Call::start_computing { pid: 1, worker: key(), stake })
}

pub(crate) fn restart(stake: u128) -> Outcome {
    send(&owner(1), stake_pool::Call::restart_computing { pid: 1, worker: key(), stake })
}

pub(crate) fn stop() -> Outcome {
    send(&owner(1), stake_pool::Call::stop_computing { pid: 1, worker: key() })
}

pub(crate) fn reclaim() -> Outcome {
    send(&owner(3), stake_pool::Call::reclaim_pool_worker { pid: 1, worker: key() })
}

pub(crate) fn force_withdraw(pid: u64) -> Outcome {
    send(&owner(7), stake_pool::Call::check_and_maybe_force_withdraw { pid })
}
