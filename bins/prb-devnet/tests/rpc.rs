//! Tests of the RPC's formats, faults and counters, and of the chain's reproducibility.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use codec::{Decode, Encode};
use prb_devnet::{Config, Devnet, node::StorageChanges};
use prb_devnet_runtime::Header;
use serde_json::{Value, json};
use sp_core::H256;
use subxt_rpcs::{RpcClient, client::RpcParams, rpc_params};

async fn started(history: u32) -> Devnet {
    Devnet::start(Config { history, ..Config::default() }).await.unwrap()
}

async fn client(url: String) -> RpcClient {
    RpcClient::from_insecure_url(url).await.unwrap()
}

async fn ask(rpc: &RpcClient, method: &str, params: RpcParams) -> Value {
    rpc.request(method, params).await.unwrap()
}

fn ticks(devnet: &Devnet, count: u32) {
    for _ in 0..count {
        devnet.tick().unwrap();
    }
}

fn hashes(devnet: &Devnet) -> Vec<H256> {
    [devnet.relay(), devnet.para()]
        .into_iter()
        .flat_map(|node| (0..=node.best_number()).map(|number| node.block_hash(number).unwrap()))
        .collect()
}

#[test]
fn same_seed_yields_the_same_chain() {
    let config = |seed| Config { history: 60, pools: 2, proxied_pools: 1, seed, ..Config::default() };
    let build = |seed| Devnet::build(config(seed)).unwrap();
    let (one, same, other) = (build(7), build(7), build(8));
    assert_eq!(hashes(&one), hashes(&same));
    let justifications =
        |devnet: &Devnet| -> Vec<_> { (0..60).map(|number| devnet.relay().justification(number)).collect() };
    assert_eq!(justifications(&one), justifications(&same));
    assert_eq!(one.pools()[0].mnemonic, same.pools()[0].mnemonic);
    assert_ne!(hashes(&one)[0], hashes(&other)[0]);
    assert_ne!(one.pools()[0].mnemonic, other.pools()[0].mnemonic);
    // A longer history starts with the shorter one.
    let longer = Devnet::build(Config { history: 80, ..config(7) }).unwrap();
    assert_eq!(longer.relay().block_hash(60), one.relay().block_hash(60));
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_have_substrates_format() {
    let devnet = started(60).await;
    let rpc = client(devnet.relay().url()).await;
    let hash = ask(&rpc, "chain_getBlockHash", rpc_params![50]).await;
    assert_eq!(hash, ask(&rpc, "chain_getBlockHash", rpc_params!["0x32"]).await);
    assert_eq!(json!([hash]), ask(&rpc, "chain_getBlockHash", rpc_params![[50]]).await);
    let best = json!(devnet.relay().block_hash(60));
    assert_eq!(best, ask(&rpc, "chain_getBlockHash", rpc_params![]).await);
    assert_eq!(best, ask(&rpc, "chain_getBlockHash", rpc_params![Value::Null]).await);
    assert_eq!(Value::Null, ask(&rpc, "chain_getBlockHash", rpc_params![1000]).await);

    let block = ask(&rpc, "chain_getBlock", rpc_params![&hash]).await;
    let header = &block["block"]["header"];
    assert_eq!(header["number"], "0x32");
    let logs = header["digest"]["logs"].as_array().unwrap();
    assert!(logs[0].as_str().unwrap().starts_with("0x0446524e4b"), "{logs:?}");
    assert!(block["block"]["extrinsics"][0].as_str().unwrap().starts_with("0x"));
    assert_eq!(block["justifications"][0][0], json!([0x46, 0x52, 0x4e, 0x4b]));
    assert!(block["justifications"][0][1][0].is_u64());
    let tip = ask(&rpc, "chain_getBlock", rpc_params![]).await;
    assert_eq!(tip["justifications"], Value::Null);

    let methods = ask(&rpc, "rpc_methods", rpc_params![]).await;
    let methods = methods["methods"].as_array().unwrap();
    let new_api = |name: &Value| {
        ["chainHead", "archive", "transaction_"].iter().any(|api| name.as_str().unwrap().starts_with(api))
    };
    assert!(!methods.iter().any(new_api));
    let sync = ask(&rpc, "system_syncState", rpc_params![]).await;
    assert_eq!(sync, json!({ "startingBlock": 0, "currentBlock": 60, "highestBlock": 60 }));
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_paged_until_an_empty_page() {
    let devnet = started(20).await;
    let rpc = client(devnet.para().url()).await;
    let at = ask(&rpc, "chain_getBlockHash", rpc_params![5]).await;
    let pairs = ask(&rpc, "state_getPairs", rpc_params!["0x", &at]).await;
    let all: Vec<Value> = pairs.as_array().unwrap().iter().map(|pair| pair[0].clone()).collect();
    let mut paged: Vec<Value> = Vec::new();
    loop {
        let params = rpc_params!["0x", 7, paged.last().cloned().unwrap_or_default(), &at];
        let page = ask(&rpc, "state_getKeysPaged", params).await;
        let page = page.as_array().unwrap().clone();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
    // A single key is its own prefix.
    let only = ask(&rpc, "state_getKeysPaged", rpc_params![&all[3], 10, Value::Null, &at]).await;
    assert_eq!(only, json!([all[3]]));
    let after = ask(&rpc, "state_getKeysPaged", rpc_params![&all[3], 10, &all[3], &at]).await;
    assert_eq!(after, json!([]));
    let values = ask(&rpc, "state_queryStorageAt", rpc_params![[&all[3], &json!("0x01")], &at]).await;
    assert_eq!(values[0]["changes"], json!([[all[3], pairs[3][1]], ["0x01", null]]));
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_are_announced_one_by_one() {
    let devnet = started(10).await;
    let rpc = client(devnet.relay().url()).await;
    let mut subscription = rpc
        .subscribe::<Header>(
            "chain_subscribeFinalizedHeads",
            rpc_params![],
            "chain_unsubscribeFinalizedHeads",
        )
        .await
        .unwrap();
    assert_eq!(subscription.next().await.unwrap().unwrap().number, 9);
    ticks(&devnet, 5);
    for number in 10..15 {
        let header = subscription.next().await.unwrap().unwrap();
        assert_eq!(Some(header.hash()), devnet.relay().block_hash(number));
    }
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_and_batches_count_once() {
    let devnet = started(10).await;
    let relay = devnet.relay();
    let body = json!([
        { "jsonrpc": "2.0", "id": 1, "method": "chain_getFinalizedHead" },
        { "jsonrpc": "2.0", "id": 2, "method": "chain_getBlockHash", "params": [3] },
        { "jsonrpc": "2.0", "id": 3, "method": "chain_getBlockHash", "params": [4] },
    ]);
    relay.faults().refuse("chain_getFinalizedHead");
    let url = relay.url().replace("ws://", "http://");
    // Another test of the process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let post = reqwest::Client::new().post(url).header("content-type", "application/json");
    let answer = post.body(body.to_string()).send().await.unwrap().text().await.unwrap();
    let answers: Value = serde_json::from_str(&answer).unwrap();
    let by_id = |id: u64| answers.as_array().unwrap().iter().find(|item| item["id"] == id).unwrap();
    assert_eq!(by_id(1)["error"]["code"], -32601);
    assert_eq!(by_id(3)["result"], json!(relay.block_hash(4)));
    assert_eq!(relay.rpc_requests(), 1);
    let counters = relay.rpc_counters();
    assert_eq!((counters["chain_getBlockHash"], counters["chain_getFinalizedHead"]), (2, 1));
    relay.reset_rpc_counters();
    assert_eq!((relay.rpc_requests(), relay.rpc_counters().len()), (0, 0));
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_can_be_stopped_and_restarted_on_its_port() {
    let devnet = started(10).await;
    let url = devnet.para().url();
    let rpc = client(url.clone()).await;
    ask(&rpc, "system_chain", rpc_params![]).await;
    devnet.para().stop_rpc().await;
    assert!(rpc.request::<Value>("system_chain", rpc_params![]).await.is_err());
    assert!(RpcClient::from_insecure_url(&url).await.is_err());
    devnet.para().start_rpc().await.unwrap();
    assert_eq!(devnet.para().url(), url);
    assert_eq!(ask(&client(url).await, "system_chain", rpc_params![]).await, "Devnet Para");
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_gives_wrong_answers_as_configured() {
    let devnet = started(30).await;
    let (relay, para) = (devnet.relay(), devnet.para());
    let rpc = client(relay.url()).await;
    let hash = relay.block_hash(20).unwrap();
    let header = |rpc: RpcClient| async move {
        rpc.request::<Header>("chain_getHeader", rpc_params![hash]).await.unwrap()
    };
    assert_eq!(header(rpc.clone()).await.hash(), hash);
    relay.faults().corrupt_header(20);
    assert_ne!(header(rpc.clone()).await.hash(), hash);
    let true_block = ask(&rpc, "chain_getBlock", rpc_params![relay.block_hash(21)]).await;
    relay.faults().corrupt_justification(21);
    let block = ask(&rpc, "chain_getBlock", rpc_params![relay.block_hash(21)]).await;
    assert_ne!(block["justifications"], true_block["justifications"]);
    relay.faults().freeze_at(Some(25));
    ticks(&devnet, 3);
    let head = ask(&rpc, "chain_getFinalizedHead", rpc_params![]).await;
    assert_eq!(head, json!(relay.block_hash(25)));
    assert_eq!(ask(&rpc, "chain_getBlockHash", rpc_params![26]).await, Value::Null);
    relay.faults().heal();
    assert_eq!(header(rpc.clone()).await.hash(), hash);

    let rpc = client(para.url()).await;
    let params = || rpc_params![para.block_hash(3), para.block_hash(4)];
    let truth = ask(&rpc, "pha_getStorageChanges", params()).await;
    para.faults().corrupt_storage_changes(4);
    let lie = ask(&rpc, "pha_getStorageChanges", params()).await;
    assert_eq!((&truth[0], truth.as_array().unwrap().len()), (&lie[0], 2));
    assert_ne!(truth[1], lie[1]);
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_node_answers_when_released() {
    let devnet = started(4).await;
    let rpc = client(devnet.relay().url()).await;
    devnet.relay().faults().hang(true);
    let asked = tokio::spawn(async move { ask(&rpc, "system_chain", rpc_params![]).await });
    while devnet.relay().rpc_requests() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!asked.is_finished());
    devnet.relay().faults().hang(false);
    assert_eq!(asked.await.unwrap(), "Devnet Relay");
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_storage_changes_are_checked() {
    let devnet = started(10).await;
    let rpc = client(devnet.para().url()).await;
    let para = devnet.para();
    let backwards = rpc_params![para.block_hash(4), para.block_hash(2)];
    let refused = rpc.request::<Value>("pha_getStorageChanges", backwards).await.unwrap_err();
    assert!(matches!(refused, subxt_rpcs::Error::User(error) if error.code == 10_000));
    let unknown = rpc_params![H256::repeat_byte(1), H256::repeat_byte(1)];
    let refused = rpc.request::<Value>("pha_getStorageChanges", unknown).await.unwrap_err();
    assert!(matches!(refused, subxt_rpcs::Error::User(error) if error.code == 10_000));
    let origin = format!("02{}", "11".repeat(32));
    assert_eq!(ask(&rpc, "pha_getMqNextSequence", rpc_params![&origin]).await, 0);
    let prefixed = rpc_params![format!("0x{origin}")];
    let refused = rpc.request::<Value>("pha_getMqNextSequence", prefixed).await.unwrap_err();
    assert!(matches!(refused, subxt_rpcs::Error::User(error) if error.code == 10_000));
    devnet.shutdown().await;
}

fn item(pallet: &str, name: &str) -> String {
    let twox = |text: &str| hex::encode(sp_io::hashing::twox_128(text.as_bytes()));
    format!("0x{}{}", twox(pallet), twox(name))
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap().strip_prefix("0x").unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_changes_come_in_three_forms_and_begin_with_the_genesis_state() {
    let devnet = started(10).await;
    let rpc = client(devnet.para().url()).await;
    let para = devnet.para();
    let span = || rpc_params![para.block_hash(3), para.block_hash(4)];
    let plain = ask(&rpc, "pha_getStorageChanges", span()).await;
    let rooted = ask(&rpc, "pha_getStorageChangesWithRoot", span()).await;
    for (at, number) in [3, 4].into_iter().enumerate() {
        assert_eq!(rooted[at]["changes"], plain[at]);
        assert_eq!(rooted[at]["stateRoot"], json!(para.header(number).unwrap().state_root.0));
        let scale = ask(&rpc, "pha_getStorageChangesAt", rpc_params![para.block_hash(number)]).await;
        let changes = StorageChanges::decode(&mut &*bytes(&scale)).unwrap();
        let main = plain[at]["mainStorageChanges"].as_array().unwrap();
        assert_eq!(changes.main.len(), main.len());
        for ((key, value), shown) in changes.main.iter().zip(main) {
            assert_eq!(*key, bytes(&shown[0]));
            assert_eq!(*value, (!shown[1].is_null()).then(|| bytes(&shown[1])));
        }
        assert!(main.iter().any(|change| change[1].is_null()), "what was deleted is null");
        assert_eq!(plain[at]["childStorageChanges"], json!([]));
    }
    let genesis = rpc_params![para.block_hash(0), para.block_hash(0)];
    let genesis = ask(&rpc, "pha_getStorageChanges", genesis).await;
    let mut written: Vec<Value> = genesis[0]["mainStorageChanges"].as_array().unwrap().clone();
    written.sort_by_key(|pair| pair[0].as_str().unwrap().to_owned());
    let pairs = ask(&rpc, "state_getPairs", rpc_params!["0x", para.block_hash(0)]).await;
    assert_eq!(json!(written), pairs);
    devnet.shutdown().await;
}

/// What Phala's own programs rely on, beyond what a bridge of ours asks.
#[tokio::test(flavor = "multi_thread")]
async fn other_programs_find_what_they_expect() {
    let devnet = started(120).await;
    for node in [devnet.relay(), devnet.para()] {
        let rpc = client(node.url()).await;
        let metadata = bytes(&ask(&rpc, "state_getMetadata", rpc_params![]).await);
        let called = bytes(&ask(&rpc, "state_call", rpc_params!["Metadata_metadata", "0x"]).await);
        assert_eq!(metadata.encode(), called);
        assert_eq!(metadata[..5], *b"meta\x0e");
        let sync = ask(&rpc, "system_syncState", rpc_params![]).await;
        let at = |name: &str| sync[name].as_u64().unwrap();
        assert!(at("highestBlock") - at("currentBlock") <= 8 && at("currentBlock") > 0, "{sync}");
        for (head, subscribe, unsubscribe) in [
            (node.best_number(), "chain_subscribeNewHeads", "chain_unsubscribeNewHeads"),
            (node.finalized_number(), "chain_subscribeFinalizedHeads", "chain_unsubscribeFinalizedHeads"),
        ] {
            let mut heads = rpc.subscribe::<Header>(subscribe, rpc_params![], unsubscribe).await.unwrap();
            assert_eq!(heads.next().await.unwrap().unwrap().number, head, "{subscribe}");
        }
        let pairs = ask(&rpc, "state_getPairs", rpc_params!["0x", node.block_hash(7)]).await;
        assert!(pairs.as_array().unwrap().len() > 20);
    }

    let rpc = client(devnet.relay().url()).await;
    let read = async |key: &str, number| {
        ask(&rpc, "state_getStorage", rpc_params![key, devnet.relay().block_hash(number)]).await
    };
    let set_id = item("Grandpa", "CurrentSetId");
    let genesis = ask(&rpc, "state_getPairs", rpc_params![&set_id, devnet.relay().block_hash(0)]).await;
    assert_eq!(genesis, json!([[set_id, "0x0000000000000000"]]));
    let mut changes = 0;
    for number in 1..devnet.relay().finalized_number() {
        if read(&set_id, number).await != read(&set_id, number - 1).await {
            let block = ask(&rpc, "chain_getBlock", rpc_params![devnet.relay().block_hash(number)]).await;
            assert_eq!(block["justifications"][0][0], json!(b"FRNK"), "block {number}");
            changes += 1;
        }
    }
    assert!(changes >= 2, "{changes} changes of set");

    let rpc = client(devnet.para().url()).await;
    let key = item("ParachainSystem", "ValidationData");
    let data = ask(&rpc, "state_getStorage", rpc_params![key, devnet.para().block_hash(1)]).await;
    let (_, relay_parent, _, _) = <(Vec<u8>, u32, H256, u32)>::decode(&mut &*bytes(&data)).unwrap();
    assert!(relay_parent >= 1, "bridges start one block before it");
    let worker = devnet.spawn_workers(1, 0, None).await.unwrap().remove(0);
    let methods = worker.info().supported_attestation_methods;
    let known = |name: &str| methods.iter().any(|method| method == name);
    assert!(methods.is_empty() || known("epid") || known("dcap"), "{methods:?}");
    worker.shutdown().await;
    devnet.shutdown().await;
}
