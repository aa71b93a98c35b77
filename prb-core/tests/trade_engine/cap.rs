//! The cap on a transaction's calls: starts low, grows after inclusion alone, falls back, and is remembered.

use std::collections::BTreeMap;

use prb_core::{chain::memory::Fault, queue::JobHandle, trade::Config};
use tokio::time::sleep;

use crate::rig::{ALICE, Rig, account, ms};

async fn jobs(rig: &mut Rig, count: u64) -> Vec<JobHandle> {
    let mut handles = Vec::new();
    for _ in 0..count {
        handles.push(rig.submit(1, 1, 9).await);
    }
    handles
}

/// Calls by block, one transaction each, oldest first.
fn transactions(rig: &Rig) -> Vec<usize> {
    let mut blocks: BTreeMap<u32, usize> = BTreeMap::new();
    for event in rig.chain.events() {
        *blocks.entry(event.block.0).or_default() += 1;
    }
    blocks.into_values().collect()
}

#[tokio::test(start_paused = true)]
async fn cap_starts_at_a_hundred_and_doubles_up_to_its_limit() {
    let mut rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    let handles = jobs(&mut rig, 4_000).await;
    rig.all_done(handles).await;
    assert_eq!(transactions(&rig), [100, 200, 400, 800, 1_000, 1_000, 500]);
}

#[tokio::test(start_paused = true)]
async fn cap_is_halved_by_losses_and_unknown_outcomes_down_to_one() {
    let mut rig = Rig::new().await;
    let _trader = rig.trader(Config::default().with_first_calls(8).with_max_calls(8));
    for _ in 0..4 {
        rig.chain.inject(account(ALICE), Fault::Lost);
    }
    rig.chain.inject(account(ALICE), Fault::UnknownDropped);
    let handles = jobs(&mut rig, 24).await;
    rig.all_done(handles).await;
    assert_eq!(transactions(&rig), [1, 2, 4, 8, 8, 1]);
    assert_eq!(rig.refused(), []);
}

#[tokio::test(start_paused = true)]
async fn cap_is_kept_while_the_trader_runs() {
    let mut rig = Rig::new().await;
    let trader = rig.trader(Config::default().with_first_calls(2));
    let handles = jobs(&mut rig, 6).await;
    rig.all_done(handles).await;
    sleep(Config::LANE_IDLE + ms(1_000)).await;
    assert!(trader.status().borrow().lanes.is_empty());
    let handles = jobs(&mut rig, 8).await;
    rig.all_done(handles).await;
    assert_eq!(transactions(&rig), [2, 4, 8]);
}

/// A large job goes in several transactions, no larger than the cap.
#[tokio::test(start_paused = true)]
async fn job_larger_than_the_cap_is_sent_in_parts() {
    let mut rig = Rig::new().await;
    let _trader = rig.trader(Config::default().with_first_calls(10).with_max_calls(40));
    let handle = rig.submit(1, 100, 0).await;
    rig.all_done(vec![handle]).await;
    assert_eq!(transactions(&rig), [10, 20, 40, 30]);
}
