//! The Phala pallets as a bridge and its workers meet them: a worker's life, and every refusal.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use codec::{Decode, Encode};
use frame_support::{
    assert_noop, assert_ok,
    traits::{Hooks, UnfilteredDispatchable},
};
use prb_devnet_runtime::{
    PHA,
    pallets::{computation, load, mq, registry, stake_pool},
    para::{
        Genesis,
        v1::{
            PhalaComputation, PhalaMq, PhalaRegistry, Runtime, RuntimeCall, RuntimeEvent, RuntimeOrigin,
            System, Timestamp, genesis,
        },
    },
    types::*,
};
use sp_core::{H256, Pair as _, U256, sr25519};
use sp_runtime::DispatchError;

const PARA_ID: u32 = 2004;
const START_MS: u64 = 1_000_000;
const BLOCK_MS: u64 = 12_000;
const INTERVAL: u32 = 1;
const WINDOW: u32 = 3;
const COOL_DOWN_SECS: u64 = 60;

fn owner(pid: u64) -> AccountId {
    AccountId::new([pid as u8; 32])
}

fn worker() -> sr25519::Pair {
    sr25519::Pair::from_seed(&[9; 32])
}

fn key() -> WorkerPublicKey {
    worker().public()
}

fn allowed_genesis() -> H256 {
    H256::repeat_byte(0xaa)
}

fn test(run: impl FnOnce()) {
    let storage = genesis(Genesis {
        para_id: PARA_ID,
        balances: vec![],
        pools: vec![(1, owner(1), 1000 * PHA), (2, owner(2), 1000 * PHA)],
        proxies: vec![],
        benchmark_duration: 8,
        none_attestation_enabled: true,
        ias_attestation_enabled: false,
        computation: computation::pallet::Parameters {
            heartbeat_interval: INTERVAL,
            heartbeat_window: WINDOW,
            min_stake: 10 * PHA,
            max_stake: 500 * PHA,
        },
        cool_down_period: COOL_DOWN_SECS,
        load: load::pallet::Amount::default(),
    })
    .unwrap();
    sp_io::TestExternalities::from(storage).execute_with(|| {
        PhalaRegistry::allow_genesis_block(allowed_genesis());
        System::set_block_number(1);
        registry::pallet::NoneAttestationEnabled::<Runtime>::put(true);
        Timestamp::set_timestamp(START_MS);
        run();
    });
}

/// Goes to the next block; returns the messages that the last one leaves to the workers.
fn next_block() -> Vec<SystemEvent> {
    let number = System::block_number();
    PhalaComputation::on_finalize(number);
    let messages = messages();
    System::set_block_number(number + 1);
    System::reset_events();
    PhalaMq::on_initialize(number + 1);
    Timestamp::set_timestamp(now() + BLOCK_MS);
    messages
}

fn now() -> u64 {
    Timestamp::get()
}

fn messages() -> Vec<SystemEvent> {
    mq::pallet::OutboundMessages::<Runtime>::get()
        .into_iter()
        .filter(|message| message.destination == SYSTEM_EVENT_TOPIC)
        .map(|message| {
            assert!(matches!(message.sender, MessageOrigin::Pallet(_)));
            SystemEvent::decode(&mut &message.payload[..]).unwrap()
        })
        .collect()
}

fn events() -> Vec<RuntimeEvent> {
    System::events().into_iter().map(|record| record.event).collect()
}

fn worker_event(event: WorkerEvent) -> SystemEvent {
    SystemEvent::WorkerEvent(WorkerEventWithKey { pubkey: key(), event })
}

type Outcome = Result<(), DispatchError>;

fn send(who: &AccountId, call: impl Into<RuntimeCall>) -> Outcome {
    let origin = RuntimeOrigin::signed(who.clone());
    frame_support::storage::with_storage_layer(|| {
        call.into().dispatch_bypass_filter(origin).map(drop).map_err(|error| error.error)
    })
}

fn info(operator: Option<AccountId>) -> WorkerRegistrationInfoV2 {
    WorkerRegistrationInfoV2 {
        version: 1,
        machine_id: vec![1],
        pubkey: key(),
        ecdh_pubkey: key(),
        genesis_block_hash: allowed_genesis(),
        features: vec![4, 1],
        operator,
        para_id: PARA_ID,
        max_consensus_version: 1,
    }
}

fn register(info: WorkerRegistrationInfoV2, report: Option<AttestationReport>) -> Outcome {
    let call = registry::Call::register_worker_v2 { pruntime_info: info, attestation: Box::new(report) };
    send(&owner(1), call)
}

