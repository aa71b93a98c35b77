//! Transactions through the eyes of subxt, and the pool's order and refusals.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use prb_devnet::{Config, Devnet, Pool, TransactionFault};
use serde_json::Value as Json;
use subxt::{
    OnlineClient, SubstrateConfig,
    dynamic::{self, Value},
};
use subxt_rpcs::{RpcClient, client::RpcSubscription, rpc_params};
use subxt_signer::{bip39::Mnemonic, sr25519::Keypair};

type Client = OnlineClient<SubstrateConfig>;

fn signer(pool: &Pool) -> Keypair {
    Keypair::from_phrase(&Mnemonic::parse(&pool.mnemonic).unwrap(), None).unwrap()
}

/// Three pools, the last one proxied, and a timer: subxt waits for blocks.
async fn running() -> Devnet {
    let config = Config { history: 10, block_ms: 25, pools: 3, proxied_pools: 1, ..Config::default() };
    let devnet = Devnet::start(config).await.unwrap();
    devnet.spawn_ticker().await;
    devnet
}

fn call(pallet: &str, name: &str, fields: Vec<(&str, Value)>) -> Value {
    let call = Value::named_variant(name, fields);
    Value::unnamed_variant(pallet, [call])
}

fn remark_call(text: &str) -> Value {
    call("System", "remark_with_event", vec![("remark", Value::from_bytes(text))])
}

fn add_unknown_worker() -> Value {
    let fields = vec![("pid", Value::u128(1)), ("pubkey", Value::from_bytes([7u8; 32]))];
    call("PhalaStakePoolv2", "add_worker", fields)
}

