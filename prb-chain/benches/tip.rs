//! What following the chains costs at the tip: CPU time of the ingest for each relay block, of which every second one
//! brings a parachain block. The yardstick is the CPU time of one small call to a node, made from the same runtime.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{fs, sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use prb_chain::{
    ingest::{self, Ingest},
    rpc::{self, NodePool},
    store::{self, Store},
};
use prb_core::primitives::{ParaNumber, RelayNumber};
use prb_devnet::{Config, Devnet};
use serde_json::value::RawValue;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

/// The name of the measured threads. All others, those of the devnet's nodes among them, do not count.
const THREADS: &str = "ingest";
/// Calls of the yardstick in one measurement.
const CALLS: u32 = 500;

/// CPU time of the measured threads, in nanoseconds as the scheduler counts them.
fn cpu_time() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let own =
        tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == THREADS));
    let nanoseconds = own.map(|task| -> u64 {
        let stat = fs::read_to_string(task.join("schedstat")).unwrap();
        stat.split_whitespace().next().unwrap().parse().unwrap()
    });
    Duration::from_nanos(nanoseconds.sum())
}

fn measured_runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    // Threads for the disk stay, so that their time is not lost with them.
    builder.worker_threads(1).thread_name(THREADS).thread_keep_alive(Duration::from_secs(3600));
    builder.enable_all().build().unwrap()
}

/// Authors a block, and waits until what is final is stored.
async fn block(devnet: &Devnet, store: &Store) {
    devnet.tick().unwrap();
    let relay = RelayNumber(devnet.relay().finalized_number());
    let para = ParaNumber(devnet.para().finalized_number());
    store.heights().wait_for(|h| h.relay >= Some(relay) && h.para >= Some(para)).await.unwrap();
}

fn benches(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    for changes_per_block in [10, 100] {
        let measured = measured_runtime();
        let config = Config { history: 100, changes_per_block, ..Config::default() };
        let devnet = runtime.block_on(Devnet::start(config)).unwrap();
        let pool = |name, url| NodePool::new(name, rpc::Config::new([url])).unwrap();
        let (relay, para) = (pool("relay", devnet.relay().url()), pool("para", devnet.para().url()));
        let dir = tempfile::TempDir::new().unwrap();
        let store = Arc::new(Store::open(dir.path(), store::Config::default()).unwrap());
        let cancel = CancellationToken::new();
        let ingest = Ingest::new(relay.clone(), para, Arc::clone(&store), ingest::Config::default());
        let task = measured.spawn(ingest.run(cancel.clone()));
        runtime.block_on(block(&devnet, &store));

        let mut group = c.benchmark_group(format!("{changes_per_block} changes a parachain block"));
        group.sample_size(10).measurement_time(Duration::from_secs(10));
        group.bench_function("a relay block", |b| {
            b.iter_custom(|blocks| {
                let before = cpu_time();
                (0..blocks).for_each(|_| runtime.block_on(block(&devnet, &store)));
                cpu_time() - before
            });
        });
        group.bench_function("yardstick: a call", |b| {
            b.iter_custom(|times| {
                let before = cpu_time();
                for _ in 0..times {
                    let node = relay.pick();
                    let calls = measured.spawn(async move {
                        for _ in 0..CALLS {
                            node.request::<Box<RawValue>>("chain_getHeader", [(); 0]).await.unwrap();
                        }
                    });
                    runtime.block_on(calls).unwrap();
                }
                (cpu_time() - before) / CALLS
            });
        });
        group.finish();
        cancel.cancel();
        runtime.block_on(task).unwrap().unwrap();
        runtime.block_on(devnet.shutdown());
    }
}

criterion_group!(tip, benches);
criterion_main!(tip);