fn signed(topic: &[u8], payload: Vec<u8>, sequence: u64) -> SignedMessage {
    let sender = MessageOrigin::Worker(key());
    let message = Message { sender, destination: topic.to_vec(), payload };
    let signature = worker().sign(&SignedMessage::signed_bytes(&message, sequence)).0.to_vec();
    SignedMessage { message, sequence, signature }
}

fn deliver(signed_message: SignedMessage) -> Outcome {
    send(&owner(2), mq::Call::sync_offchain_message { signed_message })
}

fn report_benchmark(topic: &[u8], sequence: u64, iterations: u64) -> Outcome {
    let start_time = now() - 6000;
    let report = RegistryEvent::BenchReport { start_time, iterations };
    deliver(signed(topic, report.encode(), sequence))
}

fn score() -> Option<u32> {
    registry::pallet::Workers::<Runtime>::get(key()).unwrap().initial_score
}

fn add(who: u64, pid: u64) -> Outcome {
    send(&owner(who), stake_pool::Call::add_worker { pid, pubkey: key() })
}

fn remove(pid: u64) -> Outcome {
    send(&owner(pid), stake_pool::Call::remove_worker { pid, worker: key() })
}

fn start(stake: u128) -> Outcome {
    send(&owner(1), stake_pool::Call::start_computing { pid: 1, worker: key(), stake })
}

fn restart(stake: u128) -> Outcome {
    send(&owner(1), stake_pool::Call::restart_computing { pid: 1, worker: key(), stake })
}

fn stop() -> Outcome {
    send(&owner(1), stake_pool::Call::stop_computing { pid: 1, worker: key() })
}

fn reclaim() -> Outcome {
    send(&owner(3), stake_pool::Call::reclaim_pool_worker { pid: 1, worker: key() })
}

fn session() -> SessionInfo {
    let account = computation::pallet::WorkerBindings::<Runtime>::get(key()).unwrap();
    computation::pallet::Sessions::<Runtime>::get(account).unwrap()
}

fn free_stake() -> u128 {
    stake_pool::pallet::Pools::<Runtime>::get(1).unwrap().free_stake
}

/// Registers, scores and adds the worker to pool 1.
fn ready() {
    assert_ok!(register(info(Some(owner(1))), None));
    assert_ok!(report_benchmark(REGISTRY_EVENT_TOPIC, 0, 2000));
    assert_ok!(add(1, 1));
}

fn heartbeat(session_id: u32, sequence: u64) -> Outcome {
    let report = WorkingReportEvent::HeartbeatV2 {
        session_id,
        challenge_block: 1,
        challenge_time: now(),
        iterations: 4000,
        n_clusters: 0,
        n_contracts: 0,
    };
    deliver(signed(WORKING_REPORT_TOPIC, report.encode(), sequence))
}

#[test]
fn a_worker_registers_and_is_scored() {
    test(|| {
        assert_ok!(register(info(Some(owner(1))), None));
        let registered = WorkerEvent::Registered(WorkerInfo { confidence_level: 128 });
        let bench = worker_event(WorkerEvent::BenchStart { duration: 8 });
        assert_eq!(messages(), [worker_event(registered), bench]);
        assert!(matches!(events()[..], [RuntimeEvent::PhalaRegistry(registry::Event::WorkerAdded { .. })]));
        assert_eq!(score(), None);
        assert_eq!(registry::pallet::WorkerAddedAt::<Runtime>::get(key()), Some(1));
        next_block();
        assert!(messages().is_empty(), "messages live for one block");

        assert_ok!(report_benchmark(b"phala/registry/event", 0, 2000));
        assert_eq!(score(), Some(2000));
        assert_eq!(messages(), [worker_event(WorkerEvent::BenchScore(2000))]);
        assert_ok!(register(info(Some(owner(2))), None));
        assert_eq!(score(), Some(2000), "a new registration keeps the score until the next one");
        assert!(messages().contains(&worker_event(WorkerEvent::BenchStart { duration: 8 })));
        assert!(matches!(
            events()[..],
            [.., RuntimeEvent::PhalaRegistry(registry::Event::WorkerUpdated { .. })]
        ));
        assert_ok!(report_benchmark(REGISTRY_EVENT_TOPIC, 1, 90));
        assert_eq!(score(), Some(90));
    });
}

