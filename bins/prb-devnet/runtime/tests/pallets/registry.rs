//! Tests of registrations, attestation, scores and endpoints.

use crate::world::*;

type E = registry::Error<Runtime>;

fn registered() -> WorkerInfoV2 {
    registry::Workers::<Runtime>::get(key()).unwrap()
}

fn hash(info: &impl Encode) -> [u8; 32] {
    sp_io::hashing::blake2_256(&info.encode())
}

fn dcap(info: &WorkerRegistrationInfoV2, level: u8) -> AttestationReport {
    let quote = report::dcap_quote(&hash(info), level, &[]);
    AttestationReport::SgxDcap { quote, collateral: Some(report::collateral()) }
}

#[test]
fn worker_is_registered_and_scored() {
    test(|| {
        assert_ok!(register(info(Some(owner(1))), None));
        let registered = WorkerEvent::Registered(WorkerInfo { confidence_level: 128 });
        let bench = worker_event(WorkerEvent::BenchStart { duration: 8 });
        assert_eq!(messages(), [worker_event(registered), bench]);
        assert!(matches!(events()[..], [RuntimeEvent::PhalaRegistry(registry::Event::WorkerAdded { .. })]));
        assert_eq!(score(), None);
        assert_eq!(registry::WorkerAddedAt::<Runtime>::get(key()), Some(1));
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
fn registration_errors_have_the_real_order() {
    test(|| {
        // Everything is wrong with it; from here on one fault is removed at a time.
        let wrong = WorkerRegistrationInfoV2 {
            para_id: 1,
            genesis_block_hash: H256::zero(),
            max_consensus_version: 0,
            ..info(None)
        };
        assert_ok!(act(Action::SetConsensusVersion(1)));
        assert_ok!(act(Action::SetAttestation { none: false, ias: false }));
        assert_noop!(register(wrong.clone(), None), E::NoneAttestationDisabled);
        assert_noop!(register(wrong.clone(), Some(dcap(&wrong, 1))), E::ParachainIdMismatch);
        let wrong = WorkerRegistrationInfoV2 { para_id: PARA_ID, ..wrong };
        assert_noop!(register(wrong.clone(), Some(dcap(&wrong, 1))), E::GenesisBlockHashRejected);
        let wrong = WorkerRegistrationInfoV2 { genesis_block_hash: allowed_genesis(), ..wrong };
        assert_noop!(register(wrong.clone(), Some(dcap(&wrong, 1))), E::InvalidConsensusVersion);
        let right = WorkerRegistrationInfoV2 { max_consensus_version: 1, ..wrong };
        assert_ok!(register(right.clone(), Some(dcap(&right, 1))));
    });
}

#[test]
fn dcap_quote_needs_collateral_and_attests_one_registration() {
    test(|| {
        let info = info(None);
        let AttestationReport::SgxDcap { mut quote, collateral } = dcap(&info, 4) else { panic!() };
        let bare = AttestationReport::SgxDcap { quote: quote.clone(), collateral: None };
        assert_noop!(register(info.clone(), Some(bare)), E::UnsupportedAttestationType);
        quote[0] ^= 1;
        let forged = AttestationReport::SgxDcap { quote, collateral };
        assert_noop!(register(info.clone(), Some(forged)), E::InvalidDCAPQuote);
        let other = info_of(1, None);
        assert_noop!(register(info.clone(), Some(dcap(&other, 4))), E::InvalidRuntimeInfoHash);
        assert_noop!(register(info.clone(), Some(dcap(&info, 0))), E::InvalidQuoteStatus);
        assert_ok!(act(Action::SetPRuntimes(vec![])));
        assert_noop!(register(info.clone(), Some(dcap(&other, 4))), E::PRuntimeRejected);
        assert_ok!(act(Action::SetPRuntimes(vec![report::pruntime_hash()])));
        assert_ok!(register(info.clone(), Some(dcap(&info, 4))));
        let worker = registered();
        assert_eq!(worker.attestation_provider, Some(AttestationProvider::Dcap));
        assert_eq!(worker.confidence_level, 4);
    });
}

#[test]
fn fresh_ias_reports_are_accepted_until_the_service_is_retired() {
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
        let register_v1 = |pruntime_info: &WorkerRegistrationInfo, spoil: bool, age: u64| {
            let time = now() / 1000 - age;
            let (ra_report, mut signature, raw_signing_cert) =
                report::ias_report(&hash(pruntime_info), 5, time);
            signature[0] ^= u8::from(spoil);
            let attestation = Attestation::SgxIas { ra_report, signature, raw_signing_cert };
            let pruntime_info = pruntime_info.clone();
            send(&owner(1), registry::Call::register_worker { pruntime_info, attestation })
        };
        let other = WorkerRegistrationInfo { genesis_block_hash: H256::zero(), ..pruntime_info.clone() };
        assert_noop!(register_v1(&other, true, 7200), E::IASAttestationDisabled);
        assert_ok!(act(Action::SetAttestation { none: false, ias: true }));
        assert_noop!(register_v1(&other, true, 7200), E::InvalidIASSigningCert);
        assert_noop!(register_v1(&other, false, 7200), E::OutdatedIASReport);
        assert_noop!(register_v1(&other, false, 7199), E::GenesisBlockHashRejected);
        assert_ok!(register_v1(&pruntime_info, false, 7199));
        let worker = registered();
        assert_eq!(worker.attestation_provider, Some(AttestationProvider::Ias));
        assert_eq!((worker.runtime_version, worker.operator), (1, Some(owner(1))));
        assert_eq!(worker.confidence_level, 5);
        // The second call accepts such reports, too.
        let info = info(None);
        assert_ok!(register(info.clone(), Some(report::sgx_ias(&hash(&info), 1, now() / 1000))));
        assert_eq!(registered().confidence_level, 1);
    });
}

#[test]
fn endpoints_are_announced_with_the_workers_signature() {
    test(|| {
        let announce = |signing_time: u64, spoil: fn(&mut Vec<u8>)| {
            let endpoint_payload = WorkerEndpointPayload {
                pubkey: key(),
                versioned_endpoints: VersionedWorkerEndpoints::V1(vec!["http://w".into()]),
                signing_time,
            };
            let mut content = vec![0xff, 0x02];
            endpoint_payload.encode_to(&mut content);
            let mut signature = worker(0).sign(&content).0.to_vec();
            spoil(&mut signature);
            send(&owner(1), registry::Call::update_worker_endpoint { endpoint_payload, signature })
        };
        let whole: fn(&mut Vec<u8>) = |_| ();
        assert_noop!(announce(now(), |it| it.clear()), E::InvalidInput);
        assert_ok!(register(info(None), None));
        assert_noop!(announce(now(), |it| it.clear()), E::MalformedSignature);
        assert_noop!(announce(now(), |it| it[1] ^= 1), E::InvalidSignature);
        assert_noop!(announce(now(), whole), E::InvalidEndpointSigningTime);
        wait(5 * 3600);
        assert_noop!(announce(now() - 4 * 3600 * 1000 - 1, whole), E::InvalidEndpointSigningTime);
        assert_ok!(announce(now() - 4 * 3600 * 1000, whole));
        let expected = VersionedWorkerEndpoints::V1(vec!["http://w".into()]);
        assert_eq!(registry::Endpoints::<Runtime>::get(key()), Some(expected));
    });
}

#[test]
fn governance_sets_worker_requirements() {
    test(|| {
        assert_eq!(registry::MinimumPRuntimeVersion::<Runtime>::get(), (2, 1, 0));
        assert_ok!(act(Action::SetMinimumPRuntimeVersion(2, 3, 4)));
        assert_eq!(registry::MinimumPRuntimeVersion::<Runtime>::get(), (2, 3, 4));
        assert_ok!(act(Action::SetGatekeepers(vec![key()])));
        assert_eq!(registry::Gatekeeper::<Runtime>::get(), [key()]);
        let refused = act(Action::SetScore { worker: key(), score: None });
        assert_eq!(refused, Err(DispatchError::CannotLookup), "it is not registered");
    });
}
