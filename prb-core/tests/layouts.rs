//! The numbers of pRuntime's protobuf fields and the order of its SCALE fields, against bytes written by hand.
#![allow(clippy::unwrap_used, missing_docs)]

use codec::{Decode, DecodeAll, Encode};
use prb_core::{
    chain::{Registration, SessionState},
    primitives::{AccountId, Hash, WorkerKey},
    prpc::{self, Method},
    wire::*,
};
use prost::Message;

/// Writes one varint field.
fn number(field: u8, value: u8) -> Vec<u8> {
    let mut out = tag(field, 0);
    out.push(value);
    out
}

/// Writes one length-delimited field of fewer than 128 bytes.
fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    let mut out = tag(field, 2);
    out.push(value.len() as u8);
    out.extend(value);
    out
}

fn tag(field: u8, wire_type: u8) -> Vec<u8> {
    let key = u32::from(field) << 3 | u32::from(wire_type);
    if key < 128 { vec![key as u8] } else { vec![(key & 0x7f) as u8 | 0x80, (key >> 7) as u8] }
}

#[test]
fn phactory_info_has_its_numbers() {
    let (wire, info) = (encoded_phactory_info(), phactory_info());
    assert_eq!(prpc::PhactoryInfo::decode(wire.as_slice()).unwrap(), info);
    assert_eq!(info.encode_to_vec(), wire);
}

/// [`phactory_info`], written field by field.
fn encoded_phactory_info() -> Vec<u8> {
    let memory = [number(1, 1), number(2, 2), number(3, 3), number(4, 4), number(5, 5)].concat();
    let gatekeeper = [number(1, 2), bytes(2, b"master")].concat();
    let system =
        [number(1, 1), bytes(2, b"pk"), bytes(3, b"ecdh"), bytes(4, &gatekeeper), number(7, 9), number(8, 8)]
            .concat();
    [
        number(1, 1),
        number(2, 1),
        bytes(4, b"genesis"),
        bytes(5, b"public"),
        bytes(6, b"ecdh"),
        number(7, 70),
        number(8, 80),
        number(9, 90),
        bytes(10, b"root"),
        number(11, 1),
        number(12, 12),
        number(13, 13),
        bytes(14, &gatekeeper),
        bytes(15, b"2.3.0"),
        bytes(16, b"abc"),
        bytes(18, &memory),
        number(21, 1),
        bytes(23, &system),
        number(24, 1),
        number(25, 25),
        number(26, 26),
        bytes(27, b"1.2"),
        bytes(28, b"epid"),
        bytes(28, b"dcap"),
        number(29, 29),
        number(30, 30),
    ]
    .concat()
}

fn phactory_info() -> prpc::PhactoryInfo {
    let gatekeeper = prpc::GatekeeperStatus { role: 2, master_public_key: "master".into() };
    prpc::PhactoryInfo {
        initialized: true,
        registered: true,
        genesis_block_hash: Some("genesis".into()),
        public_key: Some("public".into()),
        ecdh_public_key: Some("ecdh".into()),
        headernum: 70,
        para_headernum: 80,
        blocknum: 90,
        state_root: "root".into(),
        dev_mode: true,
        pending_messages: 12,
        score: 13,
        gatekeeper: Some(gatekeeper.clone()),
        version: "2.3.0".into(),
        git_revision: "abc".into(),
        memory_usage: Some(prpc::MemoryUsage {
            rust_used: 1,
            rust_peak_used: 2,
            total_peak_used: 3,
            free: 4,
            rust_spike: 5,
        }),
        waiting_for_paraheaders: true,
        system: Some(prpc::SystemInfo {
            registered: true,
            public_key: "pk".into(),
            ecdh_public_key: "ecdh".into(),
            gatekeeper: Some(gatekeeper),
            number_of_clusters: 0,
            number_of_contracts: 0,
            max_supported_consensus_version: 9,
            genesis_block: 8,
        }),
        can_load_chain_state: true,
        safe_mode_level: 25,
        current_block_time: 26,
        max_supported_pink_runtime_version: "1.2".into(),
        supported_attestation_methods: vec!["epid".into(), "dcap".into()],
        live_sidevm_instances: 29,
        query_timeout: 30,
    }
}

