//! Tests of unusual chains with faultless nodes: verifying workers accept what is stored.

use std::{sync::Arc, time::Duration};

use prb_chain::{rpc::NodePool, source::StoreSource};
use prb_core::primitives::{ParaNumber, RelayNumber};
use prb_devnet::{Config, Devnet, Fault, JustificationOddities, ProofFault};
use tokio::time::timeout;

use crate::{number_from_env, rig::Fetching, workers};

const TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than anything takes on a busy machine: a test that hangs says where.
const HUNG: Duration = Duration::from_secs(240);

fn config() -> Config {
    Config { history: 60, set_length: 20, ..Config::default() }
}

/// Ingests everything and syncs a new worker to the tip.
async fn ingest_and_feed_a_worker(devnet: &Devnet) -> Fetching {
    let fetching = Fetching::start(&[devnet]);
    feed_a_worker(devnet, &fetching).await;
    fetching
}

/// Syncs a new worker from what is ingested of the devnet, to the tip.
async fn feed_a_worker(devnet: &Devnet, fetching: &Fetching) {
    fetching.has_all_of(devnet).await;
    let source = StoreSource::new(Arc::clone(&fetching.store));
    let (worker, api) = workers::start(&source).await;
    timeout(HUNG, workers::feed(&source, &api, || workers::ENOUGH)).await.expect("the worker is fed");
    let info = api.info().await.unwrap();
    assert_eq!(info.headernum, devnet.relay().finalized_number() + 1);
    assert_eq!(info.blocknum, devnet.para().finalized_number() + 1);
    timeout(HUNG, worker.shutdown()).await.expect("the worker stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn equivocations_and_repeated_headers_are_accepted() {
    let justifications = JustificationOddities { equivocation: true, repeated_header: true };
    let devnet = Devnet::start(Config { justifications, ..config() }).await.unwrap();
    ingest_and_feed_a_worker(&devnet).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn set_of_a_thousand_authorities_is_accepted() {
    let large = Config { set_size: 1_000, history: 12, set_length: 5, justification_period: 0, ..config() };
    let devnet = Devnet::start(large).await.unwrap();
    ingest_and_feed_a_worker(&devnet).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_parachain_blocks_per_relay_parent_are_accepted() {
    let devnet = Devnet::start(Config { heads_per_relay_block: 3, ..config() }).await.unwrap();
    assert!(devnet.para().finalized_number() > devnet.relay().finalized_number());
    ingest_and_feed_a_worker(&devnet).await.stop().await;
}

/// Workers take a block that changes `burst_bytes` of state, in values of `burst_value_bytes` each.
async fn workers_take_a_block_of(burst_bytes: u32, burst_value_bytes: u32) {
    let config = Config { burst_every: 11, burst_bytes, burst_value_bytes, ..config() };
    let devnet = Devnet::start(config).await.unwrap();
    let changes = devnet.para().storage_changes(11).unwrap();
    let bytes: usize = changes.main.iter().filter_map(|(_, value)| Some(value.as_ref()?.len())).sum();
    assert!(bytes >= burst_bytes as usize && devnet.para().storage_changes(12).unwrap().main.len() < 100);
    ingest_and_feed_a_worker(&devnet).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_20_mb_are_taken() {
    workers_take_a_block_of(20_000_000, 100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_with_thousands_of_changes_are_taken() {
    let bytes = number_from_env("PRB_TEST_BURST", 1_000_000).try_into().unwrap();
    workers_take_a_block_of(bytes, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finality_that_lags_by_hundreds_of_blocks_is_caught_up_at_once() {
    let devnet = Devnet::start(config()).await.unwrap();
    let fetching = ingest_and_feed_a_worker(&devnet).await;
    devnet.lag_finality(300);
    let before = devnet.relay().finalized_number();
    for _ in 0..250 {
        devnet.tick().unwrap();
    }
    assert_eq!(devnet.relay().finalized_number(), before);
    fetching.has_all_of(&devnet).await;
    devnet.lag_finality(0);
    devnet.tick().unwrap();
    assert_eq!(devnet.relay().finalized_number(), before + 251);
    feed_a_worker(&devnet, &fetching).await;
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offboarded_parachain_is_served_to_its_last_block_and_beyond_once_it_is_back() {
    let devnet = Devnet::start(config()).await.unwrap();
    let fetching = ingest_and_feed_a_worker(&devnet).await;
    let last = devnet.para().best_number();
    devnet.offboard_para();
    for _ in 0..30 {
        devnet.tick().unwrap();
    }
    // No relay block included the last head.
    assert_eq!((devnet.para().best_number(), devnet.para().finalized_number()), (last, last - 1));
    feed_a_worker(&devnet, &fetching).await;
    assert_eq!(fetching.store.heights().borrow().para, Some(ParaNumber(last - 1)));
    let lines = fetching.log.lines();
    let reports = lines.iter().filter(|line| line.contains("names no head of the parachain"));
    assert_eq!(reports.count(), 1, "{lines:?}");
    devnet.onboard_para();
    for _ in 0..30 {
        devnet.tick().unwrap();
    }
    assert!(devnet.para().finalized_number() > last);
    feed_a_worker(&devnet, &fetching).await;
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forks_of_blocks_that_are_not_final_leave_no_trace() {
    let devnet = Devnet::start(config()).await.unwrap();
    let fetching = Fetching::start(&[&devnet]);
    let mut retracted = Vec::new();
    for _ in 0..20 {
        devnet.relay().inject(&Fault::Fork);
        let best = devnet.para().best_number();
        retracted.push((best, devnet.para().block_hash(best)));
        devnet.tick().unwrap();
    }
    retracted.retain(|(number, hash)| devnet.para().block_hash(*number) != *hash);
    assert!(retracted.len() > 5, "{retracted:?}");
    feed_a_worker(&devnet, &fetching).await;
    fetching.stop().await;
}

/// A change that workers do not support is reported, and nothing after it is stored; the node is not blamed.
async fn assert_forced_change_is_reported(fault: ProofFault, history: u32) {
    let devnet = Devnet::start(Config { forced_change_at: 31, history, ..config() }).await.unwrap();
    devnet.relay().faults().proofs(fault);
    let fetching = Fetching::start(&[&devnet]);
    let named = async {
        loop {
            let lines = fetching.log.lines();
            if lines.iter().any(|line| line.contains("relay block 31 forces a change of authorities")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let is_named = timeout(TIMEOUT, named).await;
    assert!(is_named.is_ok(), "{:?} {:?}", *fetching.store.heights().borrow(), fetching.log.lines());
    assert!(fetching.store.heights().borrow().relay < Some(RelayNumber(31)));
    let health = |pool: &NodePool| pool.nodes()[0].health();
    assert!(!health(&fetching.relay).demoted, "{:?}", fetching.log.lines());
    fetching.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forced_changes_are_reported_with_any_proofs() {
    // Up to the newest blocks, the next scheduled change, and far beyond.
    for history in [34, 60, 120] {
        for fault in [ProofFault::None, ProofFault::Null] {
            assert_forced_change_is_reported(fault, history).await;
        }
    }
}
