//! Tests of a worker's attestation, and of messages signed as other senders.

use codec::{Decode, DecodeAll};
use prb_core::{
    attestation::CollateralSource,
    wire::{AttestationProvider, EgressMessages, MessageOrigin, WorkerRegistrationInfo},
};
use prb_devnet_runtime::types::{AttestationReport, report};
use prost::Message as _;
use sp_core::{Pair, sr25519};
use sp_io::hashing::blake2_256;

use super::{
    life::{block, lived_with},
    *,
};
use crate::worker::{DevnetCollateral, api, keys};

fn attesting(provider: Option<AttestationProvider>, options: Options) -> prb_core::prpc::InitRuntimeResponse {
    let init = |init| Init { provider, ..init };
    let mut worker = lived_with(options, init, vec![block(1, 0, &[])]);
    worker.runtime_info(false, None).unwrap()
}

fn report_of(answer: &prb_core::prpc::InitRuntimeResponse) -> Option<AttestationReport> {
    let report = &answer.attestation.as_ref().unwrap().encoded_report;
    Option::decode_all(&mut &**report).unwrap()
}

#[tokio::test]
async fn reports_attest_the_registration_info() {
    assert_eq!(report_of(&attesting(None, options())), None);

    let answer = attesting(Some(AttestationProvider::Dcap), options());
    let Some(AttestationReport::SgxDcap { quote, collateral: None }) = report_of(&answer) else {
        panic!("no bare quote")
    };
    let attested = report::read_quote(&quote, &report::collateral()).unwrap();
    assert_eq!(attested.info_hash, blake2_256(&answer.encoded_runtime_info));
    let given = DevnetCollateral.collateral(&quote).await.unwrap();
    assert_eq!(given.encode(), report::collateral().encode());
    assert!(DevnetCollateral.collateral(b"no quote").await.is_err());

    let answer = attesting(Some(AttestationProvider::Ias), options());
    let Some(AttestationReport::SgxIas { ra_report, signature, raw_signing_cert }) = report_of(&answer)
    else {
        panic!("no IAS report")
    };
    let attested = report::read_ias_report(&ra_report, &signature, &raw_signing_cert).unwrap();
    assert_eq!(attested.info_hash, blake2_256(&answer.encoded_runtime_info));
    assert_eq!(attested.time, Some(12), "the chain's clock counts");

    // In the format of the first version's call.
    let answer = attesting(Some(AttestationProvider::Ias), Options { first_version: true, ..options() });
    WorkerRegistrationInfo::decode_all(&mut &*answer.encoded_runtime_info).unwrap();
    let attestation = answer.attestation.unwrap();
    let payload = attestation.payload.unwrap();
    assert_eq!(attestation.encoded_report, b"");
    let attested =
        report::read_ias_report(payload.report.as_bytes(), &payload.signature, &payload.signing_cert);
    assert_eq!(attested.unwrap().info_hash, blake2_256(&answer.encoded_runtime_info));
}

#[test]
fn provider_is_decoded_like_a_real_worker() {
    let chain = MiniChain::new(1, 1, &[], 0);
    let init = |methods: &[&str], provider: Option<&[u8]>| {
        let methods = methods.iter().map(|&m| m.to_owned()).collect();
        let worker = Verifier::new(Arc::new(Options { attestation_methods: methods, ..options() }));
        let request = prb_core::prpc::InitRuntimeRequest {
            encoded_genesis_info: chain.genesis_info().encode().into(),
            encoded_genesis_state: chain.state(0).encode().into(),
            is_parachain: true,
            attestation_provider: provider.map(<[u8]>::to_vec),
            ..Default::default()
        };
        let body = request.encode_to_vec().into();
        api::call(&parking_lot::Mutex::new(worker), prb_core::prpc::Method::InitRuntime, body).map(|_| ())
    };
    init(&[], None).unwrap();
    init(&["dcap"], Some(&[2])).unwrap();
    init(&["epid"], Some(&[1])).unwrap();
    for (methods, provider) in [
        (&["epid"][..], &[2][..]),
        (&["dcap"], &[1]),
        // Encoded options: of none, decoded as Root, and of DCAP, decoded as IAS.
        (&["dcap"], &[0]),
        (&["dcap"], &[1, 2]),
    ] {
        assert_eq!(refused(init(methods, Some(provider))), "Unsupported attestation provider");
    }
    assert!(refused(init(&["dcap"], Some(&[]))).starts_with("DecodeError"));
}