#[test]
fn requests_have_their_numbers() {
    let init = prpc::InitRuntimeRequest {
        skip_ra: true,
        encoded_genesis_info: vec![2].into(),
        debug_set_key: Some(vec![3]),
        encoded_genesis_state: vec![4].into(),
        encoded_operator: Some(vec![5]),
        is_parachain: true,
        attestation_provider: Some(vec![7]),
    };
    let wire = [
        number(1, 1),
        bytes(2, &[2]),
        bytes(3, &[3]),
        bytes(4, &[4]),
        bytes(5, &[5]),
        number(6, 1),
        bytes(7, &[7]),
    ];
    assert_eq!(init.encode_to_vec(), wire.concat());
    let combined = prpc::CombinedHeadersToSync {
        encoded_relaychain_headers: vec![1].into(),
        authority_set_change: Some(vec![2]),
        encoded_parachain_headers: vec![3].into(),
        proof: vec![vec![4], vec![5]],
    };
    let wire = [bytes(1, &[1]), bytes(2, &[2]), bytes(3, &[3]), bytes(4, &[4]), bytes(4, &[5])];
    assert_eq!(combined.encode_to_vec(), wire.concat());
    let answer = [number(1, 7), number(2, 9)].concat();
    let synced = prpc::HeadersSyncedTo::decode(answer.as_slice()).unwrap();
    assert_eq!((synced.relaychain_synced_to, synced.parachain_synced_to), (7, 9));
    let blocks = prpc::Blocks { encoded_blocks: vec![1].into() };
    assert_eq!(blocks.encode_to_vec(), bytes(1, &[1]));
    let state = prpc::ChainState { block_number: 5, encoded_state: vec![6].into() };
    assert_eq!(state.encode_to_vec(), [number(1, 5), bytes(2, &[6])].concat());
    let runtime_info =
        prpc::GetRuntimeInfoRequest { force_refresh_ra: true, encoded_operator: Some(vec![1]) };
    assert_eq!(runtime_info.encode_to_vec(), [number(1, 1), bytes(2, &[1])].concat());
}

#[test]
fn registration_answers_have_their_numbers() {
    let payload = [bytes(1, b"report"), bytes(2, &[2]), bytes(3, &[3])].concat();
    let attestation =
        [number(1, 1), bytes(2, b"root"), bytes(3, &payload), number(4, 4), bytes(5, &[0])].concat();
    let wire =
        [bytes(1, &[1]), bytes(2, &[2]), bytes(3, &[3]), bytes(4, &[4]), bytes(5, &attestation)].concat();
    let answer = prpc::InitRuntimeResponse::decode(wire.as_slice()).unwrap();
    let attestation = answer.attestation.unwrap();
    assert_eq!(answer.encoded_ecdh_public_key, [4]);
    assert_eq!(attestation.provider, "root");
    assert_eq!(attestation.payload.unwrap().signing_cert, [3]);
    assert_eq!((attestation.timestamp, attestation.encoded_report), (4, vec![0]));
}

/// The protobuf that the hexadecimal is, with blanks between the fields.
fn unhex(text: &str) -> Vec<u8> {
    hex::decode(text.replace([' ', '\n'], "")).unwrap()
}

/// Encodes to these bytes, and decodes from them.
fn both_ways<M: Message + Default + PartialEq>(message: M, text: &str) {
    assert_eq!(hex::encode(message.encode_to_vec()), text.replace([' ', '\n'], ""));
    assert!(M::decode(&*unhex(text)).unwrap() == message, "{text}");
}

