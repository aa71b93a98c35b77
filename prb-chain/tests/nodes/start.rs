//! Tests that endpoints of other chains are reported and refused.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn endpoint_of_another_chain_is_refused_with_reason() {
    let [devnet] = devnets::<1>(config()).await;
    let [other] = devnets::<1>(Config { seed: 7, ..config() }).await;
    let pool = relay_pool(&[&devnet, &other]);
    let [right, wrong] = [0, 1].map(|at| Arc::clone(&pool.nodes()[at]));
    right.request::<String>("system_chain", NO_PARAMS).await.unwrap();
    let error = wrong.request::<String>("system_chain", NO_PARAMS).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, rpc::Error::OtherChain { number: 0, .. }), "{text}");
    assert!(text.contains(&**wrong.name()) && text.contains("another chain"), "{text}");
    assert!(wrong.health().other_chain && !wrong.is_trusted() && right.is_trusted());
    assert!(pool.trusted().iter().all(|node| node.name() == right.name()));
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_chain_outweighs_the_first_endpoint() {
    let [devnet] = devnets::<1>(config()).await;
    let [other] = devnets::<1>(Config { seed: 7, ..config() }).await;
    let fetching = Fetching::start(&[&devnet]);
    fetching.has_all_of(&devnet).await;
    let dir = fetching.stop().await;
    for _ in 0..10 {
        devnet.tick().unwrap();
    }
    // The other chain's node is listed first, and connected before the store is opened.
    let (relay, para) = (relay_pool(&[&other, &devnet]), para_pool(&[&other, &devnet]));
    for pool in [&relay, &para] {
        pool.nodes()[0].request::<String>("system_chain", NO_PARAMS).await.unwrap();
    }
    let fetching = Fetching::between(relay, para, dir);
    fetching.has_all_of(&devnet).await;
    for pool in [&fetching.relay, &fetching.para] {
        assert!(pool.nodes()[0].health().other_chain && !pool.nodes()[1].health().other_chain, "{pool:?}");
    }
    fetching.stop().await;
}

async fn start_error(relay: NodePool, para: NodePool, text: &str) {
    let node = Arc::clone(&para.nodes()[0]);
    let fetching = Fetching::between(relay, para, TempDir::new().unwrap());
    until(text, || node.health().last_error.is_some_and(|error| error.contains(text))).await;
    assert!(fetching.store.genesis().is_none());
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn swapped_endpoints_are_reported() {
    let [devnet] = devnets::<1>(config()).await;
    let relay = NodePool::new("relay", quick(vec![devnet.para().url()])).unwrap();
    let para = NodePool::new("para", quick(vec![devnet.relay().url()])).unwrap();
    start_error(relay, para, "not swapped").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_relay_chain_is_reported() {
    let [devnet] = devnets::<1>(config()).await;
    let [other] = devnets::<1>(Config { seed: 7, ..config() }).await;
    start_error(relay_pool(&[&other]), para_pool(&[&devnet]), "does not serve the relay chain").await;
}
