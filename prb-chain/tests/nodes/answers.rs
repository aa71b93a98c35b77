//! Tests of answers that no named fault of the devnet covers, through a proxy.

use std::sync::atomic::{AtomicUsize, Ordering};

use codec::Decode;
use prb_chain::source::StoreSource;
use prb_core::{
    blob::{BlobSource, HeaderCursor},
    wire::GenesisBlockInfo,
};
use serde_json::json;

use super::*;
use crate::proxy::{Message, Proxy, Reply};

const SUBSCRIBE: &str = "chain_subscribeFinalizedHeads";
const UNSUBSCRIBE: &str = "chain_unsubscribeFinalizedHeads";

/// A pool of the devnet's relay node behind a proxy.
async fn behind(
    devnet: &Devnet,
    config: impl FnOnce(rpc::Config) -> rpc::Config,
    script: impl Fn(Message<'_>) -> Reply + Send + Sync + 'static,
) -> (NodePool, Proxy) {
    let proxy = Proxy::start(&devnet.relay().url(), script).await;
    (NodePool::new("relay", config(quick(vec![proxy.url()]))).unwrap(), proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn stuck_connection_is_replaced_while_others_answer() {
    let [devnet] = devnets::<1>(config()).await;
    // The first connection for subscriptions swallows everything; requests on others are answered.
    let stuck = AtomicUsize::new(usize::MAX);
    let script = move |message: Message<'_>| {
        if message.asks(SUBSCRIBE) {
            let _ =
                stuck.compare_exchange(usize::MAX, message.connection, Ordering::Relaxed, Ordering::Relaxed);
        }
        if message.connection == stuck.load(Ordering::Relaxed) { Reply::Nothing } else { Reply::Pass }
    };
    let short = |config: rpc::Config| config.with_request_timeout(Duration::from_millis(100));
    let (pool, _proxy) = behind(&devnet, short, script).await;
    let node = pool.pick();
    let subscribed = async {
        while node.subscribe(SUBSCRIBE, None, UNSUBSCRIBE).await.is_err() {
            node.request::<String>("system_chain", NO_PARAMS).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let replaced = timeout(Duration::from_secs(5), subscribed).await;
    assert!(replaced.is_ok(), "the stuck connection is kept: {:?}", node.health());
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_message_is_quoted_to_a_bounded_length() {
    let [devnet] = devnets::<1>(config()).await;
    let long = json!({ "text": "x".repeat(1 << 20) }).to_string();
    let script = move |message: Message<'_>| match message.answers("system_chain") {
        true => Reply::Text(vec![long.clone()]),
        false => Reply::Pass,
    };
    let (pool, _proxy) = behind(&devnet, |config| config, script).await;
    let node = pool.pick();
    let error = node.request::<String>("system_chain", NO_PARAMS).await.unwrap_err();
    let text = prb_core::text::describe(&error);
    assert!(text.len() < 4_096 && text.contains("Unparseable"), "{} bytes", text.len());
    assert!(node.health().last_error.unwrap().len() < 4_096);
    node.request::<String>("system_version", NO_PARAMS).await.expect("a new connection serves");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_message_of_a_subscription_is_not_buffered() {
    let [devnet] = devnets::<1>(config()).await;
    let script = |message: Message<'_>| match message.answers("chain_finalizedHead") {
        true => {
            let mut message = message.json.clone();
            message["params"]["result"]["more"] = "x".repeat(2 << 20).into();
            Reply::Text(vec![message.to_string()])
        }
        false => Reply::Pass,
    };
    let (pool, _proxy) = behind(&devnet, |config| config, script).await;
    let node = pool.pick();
    let mut subscription = node.subscribe(SUBSCRIBE, None, UNSUBSCRIBE).await.unwrap();
    let next = timeout(TIMEOUT, subscription.next()).await.unwrap();
    assert!(next.is_none(), "2 MiB are delivered");
    node.request::<String>("system_chain", NO_PARAMS).await.expect("other connections are not affected");
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_to_a_query_is_limited_to_what_nodes_send() {
    let [devnet] = devnets::<1>(config()).await;
    let script = |message: Message<'_>| match message.answers("system_chain") {
        true => message.with_result("x".repeat(20 << 20).into()),
        false => Reply::Pass,
    };
    let (pool, proxy) = behind(&devnet, |config| config.with_request_timeout(TIMEOUT), script).await;
    let node = pool.pick();
    let error = node.request::<String>("system_chain", NO_PARAMS).await.map(|text| text.len()).unwrap_err();
    assert!(matches!(error, rpc::Error::AnswerTooLarge { .. }) && error.is_retryable(), "{error}");
    let (text, name) = (error.to_string(), proxy.url().replace("ws://", ""));
    for part in [&*name, "system_chain", "queries", "16777216 bytes"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let health = node.health().last_error.unwrap();
    assert!(health.contains("16777216"), "{health}");
    let large: String = node.request_bulk("system_chain", NO_PARAMS).await.unwrap();
    assert_eq!(large.len(), 20 << 20);
    node.request::<String>("system_version", NO_PARAMS).await.expect("a new connection serves");
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_pages_of_the_genesis_state_end() {
    let [devnet] = devnets::<1>(config()).await;
    let script = |message: Message<'_>| match message.method {
        // The state is fetched in pages, and the node repeats the first one.
        "pha_getStorageChanges" | "state_getPairs" if message.is_request => {
            message.with_error(-32601, "Method not found")
        }
        "state_getKeysPaged" if message.is_request => message.with_result(json!(["0x00", "0x01"])),
        _ => Reply::Pass,
    };
    let proxy = Proxy::start(&devnet.para().url(), script).await;
    let urls = vec![proxy.url(), devnet.para().url()];
    let para = NodePool::new("para", quick(urls)).unwrap();
    let fetching = Fetching::between(relay_pool(&[&devnet]), para, TempDir::new().unwrap());
    fetching.has_all_of(&devnet).await;
    assert!(fetching.para.nodes()[0].health().demoted);
}

/// Counts the subscriptions made in a second, in which the chain advances once.
async fn subscriptions(
    devnet: &Devnet,
    script: impl Fn(&Message<'_>) -> Reply + Send + Sync + 'static,
) -> usize {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let script = move |message: Message<'_>| {
        counted.fetch_add(usize::from(message.asks(SUBSCRIBE)), Ordering::Relaxed);
        script(&message)
    };
    let (pool, _proxy) = behind(devnet, |config| config, script).await;
    let mut heads = pool.finalized_heads();
    timeout(TIMEOUT, heads.next()).await.unwrap();
    let early = timeout(Duration::from_secs(1), heads.next()).await;
    assert!(early.is_err(), "{early:?}");
    let subscriptions = count.load(Ordering::Relaxed);
    devnet.tick().unwrap();
    timeout(TIMEOUT, heads.next()).await.expect("the head is polled");
    subscriptions
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_ends_subscriptions_is_polled_at_intervals() {
    let [devnet] = devnets::<1>(config()).await;
    let script = |message: &Message<'_>| match message.answers("chain_finalizedHead") {
        true => {
            let params = json!({ "subscription": message.json["params"]["subscription"], "result": [] });
            let method = "chain_finalizedHead";
            Reply::Text(vec![json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string()])
        }
        false => Reply::Pass,
    };
    // The interval is 100 ms.
    let subscriptions = subscriptions(&devnet, script).await;
    assert!(subscriptions <= 15, "{subscriptions} subscriptions in a second");
}

/// Appends nodes to a read proof, and copies of its own.
fn padded_proof(message: &Message<'_>) -> Option<Reply> {
    let nodes = message.json["result"]["proof"].as_array()?;
    let further = format!("0x{}", "5a".repeat(1_000));
    let nodes: Vec<_> = nodes.iter().cloned().chain([further.into()]).chain(nodes.iter().cloned()).collect();
    Some(message.with_result(json!({ "at": message.json["result"]["at"], "proof": nodes })))
}

/// Appends bytes to the justification in a finality proof.
fn padded_justification(message: &Message<'_>) -> Option<Reply> {
    let proof = hex::decode(message.json["result"].as_str()?.trim_start_matches("0x")).unwrap();
    let (block, mut justification) = <([u8; 32], Vec<u8>)>::decode(&mut &*proof).unwrap();
    let rest = &proof[(block, &justification).encoded_size()..];
    justification.extend([0x5a; 1_000]);
    let padded = [&(block, justification).encode(), rest].concat();
    Some(message.with_result(format!("0x{}", hex::encode(padded)).into()))
}

/// The genesis that workers get, and all headers with their justifications and proofs.
async fn served(fetching: &Fetching) -> Vec<u8> {
    let source = StoreSource::new(Arc::clone(&fetching.store));
    let genesis = source.genesis().await.unwrap();
    let mut bytes = genesis.info.to_vec();
    let start = GenesisBlockInfo::decode(&mut &*genesis.info).unwrap().block_header.number;
    let mut cursor = HeaderCursor { relay: RelayNumber(start).next(), para: ParaNumber(1) };
    while let Some(batch) = source.headers(cursor, 1 << 26).await.unwrap() {
        cursor.relay = batch.relay.last.next();
        cursor.para = batch.para.map_or(cursor.para, |para| para.last.next());
        bytes.extend_from_slice(&batch.body);
    }
    bytes
}

/// Syncs from a node whose answers to a method are replaced, and compares what workers get with what the node itself
/// would give them.
async fn stores_nothing_else(
    has_good_node: bool,
    replaced: &'static str,
    replace: fn(&Message<'_>) -> Option<Reply>,
) {
    let [devnet] = devnets::<1>(config()).await;
    let direct = Fetching::start(&[&devnet]);
    direct.has_all_of(&devnet).await;
    let script = move |message: Message<'_>| match message.answers(replaced) {
        true => replace(&message).unwrap_or(Reply::Pass),
        false => Reply::Pass,
    };
    let proxy = Proxy::start(&devnet.relay().url(), script).await;
    let good = has_good_node.then(|| devnet.relay().url());
    let urls = std::iter::once(proxy.url()).chain(good).collect();
    let relay = NodePool::new("relay", quick(urls)).unwrap();
    let fetching = Fetching::between(relay, para_pool(&[&devnet]), TempDir::new().unwrap());
    fetching.has_all_of(&devnet).await;
    assert!(served(&fetching).await == served(&direct).await, "workers get other bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn further_nodes_of_a_read_proof_are_not_stored() {
    stores_nothing_else(false, "state_getReadProof", padded_proof).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_after_a_justification_are_not_stored() {
    stores_nothing_else(true, "grandpa_proveFinality", padded_justification).await;
}

/// The proof of the first block that was asked for, for all blocks.
fn other_blocks_proof(message: &Message<'_>) -> Option<Reply> {
    static FIRST: std::sync::OnceLock<serde_json::Value> = std::sync::OnceLock::new();
    let first = FIRST.get_or_init(|| message.json["result"].clone());
    Some(message.with_result(first.clone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn proof_of_another_block_is_not_stored() {
    stores_nothing_else(true, "state_getReadProof", other_blocks_proof).await;
}

/// As of an archive that has lost old states and says so by null.
fn null(message: &Message<'_>) -> Option<Reply> {
    Some(message.with_result(serde_json::Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn null_for_old_states_is_not_stored() {
    stores_nothing_else(true, "state_getReadProof", null).await;
    // Of the parachain's node, with the storage changes of blocks.
    let [devnet] = devnets::<1>(config()).await;
    let script = |message: Message<'_>| match message.answers("pha_getStorageChanges") {
        true => message.with_result(serde_json::Value::Null),
        false => Reply::Pass,
    };
    let proxy = Proxy::start(&devnet.para().url(), script).await;
    let para = NodePool::new("para", quick(vec![proxy.url(), devnet.para().url()])).unwrap();
    let fetching = Fetching::between(relay_pool(&[&devnet]), para, TempDir::new().unwrap());
    fetching.has_all_of(&devnet).await;
}
