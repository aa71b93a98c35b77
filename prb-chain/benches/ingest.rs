//! The ingest of a history, against the rate at which the same node answers the same questions: with the answers
//! thrown away unread, and read into the bytes that are stored.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::{StreamExt, stream};
use prb_chain::{
    ingest::{self, Ingest},
    internals::{
        rpc::json,
        verify::{FinalityProof, state},
    },
    rpc::{self, Node, NodePool},
    store::{self, Store},
};
use prb_core::primitives::{Hash, ParaNumber, RelayNumber};
use prb_devnet::{Config, Devnet};
use serde_json::value::RawValue;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

fn pools(devnet: &Devnet) -> (NodePool, NodePool) {
    let pool = |name, url| NodePool::new(name, rpc::Config::new([url])).unwrap();
    (pool("relay", devnet.relay().url()), pool("para", devnet.para().url()))
}

/// Everything from nothing: fetched, verified, on disk. Opening an empty store and deleting it is not counted.
async fn ingest(devnet: &Devnet) -> Duration {
    let dir = tempfile::TempDir::new().unwrap();
    let store = Arc::new(Store::open(dir.path(), store::Config::default()).unwrap());
    let (relay, para) = pools(devnet);
    let (cancel, start) = (CancellationToken::new(), Instant::now());
    let ingest = Ingest::new(relay, para, Arc::clone(&store), ingest::Config::default());
    let task = tokio::spawn(ingest.run(cancel.clone()));
    let relay = RelayNumber(devnet.relay().finalized_number());
    let para = ParaNumber(devnet.para().finalized_number());
    store.heights().wait_for(|h| h.relay >= Some(relay) && h.para >= Some(para)).await.unwrap();
    let took = start.elapsed();
    cancel.cancel();
    task.await.unwrap().unwrap();
    took
}

/// What is done with answers.
#[derive(Clone, Copy, PartialEq)]
enum Answers {
    ThrownAway,
    /// As the bytes that would be stored: nothing is verified, put in order or written.
    Read,
}

impl Answers {
    async fn many(self, node: &Node, method: &str, params: &[impl serde::Serialize]) {
        match (self, method) {
            (Self::ThrownAway, _) => drop(node.request_many::<Box<RawValue>>(method, params).await.unwrap()),
            (Self::Read, "chain_getHeader") => {
                for header in node.request_many::<json::Header>(method, params).await.unwrap() {
                    black_box(Hash::of(&header.encode()));
                }
            }
            (Self::Read, _) => drop(node.request_many::<json::ReadProof>(method, params).await.unwrap()),
        }
    }

    async fn proof(self, node: &Node, number: u32) {
        const METHOD: &str = "grandpa_proveFinality";
        if self == Self::ThrownAway {
            node.request_bulk::<Box<RawValue>>(METHOD, [number]).await.unwrap();
        } else {
            let proof: json::HexBytes = node.request_bulk(METHOD, [number]).await.unwrap();
            let proof = FinalityProof::decode(&proof.0).unwrap();
            for header in &proof.headers {
                black_box(Hash::of(header));
            }
        }
    }

    async fn changes(self, node: &Node, span: (Hash, Hash)) {
        const METHOD: &str = "pha_getStorageChanges";
        if self == Self::ThrownAway {
            node.request_bulk::<Box<RawValue>>(METHOD, span).await.unwrap();
        } else {
            node.request_bulk::<Vec<json::ScaleChanges>>(METHOD, span).await.unwrap();
        }
    }
}

