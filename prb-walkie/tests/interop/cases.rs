//! Every method with every field, as our types and as protobuf.js's JSON.

use std::fmt::Debug;

use futures::future::{BoxFuture, FutureExt};
use prb_walkie::{
    proto::{
        self, AuthRequest, AuthResponse, AuthStatus, AuthType, Empty, FullAccount, QueryIdentity,
        WorkerState, WorkerStateUpdate, WorkerStatus, data_provider as dp, db, lifecycle as lm,
    },
    rpc::{Call, Client, Handlers, ResponseError, calls},
};
use serde_json::{Value, json};

type Serve = Box<dyn Fn(Handlers) -> Handlers + Send + Sync>;
type Ask = Box<dyn Fn(Client) -> BoxFuture<'static, ()> + Send + Sync>;

/// A call and its answer.
pub(crate) struct Case {
    /// The method's name.
    pub(crate) method: &'static str,
    /// The request as protobuf.js's JSON.
    pub(crate) request: Value,
    /// The answer as protobuf.js's JSON.
    pub(crate) answer: Value,
    /// Adds a handler that fails on any other request.
    pub(crate) serve: Serve,
    /// Makes the call; panics on any other answer.
    pub(crate) ask: Ask,
}

fn case<C: Call>(
    call: C,
    (request, request_json): (C::Request, Value),
    (answer, answer_json): (C::Response, Value),
) -> Case
where
    C::Request: Clone + PartialEq + Debug,
    C::Response: Clone + PartialEq + Debug,
{
    let (expected, given) = (request.clone(), answer.clone());
    let serve = move |handlers: Handlers| {
        let (expected, given) = (expected.clone(), given.clone());
        handlers.on(call, move |_caller, asked: C::Request| {
            let answer = if asked == expected {
                Ok(given.clone())
            } else {
                Err(ResponseError::server(format!("expected {expected:?}, got {asked:?}")))
            };
            async { answer }
        })
    };
    let ask = move |client: Client| {
        let (request, answer) = (request.clone(), answer.clone());
        async move { assert!(client.call(call, request).await.unwrap() == answer, "{}", C::METHOD.name()) }
            .boxed()
    };
    Case {
        method: C::METHOD.name(),
        request: request_json,
        answer: answer_json,
        serve: Box::new(serve),
        ask: Box::new(ask),
    }
}

/// All methods but `Hello`, which the node sends by itself.
pub(crate) fn all() -> Vec<Case> {
    let nothing = || (Empty {}, json!({}));
    let ids =
        || (lm::UuidQueryRequest { ids: vec!["w-1".into(), "w-2".into()] }, json!({ "ids": ["w-1", "w-2"] }));
    let pools = || (lm::PoolList { pools: vec![pool().0] }, json!({ "pools": [pool().1] }));
    let workers = || (lm::WorkerList { workers: vec![worker().0] }, json!({ "workers": [worker().1] }));
    vec![
        auth(),
        case(calls::GetDataProviderInfo, nothing(), info()),
        case(
            calls::GetBlobByKey,
            (dp::GetBlobByKey { key: "a:1:pb".into() }, json!({ "key": "a:1:pb" })),
            (
                dp::RawBlob { key: "a:1:pb".into(), empty: true, data: vec![0, 255].into() },
                json!({ "key": "a:1:pb", "empty": true, "data": "AP8=" }),
            ),
        ),
        want_blob(),
        get_blob(),
        case(calls::ListPool, nothing(), pools()),
        case(
            calls::CreatePool,
            (lm::CreatePool { pools: vec![pool().0] }, json!({ "pools": [pool().1] })),
            pools(),
        ),
        case(calls::UpdatePool, update_pools(), pools()),
        case(calls::ListWorker, nothing(), workers()),
        case(
            calls::CreateWorker,
            (lm::CreateWorker { workers: vec![worker().0] }, json!({ "workers": [worker().1] })),
            workers(),
        ),
        case(calls::UpdateWorker, update_workers(), workers()),
        case(calls::RestartWorker, ids(), states()),
        case(calls::RefreshRaAndRestartWorker, ids(), states()),
        case(calls::KickWorker, ids(), states()),
        case(calls::GetWorkerStatus, ids(), states()),
    ]
}

