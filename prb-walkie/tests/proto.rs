//! Tests of messages on the wire: the original's field numbers, and explicit zeros.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use prb_walkie::proto::{
    AuthRequest, AuthStatus, AuthType, ErrorType, FullAccount, Identity, QueryIdentity, Request, Response,
    ResponseError, Role, SystemInfo, WorkerState, WorkerStateUpdate, WorkerStatus,
    data_provider::{BlobMeta, BlobType, GetBlob, Info, RawBlob, Status},
    db::{Genesis, Pool, RangeMeta, Worker},
    lifecycle::{CreatePool, UpdatePool, UpdatePoolItem},
};
use proptest::prelude::*;
use prost::Message;

fn hex(message: &impl Message) -> String {
    hex::encode(message.encode_to_vec())
}

#[test]
fn envelopes() {
    let request =
        Request { created_at: 1, nonce: "n".into(), data: Bytes::from_static(b"d"), method: "Hello".into() };
    assert_eq!(hex(&request), "0801".to_owned() + "12016e" + "1a0164" + "220548656c6c6f");
    let answer = Response {
        created_at: 300,
        request_nonce: "n".into(),
        nonce: "m".into(),
        data: Bytes::from_static(b"d"),
        has_error: true,
        error: Some(ResponseError {
            r#type: ErrorType::NotFound.into(),
            message: "x".into(),
            is_let_in_from_same_machine: None,
        }),
    };
    assert_eq!(
        hex(&answer),
        "08ac02".to_owned() + "12016e" + "1a016d" + "220164" + "2801" + "3205" + "0802" + "120178"
    );
}

#[test]
fn system_info() {
    let info = SystemInfo {
        hostname: "h".into(),
        peer_id: "Q".into(),
        role: Role::LifecycleManager.into(),
        chain_identity: "0x1".into(),
        bridge_identity: "default".into(),
        auth: AuthStatus::NeedAuth.into(),
        ..SystemInfo::default()
    };
    let bytes = "0a0168".to_owned() + "120151" + "1803" + "2203307831" + "2a0764656661756c74" + "3001";
    assert_eq!(hex(&info), bytes);
    let own = SystemInfo { key_exchange: vec![1].into(), key_proof: vec![2].into(), ..info };
    assert_eq!(hex(&own), bytes + "7a0101" + "82010102", "after all of the original's");
    // JavaScript writes the role 0 of a client, and an empty chain identity.
    let explicit = hex::decode("0a0168".to_owned() + "120151" + "1800" + "2200" + "3000").unwrap();
    let client = SystemInfo::decode(explicit.as_slice()).unwrap();
    assert_eq!(
        (client.role(), client.auth(), client.hostname.as_str()),
        (Role::Client, AuthStatus::None, "h")
    );
    assert_eq!(hex(&client), "0a0168120151");
}

