//! Workers fed from the devnet's own blocks: synced over set changes, registered, benchmarked, computing.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "bridge_rig/rig.rs"]
mod rig;

use codec::Encode;
use prb_core::prpc::{self, Method};
use prb_devnet::{Config, Devnet, worker};
use prb_devnet_runtime::{
    PHA,
    pallets::{computation, stake_pool},
    para::v1::Runtime,
    types::WorkerState,
};
use rig::Bridge;
use tokio::task::JoinSet;

fn assert_synced(devnet: &Devnet, info: &prpc::PhactoryInfo) {
    let (relay, para) = (devnet.relay().finalized_number(), devnet.para().finalized_number());
    assert_eq!((info.headernum, info.para_headernum, info.blocknum), (relay + 1, para + 1, para + 1));
    assert_eq!(info.state_root, hex::encode(devnet.para().header(para).unwrap().state_root));
}

fn devnet(config: Config) -> Devnet {
    Devnet::build(config).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_sync_over_set_changes_and_a_pause_of_the_parachain() {
    let config = Config { history: 60, set_length: 13, justification_period: 4, ..Config::default() };
    let devnet = devnet(config);
    devnet.pause_para(true);
    for _ in 0..40 {
        devnet.tick().unwrap();
    }
    devnet.pause_para(false);
    // The last finalized block is 116 of 117: a justified one.
    for _ in 0..17 {
        devnet.tick().unwrap();
    }
    let mut tasks = JoinSet::new();
    for worker in devnet.spawn_workers(8, 0, None).await.unwrap() {
        let bridge = Bridge::new(&devnet, worker);
        tasks.spawn(async move {
            bridge.init().await;
            let info = bridge.sync().await;
            assert_synced(&bridge.devnet, &info);
            assert_eq!(bridge.worker.overlapping_calls(), 0);
        });
    }
    assert_eq!(tasks.join_all().await.len(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_registers_is_scored_and_computes() {
    let computation =
        computation::Parameters { heartbeat_interval: 2, heartbeat_window: 6, ..Default::default() };
    let devnet = devnet(Config { history: 20, set_length: 25, computation, ..Config::default() });
    let worker = devnet.spawn_workers(1, 0, None).await.unwrap().remove(0);
    let bridge = Bridge::new(&devnet, worker);
    bridge.init().await;
    assert_synced(&devnet, &bridge.sync().await);

    bridge.register().await;
    bridge.until(5, |worker| worker.registered).await;
    bridge.until(20, |worker| worker.score.is_some()).await;
    assert!(bridge.info().await.registered);
    // What the report lost on its way: some blocks of the benchmark's eight.
    let score = bridge.truth().score.unwrap();
    assert!((1000..=2000).contains(&score), "{score}");

    let pubkey = bridge.pubkey();
    bridge.submit(stake_pool::Call::<Runtime>::add_worker { pid: 1, pubkey });
    bridge.until(5, |worker| worker.pool == Some(1)).await;
    let stake = 20_000 * PHA;
    bridge.submit(stake_pool::Call::<Runtime>::start_computing { pid: 1, worker: pubkey, stake });
    bridge.until(5, |worker| worker.session == Some(WorkerState::WorkerIdle)).await;
    for _ in 0..30 {
        bridge.relay_messages().await;
        bridge.step().await;
        assert_eq!(bridge.truth().session, Some(WorkerState::WorkerIdle));
    }
    // The chain takes the heartbeats, and the worker sees that it has.
    assert!(bridge.info().await.pending_messages < 5);

    for _ in 0..20 {
        bridge.step().await;
    }
    assert_eq!(bridge.truth().session, Some(WorkerState::WorkerUnresponsive));
    assert!(bridge.info().await.pending_messages > 5);
    bridge.until(8, |worker| worker.session == Some(WorkerState::WorkerIdle)).await;

    // A worker that lost its state replays its life and comes to the same sequence.
    bridge.worker.go_away(false).await;
    bridge.worker.come_back().await.unwrap();
    bridge.init().await;
    let info = bridge.sync().await;
    assert_synced(&devnet, &info);
    assert!(info.registered && info.pending_messages < 5);
    for _ in 0..20 {
        bridge.relay_messages().await;
        bridge.step().await;
    }
    assert_eq!(bridge.truth().session, Some(WorkerState::WorkerIdle));
    assert!(bridge.info().await.pending_messages < 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_starts_from_a_later_state() {
    let devnet = devnet(Config { history: 100, ..Config::default() });
    let worker = worker::spawn_all("seed", 1, 0, None).await.unwrap().remove(0);
    let bridge = Bridge::new(&devnet, worker);
    bridge.init().await;
    let para = devnet.para();
    let state = para.storage_pairs(&[], para.block_hash(30).unwrap()).unwrap();
    let request = prpc::ChainState { block_number: 30, encoded_state: state.encode().into() };
    let () = bridge.call(Method::LoadChainState, &request).await;
    // Headers of blocks before it are not wanted: go where the relay chain knows block 30 at least.
    let end = 64;
    bridge.sync_headers(2, 50, u32::MAX).await;
    bridge.sync_headers(51, end, 30).await;
    assert_synced(&devnet, &bridge.sync().await);
}