fn names(events: &subxt::extrinsics::ExtrinsicEvents<SubstrateConfig>) -> Vec<String> {
    events
        .iter()
        .map(|event| {
            let event = event.unwrap();
            format!("{}.{}", event.pallet_name(), event.event_name())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn subxt_reads_and_sends_a_batch_with_one_failing_item() {
    let devnet = running().await;
    let client = Client::from_insecure_url(devnet.para().url()).await.unwrap();
    let at = client.at_current_block().await.unwrap();
    let address = dynamic::storage::<(), u32>("ParachainInfo", "ParachainId");
    let para_id = at.storage().fetch(address, ()).await.unwrap().decode().unwrap();
    assert_eq!(para_id, devnet.para_id());

    let calls = vec![remark_call("first"), add_unknown_worker(), remark_call("third")];
    let batch = dynamic::transaction("Utility", "force_batch", (Value::unnamed_composite(calls),));
    let signer = signer(&devnet.pools()[0]);
    let progress = at.transactions().sign_and_submit_then_watch_default(&batch, &signer).await.unwrap();
    let events = progress.wait_for_finalized_success().await.unwrap();
    let names = names(&events);
    let batch: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix("Utility.")).collect();
    assert_eq!(batch, ["ItemCompleted", "ItemFailed", "ItemCompleted", "BatchCompletedWithErrors"]);
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_acts_for_a_proxied_owner() {
    let devnet = running().await;
    let client = Client::from_insecure_url(devnet.para().url()).await.unwrap();
    let pool = devnet.pools()[2].clone();
    assert!(pool.proxied && pool.owner != pool.operator);
    let batch = call("Utility", "force_batch", vec![("calls", Value::unnamed_composite([remark_call("x")]))]);
    let real: [u8; 32] = pool.owner.clone().into();
    let real = Value::unnamed_variant("Id", [Value::from_bytes(real)]);
    let none = Value::unnamed_variant("None", []);
    let proxy = dynamic::transaction("Proxy", "proxy", (real, none, batch));
    let at = client.at_current_block().await.unwrap();
    let progress =
        at.transactions().sign_and_submit_then_watch_default(&proxy, &signer(&pool)).await.unwrap();
    let names = names(&progress.wait_for_finalized_success().await.unwrap());
    assert!(names.contains(&"System.Remarked".to_owned()), "{names:?}");
    assert!(names.contains(&"Proxy.ProxyExecuted".to_owned()), "{names:?}");
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_survives_a_runtime_upgrade() {
    let devnet = running().await;
    let client = Client::from_insecure_url(devnet.para().url()).await.unwrap();
    let at = client.at_current_block().await.unwrap();
    let index = |at: &subxt::client::OnlineClientAtBlock<SubstrateConfig>| {
        at.metadata().pallet_by_name("PhalaMq").unwrap().call_index()
    };
    let (version, pallet) = (at.spec_version(), index(&at));
    devnet.upgrade_para_runtime();
    let mut best = devnet.para().subscribe_finalized();
    let now = *best.borrow();
    best.wait_for(|number| *number > now + 3).await.unwrap();
    let at = client.at_current_block().await.unwrap();
    assert_eq!(at.spec_version(), version + 1);
    assert_ne!(index(&at), pallet, "the pallets have other indexes");
    let payload = dynamic::transaction("System", "remark_with_event", (Value::from_bytes("after"),));
    let progress = at
        .transactions()
        .sign_and_submit_then_watch_default(&payload, &signer(&devnet.pools()[0]))
        .await
        .unwrap();
    progress.wait_for_finalized_success().await.unwrap();
    devnet.shutdown().await;
}

/// Signs a remark of pool 1's operator, offline, with a nonce and a tip.
async fn signed(client: &Client, pool: &Pool, nonce: u64, tip: u128, text: &str) -> Vec<u8> {
    let at = client.at_current_block().await.unwrap();
    let payload = dynamic::transaction("System", "remark_with_event", (Value::from_bytes(text),));
    let params = subxt::config::DefaultExtrinsicParamsBuilder::<SubstrateConfig>::new()
        .nonce(nonce)
        .tip(tip)
        .mortal(64)
        .build();
    let signed = at.transactions().create_signed(&payload, &signer(pool), params).await.unwrap();
    signed.encoded().to_vec()
}

async fn watch(rpc: &RpcClient, extrinsic: &[u8]) -> RpcSubscription<Json> {
    let hex = format!("0x{}", hex::encode(extrinsic));
    let params = rpc_params![hex];
    rpc.subscribe("author_submitAndWatchExtrinsic", params, "author_unwatchExtrinsic").await.unwrap()
}

async fn next(subscription: &mut RpcSubscription<Json>) -> Json {
    subscription.next().await.unwrap().unwrap()
}

/// Kind of a status: its text or its only key.
fn kind(status: &Json) -> &str {
    status.as_str().or_else(|| status.as_object()?.keys().next().map(String::as_str)).unwrap()
}

struct Manual {
    devnet: Devnet,
    client: Client,
    rpc: RpcClient,
}

async fn manual() -> Manual {
    let devnet = Devnet::start(Config { history: 10, ..Config::default() }).await.unwrap();
    let rpc = RpcClient::from_insecure_url(devnet.para().url()).await.unwrap();
    let client = Client::from_insecure_url(devnet.para().url()).await.unwrap();
    Manual { devnet, client, rpc }
}

fn ticks(devnet: &Devnet, count: u32) {
    for _ in 0..count {
        devnet.tick().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_wait_for_one_another_and_the_pool_is_counted() {
    let Manual { devnet, client, rpc } = manual().await;
    let pool = &devnet.pools()[0];
    let address = pool.operator.to_string();
    let next_index =
        || async { rpc.request::<u32>("system_accountNextIndex", rpc_params![&address]).await.unwrap() };
    let mut second = watch(&rpc, &signed(&client, pool, 1, 0, "second").await).await;
    assert_eq!(next(&mut second).await, "future");
    assert_eq!(next_index().await, 0, "a transaction that waits does not count");
    ticks(&devnet, 2);
    let mut first = watch(&rpc, &signed(&client, pool, 0, 0, "first").await).await;
    assert_eq!(next(&mut first).await, "ready");
    assert_eq!(next(&mut second).await, "ready");
    assert_eq!(next_index().await, 2);
    for subscription in [&mut first, &mut second] {
        assert_eq!(kind(&next(subscription).await), "broadcast");
    }
    ticks(&devnet, 2);
    let (one, two) = (next(&mut first).await, next(&mut second).await);
    assert_eq!(one, two, "both in the same block");
    assert_eq!(kind(&one), "inBlock");
    let number = devnet.para().best_number();
    assert_eq!(one["inBlock"], serde_json::json!(devnet.para().block_hash(number)));
    assert_eq!(devnet.para().extrinsics(number).unwrap().len(), 4);
    ticks(&devnet, 2);
    assert_eq!(next(&mut first).await["finalized"], one["inBlock"]);
    assert_eq!(next_index().await, 2);
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_codes_of_real_nodes() {
    let Manual { devnet, client, rpc } = manual().await;
    let pool = &devnet.pools()[0];
    let submit = |extrinsic: Vec<u8>| {
        let rpc = rpc.clone();
        async move {
            let hex = format!("0x{}", hex::encode(extrinsic));
            rpc.request::<Json>("author_submitExtrinsic", rpc_params![hex]).await
        }
    };
    let code = |result: Result<Json, subxt_rpcs::Error>| match result {
        Err(subxt_rpcs::Error::User(error)) => error.code,
        other => panic!("{other:?}"),
    };
    let plain = signed(&client, pool, 0, 0, "plain").await;
    let dear = signed(&client, pool, 0, 1_000_000, "dear").await;
    let mut watched = watch(&rpc, &plain).await;
    assert_eq!(next(&mut watched).await, "ready");
    assert_eq!(code(submit(plain.clone()).await), 1013, "known");
    let hash = submit(dear.clone()).await.unwrap();
    assert_eq!(kind(&next(&mut watched).await), "broadcast");
    assert_eq!(next(&mut watched).await["usurped"], hash);
    assert_eq!(code(submit(plain.clone()).await), 1014, "cheaper than the one in the pool");
    ticks(&devnet, 2);
    assert_eq!(code(submit(dear.clone()).await), 1012, "used a moment ago");
    assert_eq!(code(submit(plain).await), 1010, "an old nonce");
    let mut forged = signed(&client, pool, 1, 0, "forged").await;
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(code(submit(forged).await), 1010, "a bad signature");
    assert_eq!(code(submit(vec![1, 2, 3]).await), 1001, "no transaction");
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_can_be_lost() {
    let Manual { devnet, client, rpc } = manual().await;
    let pool = &devnet.pools()[0];
    let lost = signed(&client, pool, 0, 0, "lost").await;
    devnet.para().faults().transactions(TransactionFault::Swallowed);
    let mut watched = watch(&rpc, &lost).await;
    assert_eq!(next(&mut watched).await, "ready");
    ticks(&devnet, 4);
    assert!(devnet.para().pending_extrinsics().is_empty());
    assert_eq!(devnet.para().next_nonce(pool.operator.as_ref()).unwrap(), 0);

    devnet.para().faults().transactions(TransactionFault::Dropped);
    let mut watched = watch(&rpc, &lost).await;
    assert_eq!(next(&mut watched).await, "ready");
    assert_eq!(kind(&next(&mut watched).await), "broadcast");
    ticks(&devnet, 2);
    assert_eq!(next(&mut watched).await, "dropped");

    devnet.para().faults().heal();
    let mut watched = watch(&rpc, &lost).await;
    ticks(&devnet, 2);
    assert_eq!(next(&mut watched).await, "ready");
    assert_eq!(kind(&next(&mut watched).await), "broadcast");
    assert_eq!(kind(&next(&mut watched).await), "inBlock");
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fees_are_reported() {
    let Manual { devnet, client, rpc } = manual().await;
    let extrinsic = signed(&client, &devnet.pools()[0], 0, 0, "x").await;
    let hex = format!("0x{}", hex::encode(extrinsic));
    let info: Json = rpc.request("payment_queryInfo", rpc_params![hex]).await.unwrap();
    assert!(info["partialFee"].as_str().unwrap().parse::<u128>().unwrap() > 0);
    assert_eq!(info["class"], "normal");
    assert!(info["weight"]["ref_time"].as_u64().unwrap() > 0);
    devnet.shutdown().await;
}