#[test]
fn worker_can_register_for_another_operator() {
    let options = options();
    let faults = crate::worker::Faults::default();
    let mut worker = lived_with(
        Options { work_faults: faults.work_faults(), ..options },
        |init| init,
        vec![block(1, 0, &[])],
    );
    let (told, wrong) = ([1; 32].into(), prb_core::primitives::AccountId([2; 32]));
    let mut operator = || {
        let answer = worker.runtime_info(false, Some(told)).unwrap();
        let info = prb_core::wire::WorkerRegistrationInfoV2::decode(&mut &*answer.encoded_runtime_info);
        info.unwrap().operator
    };
    assert_eq!(operator(), Some(told));
    faults.wrong_operator(Some(wrong));
    assert_eq!(operator(), Some(wrong));
    faults.clear();
    assert_eq!(operator(), Some(told));
}

#[test]
fn messages_of_other_senders_are_queued_until_accepted() {
    let (pair, _) = sr25519::Pair::generate();
    let cluster = MessageOrigin::Cluster(prb_core::primitives::Hash([4; 32]));
    let taken = |sequence: u64| {
        vec![(keys::offchain_ingress(&MessageOrigin::Gatekeeper), Some(codec::Encode::encode(&sequence)))]
    };
    let mut chain = MiniChain::new(1, 1, &[], 0);
    for ingress in [5, 5, 6] {
        chain.add_para(taken(ingress));
    }
    chain.add_relay(2, 0, false);
    let mut worker = started(&chain);
    worker.sync_relay(chain.relay_headers(2..=2)).unwrap();
    worker.sync_para(chain.para_headers(0..=3), &chain.proof(2)).unwrap();
    worker.dispatch(chain.blocks(1..=1)).unwrap();
    for payload in [b"one".to_vec(), b"two".to_vec()] {
        worker.send_as(&MessageOrigin::Gatekeeper, &pair, b"topic", payload).unwrap();
    }
    // A message made during a dispatch is not lost with the state that the dispatch replaces.
    let mut copy = worker.begin_dispatch().unwrap();
    worker.send_as(&cluster, &pair, b"topic", b"three".to_vec()).unwrap();
    copy.dispatch(chain.blocks(2..=2)).unwrap();
    worker.end_dispatch(copy);
    let waiting = |worker: &Verifier| -> Vec<(MessageOrigin, Vec<u64>)> {
        let egress = EgressMessages::decode(&mut &*worker.egress()).unwrap();
        assert_eq!(worker.info().pending_messages, egress.iter().map(|(_, m)| m.len() as u64).sum::<u64>());
        for message in egress.iter().flat_map(|(_, messages)| messages) {
            let signature = sr25519::Signature::try_from(message.signature.as_slice()).unwrap();
            let signed = (&message.message, message.sequence).encode();
            assert!(sr25519::Pair::verify(&signature, signed, &pair.public()));
        }
        egress.into_iter().map(|(s, m)| (s, m.iter().map(|m| m.sequence).collect())).collect()
    };
    assert_eq!(waiting(&worker), [(MessageOrigin::Gatekeeper, vec![5, 6]), (cluster.clone(), vec![0])]);
    worker.dispatch(chain.blocks(3..=3)).unwrap();
    assert_eq!(waiting(&worker), [(MessageOrigin::Gatekeeper, vec![6]), (cluster, vec![0])]);
}

#[test]
fn worker_below_the_minimum_version_exits() {
    let least = |version: (u32, u32, u32)| {
        let mut chain = MiniChain::new(1, 1, &[], 0);
        chain.add_para(vec![(keys::minimum_pruntime_version(), Some(version.encode()))]);
        chain.add_relay(2, 0, false);
        let mut worker = started(&chain);
        worker.sync_relay(chain.relay_headers(2..=2)).unwrap();
        worker.sync_para(chain.para_headers(0..=1), &chain.proof(2)).unwrap();
        worker.dispatch(chain.blocks(1..=1))
    };
    assert_eq!(least((2, 2, 0)), Ok(1));
    let refusal = least((2, 2, 1)).unwrap_err();
    assert!(matches!(&refusal, Refusal::Abort(reason) if reason.contains("(2, 2, 1)")), "{refusal:?}");
}
