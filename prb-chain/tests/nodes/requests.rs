//! No refused or oversize answer costs more than the question that it answers.

use super::*;

/// The nodes' limits on batches and answers, and what is stored all the same.
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
async fn a_node_that_takes_no_batches_is_used_on_one_connection() {
    syncs_with(RpcLimits { batch_calls: 0, ..RpcLimits::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_takes_short_batches_is_used_on_one_connection() {
    syncs_with(RpcLimits { batch_calls: 2, ..RpcLimits::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_answers_makes_questions_smaller() {
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
async fn an_oversize_answer_names_the_flag_and_ends_no_other_wait() {
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
    timeout(PATIENCE, heads.next()).await.unwrap().expect("the subscription lives").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_larger_than_is_taken_ends_its_own_connection_alone() {
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
    timeout(PATIENCE, heads.next()).await.unwrap().expect("the subscription lives").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_is_not_sent() {
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
async fn requests_that_are_swallowed_while_pings_are_answered_go_to_another_node() {
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
