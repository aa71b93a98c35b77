//! Tests that a refused or oversized answer only affects its own request.

use super::*;

/// Syncs from nodes with these limits on batches and answers.
async fn syncs_with(limits: RpcLimits) {
    let [devnet] = devnets::<1>(config()).await;
    for node in [devnet.relay(), devnet.para()] {
        limit(node, limits).await;
    }
    let fetching = Fetching::start(&[&devnet]);
    let mut heads = fetching.relay.finalized_heads();
    heads.next().await;
    fetching.has_all_of(&devnet).await;
    for pool in [&fetching.relay, &fetching.para] {
        let health = pool.nodes()[0].health();
        assert!(health.connected && health.last_error.is_none(), "{health:?}");
    }
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_without_batch_support_uses_one_connection() {
    syncs_with(RpcLimits { batch_calls: 0, ..RpcLimits::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_with_short_batches_uses_one_connection() {
    syncs_with(RpcLimits { batch_calls: 2, ..RpcLimits::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_limit_reduces_request_size() {
    let [devnet] = devnets::<1>(Config { change_bytes: 1_000, ..config() }).await;
    // 60 blocks of changes do not fit; four of them do.
    let limits = RpcLimits { answer_bytes: 120_000, ..RpcLimits::default() };
    limit(devnet.para(), limits).await;
    let fetching = Fetching::start(&[&devnet]);
    fetching.has_all_of(&devnet).await;
    assert!(fetching.para.nodes()[0].health().connected);
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_answer_names_the_flag_and_affects_no_other_request() {
    let [devnet] = devnets::<1>(config()).await;
    limit(devnet.para(), RpcLimits { answer_bytes: 20_000, ..RpcLimits::default() }).await;
    let pool = para_pool(&[&devnet]);
    let node = pool.pick();
    let mut heads = node
        .subscribe("chain_subscribeFinalizedHeads", None, "chain_unsubscribeFinalizedHeads")
        .await
        .unwrap();
    heads.next().await.unwrap().unwrap();
    let error = node.request_bulk::<serde_json::Value>("state_getMetadata", NO_PARAMS).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::AnswerTooLarge), "{error}");
    assert!(error.to_string().contains("--rpc-max-response-size"), "{error}");
    for _ in 0..4 {
        devnet.tick().unwrap();
    }
    timeout(TIMEOUT, heads.next()).await.unwrap().expect("the subscription lives").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_over_the_client_limit_ends_only_its_connection() {
    let [devnet] = devnets::<1>(config()).await;
    let config = quick(vec![devnet.para().url()]).with_max_response_bytes(20_000);
    let pool = NodePool::new("para", config).unwrap();
    let node = pool.pick();
    let mut heads = node
        .subscribe("chain_subscribeFinalizedHeads", None, "chain_unsubscribeFinalizedHeads")
        .await
        .unwrap();
    heads.next().await.unwrap().unwrap();
    devnet.para().faults().hold("system_chain");
    let waiting = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.request::<String>("system_chain", NO_PARAMS).await }
    });
    until("asked", || devnet.para().rpc_counters().contains_key("system_chain")).await;
    node.request_bulk::<serde_json::Value>("state_getMetadata", NO_PARAMS).await.unwrap_err();
    devnet.para().faults().release("system_chain");
    waiting.await.unwrap().expect("another question is not lost with it");
    for _ in 0..4 {
        devnet.tick().unwrap();
    }
    timeout(TIMEOUT, heads.next()).await.unwrap().expect("the subscription lives").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_request_is_not_sent() {
    let [devnet] = devnets::<1>(config()).await;
    let config = quick(vec![devnet.para().url()]).with_max_request_bytes(1_000);
    let pool = NodePool::new("para", config).unwrap();
    let node = pool.pick();
    let error = node.request::<String>("system_chain", ["x".repeat(1_000)]).await.unwrap_err();
    assert!(matches!(error, rpc::Error::RequestTooLarge { .. }), "{error}");
    node.request::<String>("system_chain", NO_PARAMS).await.unwrap();
    assert!(node.health().last_error.is_none(), "{:?}", node.health());
}

#[tokio::test(flavor = "multi_thread")]
async fn swallowed_requests_fail_over_despite_answered_pings() {
    let devnets = devnets::<2>(config()).await;
    let fetching = Fetching::start(&[&devnets[0], &devnets[1]]);
    fetching.has_all_of(&devnets[1]).await;
    devnets[0].relay().faults().hang(true);
    devnets[0].para().faults().hang(true);
    for _ in 0..30 {
        devnets.iter().for_each(|devnet| {
            devnet.tick().unwrap();
        });
    }
    fetching.has_all_of(&devnets[1]).await;
    fetching.stop().await;
    devnets[0].relay().faults().heal();
    devnets[0].para().faults().heal();
}