fn auth() -> Case {
    let request = AuthRequest { r#type: AuthType::Psk.into(), auth_string: "proof".into() };
    let answer = AuthResponse {
        status: AuthStatus::Granted.into(),
        r#type: AuthType::WhiteList.into(),
        peer_id: "Qm".into(),
    };
    case(
        calls::Auth,
        (request, json!({ "type": "AT_PSK", "authString": "proof" })),
        (answer, json!({ "status": "AS_GRANTED", "type": "AT_WHITE_LIST", "peerId": "Qm" })),
    )
}

fn info() -> (dp::Info, Value) {
    let info = dp::Info {
        status: dp::Status::Synching.into(),
        para_id: 2035,
        parent_start_header: -1,
        parent_target: 2_147_483_647,
        parent_fetched_height: 5,
        parent_processed_height: 4,
        parent_committed_height: 3,
        para_target: 12,
        para_fetched_height: 11,
        para_processed_height: -1,
        para_committed_height: 9,
        blob_server_port: 65535,
    };
    let json = json!({
        "status": "S_SYHCHING", "paraId": 2035, "parentStartHeader": -1, "parentTarget": 2_147_483_647,
        "parentFetchedHeight": 5, "parentProcessedHeight": 4, "parentCommittedHeight": 3, "paraTarget": 12,
        "paraFetchedHeight": 11, "paraProcessedHeight": -1, "paraCommittedHeight": 9, "blobServerPort": 65535,
    });
    (info, json)
}

fn want_blob() -> Case {
    let meta = dp::BlobMeta {
        number: u32::MAX,
        hash: vec![1, 2, 3].into(),
        origin_peer: "Qm".into(),
        r#type: dp::BlobType::ParentBlock.into(),
        get_token: "token".into(),
        token_expires_at: u64::MAX,
    };
    let json = json!({
        "number": u32::MAX, "hash": "AQID", "originPeer": "Qm", "type": "BT_PARENT_BLOCK", "getToken": "token",
        "tokenExpiresAt": u64::MAX.to_string(),
    });
    let want = dp::WantBlob { number: 7, r#type: dp::BlobType::ParaBlock.into() };
    case(calls::WantBlob, (want, json!({ "number": 7, "type": "BT_PARA_BLOCK" })), (meta, json))
}

fn get_blob() -> Case {
    let blob = dp::Blob { r#type: dp::BlobType::ParaBlock.into(), number: 7, data: vec![9; 3].into() };
    case(
        calls::GetBlobWithToken,
        (dp::GetBlob { token: "token".into() }, json!({ "token": "token" })),
        (blob, json!({ "type": "BT_PARA_BLOCK", "number": 7, "data": "CQkJ" })),
    )
}

fn pool() -> (db::Pool, Value) {
    let owner = FullAccount {
        mnemonic: "//Interop".into(),
        polkadot_json: "00ff".into(),
        ss58_phala: "45".into(),
        ss58_polkadot: "15".into(),
    };
    let pool = db::Pool {
        uuid: "p-1".into(),
        owner: Some(owner),
        pid: u64::MAX,
        name: "größter".into(),
        enabled: true,
        deleted: true,
        real_phala_ss58: "43".into(),
        sync_only: true,
    };
    let json = json!({
        "uuid": "p-1", "pid": u64::MAX.to_string(), "name": "größter", "enabled": true, "deleted": true,
        "owner": { "mnemonic": "//Interop", "polkadotJson": "00ff", "ss58Phala": "45", "ss58Polkadot": "15" },
        "realPhalaSs58": "43", "syncOnly": true,
    });
    (pool, json)
}

fn worker() -> (db::Worker, Value) {
    let worker = db::Worker {
        uuid: "w-1".into(),
        pid: 2,
        name: "one".into(),
        endpoint: "http://10.0.0.2:8000".into(),
        enabled: true,
        deleted: true,
        stake: "1000000000000000000000".into(),
        sync_only: true,
    };
    let json = json!({
        "uuid": "w-1", "pid": "2", "name": "one", "endpoint": "http://10.0.0.2:8000", "enabled": true,
        "deleted": true, "stake": "1000000000000000000000", "syncOnly": true,
    });
    (worker, json)
}

fn identities() -> [(QueryIdentity, Value); 3] {
    let named = |identity| QueryIdentity { identity: Some(identity) };
    [
        (named(proto::Identity::Uuid("u".into())), json!({ "uuid": "u" })),
        (named(proto::Identity::Name("n".into())), json!({ "name": "n" })),
        (named(proto::Identity::Pid(7)), json!({ "pid": "7" })),
    ]
}

fn update_pools() -> (lm::UpdatePool, Value) {
    let item = |(id, id_json): (_, Value)| {
        let item = lm::UpdatePoolItem { id: Some(id), pool: Some(pool().0) };
        (item, json!({ "id": id_json, "pool": pool().1 }))
    };
    let (items, json): (Vec<_>, Vec<_>) = identities().into_iter().map(item).unzip();
    (lm::UpdatePool { items }, json!({ "items": json }))
}

fn update_workers() -> (lm::UpdateWorker, Value) {
    let item = |(id, id_json): (_, Value)| {
        let item = lm::UpdateWorkerItem { id: Some(id), worker: Some(worker().0) };
        (item, json!({ "id": id_json, "worker": worker().1 }))
    };
    let (items, json): (Vec<_>, Vec<_>) = identities().into_iter().map(item).unzip();
    (lm::UpdateWorker { items }, json!({ "items": json }))
}

fn states() -> (WorkerStateUpdate, Value) {
    use WorkerStatus as S;
    let labels = [
        (S::Starting, "S_STARTING"),
        (S::Synching, "S_SYNCHING"),
        (S::Synched, "S_SYNCHED"),
        (S::PreActive, "S_PRE_ACTIVE"),
        (S::Active, "S_ACTIVE"),
        (S::Kicked, "S_KICKED"),
        (S::Error, "S_ERROR"),
    ];
    let (states, json): (Vec<_>, Vec<_>) =
        labels.into_iter().map(|(status, label)| state(status, label)).unzip();
    (WorkerStateUpdate { worker_states: states }, json!({ "workerStates": json }))
}

fn state(status: WorkerStatus, label: &str) -> (WorkerState, Value) {
    let state = WorkerState {
        status: status.into(),
        parent_header_synched_to: 100,
        para_header_synched_to: 50,
        para_block_dispatched_to: -1,
        initialized: true,
        worker: Some(worker().0),
        public_key: "0x01".into(),
        last_message: "[2022-05-12T10:00:00+00:00] Synching block data...".into(),
        session_info_json: "{\n  \"v\": 1\n}".into(),
        worker_account_id: "0x02".into(),
    };
    let json = json!({
        "status": label, "parentHeaderSynchedTo": 100, "paraHeaderSynchedTo": 50, "paraBlockDispatchedTo": -1,
        "initialized": true, "worker": worker().1, "publicKey": "0x01",
        "lastMessage": "[2022-05-12T10:00:00+00:00] Synching block data...",
        "sessionInfoJson": "{\n  \"v\": 1\n}", "workerAccountId": "0x02",
    });
    (state, json)
}
