//! Tests of off-chain messages: sequences, senders and their keys, and layouts.

use crate::world::*;

type E = mq::Error<Runtime>;
type R = registry::Error<Runtime>;

fn ingress(sender: MessageOrigin) -> Option<u64> {
    mq::OffchainIngress::<Runtime>::get(sender)
}

#[test]
fn messages_are_accepted_in_sequence() {
    test(|| {
        let message = |sequence| signed(b"^somewhere", vec![], sequence);
        assert_noop!(deliver(message(1)), E::BadSequence);
        let mut forged = message(0);
        forged.signature[0] ^= 1;
        assert_noop!(deliver(forged.clone()), R::InvalidSignature);
        forged.sequence = 1;
        assert_noop!(deliver(forged.clone()), E::BadSequence);
        forged.message.sender = MessageOrigin::Pallet(b"x".to_vec());
        assert_noop!(deliver(forged), E::BadSender);
        let mut short = message(0);
        short.signature.pop();
        assert_noop!(deliver(short), R::InvalidSignatureLength);
        let mut stolen = message(0);
        stolen.message.sender = MessageOrigin::Worker(sr25519::Public::default());
        assert_noop!(deliver(stolen), R::InvalidSignature);
        assert_ok!(deliver(message(0)));
        assert_noop!(deliver(message(0)), E::BadSequence);
        assert_ok!(deliver(message(1)));
        assert_eq!(ingress(MessageOrigin::Worker(key())), Some(2));
        let delivered =
            |event: &RuntimeEvent| matches!(event, RuntimeEvent::PhalaMq(mq::Event::MessageDelivered { .. }));
        assert_eq!(events().iter().filter(|event| delivered(event)).count(), 2);
        assert!(mq::OutboundMessages::<Runtime>::get().is_empty(), "^ is not forwarded");
        assert_ok!(deliver(signed(b"phala/elsewhere", vec![], 2)));
        assert_eq!(mq::OutboundMessages::<Runtime>::get().len(), 1);
    });
}

#[test]
fn other_senders_use_their_registered_keys() {
    let (id, pair) = (H256::repeat_byte(3), worker(5));
    let senders = [
        (MessageOrigin::Gatekeeper, Sender::Gatekeeper, R::MasterKeyUninitialized),
        (MessageOrigin::Cluster(id), Sender::Cluster(id), R::UnknownCluster),
        (MessageOrigin::Contract(id), Sender::Contract(id), R::UnknownContract),
    ];
    test(|| {
        for (origin, sender, unknown) in senders {
            let message = |pair: &_, sequence| signed_by(pair, origin.clone(), b"^x", vec![], sequence);
            assert_noop!(deliver(message(&pair, 0)), unknown);
            assert_ok!(act(Action::SetSenderKey { sender, key: pair.public() }));
            assert_noop!(deliver(message(&worker(0), 0)), R::InvalidSignature);
            assert_ok!(deliver(message(&pair, 0)));
            assert_noop!(deliver(message(&pair, 0)), E::BadSequence);
            assert_ok!(deliver(message(&pair, 1)));
            assert_eq!(ingress(origin.clone()), Some(2), "each sender has a sequence of its own");
        }
        let on_chain = [
            MessageOrigin::Pallet(vec![]),
            MessageOrigin::AccountId(id),
            MessageOrigin::MultiLocation(vec![]),
            MessageOrigin::Reserved,
        ];
        for origin in on_chain {
            assert_noop!(deliver(signed_by(&pair, origin, b"^x", vec![], 0)), E::BadSender);
        }
    });
}

/// The layouts that workers and bridges decode, byte by byte.
#[test]
fn layouts_match_the_real_chain() {
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
