//! Tests of calls in both directions: every method, error formats, sizes, concurrency.

use std::{collections::HashMap, sync::Arc};

use prb_walkie::{
    node::{Config, Node},
    proto::{AuthStatus, Role, WorkerStateUpdate, db, detail, lifecycle as lm},
    rpc::{Client, Error, ErrorKind, Handlers, ResponseError, auth, calls},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    cases,
    js::{Peer, Tool},
    ours::{self, Patterns, pattern},
};

async fn serving(handlers: Handlers) -> Node {
    ours::start(Role::LifecycleManager, |config| config.handlers = handlers).await
}

/// A node of ours that has met the original, and its client.
async fn calling(theirs: &Peer, configure: impl FnOnce(&mut Config)) -> (Node, Client) {
    let node = ours::start(Role::LifecycleManager, |config| {
        config.boot_nodes = vec![theirs.address.parse().unwrap()];
        configure(config);
    })
    .await;
    ours::peer(&node, &theirs.peer_id, "connected", |peer| peer.connected).await;
    let client = node.client(theirs.peer_id.parse().unwrap());
    (node, client)
}

/// Starts a peer that answers methods as `answers` says.
async fn answering(answers: &Value, args: &[&str]) -> Peer {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, answers.to_string()).unwrap();
    // The file is read before the peer listens.
    Peer::start(&[&["--shy", "--answers", file.path().to_str().unwrap()], args].concat()).await
}

#[tokio::test]
async fn original_calls_every_method_of_ours() {
    // Auth is handled by the node itself.
    let cases: Vec<_> = cases::all().into_iter().filter(|case| case.method != "Auth").collect();
    let node = serving(cases.iter().fold(Handlers::new(), |handlers, case| (case.serve)(handlers))).await;
    let mut theirs = Peer::start(&["--shy"]).await;
    for case in cases {
        let answer = theirs.call(&ours::address(&node), case.method, case.request).await;
        assert_eq!(answer["error"], Value::Null, "{}", case.method);
        assert_eq!(answer["hasError"], false);
        assert_eq!(answer["data"], case.answer, "{}", case.method);
        assert_eq!(answer["meta"]["nonce"].as_str().unwrap().len(), 36);
        assert_eq!(answer["meta"]["requestNonce"].as_str().unwrap().len(), 36);
        let age = now_ms() - answer["meta"]["createdAt"].as_str().unwrap().parse::<i64>().unwrap();
        assert!((-1_000..90_000).contains(&age), "created {age} ms ago");
    }
}

#[tokio::test]
async fn our_client_calls_every_method_of_the_original() {
    let cases = cases::all();
    let answers: HashMap<_, _> = cases.iter().map(|case| (case.method, &case.answer)).collect();
    let mut theirs = answering(&json!(answers), &[]).await;
    let (_node, client) = calling(&theirs, |_| {}).await;
    for case in cases {
        (case.ask)(client.clone()).await;
        let seen =
            theirs.tool.find(case.method, |e| e["event"] == "request" && e["method"] == case.method).await;
        assert_eq!(seen["request"], case.request, "{}", case.method);
        assert_eq!(seen["nonce"].as_str().unwrap().len(), 36);
    }
}

fn now_ms() -> i64 {
    i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap()
}

#[tokio::test]
async fn our_refusals_match_the_original() {
    let handlers = Handlers::new()
        .on(calls::KickWorker, |_, _| async { Err(ResponseError::not_found("no such worker")) })
        .on(calls::CreatePool, |_, _| async { Err(ResponseError::duplicated("pool 2 is there")) });
    let node = serving(handlers).await;
    let address = ours::address(&node);
    let mut theirs = Peer::start(&["--shy"]).await;

    let absent = theirs.call(&address, "ListPool", json!({})).await;
    assert_eq!(absent["error"], json!({ "type": "NOT_FOUND", "message": "Handler not implemented." }));
    assert_eq!(absent["meta"]["hasError"], true);
    let failed = theirs.call(&address, "KickWorker", json!({ "ids": ["x"] })).await;
    assert_eq!(failed["error"], json!({ "type": "NOT_FOUND", "message": "no such worker" }));
    let failed = theirs.call(&address, "CreatePool", json!({ "pools": [] })).await;
    assert_eq!(failed["error"], json!({ "type": "DUPLICATED", "message": "pool 2 is there" }));
    let unknown = theirs.call(&address, "Nonsense", json!({})).await;
    assert_eq!(unknown["error"]["type"], "SERVER");
    assert_eq!(unknown["meta"]["requestNonce"].as_str().unwrap().len(), 36);

    for (bytes, what) in [("", "an empty request"), ("ff", "garbage"), ("0a", "a field cut short")] {
        let raw = json!({ "command": "raw", "addr": address, "protocol": "/pb", "hex": bytes });
        let answer = theirs.tool.ask(raw).await;
        let response = &answer["response"];
        assert_eq!(response["error"]["type"], "SERVER", "{what}");
        assert_eq!(response["hasError"], true, "{what}");
        assert_eq!(response["requestNonce"], Value::Null, "{what}");
    }
}

