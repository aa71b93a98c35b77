//! Workers at the tip beside workers that catch up, on bounds that are far too small for all of them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{sync::Arc, time::Duration};

use prb_core::{
    blob::{BlobSource, cache::CachedSource},
    fleet,
    prpc::Method,
    sync::{BatchSize, Driver, Lane, TransferBudget, TransferLimits},
    worker::State,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

#[path = "fleet_rig/rig.rs"]
mod rig;
#[path = "sync_rig/rig.rs"]
mod sync_rig;
use rig::{BLOCK, POOL, Rig};
use sync_rig::{Link, Tip, heavy_chain, keep_up};

/// Six newcomers, each of which takes ten minutes for a batch, on a budget of two full batches.
#[tokio::test(start_paused = true)]
async fn slow_new_workers_do_not_delay_a_computing_worker() {
    // Some batches of history for each newcomer.
    let mut rig = Rig::new(1, 600).await;
    let mut config = fleet::Config::default();
    config.tuning.max_batch_bytes = BatchSize::MIN_BYTES;
    config.in_flight_bytes = 2 * BatchSize::MIN_BYTES;
    rig.start_with(config);
    rig.run();
    rig.until_all(State::Active).await;
    for _ in 0..6 {
        let index = rig.add_worker(POOL).await;
        for method in [Method::SyncCombinedHeaders, Method::DispatchBlocks] {
            rig.workers[index].set_latency(method, Duration::from_secs(600));
        }
    }
    let begun =
        |rig: &Rig| rig.workers[1..].iter().filter(|w| w.count(Method::SyncCombinedHeaders) > 0).count();
    for _ in 0..40 {
        tokio::time::sleep(BLOCK).await;
        // Not the status, which a task that waits does not renew.
        let lag = rig.chain.head().0 + 1 - rig.workers[0].next_block();
        assert!(lag <= 2, "{lag} blocks behind");
    }
    assert!(begun(&rig) < 6, "there is no room for all of them at once");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(begun(&rig), 6, "the newcomers get their turns");
}

const AT_THE_TIP: u32 = 100;
const NEWCOMERS: u32 = 200;
const MIB: usize = 1024 * 1024;

/// 200 newcomers at as many places of the chain, each as slow as a small machine, where 14 of their batches
/// are on their way at once; beside them 100 workers at the tip.
#[tokio::test(start_paused = true)]
async fn hundred_workers_stay_at_the_tip_during_two_hundred_catch_ups() {
    let tip = Tip::new(heavy_chain(1500, 16 * 1024));
    let source: Arc<dyn BlobSource> =
        Arc::new(CachedSource::new(Arc::clone(&tip.source), Default::default()));
    let limits = TransferLimits::new(16 * MIB);
    let driver = Driver::new(source, TransferBudget::new(limits));
    let link = Link::default();
    let mut tasks = JoinSet::new();
    let mut computing = Vec::new();
    for seed in 0..AT_THE_TIP {
        let worker = link.worker(seed, 1501, 256 * 1024).await;
        tasks.spawn(keep_up(driver.clone(), worker.client(), MIB));
        computing.push(worker);
    }
    let mut newcomers = Vec::new();
    for seed in 0..NEWCOMERS {
        // About half a minute a batch; a little different, so that they do not fall into step.
        let worker = link.worker(1000 + seed, 1 + 5 * seed, 32 * 1024 + 16 * seed as usize).await;
        tasks.spawn(keep_up(driver.clone(), worker.client(), MIB));
        newcomers.push(worker);
    }
    let begin = Instant::now();
    for block in 1..=50 {
        tip.grow(1, 16 * 1024);
        sleep_until(begin + block * BLOCK).await;
        let head = tip.head();
        let behind = computing.iter().map(|w| head + 1 - w.scripted.next_block()).max().unwrap();
        assert!(behind <= 2, "{behind} blocks behind at block {head}");
    }
    let waiting = newcomers.iter().filter(|w| w.scripted.count(Method::DispatchBlocks) == 0).count();
    assert_eq!(waiting, 0, "newcomers that never got a turn");
    let most = link.most_bytes();
    assert!(most > limits.max_bytes / 2, "the budget was used: {most} bytes");
    assert!(most <= limits.max_bytes + MIB, "{most} bytes on their way at once");
    assert!(newcomers.iter().chain(&computing).all(|w| w.scripted.overlaps() == 0));
    tasks.shutdown().await;
    let budget = driver.budget();
    for lane in [Lane::Tip, Lane::CatchUp] {
        assert_eq!(budget.free_bytes(lane), budget.all_bytes(lane), "all given back");
    }
}