// Worked out from protobuf's rules, field by field: the key is the field's number << 3 | its type (0 varint, 2
// length and bytes). What is optional is left out, and is told apart from what is there and empty.
#[test]
fn optional_fields_are_left_out_or_there() {
    use prpc::*;
    both_ways(GetRuntimeInfoRequest::default(), "");
    both_ways(GetRuntimeInfoRequest { force_refresh_ra: true, encoded_operator: None }, "0801");
    both_ways(
        GetRuntimeInfoRequest {
            force_refresh_ra: false,
            encoded_operator: Some(AccountId([9; 32]).encode()),
        },
        "1220 0909090909090909 0909090909090909 0909090909090909 0909090909090909",
    );
    both_ways(GetRuntimeInfoRequest { force_refresh_ra: false, encoded_operator: Some(vec![]) }, "1200");

    both_ways(InitRuntimeRequest { is_parachain: true, ..Default::default() }, "3001");
    both_ways(
        InitRuntimeRequest { is_parachain: true, attestation_provider: Some(vec![0]), ..Default::default() },
        "3001 3a0100",
    );
    both_ways(InitRuntimeRequest { debug_set_key: Some(vec![]), ..Default::default() }, "1a00");
    both_ways(InitRuntimeRequest { encoded_operator: Some(vec![]), ..Default::default() }, "2a00");

    both_ways(HeadersToSync::default(), "");
    both_ways(
        HeadersToSync { encoded_headers: vec![0].into(), encoded_authority_set_change: Some(vec![5]) },
        "0a0100 120105",
    );
    both_ways(
        ParaHeadersToSync { encoded_headers: vec![0].into(), proof: vec![vec![], vec![1]] },
        "0a0100 1200 120101",
    );
    both_ways(
        CombinedHeadersToSync {
            encoded_relaychain_headers: vec![0].into(),
            authority_set_change: None,
            encoded_parachain_headers: vec![0].into(),
            proof: vec![],
        },
        "0a0100 1a0100",
    );
    both_ways(ChainState { block_number: 300, encoded_state: vec![0].into() }, "08ac02 120100");
    both_ways(StopOptions { remove_checkpoints: true }, "0801");
    both_ways(EchoMessage { echo_msg: vec![1, 2].into() }, "0a020102");

    both_ways(SignEndpointsRequest { encoded_endpoints: vec!["ab".to_owned()].encode() }, "0a04 04 086162");
    both_ways(AddEndpointRequest { encoded_endpoint_type: vec![0], endpoint: "a".into() }, "0a0100 120161");
    both_ways(GetEndpointResponse::default(), "");
    both_ways(
        GetEndpointResponse { encoded_endpoint_payload: Some(vec![]), signature: Some(vec![7]) },
        "0a00 120107",
    );
    both_ways(SyncedTo { synced_to: u32::MAX }, "08ffffffff0f");
    both_ways(EgressMessages { encoded_messages: vec![0] }, "0a0100");
    both_ways(ServerError { message: "no".into() }, "0a026e6f");
}

#[test]
fn worker_info_before_and_after_init_are_told_apart() {
    use prpc::*;
    both_ways(
        PhactoryInfo { can_load_chain_state: true, version: "2".into(), ..Default::default() },
        "7a0132 c00101",
    );
    let fresh = PhactoryInfo::decode(&*unhex("7a0132 c00101")).unwrap();
    assert_eq!((fresh.genesis_block_hash, fresh.public_key, fresh.ecdh_public_key), (None, None, None));
    assert_eq!((fresh.gatekeeper, fresh.memory_usage, fresh.system), (None, None, None));
    both_ways(
        PhactoryInfo {
            initialized: true,
            genesis_block_hash: Some("a".into()),
            public_key: Some(String::new()),
            ecdh_public_key: Some("b".into()),
            gatekeeper: Some(GatekeeperStatus::default()),
            ..Default::default()
        },
        "0801 220161 2a00 320162 7200",
    );
}

#[test]
fn attestations_of_both_versions_have_their_bytes() {
    use prpc::{Attestation, AttestationPayload, InitRuntimeResponse};
    // IAS: the report unencoded. Newer ones: SCALE `Option<AttestationReport>`.
    let v1 = Attestation {
        version: 1,
        provider: "SGX".into(),
        payload: Some(AttestationPayload { report: "{}".into(), signature: vec![1], signing_cert: vec![2] }),
        timestamp: 300,
        encoded_report: vec![],
    };
    both_ways(v1.clone(), "0801 1203534758 1a0a 0a027b7d 120101 1a0102 20ac02");
    let v2 = Attestation { version: 2, timestamp: 1, encoded_report: vec![0], ..Default::default() };
    both_ways(v2, "0802 2001 2a0100");
    let answer = InitRuntimeResponse { encoded_runtime_info: vec![1], ..Default::default() };
    both_ways(answer.clone(), "0a0101");
    both_ways(InitRuntimeResponse { attestation: Some(Attestation::default()), ..answer }, "0a0101 2a00");
}

