//! Tests of registration, benchmark, session and heartbeats through the message queue.

use codec::Decode;
use prb_core::wire::{EgressMessages, KeyChanges, Message, MessageOrigin, SignedMessage};
use prb_devnet_runtime::types::{
    HeartbeatChallenge, RegistryEvent, SystemEvent, WorkerEvent, WorkerEventWithKey, WorkerInfo,
    WorkingReportEvent,
};
use sp_core::{Pair, U256, sr25519};

use super::*;
use crate::worker::keys;

const BLOCK_MS: u64 = 12_000;

fn me() -> sr25519::Public {
    Identity::derive(b"test", 0).pair.public()
}

fn event(event: WorkerEvent) -> SystemEvent {
    SystemEvent::WorkerEvent(WorkerEventWithKey { pubkey: me(), event })
}

fn challenge(online_target: U256) -> SystemEvent {
    SystemEvent::HeartbeatChallenge(HeartbeatChallenge { seed: U256::from(77), online_target })
}

/// A block with these events; `ingress` is the next sequence that the chain expects of the worker.
pub(super) fn block(number: u64, ingress: u64, events: &[SystemEvent]) -> KeyChanges {
    let messages: Vec<Message> = events
        .iter()
        .map(|event| Message {
            sender: MessageOrigin::Pallet(b"PhalaRegistry".to_vec()),
            destination: b"phala/system/event".to_vec(),
            payload: event.encode(),
        })
        .collect();
    let sender = MessageOrigin::Worker(Identity::derive(b"test", 0).public());
    vec![
        (keys::now(), Some((number * BLOCK_MS).encode())),
        (keys::outbound_messages(), (!messages.is_empty()).then(|| messages.encode())),
        (keys::offchain_ingress(&sender), (ingress > 0).then(|| ingress.encode())),
    ]
}

/// A worker that has dispatched these blocks.
fn lived(blocks: Vec<KeyChanges>) -> Verifier {
    lived_with(options(), |init| init, blocks)
}

/// The same with other settings and another initialisation.
pub(super) fn lived_with(
    options: Options,
    with: impl FnOnce(Init) -> Init,
    blocks: Vec<KeyChanges>,
) -> Verifier {
    let mut chain = MiniChain::new(1, 1, &[], 0);
    for changes in blocks {
        chain.add_para(changes);
    }
    let last = chain.para.len() as u32 - 1;
    chain.add_relay(2, 0, false);
    let mut worker = Verifier::new(Arc::new(options));
    worker.init(with(init(&chain))).unwrap();
    worker.sync_relay(chain.relay_headers(2..=2)).unwrap();
    worker.sync_para(chain.para_headers(0..=last), &chain.proof(2)).unwrap();
    assert_eq!(worker.dispatch(chain.blocks(1..=last)).unwrap(), last);
    worker
}

fn messages(worker: &Verifier) -> Vec<SignedMessage> {
    let mut egress = EgressMessages::decode(&mut &*worker.egress()).unwrap();
    assert!(egress.len() < 2);
    let Some((sender, messages)) = egress.pop() else { return Vec::new() };
    assert_eq!(sender, MessageOrigin::Worker(Identity::derive(b"test", 0).public()));
    assert_eq!(worker.info().pending_messages, messages.len() as u64);
    for message in &messages {
        let signature = sr25519::Signature::try_from(message.signature.as_slice()).unwrap();
        let signed = (&message.message, message.sequence).encode();
        assert!(sr25519::Pair::verify(&signature, &signed, &me()));
        assert_eq!(message.message.sender, sender);
    }
    messages
}

fn registration() -> [SystemEvent; 2] {
    let registered = WorkerEvent::Registered(WorkerInfo { confidence_level: 128 });
    [event(registered), event(WorkerEvent::BenchStart { duration: 3 })]
}

fn started_session() -> SystemEvent {
    event(WorkerEvent::Started { session_id: 5, init_v: 1, init_p: 1 })
}