#[test]
fn registrations_are_refused_by_name() {
    type E = registry::Error<Runtime>;
    test(|| {
        let mut other = info(None);
        other.para_id += 1;
        assert_noop!(register(other, None), E::ParachainIdMismatch);
        let mut other = info(None);
        other.genesis_block_hash = H256::zero();
        assert_noop!(register(other, None), E::GenesisBlockHashRejected);
        let ias =
            AttestationReport::SgxIas { ra_report: vec![], signature: vec![], raw_signing_cert: vec![] };
        assert_noop!(register(info(None), Some(ias)), E::IASAttestationDisabled);
        let dcap = |quote: &[u8]| AttestationReport::SgxDcap { quote: quote.to_vec(), collateral: None };
        assert_noop!(register(info(None), Some(dcap(&[1; 64]))), E::InvalidReport);
        registry::pallet::NoneAttestationEnabled::<Runtime>::put(false);
        assert_noop!(register(info(None), None), E::NoneAttestationDisabled);
        let vouching = sp_io::hashing::blake2_256(&info(None).encode());
        assert_ok!(register(info(None), Some(dcap(&vouching))));
        let worker = registry::pallet::Workers::<Runtime>::get(key()).unwrap();
        assert_eq!(worker.attestation_provider, Some(AttestationProvider::Dcap));
    });
}

#[test]
fn messages_take_their_place_in_the_sequence() {
    type E = mq::Error<Runtime>;
    test(|| {
        let message = |sequence| signed(b"^somewhere", vec![], sequence);
        assert_noop!(deliver(message(1)), E::BadSequence);
        let mut forged = message(0);
        forged.signature[0] ^= 1;
        assert_noop!(deliver(forged), E::InvalidSignature);
        let mut stolen = message(0);
        stolen.message.sender = MessageOrigin::Worker(sr25519::Public::default());
        assert_noop!(deliver(stolen), E::InvalidSignature);
        let mut pallet = message(0);
        pallet.message.sender = MessageOrigin::Pallet(b"x".to_vec());
        assert_noop!(deliver(pallet), E::BadSender);
        assert_ok!(deliver(message(0)));
        assert_noop!(deliver(message(0)), E::BadSequence);
        assert_ok!(deliver(message(1)));
        let ingress = mq::pallet::OffchainIngress::<Runtime>::get(MessageOrigin::Worker(key()));
        assert_eq!(ingress, Some(2));
        let delivered =
            |event: &RuntimeEvent| matches!(event, RuntimeEvent::PhalaMq(mq::Event::MessageDelivered { .. }));
        assert_eq!(events().iter().filter(|event| delivered(event)).count(), 2);
        assert!(mq::pallet::OutboundMessages::<Runtime>::get().is_empty(), "^ is not forwarded");
        assert_ok!(deliver(signed(b"phala/elsewhere", vec![], 2)));
        assert_eq!(mq::pallet::OutboundMessages::<Runtime>::get().len(), 1);
    });
}

#[test]
fn pools_refuse_workers_by_name() {
    type E = stake_pool::Error<Runtime>;
    test(|| {
        assert_noop!(add(1, 1), E::WorkerNotRegistered);
        assert_ok!(register(info(Some(owner(2))), None));
        assert_noop!(add(1, 1), E::UnauthorizedOperator);
        assert_ok!(register(info(Some(owner(1))), None));
        assert_noop!(add(1, 1), E::BenchmarkMissing);
        assert_ok!(report_benchmark(REGISTRY_EVENT_TOPIC, 0, 2000));
        assert_noop!(add(1, 2), E::UnauthorizedPoolOwner);
        assert_noop!(add(1, 7), E::PoolDoesNotExist);
        assert_noop!(start(100 * PHA), E::WorkerDoesNotExist);
        assert_ok!(add(1, 1));
        assert_noop!(add(1, 1), E::WorkerExists);
        assert_eq!(stake_pool::pallet::WorkerAssignments::<Runtime>::get(key()), Some(1));
        assert_eq!(session().state, WorkerState::Ready);
        assert_noop!(remove(2), E::WorkerInAnotherPool);
        assert_ok!(remove(1));
        assert_eq!(computation::pallet::WorkerBindings::<Runtime>::get(key()), None);
        assert_eq!(stake_pool::pallet::WorkerAssignments::<Runtime>::get(key()), None);
        assert_ok!(add(1, 1));
    });
}

