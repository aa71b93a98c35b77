//! CPU time on one thread, each against the bare calls that workers must be sent anyway in the same run: what a
//! block at the tip costs for 500 workers of a fleet, and what the catch-up of 200 workers costs beside 100 that
//! are at the tip. The latter also tells how many bytes were on their way at once.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{sync::Arc, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prb_core::{
    blob::{
        BlobSource, BlockCursor, HeaderCursor,
        cache::{self, CachedSource},
        memory::MemorySource,
    },
    fleet,
    primitives::{ParaNumber, RelayNumber},
    prpc::InitRuntimeRequest,
    pruntime::{PRuntime, scripted::ScriptedWorker},
    sync::{Driver, TransferBudget, TransferLimits},
    worker::State,
};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
};

#[path = "../tests/fleet_rig/rig.rs"]
mod rig;
use rig::{Rig, genesis, grow};
#[path = "../tests/sync_rig/rig.rs"]
mod sync_rig;
use sync_rig::{Link, SlowWorker, Tip, heavy_chain, keep_up};

const WORKERS: usize = 500;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A fleet whose workers all compute.
async fn computing() -> Rig {
    let mut rig = Rig::new(WORKERS, 10).await;
    rig.trade();
    let source = CachedSource::new(Arc::clone(&rig.source), cache::Config::default());
    rig.start_from(Arc::new(source), fleet::Config::default());
    while rig.fleet().status().count(State::Active) < WORKERS {
        rig.blocks(1);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rig
}

/// CPU time of this thread; the machine may have other things to do.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

/// Makes blocks one by one, each as soon as every worker has dispatched and been seen after the last.
async fn follow(rig: &Rig, blocks: u64) -> Duration {
    let mut changes = rig.fleet().changes();
    let begin = cpu();
    for _ in 0..blocks {
        rig.blocks(1);
        let head = rig.chain.head();
        let mut left = rig.workers.iter().peekable();
        loop {
            while left.next_if(|w| w.next_block() > head.0).is_some() {}
            if left.peek().is_none() {
                break;
            }
            changes.changed().await.unwrap();
        }
    }
    cpu() - begin
}

/// The three calls that a block needs, with batches that are there already.
async fn bare(source: &MemorySource, workers: &[PRuntime], blocks: u64) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..blocks {
        let next = source.heights().borrow().relay.map_or(0, |n| n.0) + 1;
        grow(source, 1);
        let para = source.heights().borrow().para.unwrap();
        let first = if para.0 == 1 { ParaNumber(0) } else { para };
        let headers = HeaderCursor { relay: RelayNumber(next), para: first };
        let headers = source.headers(headers, 1 << 20).await.unwrap().unwrap();
        let blocks = source.blocks(BlockCursor { from: para, to: para }, 1 << 20).await.unwrap().unwrap();
        let begin = cpu();
        for worker in workers {
            worker.sync_headers(headers.body.clone()).await.unwrap();
            worker.dispatch_blocks(blocks.body.clone()).await.unwrap();
            worker.info().await.unwrap();
        }
        spent += cpu() - begin;
    }
    spent
}

fn fanout(c: &mut Criterion) {
    let mut group = c.benchmark_group("fanout");
    group.throughput(Throughput::Elements(WORKERS as u64)).sample_size(20);
    let bare_runtime = runtime();
    let (source, workers) = bare_runtime.block_on(async {
        let mut workers = Vec::new();
        for seed in 0..WORKERS as u32 {
            let worker = PRuntime::new(Arc::new(ScriptedWorker::new(seed)));
            worker.init(&InitRuntimeRequest::default()).await.unwrap();
            workers.push(worker);
        }
        (MemorySource::new(genesis()), workers)
    });
    group.bench_function("bare calls, 500 workers, a block", |b| {
        b.iter_custom(|blocks| bare_runtime.block_on(bare(&source, &workers, blocks)));
    });
    let fleet_runtime = runtime();
    let rig = fleet_runtime.block_on(computing());
    group.bench_function("fleet, 500 workers, a block", |b| {
        b.iter_custom(|blocks| fleet_runtime.block_on(follow(&rig, blocks)));
    });
    group.finish();
    fleet_runtime.block_on(rig.fleet().stop());
}

