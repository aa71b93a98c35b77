//! Tests that a finalised head is only trusted as far as its node.

use super::*;

const FALSE: u32 = 28_000_000;

/// A pool of two nodes, the first of which announces a false head, and that head.
async fn misled(devnets: &[Devnet; 2]) -> (NodePool, rpc::FinalizedHeads) {
    devnets[0].relay().faults().false_head(Some(FALSE));
    let pool = relay_pool(&[&devnets[0], &devnets[1]]);
    let mut heads = pool.finalized_heads();
    assert_eq!(timeout(TIMEOUT, heads.next()).await.unwrap().number, FALSE);
    (pool, heads)
}

#[tokio::test(flavor = "multi_thread")]
async fn false_head_is_withdrawn_when_its_node_is_gone() {
    let devnets = devnets::<2>(config()).await;
    let (_pool, mut heads) = misled(&devnets).await;
    devnets[0].relay().stop_rpc().await;
    let honest = async {
        loop {
            devnets[1].tick().unwrap();
            if let Ok(head) = timeout(Duration::from_millis(200), heads.next()).await {
                return head;
            }
        }
    };
    let head = timeout(TIMEOUT, honest).await.expect("the honest node's heads count");
    assert!(head.fell && head.number < FALSE);
    devnets[1].tick().unwrap();
    let next = timeout(TIMEOUT, heads.next()).await.unwrap();
    assert!(!next.fell && next.number > head.number);
}

#[tokio::test(flavor = "multi_thread")]
async fn false_head_is_withdrawn_when_its_node_is_demoted() {
    let devnets = devnets::<2>(config()).await;
    let (pool, mut heads) = misled(&devnets).await;
    pool.nodes()[0].demote("proven elsewhere");
    let head = timeout(TIMEOUT, heads.next()).await.unwrap();
    assert!(head.fell);
    assert_eq!(head.number, devnets[1].relay().finalized_number());
}

#[tokio::test(flavor = "multi_thread")]
async fn node_stuck_at_a_false_head_is_replaced() {
    let devnets = devnets::<2>(config()).await;
    let (pool, mut heads) = misled(&devnets).await;
    let honest = async {
        loop {
            devnets[1].tick().unwrap();
            if let Ok(head) = timeout(Duration::from_millis(200), heads.next()).await {
                return head;
            }
        }
    };
    let head = timeout(TIMEOUT, honest).await.expect("the honest node's heads count");
    assert!(head.fell && head.number < FALSE);
    assert!(
        pool.nodes()[0].health().deferred && !pool.nodes()[0].health().demoted,
        "it is not proven to lie"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn target_decreases_with_a_false_head() {
    let devnets = devnets::<2>(config()).await;
    devnets[0].relay().faults().false_head(Some(FALSE));
    let fetching = Fetching::start(&[&devnets[0], &devnets[1]]);
    let mut heights = fetching.store.heights();
    let believed = heights.wait_for(|h| h.relay_target == Some(RelayNumber(FALSE)));
    timeout(TIMEOUT, believed).await.unwrap().unwrap();
    devnets[0].relay().stop_rpc().await;
    fetching.has_all_of(&devnets[1]).await;
    let fallen = async {
        while fetching.store.heights().borrow().relay_target > Some(RelayNumber(10_000)) {
            devnets[1].tick().unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(TIMEOUT, fallen).await.expect("the target falls");
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unverifiable_data_is_not_requested_from_a_demoted_node() {
    let devnets = devnets::<2>(config()).await;
    let pool = relay_pool(&[&devnets[0], &devnets[1]]);
    pool.request::<String>("system_chain", NO_PARAMS).await.unwrap();
    pool.nodes()[0].demote("a wrong header");
    devnets[1].relay().stop_rpc().await;
    let error = pool.request::<String>("system_chain", NO_PARAMS).await.unwrap_err();
    assert!(!matches!(error.node(), Some(node) if node == pool.nodes()[0].name()), "{error}");
    pool.nodes()[1].demote("another");
    let error = pool.request::<String>("system_chain", NO_PARAMS).await.unwrap_err();
    assert!(matches!(error, rpc::Error::NoTrustedNode { .. }), "{error}");
    assert_eq!(pool.problems()[0].code, "no_trusted_node");
    // Verifiable data may still come from it.
    assert_eq!(pool.candidates().len(), 2);
}

/// Two nodes behind one address that answer in turn, one of them behind: a head that both have seen stays.
#[tokio::test(flavor = "multi_thread")]
async fn head_of_nodes_that_answer_in_turn_is_not_withdrawn() {
    let [devnet] = devnets::<1>(config()).await;
    devnet.relay().faults().alternate(Some(4));
    let newest = devnet.relay().finalized_number();
    let stalls = Duration::from_millis(60);
    let config = quick(vec![devnet.relay().url()]).with_stall_after(stalls).with_poll_interval(stalls / 4);
    let pool = NodePool::new("relay", config).unwrap();
    let mut heads = pool.finalized_heads();
    timeout(TIMEOUT, async { while heads.next().await.number < newest {} }).await.expect("the newest head");
    // Other requests, so that the node in turn changes.
    let requests = async {
        for _ in 0..200 {
            pool.request::<String>("system_chain", NO_PARAMS).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        head = heads.next() => panic!("{head:?} after {newest}"),
        () = requests => {}
    }
}

/// A node that has lost its newest blocks in a crash, and finalises them again later.
#[tokio::test(flavor = "multi_thread")]
async fn head_that_is_lower_after_a_restart_of_the_only_node_loses_nothing() {
    const LOST: u32 = 10;
    let [devnet] = devnets::<1>(config()).await;
    let fetching = Fetching::start(&[&devnet]);
    fetching.has_all_of(&devnet).await;
    let stored = *fetching.store.heights().borrow();
    let nodes = [devnet.relay(), devnet.para()];
    for node in nodes {
        node.stop_rpc().await;
        node.faults().freeze_at(Some(node.finalized_number() - LOST));
        node.start_rpc().await.unwrap();
    }
    let asked = || devnet.relay().rpc_counters().get("chain_getFinalizedHead").copied().unwrap_or_default();
    let before = asked();
    let reconnected = async {
        while asked() < before + 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(TIMEOUT, reconnected).await.expect("the node is used again");
    let now = *fetching.store.heights().borrow();
    assert_eq!((now.relay, now.para), (stored.relay, stored.para), "what is verified stays");
    for node in nodes {
        node.faults().freeze_at(None);
    }
    for _ in 0..3 {
        devnet.tick().unwrap();
    }
    fetching.has_all_of(&devnet).await;
    assert!(fetching.relay.nodes().iter().all(|node| !node.health().demoted));
    fetching.stop().await;
}
