//! Tests that endpoints of other chains are reported and refused.

use prb_core::primitives::Hash;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn endpoint_of_another_chain_is_refused_with_reason() {
    let [devnet, same] = devnets::<2>(config()).await;
    let [other] = devnets::<1>(Config { seed: 7, ..config() }).await;
    // One of three neither chooses the chain nor blocks it, wherever it is listed.
    for order in [[&other, &devnet, &same], [&devnet, &other, &same], [&devnet, &same, &other]] {
        let pool = relay_pool(&order);
        let genesis: String = pool.request("chain_getBlockHash", [0]).await.unwrap();
        assert_eq!(genesis, format!("{:?}", devnet.relay().block_hash(0).unwrap()));
        let at = order.iter().position(|net| std::ptr::eq(*net, &other)).unwrap();
        let wrong = Arc::clone(&pool.nodes()[at]);
        wrong.request::<String>("system_chain", NO_PARAMS).await.unwrap_err();
        let text = wrong.health().last_error.unwrap();
        assert!(text.contains(&**wrong.name()) && text.contains("another chain: its block 0 is"), "{text}");
        assert!(wrong.health().other_chain && !wrong.is_trusted());
        assert!(pool.trusted().len() == 2 && pool.trusted().iter().all(|node| node.name() != wrong.name()));
    }
}