#[test]
fn sessions_start_stop_and_cool_down() {
    type E = computation::Error<Runtime>;
    type P = stake_pool::Error<Runtime>;
    test(|| {
        ready();
        assert_noop!(start(2000 * PHA), P::InsufficientFreeStake);
        assert_noop!(start(PHA), E::InsufficientStake);
        assert_noop!(start(600 * PHA), E::TooMuchStake);
        assert_noop!(stop(), E::WorkerAlreadyStopped);
        assert_noop!(restart(0), P::CannotRestartWithLessStake);
        next_block();
        assert_ok!(start(100 * PHA));
        let started = WorkerEvent::Started { session_id: 0, init_v: session().v, init_p: 2000 };
        assert_eq!(messages(), [worker_event(started)]);
        assert_eq!(session().ve >> 64, 300, "100 PHA and a tenth of the score");
        assert_eq!((session().state, free_stake()), (WorkerState::WorkerIdle, 900 * PHA));
        assert_noop!(start(100 * PHA), E::WorkerNotReady);
        assert_noop!(remove(1), E::WorkerIsNotReady);
        assert_noop!(restart(100 * PHA), P::CannotRestartWithLessStake);
        assert_ok!(restart(200 * PHA));
        assert_eq!((session().state, free_stake()), (WorkerState::WorkerIdle, 800 * PHA));
        assert_ok!(stop());
        assert_eq!(session().state, WorkerState::WorkerCoolingDown);
        assert_noop!(stop(), E::WorkerAlreadyStopped);
        assert_noop!(reclaim(), E::StillInCoolDown);
        (0..COOL_DOWN_SECS * 1000 / BLOCK_MS).for_each(|_| drop(next_block()));
        assert_ok!(reclaim());
        assert_eq!((session().state, free_stake()), (WorkerState::Ready, 1000 * PHA));
        assert_noop!(reclaim(), E::WorkerIsNotCoolingDown);
        assert_ok!(remove(1));
    });
}

#[test]
fn a_low_score_does_not_compute() {
    test(|| {
        assert_ok!(register(info(Some(owner(1))), None));
        assert_ok!(report_benchmark(REGISTRY_EVENT_TOPIC, 0, 50));
        assert_ok!(add(1, 1));
        assert_noop!(start(100 * PHA), computation::Error::<Runtime>::BenchmarkTooLow);
    });
}

#[test]
fn silence_makes_a_worker_unresponsive_until_it_answers() {
    test(|| {
        ready();
        assert!(next_block().iter().all(|event| !is_challenge(event)), "nobody computes");
        assert_ok!(start(100 * PHA));
        assert!(next_block().iter().any(is_challenge));
        for _ in 0..WINDOW {
            assert_eq!(session().state, WorkerState::WorkerIdle);
            next_block();
        }
        let entered = worker_event(WorkerEvent::EnterUnresponsive);
        assert!(next_block().contains(&entered));
        assert_eq!(session().state, WorkerState::WorkerUnresponsive);
        assert!(!next_block().contains(&entered), "once");
        assert_ok!(heartbeat(7, 1));
        assert_eq!(session().state, WorkerState::WorkerUnresponsive, "another session's heartbeat");
        let before = session().v_updated_at;
        assert_ok!(heartbeat(0, 2));
        assert_eq!(session().state, WorkerState::WorkerIdle);
        assert!(messages().contains(&worker_event(WorkerEvent::ExitUnresponsive)));
        assert!(session().v_updated_at > before);
        assert!(session().benchmark.p_instant > 0);
        for sequence in 3..12 {
            assert!(!next_block().contains(&entered), "who answers stays responsive");
            assert_ok!(heartbeat(0, sequence));
        }
    });
}

fn is_challenge(event: &SystemEvent) -> bool {
    matches!(event, SystemEvent::HeartbeatChallenge(_))
}

#[test]
fn challenges_concern_a_share_of_the_workers() {
    let challenge = |target| HeartbeatChallenge { seed: U256::from(123), online_target: target };
    let keys: Vec<WorkerPublicKey> =
        (0..400u32).map(|n| sr25519::Public::from_raw(sp_io::hashing::blake2_256(&n.encode()))).collect();
    let share = |target| keys.iter().filter(|key| challenge(target).concerns(key)).count();
    assert_eq!(share(U256::MAX), 400);
    assert_eq!(share(U256::zero()), 0);
    let quarter = share(U256::MAX / 4);
    assert!((60..140).contains(&quarter), "{quarter}");
}

