//! Tests of an ingest with history sources beside its nodes.

use std::{sync::Arc, time::Duration};

use prb_chain::{
    history::{self, archive},
    ingest::{self, Ingest},
    internals::rpc::Snapshot,
    rpc::{self, NodePool},
    source::StoreSource,
};
use prb_core::primitives::{ParaNumber, RelayNumber};
use prb_devnet::{Config, Devnet};
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    setup::{PARA, RELAY, StoreDir, empty, filled, is_part_of, replay},
    workers,
};

const TIMEOUT: Duration = Duration::from_secs(60);

fn config() -> Config {
    Config { history: 60, set_length: 12, justification_period: 8, ..Config::default() }
}

fn pools(devnet: &Devnet) -> (NodePool, NodePool) {
    let pool = |chain, url| NodePool::new(chain, rpc::Config::new([url])).unwrap();
    (pool("relay", devnet.relay().url()), pool("para", devnet.para().url()))
}

async fn until(kept: &StoreDir, relay: u32, para: u32) {
    let mut heights = kept.store.heights();
    let there = heights.wait_for(|h| h.relay >= Some(RelayNumber(relay)) && h.para >= Some(ParaNumber(para)));
    if timeout(TIMEOUT, there).await.is_err() {
        panic!("wanted {relay} and {para}: {:?}", kept.store);
    }
}

/// Ingests a devnet's chains with these sources beside the nodes; returns the store and the calls that both
/// chains' nodes got.
pub(crate) async fn fetch(
    devnet: &Devnet,
    sources: Vec<Arc<dyn history::HistorySource>>,
) -> (StoreDir, [Snapshot; 2]) {
    let kept = empty();
    let (relay, para) = pools(devnet);
    let config = history::Config::default().with_stalled_after(Duration::from_millis(300));
    let ingest = Ingest::new(relay.clone(), para.clone(), Arc::clone(&kept.store), ingest::Config::default());
    let ingest = ingest.with_history(sources, config);
    let cancel = CancellationToken::new();
    let task = tokio::spawn(ingest.run(cancel.clone()));
    until(&kept, devnet.relay().finalized_number(), devnet.para().finalized_number()).await;
    let calls = [relay, para].map(|pool| pool.counters().snapshot());
    cancel.cancel();
    task.await.unwrap().unwrap();
    (kept, calls)
}

async fn fetched(devnet: &Devnet, sources: Vec<Arc<dyn history::HistorySource>>) -> StoreDir {
    fetch(devnet, sources).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn archive_and_pruned_nodes_yield_the_whole_history() {
    let devnet = Devnet::start(config()).await.unwrap();
    let by_nodes = fetched(&devnet, vec![]).await;
    let folder = TempDir::new().unwrap();
    by_nodes.store.drop_relay_from(RelayNumber(40)).unwrap();
    by_nodes.store.drop_para_from(ParaNumber(15), true).unwrap();
    archive::export(&by_nodes.store, folder.path(), archive::Config::default(), &mut |_| true).unwrap();

    // The nodes have neither the states of the start nor those that the history's proofs need.
    let (relay_tip, _) = by_nodes.store.tips().borrow().relay.unwrap();
    devnet.relay().faults().prune_below(relay_tip.0);
    devnet.para().faults().prune_below(by_nodes.store.tips().borrow().changes.0);
    let source = archive::ArchiveHistory::open(folder.path()).unwrap();
    let kept = fetched(&devnet, vec![Arc::new(source)]).await;
    is_part_of(&by_nodes.store, &kept.store);
    assert_eq!(kept.store.verify(&mut |_| true).unwrap().faults, []);
}

/// A verifying worker accepts an imported history up to the chain's last block.
#[tokio::test(flavor = "multi_thread")]
async fn workers_accept_imported_history() {
    let whole = filled();
    let folder = TempDir::new().unwrap();
    archive::export(&whole.store, folder.path(), archive::Config::default(), &mut |_| true).unwrap();
    let into = empty();
    let source = archive::ArchiveHistory::open(folder.path()).unwrap();
    assert_eq!(replay(&into, vec![Arc::new(source)]).await.faults, []);

    let source = StoreSource::new(Arc::clone(&into.store));
    let (_worker, api) = workers::start(&source).await;
    workers::feed(&source, &api, || workers::ENOUGH).await;
    let info = api.info().await.unwrap();
    assert_eq!((info.headernum, info.blocknum), (RELAY + 1, PARA + 1));
}