#[test]
fn reports_and_collateral_are_encoded_as_the_chain_reads_them() {
    let text = |report: Option<AttestationReport>| hex::encode(report.encode());
    assert_eq!(text(None), "00");
    let ias = AttestationReport::SgxIas { ra_report: vec![1], signature: vec![2], raw_signing_cert: vec![] };
    assert_eq!(text(Some(ias)), "01 00 0401 0402 00".replace(' ', ""));
    let bare = AttestationReport::SgxDcap { quote: vec![3, 4], collateral: None };
    assert_eq!(text(Some(bare)), "01 01 080304 00".replace(' ', ""));
    let collateral = Collateral::SgxV30(SgxV30QuoteCollateral {
        pck_crl_issuer_chain: "a".into(),
        root_ca_crl: "b".into(),
        pck_crl: "c".into(),
        tcb_info_issuer_chain: "d".into(),
        tcb_info: "e".into(),
        tcb_info_signature: vec![1],
        qe_identity_issuer_chain: "f".into(),
        qe_identity: "g".into(),
        qe_identity_signature: vec![2],
    });
    let whole = AttestationReport::SgxDcap { quote: vec![3, 4], collateral: Some(collateral) };
    assert_eq!(
        text(Some(whole)),
        "01 01 080304 01 00 0461 0462 0463 0464 0465 0401 0466 0467 0402".replace(' ', "")
    );
    for (provider, byte) in
        [(AttestationProvider::Root, 0), (AttestationProvider::Ias, 1), (AttestationProvider::Dcap, 2)]
    {
        assert_eq!(provider.encode(), [byte]);
        assert_eq!(AttestationProvider::decode(&mut &[byte][..]).unwrap(), provider);
    }
    let payload = WorkerEndpointPayload {
        pubkey: WorkerKey([5; 32]),
        versioned_endpoints: VersionedWorkerEndpoints::V1(vec!["x".into()]),
        signing_time: 258,
    };
    assert_eq!(
        hex::encode(payload.signed_bytes()),
        format!("ff02{}00040478{}", "05".repeat(32), "0201000000000000")
    );
}

#[test]
fn methods_keep_their_names_and_limits() {
    assert_eq!(Method::ALL.len(), 16);
    for method in Method::ALL {
        assert_eq!(Method::from_name(method.name()), Some(*method));
    }
    assert_eq!(Method::SyncCombinedHeaders.name(), "SyncCombinedHeaders");
    assert_eq!(Method::DispatchBlocks.body_limit_bytes(), 100 << 20);
    assert_eq!(Method::GetInfo.body_limit_bytes(), 1 << 10);
    assert_eq!(Method::LoadChainState.body_limit_bytes(), 500 << 20);
}

#[test]
fn scale_fields_are_in_order() {
    let key = [7; 32];
    let info = WorkerRegistrationInfoV2 {
        version: 1,
        machine_id: vec![2, 2],
        pubkey: WorkerKey(key),
        ecdh_pubkey: [8; 32],
        genesis_block_hash: Hash([9; 32]),
        features: vec![4],
        operator: Some(AccountId([5; 32])),
        para_id: 2004,
        max_consensus_version: 6,
    };
    let by_hand =
        (1u32, vec![2u8, 2], key, [8u8; 32], [9u8; 32], vec![4u32], Some([5u8; 32]), 2004u32, 6u32).encode();
    assert_eq!(info.encode(), by_hand);

    let registration =
        (key, [8u8; 32], 3u32, 4u64, None::<[u8; 32]>, Some(2u8), 1u8, Some(77u32), vec![4u32]);
    let decoded = Registration::decode_all(&mut registration.encode().as_slice()).unwrap();
    assert_eq!((decoded.last_updated, decoded.initial_score), (4, Some(77)));
    assert_eq!(decoded.attestation_provider, Some(AttestationProvider::Dcap));

    let message = (2u8, key, b"topic".to_vec(), vec![1u8], 5u64, vec![0u8; 64]).encode();
    let signed = SignedMessage::decode_all(&mut message.as_slice()).unwrap();
    assert_eq!(signed.message.sender, MessageOrigin::Worker(WorkerKey(key)));
    assert_eq!((signed.message.destination, signed.sequence), (b"topic".to_vec(), 5));

    for (index, state) in [
        (0, SessionState::Ready),
        (1, SessionState::WorkerIdle),
        (3, SessionState::WorkerUnresponsive),
        (4, SessionState::WorkerCoolingDown),
    ] {
        assert_eq!(SessionState::decode(&mut [index].as_slice()).unwrap(), state);
    }
    assert!(SessionState::decode(&mut [2].as_slice()).is_err());

    let header_to_sync = (vec![0u8; 0], Some(vec![1u8, 2])).encode();
    assert_eq!(header_to_sync, [0, 1, 8, 1, 2]);
}
