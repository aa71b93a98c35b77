//! Which jobs go together, and when.

use std::time::Duration;

use prb_core::{
    chain::Call,
    primitives::{PoolId, WorkerKey},
    queue::{CallOutcome, Job, JobSigner},
    trade::{Config, Phase},
    vault::Vault,
};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::*;

#[tokio::test(start_paused = true)]
async fn single_job_waits_one_second() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config::default());
    let handle = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    sleep(ms(990)).await;
    assert_eq!(rig.chain.pending(), 0);
    sleep(ms(20)).await;
    assert_eq!(rig.chain.pending(), 1);
    let lane = trader.status().borrow().lanes[&account("//Alice")].clone();
    assert!(matches!(lane.phase, Phase::Sent { .. }), "{lane:?}");
    let block = rig.chain.produce_block();
    let outcome = handle.outcome().await.unwrap();
    assert_eq!((outcome.calls, outcome.block), (vec![CallOutcome::Done], block));
    assert!(outcome.extrinsic.is_some());
    let status = trader.status().borrow().clone();
    assert_eq!((status.batches, status.calls_done, status.jobs_completed), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn batch_is_sent_six_seconds_after_its_first_job() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    let start = Instant::now();
    let mut handles = Vec::new();
    while rig.chain.pending() == 0 {
        handles.push(rig.submit(rig.job("//Alice", 1, handles.len() as u64, 1, 0)).await);
        sleep(ms(900)).await;
    }
    assert!((ms(6_000)..ms(6_900)).contains(&start.elapsed()), "{:?}", start.elapsed());
    rig.chain.produce_block();
    assert_eq!(rig.chain.events().len(), 7, "the jobs of six seconds are one batch");
}

#[tokio::test(start_paused = true)]
async fn full_batch_is_sent_at_once() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default().with_max_calls(100));
    let start = Instant::now();
    let mut handles = Vec::new();
    for n in 0..150 {
        handles.push(rig.submit(rig.job("//Alice", 1, n, 1, 0)).await);
    }
    while rig.chain.pending() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    rig.chain.produce_block();
    assert_eq!(rig.chain.events().len(), 100);
    rig.pending(1).await;
    rig.chain.produce_block();
    for handle in handles {
        assert_eq!(rig.outcomes(handle).await, [CallOutcome::Done], "in the order of their sequence");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_has_one_batch_in_flight() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    let first = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    rig.pending(1).await;
    let second = rig.submit(rig.job("//Alice", 1, 1, 1, 0)).await;
    sleep(ms(30_000)).await;
    assert_eq!(rig.chain.pending(), 1);
    rig.chain.produce_block();
    assert_eq!(first.outcome().await.unwrap().calls, [CallOutcome::Done]);
    // It has waited long enough and does not linger again.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.chain.pending(), 1);
    assert_eq!(rig.outcomes(second).await, [CallOutcome::Done]);
}

#[tokio::test(start_paused = true)]
async fn pools_of_one_operator_share_batches_unless_one_is_proxied() {
    let rig = Rig::new().await;
    rig.chain.set_proxy(account("//Carol"), account("//Alice"));
    let _trader = rig.trader(Config::default());
    // Sealed twice: the same key behind other bytes.
    let key = rig.vault.seal(&"//Alice".into()).await.unwrap();
    let sealed_anew = JobSigner { key, ..rig.signer("//Alice") };
    let proxied = JobSigner { proxied: Some(account("//Carol")), ..rig.signer("//Alice") };
    let mut handles = Vec::new();
    for (w, signer) in [rig.signer("//Alice"), sealed_anew, proxied].into_iter().enumerate() {
        let calls = vec![message(w as u8, 0)];
        handles.push(rig.submit(Job { pool: PoolId(w as u64), signer, calls, retries: 0 }).await);
    }
    let mut extrinsics = Vec::new();
    for handle in handles {
        let outcome = rig.outcome(handle).await.unwrap();
        assert_eq!(outcome.calls, [CallOutcome::Done]);
        extrinsics.push(outcome.extrinsic);
    }
    assert_eq!(extrinsics[0], extrinsics[1]);
    assert_ne!(extrinsics[0], extrinsics[2]);
}