#[tokio::test]
async fn original_refusals_are_decoded() {
    let answers = json!({
        "KickWorker": { "$error": ["UNAUTHORIZED", "not you"] },
        "RestartWorker": { "$error": ["SERVER", "it broke"] },
    });
    let theirs = answering(&answers, &[]).await;
    let (_node, client) = calling(&theirs, |_| {}).await;
    let kinds = async |answer: Result<WorkerStateUpdate, Error>| match answer.unwrap_err() {
        Error::Refused { source, .. } => (source.kind, source.message),
        other => panic!("{other:?}"),
    };
    let ids = lm::UuidQueryRequest { ids: vec!["w".into()] };
    let absent = kinds(client.worker_status(ids.clone()).await).await;
    assert_eq!(absent, (ErrorKind::NotFound, "Handler not implemented.".into()));
    let refused = kinds(client.kick_workers(ids.clone()).await).await;
    assert_eq!(refused, (ErrorKind::Unauthorized, "not you".into()));
    let failed = kinds(client.restart_workers(ids).await).await;
    assert_eq!(failed, (ErrorKind::Server, "it broke".into()));
}

/// The original ignores extension fields of requests and answers, and they change nothing of its own fields.
#[tokio::test]
async fn original_ignores_extension_fields() {
    let case = cases::all().into_iter().find(|case| case.method == "GetWorkerStatus").unwrap();
    let query = detail::StatusQuery { ids: vec!["w-1".into(), "w-2".into()], detail: true, events: true };
    let mut theirs = answering(&json!({ case.method: case.answer }), &[]).await;
    let (_node, client) = calling(&theirs, |_| {}).await;
    let update = client.worker_detail(query.clone()).await.unwrap();
    assert!(update.detail.is_none() && !update.worker_states.is_empty());
    let seen = theirs.tool.find("a query", |e| e["event"] == "request" && e["method"] == case.method).await;
    assert_eq!(seen["request"], case.request);

    // The same states, with an unrequested detail.
    let states = update.worker_states;
    let node = serving(Handlers::new().on(calls::GetWorkerDetail, move |_, _| {
        let told = detail::Worker { uuid: "w-1".into(), reason: "computing".into(), ..Default::default() };
        let fleet = detail::Fleet { workers: vec![told], notes: vec!["x".into()], ..Default::default() };
        let update = detail::StatusUpdate { worker_states: states.clone(), detail: Some(fleet) };
        async { Ok(update) }
    }))
    .await;
    let answer = theirs.call(&ours::address(&node), case.method, case.request).await;
    assert_eq!((&answer["error"], &answer["data"]), (&Value::Null, &case.answer));
}

/// protobuf.js writes zeros and empty texts if a field was set.
#[tokio::test]
async fn explicit_zeros_are_accepted() {
    let handlers = Handlers::new().on(calls::CreateWorker, |_, asked: lm::CreateWorker| async move {
        assert!(asked.workers == [db::Worker { name: "zero".into(), ..db::Worker::default() }]);
        Ok(lm::WorkerList { workers: asked.workers })
    });
    let node = serving(handlers).await;
    let zeros = json!({ "workers": [{
        "uuid": "", "pid": "0", "name": "zero", "endpoint": "", "enabled": false, "deleted": false, "stake": "",
        "syncOnly": false,
    }] });
    let mut theirs = answering(&json!({ "ListWorker": zeros }), &[]).await;
    let answer = theirs.call(&ours::address(&node), "CreateWorker", zeros).await;
    // Our encoder omits them, as proto3 does.
    assert_eq!(answer["data"], json!({ "workers": [{ "name": "zero" }] }));

    let (_node, client) = calling(&theirs, |_| {}).await;
    let workers = client.list_workers().await.unwrap().workers;
    assert!(workers == [db::Worker { name: "zero".into(), ..db::Worker::default() }]);
}