#[test]
fn endpoints_are_announced_with_the_workers_signature() {
    type E = registry::Error<Runtime>;
    test(|| {
        let announce = |signing_time: u64, spoil: bool| {
            let endpoint_payload = WorkerEndpointPayload {
                pubkey: key(),
                versioned_endpoints: VersionedWorkerEndpoints::V1(vec!["http://w".into()]),
                signing_time,
            };
            let mut content = vec![0xff, 0x02];
            endpoint_payload.encode_to(&mut content);
            let mut signature = worker().sign(&content).0.to_vec();
            signature[1] ^= u8::from(spoil);
            send(&owner(1), registry::Call::update_worker_endpoint { endpoint_payload, signature })
        };
        assert_noop!(announce(now(), false), E::WorkerNotFound);
        assert_ok!(register(info(None), None));
        assert_noop!(announce(now(), true), E::InvalidSignature);
        assert_noop!(announce(now() + 1, false), E::InvalidEndpointSigningTime);
        Timestamp::set_timestamp(now() + 5 * 3600 * 1000);
        assert_noop!(announce(now() - 4 * 3600 * 1000, false), E::InvalidEndpointSigningTime);
        assert_ok!(announce(now() - 1000, false));
        let expected = VersionedWorkerEndpoints::V1(vec!["http://w".into()]);
        assert_eq!(registry::pallet::Endpoints::<Runtime>::get(key()), Some(expected));
    });
}

#[test]
fn the_first_registration_call_is_retired_where_it_is_not_allowed() {
    type E = registry::Error<Runtime>;
    test(|| {
        let pruntime_info = WorkerRegistrationInfo {
            version: 1,
            machine_id: vec![],
            pubkey: key(),
            ecdh_pubkey: key(),
            genesis_block_hash: allowed_genesis(),
            features: vec![],
            operator: Some(owner(1)),
        };
        let register = |pruntime_info: &WorkerRegistrationInfo, report: &[u8]| {
            let (ra_report, pruntime_info) = (report.to_vec(), pruntime_info.clone());
            let attestation = Attestation::SgxIas { ra_report, signature: vec![], raw_signing_cert: vec![] };
            send(&owner(1), registry::Call::register_worker { pruntime_info, attestation })
        };
        let vouching = sp_io::hashing::blake2_256(&pruntime_info.encode());
        assert_noop!(register(&pruntime_info, &vouching), E::IASAttestationDisabled);
        registry::pallet::IasAttestationEnabled::<Runtime>::put(true);
        assert_noop!(register(&pruntime_info, &[1; 64]), E::InvalidReport);
        let other = WorkerRegistrationInfo { genesis_block_hash: H256::zero(), ..pruntime_info.clone() };
        assert_noop!(register(&other, &vouching), E::GenesisBlockHashRejected);
        assert_ok!(register(&pruntime_info, &vouching));
        let worker = registry::pallet::Workers::<Runtime>::get(key()).unwrap();
        assert_eq!(worker.attestation_provider, Some(AttestationProvider::Ias));
        assert_eq!((worker.runtime_version, worker.operator), (1, Some(owner(1))));
    });
}

/// The layouts that workers and bridges decode, byte by byte.
#[test]
fn layouts_are_those_of_the_real_chain() {
    let event = worker_event(WorkerEvent::Started { session_id: 3, init_v: 5, init_p: 7 });
    let mut expected = vec![0];
    expected.extend(key().0);
    expected.push(3);
    expected.extend(3u32.to_le_bytes());
    expected.extend(5u128.to_le_bytes());
    expected.extend(7u32.to_le_bytes());
    assert_eq!(event.encode(), expected);
    assert_eq!(MessageOrigin::Worker(key()).encode()[0], 2);
    assert_eq!(MessageOrigin::Gatekeeper.encode(), [5]);
    assert_eq!(MessageOrigin::Reserved.encode(), [255]);
    assert_eq!(WorkerState::WorkerCoolingDown.encode(), [4]);
    let account: [u8; 32] = session_account(1, &key()).into();
    let hash = sp_io::hashing::blake2_256(&[&1u64.to_le_bytes()[..], &key().0].concat());
    assert_eq!(account[..4], *b"spm/");
    assert_eq!(account[4..], hash[..28]);
    let session = SessionInfo {
        state: WorkerState::WorkerIdle,
        ve: 1,
        v: 2,
        v_updated_at: 3,
        benchmark: Benchmark::default(),
        cool_down_start: 4,
        stats: SessionStats { total_reward: 5 },
    };
    assert_eq!(session.encode().len(), 1 + 16 + 16 + 8 + (4 + 4 + 8 + 8 + 8) + 8 + 16);
}