const NEWCOMERS: u32 = 200;
const AT_THE_TIP: u32 = 100;
const HISTORY: u32 = 128;
const BLOCK_BYTES: usize = 32 * 1024;
const BATCH_BYTES: usize = 1 << 20;
const BUDGET_BYTES: usize = 16 << 20;
/// 10 ms a batch.
const BYTES_PER_SEC: usize = 100 << 20;

/// The first block of a newcomer: one of 32, so that they do not all share one batch.
const fn start_of(seed: u32) -> u32 {
    1 + seed % 32
}

/// Workers at the beginning of the history, and some at its end.
async fn newcomers(link: &Link, bytes_per_sec: usize) -> (Vec<SlowWorker>, Vec<SlowWorker>) {
    let (mut new, mut at_the_tip) = (Vec::new(), Vec::new());
    for seed in 0..NEWCOMERS + AT_THE_TIP {
        let next = if seed < NEWCOMERS { start_of(seed) } else { HISTORY + 1 };
        let worker = link.worker(seed, next, bytes_per_sec).await;
        let to = if seed < NEWCOMERS { &mut new } else { &mut at_the_tip };
        to.push(worker);
    }
    (new, at_the_tip)
}

/// Through the driver, the cache and the budget, while the chain grows.
async fn catch_up(link: &Link, most: &mut usize) -> Duration {
    let tip = Tip::new(heavy_chain(HISTORY, BLOCK_BYTES));
    let source = CachedSource::new(Arc::clone(&tip.source), cache::Config::default());
    let budget = TransferBudget::new(TransferLimits::new(BUDGET_BYTES));
    let driver = Driver::new(Arc::new(source), budget);
    let (new, at_the_tip) = newcomers(link, BYTES_PER_SEC).await;
    let mut tasks = JoinSet::new();
    let begin = cpu();
    for worker in new.iter().chain(&at_the_tip) {
        tasks.spawn(keep_up(driver.clone(), worker.client(), BATCH_BYTES));
    }
    while new.iter().any(|worker| worker.scripted.next_block() <= HISTORY) {
        tip.grow(1, BLOCK_BYTES);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let spent = cpu() - begin;
    tasks.shutdown().await;
    *most = link.most_bytes().max(*most);
    spent
}

/// Each batch made and sent to each worker by itself.
async fn bare_catch_up(link: &Link) -> Duration {
    let source = heavy_chain(HISTORY, BLOCK_BYTES);
    let (new, _) = newcomers(link, usize::MAX).await;
    let begin = cpu();
    for worker in new {
        let client = worker.client();
        let next = worker.scripted.next_block();
        let headers = HeaderCursor { relay: RelayNumber(next), para: ParaNumber(next) };
        let headers = source.headers(headers, BATCH_BYTES).await.unwrap().unwrap();
        client.sync_headers(headers.body).await.unwrap();
        loop {
            let from = ParaNumber(worker.scripted.next_block());
            let to = ParaNumber(HISTORY);
            if from > to {
                break;
            }
            let blocks = source.blocks(BlockCursor { from, to }, BATCH_BYTES).await.unwrap().unwrap();
            client.dispatch_blocks(blocks.body).await.unwrap();
        }
    }
    cpu() - begin
}

fn lanes(c: &mut Criterion) {
    let mut group = c.benchmark_group("lanes");
    let blocks: u32 = (0..NEWCOMERS).map(|seed| HISTORY + 1 - start_of(seed)).sum();
    let bytes = u64::from(blocks) * BLOCK_BYTES as u64;
    group.throughput(Throughput::Bytes(bytes)).sample_size(10);
    let runtime = runtime();
    group.bench_function("bare batches, 200 workers in catch-up", |b| {
        b.iter_custom(|rounds| {
            runtime.block_on(async {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    // One after another and without their slowness: only CPU time counts.
                    spent += bare_catch_up(&Link::default()).await;
                }
                spent
            })
        });
    });
    let mut most = 0;
    group.bench_function("driver, 200 in catch-up beside 100 at the tip", |b| {
        b.iter_custom(|rounds| {
            runtime.block_on(async {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    spent += catch_up(&Link::default(), &mut most).await;
                }
                spent
            })
        });
    });
    group.finish();
    println!("most bytes on their way at once: {} KiB of {} KiB", most >> 10, BUDGET_BYTES >> 10);
    assert!(most <= BUDGET_BYTES, "the budget was exceeded");
}

criterion_group!(benches, fanout, lanes);
criterion_main!(benches);