#[tokio::test(start_paused = true)]
async fn hanging_lane_blocks_no_other_and_is_bounded() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config::default().with_max_lane_jobs(3));
    rig.chain.hang(account("//Alice"), true);
    let mut stuck = Vec::new();
    for n in 0..20 {
        stuck.push(rig.submit(rig.job("//Alice", 1, n, 1, 0)).await);
    }
    for n in 0..5 {
        let handle = rig.submit(rig.job("//Bob", 2, n, 1, 0)).await;
        let outcome = tokio::select! {
            outcome = timeout(ms(10_000), handle.outcome()) => outcome,
            () = rig.chain.run(ms(1_000)) => unreachable!(),
        };
        assert_eq!(outcome.expect("Bob waits for Alice").unwrap().calls, [CallOutcome::Done]);
        let held = trader.status().borrow().lanes[&account("//Alice")].jobs;
        assert!((1..=3).contains(&held), "the hung lane holds {held} jobs");
    }
    rig.chain.hang(account("//Alice"), false);
    for handle in stuck {
        assert_eq!(rig.outcomes(handle).await, [CallOutcome::Done], "and all its jobs are done in the end");
    }
}

#[tokio::test(start_paused = true)]
async fn operators_beyond_the_lanes_wait_for_one() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config::default().with_max_lanes(1).with_lane_idle(ms(2_000)));
    let alice = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    let bob = rig.submit(rig.job("//Bob", 2, 0, 1, 0)).await;
    rig.pending(1).await;
    sleep(ms(20_000)).await;
    assert_eq!(trader.status().borrow().lanes.len(), 1);
    assert_eq!(rig.chain.pending(), 1);
    assert_eq!(rig.outcomes(alice).await, [CallOutcome::Done]);
    assert_eq!(rig.outcomes(bob).await, [CallOutcome::Done]);
}

#[tokio::test(start_paused = true)]
async fn operators_beyond_the_lanes_get_one_that_holds_nothing() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config::default().with_max_lanes(1));
    let first = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    assert_eq!(rig.outcomes(first).await, [CallOutcome::Done]);
    let bob = rig.submit(rig.job("//Bob", 2, 0, 1, 0)).await;
    let mut handles = Vec::new();
    // More often than lanes end by themselves.
    let alice = async {
        for n in 1..90 {
            sleep(ms(20_000)).await;
            handles.push(rig.submit(rig.job("//Alice", 1, n, 1, 0)).await);
        }
    };
    tokio::select! {
        outcome = rig.outcomes(bob) => assert_eq!(outcome, [CallOutcome::Done]),
        () = alice => panic!("Bob waits for Alice"),
    }
    let next = rig.submit(rig.job("//Alice", 3, 0, 1, 0)).await;
    handles.push(next);
    for handle in handles {
        assert_eq!(rig.outcomes(handle).await, [CallOutcome::Done], "Alice has a lane again");
    }
    assert_eq!(trader.status().borrow().lanes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn idle_lanes_are_removed_and_created_again() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config::default());
    for n in 0..3 {
        let handle = rig.submit(rig.job("//Alice", 1, n, 1, 0)).await;
        assert_eq!(rig.outcomes(handle).await, [CallOutcome::Done]);
        assert_eq!(trader.status().borrow().lanes.len(), 1);
        sleep(ms(61_000)).await;
        assert_eq!(trader.status().borrow().lanes.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn each_call_has_its_own_result() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    let good = rig.submit(rig.job("//Alice", 1, 0, 2, 3)).await;
    let gap = rig.submit(rig.job("//Alice", 2, 7, 1, 3)).await;
    let mut mixed = rig.job("//Alice", 3, 0, 1, 3);
    mixed.calls.push(message(3, 5));
    let refused = Call::AddWorker { pool: PoolId(1), worker: WorkerKey([9; 32]) };
    mixed.calls.push(refused.clone());
    let mixed = rig.submit(mixed).await;
    let unknown = CallOutcome::Failed("PhalaStakePoolv2::WorkerNotRegistered".into());
    let bad = || CallOutcome::Failed("PhalaMq::BadSequence".into());
    assert_eq!(rig.outcomes(good).await, [CallOutcome::Done, CallOutcome::Done]);
    assert_eq!(rig.outcomes(gap).await, [bad()]);
    assert_eq!(rig.outcomes(mixed).await, [CallOutcome::Done, bad(), unknown]);
    assert_eq!(rig.executed(&refused), 1, "a call that the chain refused is not tried again");
    assert_eq!(rig.executed(&message(2, 7)), 0, "what it would refuse is not sent");
}