#[test]
fn auth_messages() {
    let request = AuthRequest { r#type: AuthType::WhiteList.into(), auth_string: "secret".into() };
    assert_eq!(hex(&request), "08021206736563726574");
    assert!(!format!("{request:?}").contains("secret"));
}

#[test]
fn data_provider_messages() {
    let info = Info {
        status: Status::Idle.into(),
        para_id: 2035,
        parent_start_header: -1,
        parent_target: 1,
        parent_fetched_height: 2,
        parent_processed_height: 3,
        parent_committed_height: 4,
        para_target: 5,
        para_fetched_height: 6,
        para_processed_height: 7,
        para_committed_height: 8,
        blob_server_port: 8012,
    };
    let bytes = "0802".to_owned()
        + "10f30f"
        + "18ffffffffffffffffff01"
        + "2001"
        + "2802"
        + "3003"
        + "3804"
        + "4005"
        + "4806"
        + "5007"
        + "5808"
        + "60cc3e";
    assert_eq!(hex(&info), bytes);
    let meta = BlobMeta {
        number: 1,
        hash: Bytes::from_static(b"h"),
        origin_peer: "p".into(),
        r#type: BlobType::ParaBlock.into(),
        get_token: "token".into(),
        token_expires_at: 9,
    };
    assert_eq!(hex(&meta), "0801".to_owned() + "120168" + "1a0170" + "2002" + "2a05746f6b656e" + "3009");
    assert!(!format!("{meta:?}{:?}", GetBlob { token: "token".into() }).contains("\"token\""));
    let raw = RawBlob { key: "k".into(), empty: true, data: Bytes::new() };
    assert_eq!(hex(&raw), "0a016b1001");
    assert_eq!(RawBlob::decode(&[0x0a, 1, b'k', 0x10, 1, 0x1a, 0][..]).unwrap(), raw);
}

#[test]
fn stored_values() {
    let genesis = Genesis {
        para_id: 1,
        para_number: 2,
        parent_number: 3,
        bridge_genesis_info: Bytes::from_static(b"i"),
        genesis_state: Bytes::from_static(b"s"),
    };
    assert_eq!(hex(&genesis), "0801".to_owned() + "1002" + "1803" + "220169" + "2a0173");
    let range = RangeMeta {
        parent_start_block: 1,
        parent_stop_block: 2,
        para_start_block: -1,
        para_stop_block: 3,
        parent_range: vec![1, 300],
        para_range: vec![7],
        dry_sync_header_req_key: "d".into(),
        latest_set_id: 4,
        blob_parent_stop_block: 5,
        blob_para_stop_block: -1,
        blob_sync_header_req_key: "b".into(),
    };
    let bytes = "0801".to_owned()
        + "1002"
        + "18ffffffffffffffffff01"
        + "2003"
        + "2a0301ac02"
        + "320107"
        + "3a0164"
        + "4004"
        + "4805"
        + "50ffffffffffffffffff01"
        + "5a0162";
    assert_eq!(hex(&range), bytes);
    // Lists that are not packed are accepted, too.
    assert_eq!(RangeMeta::decode(&[0x28, 1, 0x28, 0xac, 2][..]).unwrap().parent_range, [1, 300]);
}

#[test]
fn pool_messages() {
    let mut pool = Pool {
        uuid: "u".into(),
        owner: Some(FullAccount::default()),
        pid: u64::MAX,
        name: "n".into(),
        enabled: true,
        deleted: true,
        real_phala_ss58: "r".into(),
        sync_only: true,
        settings: None,
    };
    let rest = "18ffffffffffffffffff01".to_owned() + "22016e" + "2801" + "3001" + "3a0172" + "4001";
    assert_eq!(hex(&pool), "0a0175".to_owned() + "1200" + &rest);
    pool.owner = Some(owner());
    assert_eq!(hex(&pool), "0a0175".to_owned() + "121d" + &hex(&owner()) + &rest);
    // What JavaScript writes for a pool that is neither deleted nor sync-only.
    let explicit = hex::decode("0a01751200180222016e280130003a004000").unwrap();
    let listed = Pool::decode(explicit.as_slice()).unwrap();
    assert_eq!((listed.pid, listed.enabled, listed.deleted, listed.sync_only), (2, true, false, false));

    let id = QueryIdentity { identity: Some(Identity::Pid(0)) };
    let update = UpdatePool {
        items: vec![UpdatePoolItem {
            id: Some(id),
            pool: Some(Pool { deleted: true, ..Default::default() }),
        }],
    };
    assert_eq!(hex(&update), "0a08".to_owned() + "0a021800" + "12023001");
}

fn owner() -> FullAccount {
    let mut owner = FullAccount::default();
    owner.mnemonic = "bottom drive obey".into();
    owner.ss58_phala = "4".into();
    owner.ss58_polkadot = "1".into();
    owner.polkadot_json = "{}".into();
    owner
}

#[test]
fn debug_output_of_an_owner_has_no_secret() {
    assert_eq!(
        hex(&owner()),
        "0a11".to_owned() + &hex::encode("bottom drive obey") + "12027b7d" + "1a0134" + "220131"
    );
    let request = CreatePool { pools: vec![Pool { owner: Some(owner()), ..Pool::default() }] };
    let shown = format!("{request:?}");
    assert!(shown.contains("ss58_phala") && !shown.contains("bottom") && !shown.contains("{}"), "{shown}");
    let wrapped = Request { data: request.encode_to_vec().into(), ..Default::default() };
    let shown = format!("{wrapped:?}");
    assert!(shown.contains("data_bytes") && !shown.contains("bottom"), "{shown}");
}

#[test]
fn worker_messages() {
    let worker = Worker {
        uuid: "u".into(),
        pid: 2,
        name: "n".into(),
        endpoint: "e".into(),
        enabled: true,
        deleted: true,
        stake: "5".into(),
        sync_only: true,
        settings: None,
    };
    let bytes = "0a0175".to_owned() + "1002" + "1a016e" + "220165" + "2801" + "3001" + "3a0135" + "4001";
    assert_eq!(hex(&worker), bytes);
    let state = WorkerState {
        status: WorkerStatus::Active.into(),
        parent_header_synched_to: 1,
        para_header_synched_to: 2,
        para_block_dispatched_to: 3,
        initialized: true,
        worker: Some(Worker::default()),
        public_key: "k".into(),
        last_message: "m".into(),
        session_info_json: "j".into(),
        worker_account_id: "a".into(),
    };
    let bytes = "0805".to_owned()
        + "1001"
        + "1802"
        + "2003"
        + "2801"
        + "3200"
        + "42016b"
        + "4a016d"
        + "52016a"
        + "5a0161";
    let update = WorkerStateUpdate { worker_states: vec![state] };
    assert_eq!(hex(&update), format!("0a{:02x}{bytes}", bytes.len() / 2));
}

proptest! {
    /// Arbitrary bytes are a message or an error, never a panic.
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::decode(bytes.as_slice());
        let _ = Response::decode(bytes.as_slice());
        let _ = UpdatePool::decode(bytes.as_slice());
        let _ = WorkerStateUpdate::decode(bytes.as_slice());
        let _ = RangeMeta::decode(bytes.as_slice());
    }

    #[test]
    fn envelope_round_trips(at in any::<u64>(), nonce in ".*", data in prop::collection::vec(any::<u8>(), 0..100), method in ".*") {
        let request = Request { created_at: at, nonce, data: data.into(), method };
        prop_assert_eq!(Request::decode(request.encode_to_vec().as_slice()).unwrap(), request);
    }
}
