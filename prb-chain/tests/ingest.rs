//! Tests of the ingest with nodes that lie, lag, hang, disappear or refuse.
//!
//! Devnets with the same configuration author the same chain, byte for byte: two of them serve as two nodes
//! of one chain.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{path::Path, sync::Arc, time::Duration};

use codec::Encode;
use prb_chain::{
    ingest::{self, Ingest},
    internals::ingest::recheck,
    rpc::{self, NodePool},
    store::{self, Store},
};
use prb_core::{
    blob::Span,
    primitives::{Hash, ParaNumber, RelayNumber},
};
use prb_devnet::{Config, Devnet};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// Timeout of a test.
const TIMEOUT: Duration = Duration::from_secs(60);

fn config() -> Config {
    Config { history: 120, set_length: 25, justification_period: 8, ..Config::default() }
}

async fn devnets<const N: usize>(config: Config) -> [Devnet; N] {
    let mut all = Vec::new();
    for _ in 0..N {
        all.push(Devnet::start(config.clone()).await.unwrap());
    }
    all.try_into().ok().unwrap()
}

fn quick(endpoints: Vec<String>) -> rpc::Config {
    rpc::Config::new(endpoints)
        .with_request_timeout(Duration::from_millis(1500))
        .with_reconnect_min(Duration::from_millis(20))
        .with_reconnect_max(Duration::from_millis(500))
        .with_stall_after(Duration::from_millis(800))
        .with_poll_interval(Duration::from_millis(200))
}

struct Fetching {
    relay: NodePool,
    para: NodePool,
    store: Arc<Store>,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), ingest::Error>>,
}

impl Fetching {
    fn start(devnets: &[Devnet], path: &Path) -> Self {
        let urls = |url: fn(&Devnet) -> String| devnets.iter().map(url).collect();
        let relay = NodePool::new("relay", quick(urls(|devnet| devnet.relay().url()))).unwrap();
        let para = NodePool::new("para", quick(urls(|devnet| devnet.para().url()))).unwrap();
        let store = Arc::new(Store::open(path, store::Config::default()).unwrap());
        let config = ingest::Config::default()
            .with_retry_min(Duration::from_millis(10))
            .with_retry_max(Duration::from_millis(200));
        let ingest = Ingest::new(relay.clone(), para.clone(), Arc::clone(&store), config);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(ingest.run(cancel.clone()));
        Self { relay, para, store, cancel, task }
    }

    /// Waits until everything that is final is stored, and compares it with the devnet's blocks.
    async fn has_all_of(&self, truth: &Devnet) {
        let (relay, para) = (truth.relay().finalized_number(), truth.para().finalized_number());
        self.reaches(relay, para).await;
        let view = self.store.view().unwrap();
        for n in 2..=relay {
            let header = truth.relay().header(n).unwrap().encode();
            assert_eq!(view.relay_header(RelayNumber(n)).unwrap(), Some(&*header), "relay header {n}");
        }
        for n in 0..=para {
            let header = truth.para().header(n).unwrap().encode();
            assert_eq!(view.para_header(ParaNumber(n)).unwrap(), Some(&*header), "parachain header {n}");
        }
        for n in 1..=para {
            let changes = truth.para().storage_changes(n).unwrap().encode();
            assert_eq!(view.changes(ParaNumber(n)).unwrap(), Some(&*changes), "changes of block {n}");
        }
    }

