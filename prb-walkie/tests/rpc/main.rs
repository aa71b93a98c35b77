//! Tests of calls: every method, every error, and the limits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../node_rig/rig.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of the rig")]
mod rig;

mod malformed;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use prb_core::blob;
use prb_walkie::{
    blob::Lookup,
    node::Node,
    proto::{
        self, Empty, ErrorType, FullAccount, Identity, QueryIdentity, Request, Response, Role, SystemInfo,
        WorkerState, WorkerStateUpdate, data_provider as dp, db, lifecycle as lm,
    },
    rpc::{Caller, Error, ErrorKind, Handlers, Method, ResponseError, calls},
};
use prost::Message;
use rig::{LONG, RawPeer, address, config, start, start_knowing, until_friends, until_peer};
use tokio::sync::Semaphore;

/// Serves blobs that are `n` bytes long by the key `n`.
#[derive(Debug)]
struct Sized;

#[async_trait]
impl Lookup for Sized {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, blob::Error> {
        match key.parse::<usize>() {
            Ok(13) => Err(blob::Error::NotReady),
            Ok(n) => Ok(Some(vec![n as u8; n].into())),
            Err(_) => Ok(None),
        }
    }
}

fn update(ids: Vec<String>, message: &str) -> WorkerStateUpdate {
    let state = |id| WorkerState {
        worker: Some(db::Worker { uuid: id, ..db::Worker::default() }),
        last_message: message.to_owned(),
        ..WorkerState::default()
    };
    WorkerStateUpdate { worker_states: ids.into_iter().map(state).collect() }
}