/// The same questions, all at once as far as a node takes them.
async fn bare(devnet: &Devnet, answers: Answers) {
    let (relay, para) = pools(devnet);
    let (relay, para) = (relay.pick(), para.pick());
    let hash = |node: &prb_devnet::Node, n: u32| Hash(node.block_hash(n).unwrap().0);
    let relay_side = async {
        let finalized = devnet.relay().finalized_number();
        let set = devnet.config().set_length;
        let ends: Vec<u32> = (set..=finalized).step_by(set as usize).collect();
        for first in std::iter::once(2).chain(ends.iter().map(|end| end + 1)) {
            answers.proof(&relay, first).await;
        }
        let firsts: Vec<[Hash; 1]> = ends.iter().map(|n| [hash(devnet.relay(), n + 1)]).collect();
        answers.many(&relay, "chain_getHeader", &firsts).await;
        let keys: Vec<json::HexBytes> = std::iter::once(state::para_head_key(devnet.para_id()))
            .chain(state::authority_keys())
            .map(json::HexBytes)
            .collect();
        let proofs: Vec<_> = ends.iter().map(|n| (&keys, hash(devnet.relay(), *n))).collect();
        answers.many(&relay, "state_getReadProof", &proofs).await;
    };
    let last = devnet.para().finalized_number();
    let para_headers = async {
        for first in (0..=last).step_by(256) {
            let numbers: Vec<u32> = (first..=last.min(first + 255)).collect();
            para.request::<Box<RawValue>>("chain_getBlockHash", [&numbers]).await.unwrap();
            let hashes: Vec<[Hash; 1]> = numbers.iter().map(|n| [hash(devnet.para(), *n)]).collect();
            answers.many(&para, "chain_getHeader", &hashes).await;
        }
    };
    let para = &para;
    let changes = stream::iter((1..=last).step_by(100)).for_each_concurrent(4, |first| async move {
        let span = (hash(devnet.para(), first), hash(devnet.para(), last.min(first + 99)));
        answers.changes(para, span).await;
    });
    tokio::join!(relay_side, para_headers, changes);
}

/// CPU time that this process has used, the devnet's node included.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Hundredths of a second in user and kernel mode, the 14th and 15th field; the second one may hold spaces.
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    Duration::from_millis(fields.map(|field| field.parse::<u64>().unwrap() * 10).sum())
}

/// What one run of something costs, of some.
fn cpu_of(runs: u32, mut run: impl FnMut()) -> Duration {
    let before = cpu_time();
    (0..runs).for_each(|_| run());
    (cpu_time() - before) / runs
}

/// CPU time, which others on the machine do not change as they do the clock's.
fn print_cpu_time(runtime: &Runtime, devnet: &Devnet, history: u32) {
    let runs = 20_000 / history;
    let bare = |answers| cpu_of(runs, || runtime.block_on(bare(devnet, answers)));
    let (thrown, read) = (bare(Answers::ThrownAway), bare(Answers::Read));
    let whole = cpu_of(runs, || {
        runtime.block_on(ingest(devnet));
    });
    let times = |yardstick: Duration| whole.as_secs_f64() / yardstick.as_secs_f64();
    println!(
        "CPU time: answers thrown away {thrown:.1?}, read {read:.1?}, ingest {whole:.1?}: {:.2} and {:.2} times",
        times(thrown),
        times(read)
    );
}

fn benches(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    for (history, changes_per_block) in [(1_000, 10), (1_000, 100), (10_000, 10), (10_000, 100)] {
        let config = Config { history, changes_per_block, ..Config::default() };
        let devnet = runtime.block_on(Devnet::start(config)).unwrap();
        let mut group =
            c.benchmark_group(format!("{history} relay blocks, {changes_per_block} changes a block"));
        group.sample_size(10).measurement_time(Duration::from_secs(15));
        group.throughput(Throughput::Elements(u64::from(history)));
        for (name, answers) in [("answers thrown away", Answers::ThrownAway), ("answers read", Answers::Read)]
        {
            group.bench_function(name, |b| b.iter(|| runtime.block_on(bare(&devnet, answers))));
        }
        group.bench_function("ingest", |b| {
            b.iter_custom(|times| (0..times).map(|_| runtime.block_on(ingest(&devnet))).sum());
        });
        group.finish();
        print_cpu_time(&runtime, &devnet, history);
        runtime.block_on(devnet.shutdown());
    }
}

criterion_group!(history, benches);
criterion_main!(history);