/// The pool's nodes differ: nothing unverified is believed, and both are named with the remedy.
async fn assert_disputed(pool: &NodePool) {
    let error = pool.request::<String>("system_chain", NO_PARAMS).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, rpc::Error::GenesisDisputed { .. }) && error.is_retryable(), "{text}");
    assert!(
        pool.nodes().iter().all(|node| text.contains(&format!("{} has genesis 0x", node.name()))),
        "{text}"
    );
    assert!(text.contains("PRB_CHAIN_GENESIS"), "{text}");
    assert!(pool.trusted().is_empty());
    let problems: Vec<_> =
        pool.problems().iter().map(|problem| (problem.code, problem.is_blocking)).collect();
    assert_eq!(problems, [("genesis_disputed", true)]);
    let watched = timeout(Duration::from_millis(200), pool.finalized_heads().next()).await;
    assert!(watched.is_err(), "a head of {watched:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_that_differ_are_believed_once_it_is_known_which_is_right() {
    let [devnet] = devnets::<1>(config()).await;
    let [other] = devnets::<1>(Config { seed: 7, ..config() }).await;
    let genesis = Hash(devnet.para().block_hash(0).unwrap().0);
    for order in [[&other, &devnet], [&devnet, &other]] {
        let pool = para_pool(&order);
        assert_disputed(&pool).await;
        pool.pin(0, genesis);
        assert_eq!(pool.request::<Hash>("chain_getBlockHash", [0]).await.unwrap(), genesis);

        let urls = order.map(|net| net.para().url()).into();
        let with_genesis = NodePool::new("para", quick(urls).with_genesis(Some(genesis))).unwrap();
        assert_eq!(with_genesis.request::<Hash>("chain_getBlockHash", [0]).await.unwrap(), genesis);
    }

    // A node that comes late differs too: the first was alone, not right.
    other.para().stop_rpc().await;
    let pool = para_pool(&[&other, &devnet]);
    pool.request::<String>("system_chain", NO_PARAMS).await.unwrap();
    other.para().start_rpc().await.unwrap();
    until("the pause before the next connection is over", || !pool.nodes()[0].health().backing_off).await;
    pool.nodes()[0].request::<String>("system_chain", NO_PARAMS).await.unwrap();
    assert_disputed(&pool).await;
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

/// With an empty store and nodes of other networks in any place, the chain that fits together is stored.
#[tokio::test(flavor = "multi_thread")]
async fn start_is_taken_where_both_chains_fit_together() {
    let [devnet, same] = devnets::<2>(config()).await;
    let [other] = devnets::<1>(Config { seed: 7, ..config() }).await;
    let (good, first, last) = (&[&devnet][..], &[&other, &devnet][..], &[&devnet, &other][..]);
    let most = &[&other, &devnet, &same][..];
    for (relay, para) in [(first, good), (last, good), (good, first), (good, last), (most, most)] {
        let fetching = Fetching::between(relay_pool(relay), para_pool(para), TempDir::new().unwrap());
        fetching.has_all_of(&devnet).await;
        let (_, genesis) = fetching.store.genesis().unwrap();
        assert_eq!(genesis.para_id, devnet.para_id());
        let refused = |pool: &NodePool| pool.nodes().iter().filter(|node| node.health().other_chain).count();
        // `None` if it was not asked since.
        assert!(refused(&fetching.relay) <= 1 && refused(&fetching.para) <= 1);
        for (pool, nets) in [(&fetching.relay, relay), (&fetching.para, para)] {
            for (node, net) in pool.nodes().iter().zip(nets) {
                assert!(std::ptr::eq(*net, &other) || !node.health().other_chain, "{pool:?}");
            }
        }
        fetching.stop().await;
    }
}

/// A node that shows other first blocks than the rest of its chain.
#[tokio::test(flavor = "multi_thread")]
async fn false_first_blocks_choose_nothing() {
    let [liar, devnet] = devnets::<2>(config()).await;
    for number in [0, 1, 2] {
        for node in [liar.relay(), liar.para()] {
            node.faults().fork_at(Some(number));
            for order in [[&liar, &devnet], [&devnet, &liar]] {
                let fetching = Fetching::start(&order);
                fetching.has_all_of(&devnet).await;
                fetching.stop().await;
            }
            node.faults().heal();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_whole_networks_wait_until_one_is_named() {
    let [devnet] = devnets::<1>(config()).await;
    let [other] = devnets::<1>(Config { seed: 7, ..config() }).await;
    let order = [&other, &devnet];
    let fetching = Fetching::start(&order);
    let disputed = |pool: &NodePool| pool.problems().iter().any(|problem| problem.code == "genesis_disputed");
    until("both are disputed", || disputed(&fetching.relay) && disputed(&fetching.para)).await;
    assert!(fetching.store.genesis().is_none());
    fetching.para.pin(0, Hash(devnet.para().block_hash(0).unwrap().0));
    fetching.has_all_of(&devnet).await;
    fetching.stop().await;
}

/// The URL of a load balancer that gives each connection to the next of these nodes.
async fn alternating(nodes: [&Arc<prb_devnet::Node>; 2]) -> String {
    let addresses = nodes.map(|node| node.url().trim_start_matches("ws://").to_owned());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        for address in addresses.iter().cycle() {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut node = tokio::net::TcpStream::connect(address).await.unwrap();
            // Either end may go away at any time.
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut node).await });
        }
    });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn two_chains_behind_one_address_do_no_harm() {
    let [devnet] = devnets::<1>(config()).await;
    let [other] = devnets::<1>(Config { seed: 7, ..config() }).await;
    for order in [[devnet.para(), other.para()], [other.para(), devnet.para()]] {
        let urls = vec![alternating(order).await, devnet.para().url()];
        let para = NodePool::new("para", quick(urls)).unwrap();
        let fetching = Fetching::between(relay_pool(&[&devnet]), para, TempDir::new().unwrap());
        fetching.has_all_of(&devnet).await;
        let dir = fetching.stop().await;
        // The store knows the chain: connections to the other one are refused, those to its own go on.
        devnet.tick().unwrap();
        let urls = vec![alternating([order[1], order[0]]).await, devnet.para().url()];
        let para = NodePool::new("para", quick(urls)).unwrap();
        let fetching = Fetching::between(relay_pool(&[&devnet]), para, dir);
        fetching.has_all_of(&devnet).await;
        fetching.stop().await;
    }
}