    async fn reaches(&self, relay: u32, para: u32) {
        let mut heights = self.store.heights();
        let there =
            heights.wait_for(|h| h.relay >= Some(RelayNumber(relay)) && h.para >= Some(ParaNumber(para)));
        if timeout(TIMEOUT, there).await.is_err() {
            panic!("wanted {relay} and {para}, got {:?}: {:?} {:?}", self.store, self.relay, self.para);
        }
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn is_demoted(pool: &NodePool, node: usize) -> bool {
    pool.nodes()[node].health().demoted
}

#[tokio::test(flavor = "multi_thread")]
async fn tampered_header_is_fetched_from_another_node() {
    let dir = TempDir::new().unwrap();
    let devnets = devnets::<2>(config()).await;
    devnets[0].relay().faults().corrupt_header(60);
    devnets[0].para().faults().corrupt_header(30);
    let fetching = Fetching::start(&devnets, dir.path());
    fetching.has_all_of(&devnets[1]).await;
    for pool in [&fetching.relay, &fetching.para] {
        assert!(is_demoted(pool, 0), "{:?}", pool.nodes()[0].health());
        assert!(!is_demoted(pool, 1), "{:?}", pool.nodes()[1].health());
        assert!(pool.nodes()[0].health().last_error.is_some());
    }
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_justification_is_fetched_from_another_node() {
    let dir = TempDir::new().unwrap();
    let devnets = devnets::<2>(config()).await;
    let ends: Vec<u32> = (2..=119).filter(|n| devnets[1].relay().justification(*n).is_some()).collect();
    ends.iter().for_each(|n| devnets[0].relay().faults().corrupt_justification(*n));
    let fetching = Fetching::start(&devnets, dir.path());
    fetching.has_all_of(&devnets[1]).await;
    assert!(is_demoted(&fetching.relay, 0) && !is_demoted(&fetching.relay, 1));
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_node_is_asked_until_it_answers_correctly() {
    let dir = TempDir::new().unwrap();
    let [devnet] = devnets::<1>(config()).await;
    devnet.relay().faults().corrupt_header(60);
    let fetching = Fetching::start(std::slice::from_ref(&devnet), dir.path());
    let mut targets = fetching.store.heights();
    timeout(TIMEOUT, targets.wait_for(|h| h.relay_target.is_some())).await.unwrap().unwrap();
    let node = &fetching.relay.nodes()[0];
    let demoted = async {
        while !node.health().demoted {
            tokio::task::yield_now().await;
        }
    };
    timeout(TIMEOUT, demoted).await.unwrap();
    assert!(fetching.store.heights().borrow().relay < Some(RelayNumber(60)), "nothing wrong is stored");
    devnet.relay().faults().heal();
    fetching.has_all_of(&devnet).await;
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recheck_replaces_wrong_storage_changes() {
    let dir = TempDir::new().unwrap();
    let devnets = devnets::<2>(config()).await;
    devnets[0].para().faults().corrupt_storage_changes(20);
    // At first everything comes from the lying node.
    devnets[1].para().faults().refuse("pha_getStorageChanges");
    let fetching = Fetching::start(&devnets, dir.path());
    fetching.reaches(devnets[1].relay().finalized_number(), devnets[1].para().finalized_number()).await;
    devnets[1].para().faults().heal();
    let truth = devnets[1].para().storage_changes(20).unwrap().encode();
    assert_ne!(fetching.store.changes(ParaNumber(20)).unwrap(), truth, "the fault was seen");

    let span = Span { first: ParaNumber(15), last: ParaNumber(25) };
    let outcome = recheck(&fetching.para, &fetching.store, span).await.unwrap();
    assert_eq!((outcome.nodes, outcome.replaced), (2, vec![ParaNumber(20)]));
    assert!(is_demoted(&fetching.para, 0) && !is_demoted(&fetching.para, 1));
    fetching.has_all_of(&devnets[1]).await;
    let again = recheck(&fetching.para, &fetching.store, span).await.unwrap();
    assert!(again.replaced.is_empty(), "the truth is proven, whoever is asked: {again:?}");

    // With a single node that gave a wrong answer once, and with one that repeats it.
    let liar = NodePool::new("para", quick(vec![devnets[0].para().url()])).unwrap();
    let kept = recheck(&liar, &fetching.store, span).await.unwrap();
    assert!(kept.replaced.is_empty() && is_demoted(&liar, 0), "{kept:?}");
    fetching.store.replace_changes(ParaNumber(22), &[vec![0, 0]]).unwrap();
    let honest = NodePool::new("para", quick(vec![devnets[1].para().url()])).unwrap();
    let repaired = recheck(&honest, &fetching.store, span).await.unwrap();
    assert_eq!(repaired.replaced, [ParaNumber(22)]);
    fetching.has_all_of(&devnets[1]).await;
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn justifications_come_with_blocks_without_finality_proofs() {
    let dir = TempDir::new().unwrap();
    let [devnet] = devnets::<1>(Config { justification_period: 1, ..config() }).await;
    devnet.relay().faults().refuse("grandpa_proveFinality");
    let fetching = Fetching::start(std::slice::from_ref(&devnet), dir.path());
    fetching.has_all_of(&devnet).await;
    for _ in 0..60 {
        devnet.tick().unwrap();
    }
    fetching.has_all_of(&devnet).await;
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn genesis_state_is_fetched_by_the_offered_method() {
    let [devnet] = devnets::<1>(config()).await;
    let mut seen = Vec::new();
    for refused in [&[][..], &["pha_getStorageChanges"], &["pha_getStorageChanges", "state_getPairs"]] {
        refused.iter().for_each(|method| devnet.para().faults().refuse(method));
        let dir = TempDir::new().unwrap();
        let fetching = Fetching::start(std::slice::from_ref(&devnet), dir.path());
        let known = async {
            while fetching.store.genesis().is_none() {
                tokio::task::yield_now().await;
            }
        };
        timeout(TIMEOUT, known).await.unwrap();
        let (start, genesis) = fetching.store.genesis().unwrap();
        assert_eq!(start.hash, Hash(devnet.relay().block_hash(1).unwrap().0));
        assert_eq!(genesis.chain_identity, Hash(devnet.para().block_hash(1).unwrap().0));
        assert_eq!(genesis.para_id, devnet.para_id());
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = codec::Decode::decode(&mut &*genesis.state).unwrap();
        pairs.sort();
        seen.push(pairs);
        fetching.stop().await;
    }
    assert!(seen.iter().all(|pairs| *pairs == seen[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_waits_for_an_unreachable_node() {
    let dir = TempDir::new().unwrap();
    let [devnet] = devnets::<1>(config()).await;
    let fetching = Fetching::start(std::slice::from_ref(&devnet), dir.path());
    fetching.has_all_of(&devnet).await;
    devnet.relay().stop_rpc().await;
    devnet.para().stop_rpc().await;
    for _ in 0..40 {
        devnet.tick().unwrap();
    }
    // It stays away until a connection attempt has failed.
    let tried = async {
        while !fetching.relay.nodes()[0].health().backing_off
            || !fetching.para.nodes()[0].health().backing_off
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(TIMEOUT, tried).await.unwrap();
    devnet.relay().start_rpc().await.unwrap();
    devnet.para().start_rpc().await.unwrap();
    fetching.has_all_of(&devnet).await;
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_switches_from_a_hanging_node() {
    let dir = TempDir::new().unwrap();
    let devnets = devnets::<2>(config()).await;
    devnets[0].relay().faults().hang(true);
    devnets[0].para().faults().hang(true);
    let fetching = Fetching::start(&devnets, dir.path());
    fetching.has_all_of(&devnets[1]).await;
    fetching.stop().await;
    devnets[0].relay().faults().hang(false);
    devnets[0].para().faults().hang(false);
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_switches_from_a_stale_node() {
    let dir = TempDir::new().unwrap();
    let devnets = devnets::<2>(config()).await;
    devnets[0].relay().faults().freeze_at(Some(50));
    devnets[0].para().faults().freeze_at(Some(20));
    let fetching = Fetching::start(&devnets, dir.path());
    fetching.has_all_of(&devnets[1]).await;
    let is_deferred = |pool: &NodePool| pool.nodes()[0].health().deferred;
    let left = async {
        while !is_deferred(&fetching.relay) || !is_deferred(&fetching.para) {
            tokio::task::yield_now().await;
        }
    };
    timeout(TIMEOUT, left).await.expect("other nodes go before a stalled one");
    // It lags, but it did not lie.
    for pool in [&fetching.relay, &fetching.para] {
        assert!(!is_demoted(pool, 0) && !is_demoted(pool, 1));
    }
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_continues_where_the_store_ends() {
    let dir = TempDir::new().unwrap();
    let [devnet] = devnets::<1>(config()).await;
    let nets = std::slice::from_ref(&devnet);
    let fetching = Fetching::start(nets, dir.path());
    fetching.has_all_of(&devnet).await;
    fetching.stop().await;
    for _ in 0..10 {
        devnet.tick().unwrap();
    }
    let fetching = Fetching::start(nets, dir.path());
    fetching.has_all_of(&devnet).await;
    let calls = fetching.para.counters().snapshot().by_method;
    assert!(calls["pha_getStorageChanges"] <= 5, "only what is new: {calls:?}");
    assert!(!calls.contains_key("state_getPairs") && calls.get("chain_getHeader") < Some(&20), "{calls:?}");
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_another_chain_than_the_store_are_refused() {
    let dir = TempDir::new().unwrap();
    let [devnet] = devnets::<1>(config()).await;
    let fetching = Fetching::start(std::slice::from_ref(&devnet), dir.path());
    fetching.has_all_of(&devnet).await;
    fetching.stop().await;
    let [other] = devnets::<1>(Config { seed: 7, ..config() }).await;
    let fetching = Fetching::start(&[other], dir.path());
    let tips = *fetching.store.tips().borrow();
    let is_refused = || {
        fetching.para.problems().iter().any(|problem| problem.code == "other_chain" && problem.is_blocking)
    };
    let refused = async {
        while !is_refused() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TIMEOUT, refused).await.expect("its nodes are refused");
    // It waits for other endpoints.
    assert!(!fetching.task.is_finished());
    assert_eq!(*fetching.store.tips().borrow(), tips);
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_parachain_does_not_block_the_relay_chain() {
    let dir = TempDir::new().unwrap();
    let [devnet] = devnets::<1>(config()).await;
    let fetching = Fetching::start(std::slice::from_ref(&devnet), dir.path());
    devnet.pause_para(true);
    for _ in 0..60 {
        devnet.tick().unwrap();
    }
    fetching.has_all_of(&devnet).await;
    devnet.pause_para(false);
    for _ in 0..10 {
        devnet.tick().unwrap();
    }
    fetching.has_all_of(&devnet).await;
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn short_sets_cost_few_round_trips() {
    let dir = TempDir::new().unwrap();
    let [devnet] = devnets::<1>(Config { history: 600, set_length: 15, ..config() }).await;
    let fetching = Fetching::start(std::slice::from_ref(&devnet), dir.path());
    fetching.has_all_of(&devnet).await;
    let trips = [&fetching.relay, &fetching.para].map(|pool| pool.counters().snapshot().round_trips);
    let per_block = (trips[0] + trips[1]) as f64 / 600.0;
    println!("{trips:?} round trips, {per_block:.3} a relay block");
    // About one proof for each set: requesting the sets' first headers and read proofs one by one would make it
    // 0.27. Heads that arrive meanwhile cost a few more.
    assert!(per_block < 0.2, "{per_block} round trips a relay block");
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finalised_heads_continue_after_lost_connections() {
    let [devnet] = devnets::<1>(config()).await;
    let pool = NodePool::new("relay", quick(vec![devnet.relay().url()])).unwrap();
    let mut heads = pool.finalized_heads();
    let first = timeout(TIMEOUT, heads.next()).await.unwrap();
    assert_eq!(first.hash, Hash(devnet.relay().block_hash(first.number).unwrap().0));
    devnet.tick().unwrap();
    let second = timeout(TIMEOUT, heads.next()).await.unwrap();
    assert!(second.number > first.number);
    devnet.relay().stop_rpc().await;
    devnet.tick().unwrap();
    devnet.relay().start_rpc().await.unwrap();
    let third = timeout(TIMEOUT, heads.next()).await.unwrap();
    assert!(third.number > second.number);
    let refused = pool.request::<u32>("no_such_method", rpc::NO_PARAMS).await.unwrap_err();
    assert!(refused.is_refused_method() && !refused.is_retryable(), "{refused}");
}
