//! Tests of the submitter with a node whose answers are wrong in ways that no named fault of the devnet covers,
//! alone and with a good one beside it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use codec::{Compact, Encode};
use prb_chain::submit::{self, Submitter};
use prb_core::chain::SubmitError;
use prb_devnet::Config;
use serde_json::{Value, json};

use crate::{
    answers_proxy::{Message, Proxy, Reply, result_of},
    net::{Net, Worker, config, pool_of},
    troubles::SUBMIT,
};

const SUBMIT_ONLY: &str = "author_submitExtrinsic";

/// A devnet, a proxy in front of its parachain node, and a submitter.
struct Rig {
    net: Net,
    submitter: Submitter,
    pool: prb_chain::rpc::NodePool,
    _proxy: Proxy,
}

impl Rig {
    /// The submitter asks the proxy first, and the node itself second if `has_good_node`.
    async fn start(
        has_good_node: bool,
        config: submit::Config,
        script: impl Fn(Message<'_>) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let net = Net::start(Config::default()).await;
        let proxy = Proxy::start(&net.devnet.para().url(), script).await;
        let good = has_good_node.then(|| net.devnet.para().url());
        let pool = pool_of(std::iter::once(proxy.url()).chain(good));
        let submitter = Submitter::new(pool.clone(), config).unwrap();
        Self { net, submitter, pool, _proxy: proxy }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_that_one_node_refuses_is_sent_to_another() {
    let refusal = Arc::new(Mutex::new((0, "")));
    let current = Arc::clone(&refusal);
    let script = move |message: Message<'_>| {
        let (code, text) = *current.lock().unwrap();
        if message.asks(SUBMIT) || message.asks(SUBMIT_ONLY) {
            message.with_error(code, text)
        } else {
            Reply::Pass
        }
    };
    let Rig { net, submitter, .. } = &Rig::start(true, config(), script).await;
    let worker = Worker::new(1);
    net.done(&net.submitter(), [worker.register(net)]).await;
    let refusals = [
        (1010, "Invalid Transaction: \"Custom error: 77\""),
        (1010, "Invalid Transaction: \"Transaction is outdated\""),
        (1010, "Invalid Transaction: \"Inability to pay some fees\""),
        (1012, "Transaction is temporarily banned"),
        (1014, "Priority is too low: (1 vs 2)"),
        (1016, "Immediately Dropped"),
        (-32601, "Method not found"),
        (-32603, "Internal error"),
    ];
    for (sequence, refused) in refusals.into_iter().enumerate() {
        *refusal.lock().unwrap() = refused;
        let batch = net.batch([worker.bench_report(net, sequence as u64)]);
        let outcome = net.send(submitter, &batch).await.unwrap_or_else(|e| panic!("{refused:?}: {e}"));
        assert_eq!(outcome.calls, [Ok(())], "{refused:?}");
    }
    assert_eq!((net.transactions(), net.ingress(&worker)), (9, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn node_without_subscriptions_to_transactions_is_used() {
    for (code, text) in [(-32601, "Method not found"), (-32006, "Too many subscriptions on the connection")] {
        let script = move |message: Message<'_>| match message.asks(SUBMIT) {
            true => message.with_error(code, text),
            false => Reply::Pass,
        };
        let Rig { net, submitter, .. } = &Rig::start(false, config(), script).await;
        net.done(submitter, [Worker::new(1).register(net)]).await;
        assert_eq!(net.transactions(), 1);
    }
}

/// Answers fee queries with the largest weight, and this fee.
fn costs(fee: u128) -> impl Fn(Message<'_>) -> Reply + Send + Sync + 'static {
    let (most, class) = (Compact(u64::MAX), 0u8);
    let cost = format!("0x{}", hex::encode((most, most, class, fee).encode()));
    move |message: Message<'_>| {
        let is_query = message.json["params"][0] == "TransactionPaymentApi_query_info";
        if message.asks("state_call") && is_query {
            message.with_result(cost.clone().into())
        } else {
            Reply::Pass
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn absurd_cost_at_one_node_loses_no_call() {
    let workers = Worker::several(2);
    let Rig { net, submitter, .. } = &Rig::start(true, config(), costs(u128::MAX)).await;
    net.done(submitter, workers.iter().map(|worker| worker.register(net))).await;
    // A single call is for the chain to refuse, whatever the only node says of its weight.
    let Rig { net, submitter, .. } = &Rig::start(false, config(), costs(1)).await;
    net.done(submitter, [workers[0].register(net)]).await;
    let Rig { net, submitter, .. } = &Rig::start(false, config(), costs(u128::MAX)).await;
    match net.send(submitter, &net.batch([workers[0].register(net)])).await {
        Err(SubmitError::InsufficientFees { .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// Adds to each next nonce.
fn nonces_ahead(message: Message<'_>) -> Reply {
    if !message.answers("system_accountNextIndex") {
        return Reply::Pass;
    }
    let next = message.json["result"].as_u64().unwrap();
    message.with_result((next + 1_000).into())
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_transactions_that_no_block_includes_are_not_waited_for_twice() {
    let Rig { net, submitter, pool, .. } = &Rig::start(true, config(), nonces_ahead).await;
    let worker = Worker::new(1);
    net.done(submitter, [worker.register(net)]).await;
    assert!(pool.nodes()[0].health().demoted, "{:?}", pool.nodes()[0].health());
    let before = net.devnet.para().finalized_number();
    net.done(submitter, [worker.bench_report(net, 0)]).await;
    assert!(
        net.devnet.para().finalized_number() < before + crate::net::MORTALITY,
        "they were waited for again"
    );
    assert_eq!((net.transactions(), net.ingress(&worker)), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_node_that_reports_too_high_nonces_is_used() {
    let Rig { net, submitter, pool, .. } = &Rig::start(false, config(), nonces_ahead).await;
    let worker = Worker::new(1);
    net.done(submitter, [worker.register(net)]).await;
    assert!(pool.nodes()[0].is_trusted(), "there is no other");
    // One batch has waited for what it reports.
    let before = net.devnet.para().finalized_number();
    net.done(submitter, (0..2).map(|n| worker.bench_report(net, n))).await;
    net.done(submitter, [worker.bench_report(net, 2)]).await;
    let waited = net.devnet.para().finalized_number() - before;
    assert!(waited < 3 * crate::net::MORTALITY / 2, "{waited} blocks");
    assert_eq!((net.transactions(), net.ingress(&worker)), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn largest_block_number_at_one_node_stops_nothing() {
    let (net, liar) = (Net::start(Config::default()).await, Net::start(Config::default()).await);
    liar.devnet.para().faults().false_head(Some(u32::MAX));
    let pool = pool_of([liar.devnet.para().url(), net.devnet.para().url()]);
    let submitter = Submitter::new(pool, config()).unwrap();
    let worker = Worker::new(1);
    net.done(&submitter, [worker.register(&net)]).await;
    net.done(&submitter, [worker.bench_report(&net, 0)]).await;
    assert_eq!((net.transactions(), net.ingress(&worker)), (2, 1));
}

/// The node takes transactions, forgets them, and reports this status again and again.
async fn forgotten(status: Value) {
    let script = move |message: Message<'_>| {
        if !message.asks(SUBMIT) {
            return Reply::Pass;
        }
        let params = json!({ "subscription": "forgotten", "result": status });
        let update = json!({ "jsonrpc": "2.0", "method": "author_extrinsicUpdate", "params": params });
        let id = result_of(&message.json["id"], "forgotten".into());
        Reply::Repeat(vec![id, update.to_string()], Duration::from_millis(20))
    };
    let long_lived = config().with_mortality_blocks(1024);
    let Rig { net, submitter, .. } = &Rig::start(true, long_lived, script).await;
    net.done(submitter, [Worker::new(1).register(net)]).await;
    assert_eq!(net.transactions(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_that_a_node_forgets_and_calls_ready_is_sent_to_another() {
    forgotten("ready".into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_that_a_node_forgets_and_calls_included_is_sent_to_another() {
    forgotten(json!({ "inBlock": format!("0x{}", "ab".repeat(32)) })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn false_genesis_in_one_answer_does_not_spoil_later_transactions() {
    // The first request of each connection checks the chain; the second one is for signing.
    let (asked, lies) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    let script = move |message: Message<'_>| {
        if !message.asks("chain_getBlockHash") || message.json["params"] != json!([0]) {
            return Reply::Pass;
        }
        let mut asked = asked.lock().unwrap();
        let is_first = !asked.contains(&message.connection);
        asked.push(message.connection);
        if is_first || lies.fetch_add(1, Ordering::Relaxed) > 0 {
            return Reply::Pass;
        }
        message.with_result(format!("0x{}", "13".repeat(32)).into())
    };
    let Rig { net, submitter, .. } = &Rig::start(false, config(), script).await;
    net.done(submitter, [Worker::new(1).register(net)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_not_kept_for_another_version_than_its_own() {
    // The version of a runtime that is not in force yet.
    let lies = AtomicUsize::new(0);
    let script = move |message: Message<'_>| {
        if !message.answers("state_getRuntimeVersion") || lies.fetch_add(1, Ordering::Relaxed) > 0 {
            return Reply::Pass;
        }
        let mut version = message.json["result"].clone();
        version["specVersion"] = (version["specVersion"].as_u64().unwrap() + 1).into();
        message.with_result(version)
    };
    let Rig { net, submitter, .. } = &Rig::start(false, config(), script).await;
    let worker = Worker::new(1);
    net.done(submitter, [worker.register(net)]).await;
    net.devnet.upgrade_para_runtime();
    net.finalise(net.devnet.para().best_number() + 4);
    net.done(submitter, [worker.bench_report(net, 0)]).await;
}