#[tokio::test]
async fn large_messages_pass_in_both_directions() {
    const SIZE: u32 = 5_000_000;
    let handlers = Handlers::new().on(calls::CreateWorker, |_, asked: lm::CreateWorker| async move {
        assert_eq!(asked.workers[0].name.len(), SIZE as usize);
        Ok(lm::WorkerList { workers: asked.workers })
    });
    let node = serving(handlers).await;
    let name = "w".repeat(SIZE as usize);
    let mut theirs = answering(&json!({}), &[]).await;
    let answer =
        theirs.call(&ours::address(&node), "CreateWorker", json!({ "workers": [{ "name": name }] })).await;
    assert!(answer["data"]["workers"][0]["name"] == name, "{:.200}", answer.to_string());

    let (_node, client) = calling(&theirs, |_| {}).await;
    let key = format!("pattern:{SIZE}");
    assert!(client.blob_by_key(&key).await.unwrap().unwrap() == pattern(SIZE));
    assert!(client.blob(&key).await.unwrap().unwrap() == pattern(SIZE));
    // Large requests too, in frames that the original accepts. It answers that it has no such blob.
    assert_eq!(client.blob_by_key(&"k".repeat(SIZE as usize)).await.unwrap(), None);
}

#[tokio::test]
async fn oversized_messages_are_refused_and_the_connection_survives() {
    let theirs = answering(&json!({}), &[]).await;
    let (_node, client) = calling(&theirs, |config| config.limits.answer_bytes = 100_000).await;
    let error = client.blob_by_key("pattern:3000000").await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { what: "answer", limit_bytes: 100_000 }), "{error:?}");
    let error = client.blob("pattern:3000000").await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { what: "answer", .. }), "{error:?}");
    assert_eq!(client.blob("pattern:90000").await.unwrap().unwrap(), pattern(90_000));

    let node = ours::start(Role::LifecycleManager, |config| config.limits.request_bytes = 100_000).await;
    let mut theirs = Peer::start(&["--shy"]).await;
    let request = json!({ "workers": [{ "name": "w".repeat(3_000_000) }] });
    let address = ours::address(&node);
    let call = json!({
        "command": "call", "kept": true, "addr": address, "method": "CreateWorker", "request": request,
    });
    let id = theirs.tool.send(call).await;
    let answer = theirs.tool.answer(id).await;
    assert!(answer["event"] == "failed" || answer["hasError"] == true, "{answer}");
    let hello = theirs.call(&address, "Hello", json!({})).await;
    assert_eq!(hello["data"]["peerId"], node.peer_id().to_string());
}

#[tokio::test]
async fn concurrent_calls_share_a_connection() {
    const CALLS: u32 = 64;
    let handlers = Handlers::new().on(
        calls::GetBlobByKey,
        |_, asked: prb_walkie::proto::data_provider::GetBlobByKey| {
            let data = asked.key.clone().into_bytes().into();
            async { Ok(prb_walkie::proto::data_provider::RawBlob { key: asked.key, empty: false, data }) }
        },
    );
    let node = serving(handlers).await;
    let mut theirs = answering(&json!({}), &[]).await;
    let mut ids = Vec::new();
    for n in 0..CALLS {
        let request = json!({ "key": format!("blob {n}") });
        let call = json!({
            "command": "call", "kept": true, "addr": ours::address(&node), "method": "GetBlobByKey",
            "request": request,
        });
        ids.push(theirs.tool.send(call).await);
    }
    for (n, id) in ids.into_iter().enumerate() {
        assert_eq!(theirs.tool.answer(id).await["data"]["key"], format!("blob {n}"));
    }

    let (_node, client) = calling(&theirs, |_| {}).await;
    let asked = (1..=CALLS).map(|size| {
        let client = client.clone();
        async move {
            assert_eq!(client.blob_by_key(&format!("pattern:{size}")).await.unwrap().unwrap(), pattern(size))
        }
    });
    futures::future::join_all(asked).await;
}

