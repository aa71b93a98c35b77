//! Benchmark of ingesting a history, against the bare rate at which the same node answers the same requests.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{sync::Arc, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::{StreamExt, stream};
use prb_chain::{
    ingest::{self, Ingest},
    internals::{rpc::json::HexBytes, verify::state},
    rpc::{self, NodePool},
    store::{self, Store},
};
use prb_core::primitives::{Hash, ParaNumber, RelayNumber};
use prb_devnet::{Config, Devnet};
use serde_json::value::RawValue;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const RELAY_BLOCKS: u32 = 1000;

fn pools(devnet: &Devnet) -> (NodePool, NodePool) {
    let pool = |name, url| NodePool::new(name, rpc::Config::new([url])).unwrap();
    (pool("relay", devnet.relay().url()), pool("para", devnet.para().url()))
}

/// A complete ingest: fetched, verified, stored on disk.
async fn ingest(devnet: &Devnet) {
    let dir = tempfile::TempDir::new().unwrap();
    let store = Arc::new(Store::open(dir.path(), store::Config::default()).unwrap());
    let (relay, para) = pools(devnet);
    let cancel = CancellationToken::new();
    let ingest = Ingest::new(relay, para, Arc::clone(&store), ingest::Config::default());
    let task = tokio::spawn(ingest.run(cancel.clone()));
    let relay = RelayNumber(devnet.relay().finalized_number());
    let para = ParaNumber(devnet.para().finalized_number());
    store.heights().wait_for(|h| h.relay >= Some(relay) && h.para >= Some(para)).await.unwrap();
    cancel.cancel();
    task.await.unwrap().unwrap();
}

/// The same requests, with the answers discarded.
async fn bare(devnet: &Devnet) {
    let (relay, para) = pools(devnet);
    let (relay, para) = (relay.pick(), para.pick());
    let hash = |node: &prb_devnet::Node, n: u32| Hash(node.block_hash(n).unwrap().0);
    let relay_side = async {
        let finalized = devnet.relay().finalized_number();
        let set = devnet.config().set_length;
        let ends: Vec<u32> = (set..=finalized).step_by(set as usize).collect();
        for first in std::iter::once(2).chain(ends.iter().map(|end| end + 1)) {
            relay.request::<Box<RawValue>>("grandpa_proveFinality", [first]).await.unwrap();
        }
        let firsts: Vec<[Hash; 1]> = ends.iter().map(|n| [hash(devnet.relay(), n + 1)]).collect();
        relay.request_many::<Box<RawValue>>("chain_getHeader", &firsts).await.unwrap();
        let keys: Vec<HexBytes> = std::iter::once(state::para_head_key(devnet.para_id()))
            .chain(state::authority_keys())
            .map(HexBytes)
            .collect();
        let proofs: Vec<_> = ends.iter().map(|n| (&keys, hash(devnet.relay(), *n))).collect();
        relay.request_many::<Box<RawValue>>("state_getReadProof", &proofs).await.unwrap();
    };
    let last = devnet.para().finalized_number();
    let para_headers = async {
        for first in (0..=last).step_by(256) {
            let numbers: Vec<u32> = (first..=last.min(first + 255)).collect();
            para.request::<Box<RawValue>>("chain_getBlockHash", [&numbers]).await.unwrap();
            let hashes: Vec<[Hash; 1]> = numbers.iter().map(|n| [hash(devnet.para(), *n)]).collect();
            para.request_many::<Box<RawValue>>("chain_getHeader", &hashes).await.unwrap();
        }
    };
    let para = &para;
    let changes = stream::iter((1..=last).step_by(100)).for_each_concurrent(4, |first| async move {
        let span = (hash(devnet.para(), first), hash(devnet.para(), last.min(first + 99)));
        para.request::<Box<RawValue>>("pha_getStorageChanges", span).await.unwrap();
    });
    tokio::join!(relay_side, para_headers, changes);
}

fn benches(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    for (name, changes_per_block) in [("10 changes a block", 10), ("100 changes a block", 100)] {
        let config = Config { history: RELAY_BLOCKS, changes_per_block, ..Config::default() };
        let devnet = runtime.block_on(Devnet::start(config)).unwrap();
        let mut group = c.benchmark_group(name);
        group.sample_size(10).measurement_time(Duration::from_secs(15));
        group.throughput(Throughput::Elements(u64::from(RELAY_BLOCKS)));
        group.bench_function("bare answers", |b| b.iter(|| runtime.block_on(bare(&devnet))));
        group.bench_function("ingest", |b| b.iter(|| runtime.block_on(ingest(&devnet))));
        group.finish();
        runtime.block_on(devnet.shutdown());
    }
}

criterion_group!(history, benches);
criterion_main!(history);