#[test]
fn benchmark_is_reported_after_its_blocks() {
    let mut blocks = vec![block(1, 0, &[]), block(2, 0, &registration())];
    let worker = lived(blocks.clone());
    assert!(worker.info().registered);
    blocks.extend([block(3, 0, &[]), block(4, 0, &[])]);
    assert!(messages(&lived(blocks.clone())).is_empty());
    blocks.push(block(5, 0, &[]));
    let worker = lived(blocks.clone());
    assert_eq!(worker.info().current_block_time, 5 * BLOCK_MS);
    let report = messages(&worker).pop().unwrap();
    assert_eq!(report.sequence, 0);
    assert_eq!(report.message.destination, b"^phala/registry/event");
    let elapsed = 3 * BLOCK_MS;
    let expected = RegistryEvent::BenchReport { start_time: 2 * BLOCK_MS, iterations: elapsed / 3 };
    assert_eq!(report.message.payload, expected.encode());
    // The chain has accepted it; there is no second one.
    blocks.extend([block(6, 0, &[]), block(7, 1, &[]), block(8, 1, &[])]);
    assert!(messages(&lived(blocks)).is_empty());
}

#[test]
fn computing_worker_answers_its_challenges() {
    let mut blocks = vec![
        block(1, 0, &registration()),
        block(2, 0, &[challenge(U256::MAX)]),
        block(3, 0, &[started_session(), challenge(U256::zero())]),
        block(4, 0, &[challenge(U256::MAX)]),
        block(5, 1, &[challenge(U256::MAX)]),
    ];
    let all = messages(&lived(blocks.clone()));
    assert_eq!(all.iter().map(|message| message.sequence).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(all[1].message.destination, b"phala/mining/report");
    let expected = WorkingReportEvent::HeartbeatV2 {
        session_id: 5,
        challenge_block: 5,
        challenge_time: 5 * BLOCK_MS,
        iterations: 2 * BLOCK_MS / 3,
        n_clusters: 0,
        n_contracts: 0,
    };
    assert_eq!(all[1].message.payload, expected.encode());
    blocks.push(block(6, 3, &[event(WorkerEvent::Stopped), challenge(U256::MAX)]));
    assert!(messages(&lived(blocks)).is_empty());
}

#[test]
fn target_is_compared_as_a_big_endian_number() {
    let id = U256::from_big_endian(&sp_io::hashing::blake2_256(&me().0));
    let exact = id ^ U256::from(77);
    let answers = |target: U256| {
        let blocks = vec![block(1, 0, &[started_session()]), block(2, 0, &[challenge(target)])];
        messages(&lived(blocks)).len()
    };
    assert_eq!(answers(exact), 1);
    assert_eq!(answers(exact - 1), 0);
}

#[test]
fn events_for_or_from_others_are_ignored() {
    let other = SystemEvent::WorkerEvent(WorkerEventWithKey {
        pubkey: sr25519::Public::from_raw([9; 32]),
        event: WorkerEvent::Registered(WorkerInfo { confidence_level: 128 }),
    });
    assert!(!lived(vec![block(1, 0, &[other])]).info().registered);
    let mut forged = block(1, 0, &registration());
    let mut said: Vec<Message> = Decode::decode(&mut forged[1].1.as_deref().unwrap()).unwrap();
    said[0].sender = MessageOrigin::Worker(Identity::derive(b"test", 1).public());
    forged[1].1 = Some(said.encode());
    assert!(!lived(vec![forged]).info().registered);
}

#[test]
fn replayed_blocks_yield_the_same_messages() {
    let blocks = vec![
        block(1, 0, &registration()),
        block(2, 0, &[started_session()]),
        block(3, 0, &[challenge(U256::MAX)]),
        block(4, 0, &[]),
    ];
    let unsigned =
        |worker: Verifier| messages(&worker).into_iter().map(|m| (m.message, m.sequence)).collect::<Vec<_>>();
    let first = unsigned(lived(blocks.clone()));
    assert_eq!(first.len(), 2);
    assert_eq!(unsigned(lived(blocks)), first);
}

#[test]
fn endpoints_are_signed_with_the_blocks_time() {
    let mut worker = lived(vec![block(1, 0, &[])]);
    assert_eq!(worker.endpoint_info().unwrap(), Default::default());
    let signed = worker.add_endpoint(vec![0], "http://a".into()).unwrap();
    assert_eq!(worker.endpoint_info().unwrap(), signed);
    let payload = signed.encoded_endpoint_payload.unwrap();
    let signature = sr25519::Signature::try_from(&*signed.signature.unwrap()).unwrap();
    let content = [&[0xff, 0x02], payload.as_slice()].concat();
    assert!(sr25519::Pair::verify(&signature, content, &me()));
    let decoded = prb_core::wire::WorkerEndpointPayload::decode(&mut &*payload).unwrap();
    assert_eq!(decoded.signing_time, BLOCK_MS);
    assert_eq!(refused(worker.sign_endpoints(vec!["x".repeat(3000)])), "Endpoints too large");
}