/// Handlers of every method but `Hello` and `Auth`, whose answers show that they were called.
fn all_handlers() -> Handlers {
    type Ids = lm::UuidQueryRequest;
    let pool = |name: &str| db::Pool { name: name.to_owned(), ..db::Pool::default() };
    let worker = |name: &str| db::Worker { name: name.to_owned(), ..db::Worker::default() };
    Handlers::new()
        .on(calls::GetDataProviderInfo, |_, Empty {}| async {
            Ok(dp::Info { parent_target: -1, blob_server_port: 8012, ..dp::Info::default() })
        })
        .on(calls::WantBlob, |caller: Caller, want| async move {
            let (number, origin_peer) = (want.number, caller.peer.to_base58());
            Ok(dp::BlobMeta { number, r#type: want.r#type, origin_peer, ..dp::BlobMeta::default() })
        })
        .on(calls::GetBlobWithToken, |_, get| async move {
            Ok(dp::Blob { data: get.token.into_bytes().into(), ..dp::Blob::default() })
        })
        .on(
            calls::ListPool,
            move |_, Empty {}| async move { Ok(lm::PoolList { pools: vec![pool("listed")] }) },
        )
        .on(calls::CreatePool, |_, request| async move {
            let mut pools = request.pools;
            for pool in &mut pools {
                let mnemonic = pool.owner.as_mut().unwrap().take_mnemonic();
                pool.name = format!("{} {}", pool.name, mnemonic.len());
            }
            Ok(lm::PoolList { pools })
        })
        .on(calls::UpdatePool, |_, request| async move {
            Ok(lm::PoolList { pools: request.items.into_iter().filter_map(|item| item.pool).collect() })
        })
        .on(calls::ListWorker, move |_, Empty {}| async move {
            Ok(lm::WorkerList { workers: vec![worker("listed")] })
        })
        .on(calls::CreateWorker, |_, request| async move { Ok(lm::WorkerList { workers: request.workers }) })
        .on(calls::UpdateWorker, |_, request| async move {
            Ok(lm::WorkerList { workers: request.items.into_iter().filter_map(|item| item.worker).collect() })
        })
        .on(calls::RestartWorker, |_, ids: Ids| async move { Ok(update(ids.ids, "restart")) })
        .on(calls::RefreshRaAndRestartWorker, |_, ids: Ids| async move { Ok(update(ids.ids, "refresh")) })
        .on(calls::KickWorker, |_, ids: Ids| async move { Ok(update(ids.ids, "kick")) })
        .on(calls::GetWorkerStatus, |_, ids: Ids| async move { Ok(update(ids.ids, "status")) })
}

/// A node with all handlers and blobs, and one that knows it.
async fn pair() -> (Node, Node) {
    let mut server = config(0, Role::LifecycleManager);
    server.handlers = all_handlers();
    server.blobs = Some(Arc::new(Sized));
    let server = start(server).await;
    let caller = start_knowing(config(1, Role::Trader), &server).await;
    until_friends(&server, &caller).await;
    (server, caller)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_is_answered() {
    let (server, caller) = pair().await;
    let client = caller.client(server.peer_id());
    let info = client.data_provider_info().await.unwrap();
    assert_eq!((info.parent_target, info.blob_server_port), (-1, 8012));

    let want = dp::WantBlob { number: 7, r#type: dp::BlobType::ParaBlock.into() };
    let meta = client.want_blob(want).await.unwrap();
    assert_eq!(
        (meta.number, meta.r#type(), meta.origin_peer),
        (7, dp::BlobType::ParaBlock, caller.peer_id().to_base58())
    );
    let blob = client.blob_with_token(dp::GetBlob { token: "t".into() }).await.unwrap();
    assert_eq!(blob.data, "t");

    assert_eq!(client.list_pools().await.unwrap().pools[0].name, "listed");
    let mut owner = FullAccount::default();
    owner.mnemonic = "12345".into();
    let new = db::Pool { name: "new".into(), owner: Some(owner), ..db::Pool::default() };
    let made = client.create_pools(lm::CreatePool { pools: vec![new] }).await.unwrap().pools;
    assert_eq!((made[0].name.as_str(), made[0].owner.as_ref().unwrap().mnemonic.as_str()), ("new 5", ""));
    let id = Some(QueryIdentity { identity: Some(Identity::Pid(7)) });
    let pool = db::Pool { pid: 7, deleted: true, ..db::Pool::default() };
    let request =
        lm::UpdatePool { items: vec![lm::UpdatePoolItem { id: id.clone(), pool: Some(pool.clone()) }] };
    assert_eq!(client.update_pools(request).await.unwrap().pools, [pool]);

    assert_eq!(client.list_workers().await.unwrap().workers[0].name, "listed");
    let worker = db::Worker { stake: "30000000000000000".into(), ..db::Worker::default() };
    let request = lm::CreateWorker { workers: vec![worker.clone()] };
    assert_eq!(client.create_workers(request).await.unwrap().workers, std::slice::from_ref(&worker));
    let item = lm::UpdateWorkerItem { id, worker: Some(worker.clone()) };
    let request = lm::UpdateWorker { items: vec![item] };
    assert_eq!(client.update_workers(request).await.unwrap().workers, [worker]);

    let ids = || lm::UuidQueryRequest { ids: vec!["a".into(), "b".into()] };
    assert_eq!(client.restart_workers(ids()).await.unwrap(), update(ids().ids, "restart"));
    assert_eq!(client.refresh_ra_and_restart_workers(ids()).await.unwrap(), update(ids().ids, "refresh"));
    assert_eq!(client.kick_workers(ids()).await.unwrap(), update(ids().ids, "kick"));
    assert_eq!(client.worker_status(ids()).await.unwrap(), update(ids().ids, "status"));
    assert_eq!(client.worker_status(lm::UuidQueryRequest::default()).await.unwrap().worker_states, []);

    // Also with a method and raw bytes.
    let data = caller.call(server.peer_id(), Method::ListPool, Bytes::new()).await.unwrap();
    assert_eq!(lm::PoolList::decode(data).unwrap().pools.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_by_call_and_by_protocol() {
    let (server, caller) = pair().await;
    let client = caller.client(server.peer_id());
    for n in [1, 1000, 3 << 20] {
        let expected = Some(Bytes::from(vec![n as u8; n]));
        assert!(client.blob(&format!(" {n}\n")).await.unwrap() == expected, "{n} over /blob");
        assert!(client.blob_by_key(&n.to_string()).await.unwrap() == expected, "{n} by call");
    }
    for missing in ["none", "0", ""] {
        assert_eq!(client.blob(missing).await.unwrap(), None, "{missing}");
        assert_eq!(client.blob_by_key(missing).await.unwrap(), None, "{missing}");
    }
    // An unreadable blob is missing over /blob, and an error in a call.
    assert_eq!(client.blob("13").await.unwrap(), None);
    assert_eq!(client.blob_by_key("13").await.unwrap_err().kind(), Some(ErrorKind::Server));
    // A key that is too long is not read to its end.
    assert_eq!(client.blob(&"1".repeat(2000)).await.unwrap(), None);
    assert_eq!(client.blob(&format!("{}1", " ".repeat(2000))).await.unwrap(), None);
    assert_eq!(client.blob(&format!("{}1", " ".repeat(1000))).await.unwrap(), Some(Bytes::from_static(&[1])));
    // The other node serves no blobs.
    let back = server.client(caller.peer_id());
    let error = back.blob("1").await.unwrap_err();
    assert!(matches!(error, Error::Unsupported { protocol: "/blob", .. }), "{error}");
    assert_eq!(back.blob_by_key("1").await.unwrap_err().kind(), Some(ErrorKind::NotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handler_errors_keep_their_kinds() {
    let mut server = config(0, Role::LifecycleManager);
    server.limits.call_timeout = Duration::from_millis(800);
    server.limits.answer_bytes = 200_000;
    server.handlers = Handlers::new()
        .on(calls::ListPool, |_, _| async { Err(ResponseError::duplicated("twice")) })
        .on(calls::ListWorker, |_, _| async { panic!("on purpose") })
        .on(calls::CreateWorker, |_, request| {
            assert!(!request.workers.is_empty(), "before there is a future");
            async move { Ok(lm::WorkerList { workers: request.workers }) }
        })
        .on(calls::KickWorker, |_, _| std::future::pending())
        .on(calls::GetWorkerStatus, |_, _| async { Ok(update(vec![String::new()], &"x".repeat(200_000))) });
    let server = start(server).await;
    let caller = start_knowing(config(1, Role::Trader), &server).await;
    until_friends(&server, &caller).await;
    let client = caller.client(server.peer_id());
    let kind_and_message = |error: Error| match error {
        Error::Refused { source, .. } => (source.kind, source.message),
        other => panic!("{other:?}"),
    };
    let none = lm::UuidQueryRequest::default;
    assert_eq!(
        kind_and_message(client.list_pools().await.unwrap_err()),
        (ErrorKind::Duplicated, "twice".into())
    );
    let failed = (ErrorKind::Server, "the handler failed".to_owned());
    assert_eq!(kind_and_message(client.list_workers().await.unwrap_err()), failed);
    assert_eq!(
        kind_and_message(client.create_workers(lm::CreateWorker::default()).await.unwrap_err()),
        failed
    );
    let (kind, message) = kind_and_message(client.worker_status(none()).await.unwrap_err());
    assert!(kind == ErrorKind::Server && message.contains("too many for the limit"), "{message}");
    let (kind, message) = kind_and_message(client.kick_workers(none()).await.unwrap_err());
    assert!(kind == ErrorKind::Server && message.contains("no answer within"), "{message}");
    let not_there = (ErrorKind::NotFound, "Handler not implemented.".to_owned());
    assert_eq!(kind_and_message(client.data_provider_info().await.unwrap_err()), not_there);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_of_one_peer_are_bounded() {
    let (doors, inside) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut server = config(0, Role::LifecycleManager);
    server.limits.calls_per_peer = 3;
    let shared = (Arc::clone(&doors), Arc::clone(&inside));
    server.handlers = Handlers::new().on(calls::ListPool, move |_, _| {
        let (doors, inside) = shared.clone();
        async move {
            inside.fetch_add(1, Ordering::SeqCst);
            doors.acquire().await.unwrap().forget();
            Ok(lm::PoolList::default())
        }
    });
    let server = start(server).await;
    let greedy = start_knowing(config(1, Role::Trader), &server).await;
    let modest = start_knowing(config(2, Role::Trader), &server).await;
    until_friends(&server, &greedy).await;
    until_friends(&server, &modest).await;
    let call = |node: &Node| {
        let client = node.client(server.peer_id());
        tokio::spawn(async move { client.list_pools().await })
    };
    let waiting: Vec<_> = (0..3).map(|_| call(&greedy)).collect();
    let full = async {
        while inside.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, full).await.unwrap();
    match call(&greedy).await.unwrap() {
        Err(Error::Refused { source, .. }) => assert_eq!(source.message, "too many calls at once"),
        other => panic!("{other:?}"),
    }
    // Another peer has its own slots; an abandoned call keeps its slot until its handler ends.
    let other = call(&modest);
    let mut waiting = waiting.into_iter();
    waiting.next().unwrap().abort();
    doors.add_permits(4);
    for done in waiting.chain([other]) {
        tokio::time::timeout(LONG, done).await.unwrap().unwrap().unwrap();
    }
    doors.add_permits(100);
    let again = async {
        while call(&greedy).await.unwrap().is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, again).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_concurrent_calls_are_answered() {
    let (server, caller) = pair().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..500_usize {
        let client = caller.client(server.peer_id());
        tasks.spawn(async move {
            let blob = client.blob_with_token(dp::GetBlob { token: n.to_string() }).await.unwrap();
            assert_eq!(blob.data, n.to_string());
        });
    }
    tokio::time::timeout(LONG, tasks.join_all()).await.expect("all answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_peers_are_errors() {
    let node = start(config(0, Role::Trader)).await;
    let nobody = prb_walkie::node::PeerId::random();
    let error = node.client(nobody).list_pools().await.unwrap_err();
    assert!(
        matches!(error, Error::UnknownPeer { .. }) && error.to_string().contains(&nobody.to_base58()),
        "{error}"
    );
    let mut boot = config(1, Role::Trader);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    boot.boot_nodes = vec![format!("/ip4/127.0.0.1/tcp/{closed}/p2p/{nobody}").parse().unwrap()];
    let node = start(boot).await;
    let error = node.client(nobody).list_pools().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_retryable(), "{error}");
    let (text, address) = (error.to_string(), format!("/ip4/127.0.0.1/tcp/{closed}"));
    assert!(text.contains(&address) && text.contains("Connection refused"), "{text}");
    assert_eq!(text.matches("refused").count(), 1, "{text}");
}