#[tokio::test]
async fn original_is_authorised_by_the_key() {
    let key = "7d1f0c92b6e84a35917fd3402ce8ab16";
    let handlers = Handlers::new().on(calls::ListPool, |_, _| async { Ok(lm::PoolList::default()) });
    let node = ours::start(Role::LifecycleManager, |config| {
        config.handlers = handlers;
        config.auth.psk = Some(key.into());
    })
    .await;
    let address = ours::address(&node);
    let mut theirs = Peer::start(&["--shy"]).await;
    let stranger = theirs.call(&address, "ListPool", json!({})).await;
    assert_eq!(stranger["error"]["type"], "UNAUTHORIZED");

    let them = theirs.peer_id.parse().unwrap();
    let proof =
        auth::auth_string(&auth::Key::stretch(&key.into()), &them, &node.peer_id(), now_ms().unsigned_abs());
    let proof = json!({ "type": "AT_PSK", "authString": proof });
    let mut another = Peer::start(&["--shy"]).await;
    let stolen = another.call(&address, "Auth", proof.clone()).await;
    assert_eq!(stolen["data"]["status"], "AS_REJECTED");

    let let_in = theirs.call(&address, "Auth", proof.clone()).await;
    let expected = json!({ "status": "AS_GRANTED", "type": "AT_PSK", "peerId": node.peer_id().to_string() });
    assert_eq!(let_in["data"], expected);
    assert_eq!(theirs.call(&address, "ListPool", json!({})).await["data"], json!({}));
    assert_eq!(theirs.call(&address, "Auth", proof).await["data"]["status"], "AS_REJECTED");
    assert_eq!(another.call(&address, "ListPool", json!({})).await["error"]["type"], "UNAUTHORIZED");

    // An original has no keys: our caller gets its refusal.
    let (node, client) = calling(&theirs, |config| config.auth.psk = Some(key.into())).await;
    let error = client.list_pools().await.unwrap_err();
    assert_eq!(error.kind(), Some(ErrorKind::NotFound), "{error:?}");
    assert_ne!(node.peers().borrow().get(&them).unwrap().auth, AuthStatus::Granted);
}

#[tokio::test]
async fn original_sees_our_protocols() {
    let node = ours::start(Role::DataProviderInt, |config| config.blobs = Some(Arc::new(Patterns))).await;
    let address = ours::address(&node);
    let mut theirs = Peer::start(&["--shy"]).await;
    let seen = theirs.tool.ask(json!({ "command": "identify", "addr": address })).await;
    let protocols: Vec<_> =
        seen["protocols"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    for protocol in ["/pb", "/blob", "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/ipfs/lan/kad/1.0.0"] {
        assert!(protocols.contains(&protocol), "{protocol} is not among {protocols:?}");
    }
    assert_eq!(seen["protocolVersion"], "ipfs/0.1.0");
    assert_eq!(seen["multiplexer"], "/mplex/6.7.0");
    assert_eq!(seen["encryption"], "/noise");
    assert_eq!(theirs.tool.ask(json!({ "command": "ping", "addr": address })).await["same"], true);

    let blob = async |tool: &mut Tool, key: &str| {
        tool.ask(json!({ "command": "blob", "addr": address, "key": key })).await
    };
    let large = blob(&mut theirs.tool, "pattern:3000000").await;
    assert_eq!(large["size"], 3_000_000);
    assert_eq!(large["sha256"], hex::encode(Sha256::digest(pattern(3_000_000))));
    assert_eq!(blob(&mut theirs.tool, "none").await["size"], 0);
    let by_key = theirs.call(&address, "GetBlobByKey", json!({ "key": "pattern:3" })).await;
    assert_eq!(by_key["data"], json!({ "key": "pattern:3", "data": "AJ48" }));
    let by_key = theirs.call(&address, "GetBlobByKey", json!({ "key": "none" })).await;
    assert_eq!(by_key["data"]["empty"], true);
}

#[tokio::test]
async fn our_client_fetches_blobs_of_the_original() {
    let theirs = answering(&json!({}), &[]).await;
    let (_node, client) = calling(&theirs, |_| {}).await;
    for size in [1, 1_000, 1_048_576, 1_048_577] {
        let key = format!("pattern:{size}");
        assert!(client.blob(&key).await.unwrap().unwrap() == pattern(size), "{size}");
        assert!(client.blob_by_key(&key).await.unwrap().unwrap() == pattern(size), "{size}");
    }
    assert_eq!(client.blob("none").await.unwrap(), None);
    assert_eq!(client.blob_by_key("none").await.unwrap(), None);
}
