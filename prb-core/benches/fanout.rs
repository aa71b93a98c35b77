//! What a block at the tip costs for 500 workers in CPU time, on one thread: the whole fleet against the bare calls
//! that its workers must be sent anyway.
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
    pruntime::{
        PRuntime,
        scripted::{Pace, ScriptedWorker},
    },
    worker::State,
};
use tokio::runtime::{Builder, Runtime};

#[path = "../tests/fleet_rig/rig.rs"]
mod rig;
use rig::{Rig, genesis, grow};

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
            let worker = ScriptedWorker::new(seed);
            worker.set_pace(Pace::INSTANT);
            let worker = PRuntime::new(Arc::new(worker));
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

criterion_group!(benches, fanout);
criterion_main!(benches);
