//! Tests of the endpoint: bodies, statuses, exits, faults, records.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use codec::Decode;
use prb_core::{
    prpc::{self, Method, PhactoryInfo},
    wire::EgressMessages,
};
use prost::Message;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::*;
use crate::worker::{Restart, Worker, WorkerConfig, WorkerHandle, spawn_all};

fn chain() -> MiniChain {
    MiniChain::new(12, 4, &[5], 12)
}

fn config() -> WorkerConfig {
    WorkerConfig { restart_delay: Duration::ZERO, ..WorkerConfig::new("test", 0) }
}

fn client() -> Client {
    // Another test of the process may have installed it first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new()
}

async fn send(worker: &WorkerHandle, path: &str, body: Vec<u8>) -> reqwest::Result<Response> {
    client().post(format!("{}/{path}", worker.endpoint())).body(body).send().await
}

async fn call<A: Message + Default>(
    worker: &WorkerHandle,
    method: Method,
    request: &impl Message,
) -> Result<A, (u16, String)> {
    let path = format!("prpc/PhactoryAPI.{}", method.name());
    let response = send(worker, &path, request.encode_to_vec()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.bytes().await.unwrap();
    if status == 200 {
        return Ok(A::decode(body).unwrap());
    }
    Err((status, prpc::ServerError::decode(body).unwrap().message))
}

async fn info(worker: &WorkerHandle) -> PhactoryInfo {
    call(worker, Method::GetInfo, &()).await.unwrap()
}

fn init_request(chain: &MiniChain) -> prpc::InitRuntimeRequest {
    prpc::InitRuntimeRequest {
        encoded_genesis_info: chain.genesis_info().encode().into(),
        encoded_genesis_state: chain.state(0).encode().into(),
        is_parachain: true,
        ..Default::default()
    }
}

fn headers_request(chain: &MiniChain, last: u32) -> prpc::CombinedHeadersToSync {
    prpc::CombinedHeadersToSync {
        encoded_relaychain_headers: chain.relay_headers(2..=last).encode().into(),
        encoded_parachain_headers: chain.para_headers(0..=last - 2).encode().into(),
        proof: chain.proof(last),
        ..Default::default()
    }
}

fn blocks_request(chain: &MiniChain, last: u32) -> prpc::Blocks {
    prpc::Blocks { encoded_blocks: chain.blocks(1..=last).encode().into() }
}

/// Initialises a worker and syncs it to relay header 5 and parachain block 3.
async fn synced(worker: &WorkerHandle, chain: &MiniChain) {
    let _: prpc::InitRuntimeResponse = call(worker, Method::InitRuntime, &init_request(chain)).await.unwrap();
    let both: prpc::HeadersSyncedTo =
        call(worker, Method::SyncCombinedHeaders, &headers_request(chain, 5)).await.unwrap();
    assert_eq!((both.relaychain_synced_to, both.parachain_synced_to), (5, 3));
    let to: prpc::SyncedTo = call(worker, Method::DispatchBlocks, &blocks_request(chain, 3)).await.unwrap();
    assert_eq!(to.synced_to, 3);
}

fn refusal<A: Debug>(result: Result<A, (u16, String)>, status: u16) -> String {
    let (actual, message) = result.unwrap_err();
    assert_eq!(actual, status, "{message}");
    message
}

#[tokio::test]
async fn worker_syncs_over_http() {
    let chain = chain();
    let worker = Worker::spawn(config()).await.unwrap();
    assert!(!info(&worker).await.initialized);
    synced(&worker, &chain).await;
    let seen = info(&worker).await;
    assert_eq!((seen.headernum, seen.para_headernum, seen.blocknum), (6, 4, 4));
    assert_eq!(seen.public_key.as_deref(), Some(hex::encode(worker.public_key()).as_str()));
    assert_eq!(seen, worker.info());
    let egress: prpc::EgressMessages = call(&worker, Method::GetEgressMessages, &()).await.unwrap();
    assert_eq!(EgressMessages::decode(&mut &*egress.encoded_messages).unwrap(), []);
    let echo = prpc::EchoMessage { echo_msg: "hello".into() };
    assert_eq!(call::<prpc::EchoMessage>(&worker, Method::Echo, &echo).await.unwrap(), echo);
    assert_eq!(worker.calls(Method::DispatchBlocks), 1);
    assert_eq!(worker.overlapping_calls(), 0);
    worker.shutdown().await;
}

#[tokio::test]
async fn bodies_are_checked() {
    let chain = chain();
    let worker = Worker::spawn(config()).await.unwrap();
    let too_large = send(&worker, "prpc/PhactoryAPI.GetInfo", vec![0; 1025]).await.unwrap();
    assert_eq!(too_large.status(), 413);
    assert!(!too_large.text().await.unwrap().is_empty());
    let unknown = send(&worker, "prpc/PhactoryAPI.Nonsense", Vec::new()).await.unwrap();
    assert_eq!(unknown.status(), 404);
    let not_protobuf = send(&worker, "prpc/PhactoryAPI.SyncHeader", vec![0xff; 9]).await.unwrap();
    assert_eq!(not_protobuf.status(), 400);
    let message = prpc::ServerError::decode(not_protobuf.bytes().await.unwrap()).unwrap().message;
    assert!(message.starts_with("DecodeError("), "{message}");
    let not_scale = prpc::HeadersToSync { encoded_headers: vec![4].into(), ..Default::default() };
    let result = call::<prpc::SyncedTo>(&worker, Method::SyncHeader, &not_scale).await;
    assert!(refusal(result, 400).starts_with("DecodeError("));
    let early = prpc::HeadersToSync::default();
    let early = prpc::HeadersToSync { encoded_headers: vec![0].into(), ..early };
    let result = call::<prpc::SyncedTo>(&worker, Method::SyncHeader, &early).await;
    assert_eq!(refusal(result, 500), "Runtime not initialized");
    assert!(!info(&worker).await.can_load_chain_state);

    synced(&worker, &chain).await;
    // A set change is ignored, but must decode; bytes after the SCALE are ignored.
    let mut change = prpc::HeadersToSync { encoded_headers: vec![0, 9, 9].into(), ..Default::default() };
    let to: prpc::SyncedTo = call(&worker, Method::SyncHeader, &change).await.unwrap();
    assert_eq!(to.synced_to, 5);
    change.encoded_authority_set_change = Some(vec![1]);
    let result = call::<prpc::SyncedTo>(&worker, Method::SyncHeader, &change).await;
    assert!(refusal(result, 400).starts_with("DecodeError("));
}

#[tokio::test]
async fn json_and_protobuf_answers_are_equal() {
    let chain = chain();
    let worker = Worker::spawn(config()).await.unwrap();
    synced(&worker, &chain).await;
    let url = format!("{}/prpc/PhactoryAPI.GetInfo", worker.endpoint());
    let text = client().get(&url).send().await.unwrap().text().await.unwrap();
    let seen: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(seen, serde_json::to_value(worker.info()).unwrap());
    assert_eq!(seen["blocknum"], 4);
    let posted = send(&worker, "prpc/PhactoryAPI.GetInfo?json=true", Vec::new()).await.unwrap();
    assert_eq!(posted.text().await.unwrap(), text);
    let echo = Client::new()
        .post(format!("{}/prpc/PhactoryAPI.Echo", worker.endpoint()))
        .header("content-type", "application/json")
        .body(r#"{"echo_msg":[1,2,255]}"#)
        .send();
    assert_eq!(echo.await.unwrap().text().await.unwrap(), r#"{"echo_msg":[1,2,255]}"#);
    let wrong = json!({ "encoded_headers": [4] }).to_string().into_bytes();
    let wrong = send(&worker, "prpc/PhactoryAPI.SyncHeader?json=true", wrong).await.unwrap();
    assert_eq!(wrong.status(), 400);
    assert!(wrong.text().await.unwrap().starts_with(r#"{"error":"DecodeError("#));
}

#[tokio::test]
async fn legacy_calls_are_served() {
    let chain = chain();
    let worker = Worker::spawn(config()).await.unwrap();
    let _: prpc::InitRuntimeResponse =
        call(&worker, Method::InitRuntime, &init_request(&chain)).await.unwrap();
    let legacy = async |name: &str, body: Vec<u8>| {
        let response = send(&worker, &format!("bin_api/{name}"), body).await.unwrap();
        let answer: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        let payload: Value = serde_json::from_str(answer["payload"].as_str().unwrap()).unwrap();
        (answer["status"].as_str().unwrap().to_owned(), payload)
    };
    let (headers, para) = (chain.relay_headers(2..=5), chain.para_headers(0..=3));
    let body = (headers, None::<prb_core::wire::AuthoritySetChange>, para, chain.proof(5)).encode();
    let (status, payload) = legacy("sync_combined_headers", body).await;
    assert_eq!(status, "ok");
    assert_eq!(payload, json!({ "relaychain_synced_to": 5, "parachain_synced_to": 3 }));
    let (status, payload) = legacy("dispatch_block", chain.blocks(1..=3).encode()).await;
    assert_eq!((status.as_str(), payload), ("ok", json!({ "dispatched_to": 3 })));
    let (status, _) = legacy("dispatch_block", chain.blocks(5..=5).encode()).await;
    assert_eq!(status, "error");
}

#[tokio::test]
async fn kick_ends_the_process_and_the_supervisor_restarts_it() {
    let chain = chain();
    let worker = Worker::spawn(config()).await.unwrap();
    synced(&worker, &chain).await;
    let kick = async |lives: u64| {
        assert!(send(&worker, "kick", Vec::new()).await.is_err());
        assert_eq!((worker.kick_count(), worker.restart_count()), (lives, lives));
        back(&worker).await
    };
    assert_eq!(kick(1).await.blocknum, 4);
    worker.set_restart(Restart::Checkpoint);
    let to: prpc::SyncedTo = call(&worker, Method::TakeCheckpoint, &()).await.unwrap();
    assert_eq!(to.synced_to, 3);
    let _: prpc::SyncedTo = call(&worker, Method::SyncHeader, &later_headers(&chain)).await.unwrap();
    assert_eq!(info(&worker).await.headernum, 8);
    assert_eq!(kick(2).await.headernum, 6);
    worker.set_restart(Restart::Lost);
    let fresh = kick(3).await;
    assert!(!fresh.initialized && fresh.can_load_chain_state);
    synced(&worker, &chain).await;
    // The key is sealed, so it survives.
    assert_eq!(info(&worker).await.public_key.unwrap(), hex::encode(worker.public_key()));
}

fn later_headers(chain: &MiniChain) -> prpc::HeadersToSync {
    let encoded_headers = chain.relay_headers(6..=7).encode().into();
    prpc::HeadersToSync { encoded_headers, ..Default::default() }
}

/// Waits until the worker answers again and returns its state.
async fn back(worker: &WorkerHandle) -> PhactoryInfo {
    loop {
        if let Ok(response) = send(worker, "prpc/PhactoryAPI.GetInfo", Vec::new()).await {
            return PhactoryInfo::decode(response.bytes().await.unwrap()).unwrap();
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn invalid_init_closes_the_connection() {
    let chain = chain();
    let worker = Worker::spawn(config()).await.unwrap();
    let mut bad = chain.genesis_info();
    bad.proof.clear();
    let request =
        prpc::InitRuntimeRequest { encoded_genesis_info: bad.encode().into(), ..init_request(&chain) };
    let result = send(&worker, "prpc/PhactoryAPI.InitRuntime", request.encode_to_vec()).await;
    assert!(result.is_err());
    assert!(!back(&worker).await.initialized);
    assert_eq!((worker.kick_count(), worker.restart_count()), (0, 1));
    synced(&worker, &chain).await;
}

#[tokio::test]
async fn stop_can_remove_the_state() {
    let chain = chain();
    let worker = Worker::spawn(config()).await.unwrap();
    synced(&worker, &chain).await;
    let stop = |remove_checkpoints| prpc::StopOptions { remove_checkpoints }.encode_to_vec();
    assert!(send(&worker, "prpc/PhactoryAPI.Stop", stop(false)).await.is_err());
    assert!(back(&worker).await.initialized);
    assert!(send(&worker, "prpc/PhactoryAPI.Stop", stop(true)).await.is_err());
    assert!(!back(&worker).await.initialized);
}

#[tokio::test]
async fn worker_goes_away_and_comes_back() {
    let chain = chain();
    let worker = Worker::spawn(config()).await.unwrap();
    let endpoint = worker.endpoint();
    synced(&worker, &chain).await;
    worker.go_away(true).await;
    assert!(send(&worker, "prpc/PhactoryAPI.GetInfo", Vec::new()).await.is_err());
    worker.come_back().await.unwrap();
    assert_eq!(worker.endpoint(), endpoint);
    assert_eq!(info(&worker).await.blocknum, 4);
    worker.go_away(false).await;
    worker.come_back().await.unwrap();
    assert!(!info(&worker).await.initialized);
    worker.shutdown().await;
    assert!(client().get(endpoint).send().await.is_err());
}

#[tokio::test]
async fn injected_faults_take_effect() {
    let chain = chain();
    let worker = Worker::spawn(config()).await.unwrap();
    worker.faults().fail_next(Method::GetInfo, 2, "not now");
    for _ in 0..2 {
        let result = call::<PhactoryInfo>(&worker, Method::GetInfo, &()).await;
        assert_eq!(refusal(result, 500), "not now");
    }
    info(&worker).await;
    assert_eq!(worker.calls(Method::GetInfo), 3);
    synced(&worker, &chain).await;
    // Slow enough for two calls to overlap.
    worker.faults().slow(Duration::from_millis(300));
    let headers = later_headers(&chain);
    let calls = (0..2).map(|_| call::<prpc::SyncedTo>(&worker, Method::SyncHeader, &headers));
    for result in futures::future::join_all(calls).await {
        assert_eq!(result.unwrap().synced_to, 7);
    }
    assert_eq!(worker.overlapping_calls(), 1);
    worker.faults().clear();
}

#[tokio::test]
async fn trailing_slashes_of_endpoints_are_ignored() {
    let worker = Worker::spawn(config()).await.unwrap();
    for path in
        ["prpc/PhactoryAPI.GetInfo", "/prpc/PhactoryAPI.GetInfo", "//prpc//PhactoryAPI.GetInfo?json=true"]
    {
        assert_eq!(send(&worker, path, Vec::new()).await.unwrap().status(), 200, "{path}");
    }
    let url = format!("{}//prpc/PhactoryAPI.GetInfo", worker.endpoint());
    assert_eq!(client().get(url).send().await.unwrap().status(), 200);
    assert!(send(&worker, "/kick", Vec::new()).await.is_err());
    back(&worker).await;
    assert_eq!(worker.kick_count(), 1);
}

#[tokio::test]
async fn attestations_and_dispatches_can_be_delayed() {
    let slow = Duration::from_millis(300);
    let chain = chain();
    let worker = Worker::spawn(config()).await.unwrap();
    synced(&worker, &chain).await;
    worker.faults().slow_attestation(slow);
    let ask = |force_refresh_ra| {
        let request = prpc::GetRuntimeInfoRequest { force_refresh_ra, encoded_operator: None };
        let worker = &worker;
        async move { call::<prpc::InitRuntimeResponse>(worker, Method::GetRuntimeInfo, &request).await.unwrap() }
    };
    let began = Instant::now();
    assert!(tokio::time::timeout(slow / 3, ask(true)).await.is_err(), "it came too early");
    ask(false).await;
    assert!(began.elapsed() >= slow, "{:?}", began.elapsed());
    ask(false).await;

    worker.faults().slow_dispatch(slow);
    let _: prpc::SyncedTo = call(&worker, Method::SyncHeader, &later_headers(&chain)).await.unwrap();
    let blocks = blocks_request(&chain, 3);
    let headers = later_headers(&chain);
    let meanwhile = async {
        tokio::time::sleep(slow / 3).await;
        refusal(call::<prpc::SyncedTo>(&worker, Method::SyncHeader, &headers).await, 500)
    };
    let (dispatched, refused) =
        tokio::join!(call::<prpc::SyncedTo>(&worker, Method::DispatchBlocks, &blocks), meanwhile);
    assert_eq!((dispatched.unwrap().synced_to, refused.starts_with("RCU in progress")), (3, true));
    worker.faults().clear();
}

#[tokio::test]
async fn recorded_requests_can_be_replayed() {
    let chain = chain();
    let dir = tempfile::tempdir().unwrap();
    let record = Some(dir.path().join("records"));
    let worker = Worker::spawn(WorkerConfig { record, ..config() }).await.unwrap();
    synced(&worker, &chain).await;
    worker.set_restart(Restart::Lost);
    assert!(send(&worker, "kick", Vec::new()).await.is_err());
    back(&worker).await;
    synced(&worker, &chain).await;
    let read = |name: &str| std::fs::read_to_string(dir.path().join("records").join(name)).unwrap();
    let second = Worker::spawn(config()).await.unwrap();
    for line in read("worker-0.log").lines() {
        let (method, body) = line.split_once(' ').unwrap();
        let path = format!("prpc/PhactoryAPI.{method}");
        let response = send(&second, &path, hex::decode(body).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
    }
    assert_eq!(second.info().state_root, worker.info().state_root);
    let methods = read("worker-0.2.log");
    let methods: Vec<_> = methods.lines().map(|line| line.split_once(' ').unwrap().0).collect();
    assert_eq!(methods, ["GetInfo", "InitRuntime", "SyncCombinedHeaders", "DispatchBlocks"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_workers_sync_concurrently() {
    let chain = Arc::new(chain());
    let workers = spawn_all("test", 20, 0, None).await.unwrap();
    let mut keys: Vec<_> = workers.iter().map(WorkerHandle::public_key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 20);
    let mut tasks = JoinSet::new();
    for worker in workers {
        let chain = chain.clone();
        tasks.spawn(async move {
            synced(&worker, &chain).await;
            worker
        });
    }
    for worker in tasks.join_all().await {
        assert_eq!(worker.info().blocknum, 4);
    }
}
