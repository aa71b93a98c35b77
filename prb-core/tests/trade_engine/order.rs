//! Jobs of one worker are never overtaken by younger ones, whatever sends them back to the queue.

use prb_core::{chain::memory::Fault, trade::Config};
use proptest::prelude::*;
use tokio::time::sleep;

use crate::rig::{ALICE, Rig, account, ms};

/// A lane that is full at once.
fn small_lane() -> Config {
    Config::default().with_max_lane_jobs(3).with_first_calls(2).with_max_calls(4)
}

#[tokio::test(start_paused = true)]
async fn jobs_put_off_by_a_full_lane_are_not_overtaken() {
    let mut rig = Rig::new().await;
    let _trader = rig.trader(small_lane());
    let mut handles = Vec::new();
    for _ in 0..10 {
        for worker in 0..3 {
            handles.push(rig.submit(worker, 1, 0).await);
        }
        // Some come while others are away.
        sleep(ms(700)).await;
        rig.chain.produce_block();
    }
    rig.all_done(handles).await;
    assert_eq!(rig.refused(), [], "a younger job of a worker went first");
}

#[tokio::test(start_paused = true)]
async fn jobs_of_a_batch_that_is_retried_are_not_overtaken() {
    let mut rig = Rig::new().await;
    let _trader = rig.trader(Config::default().with_first_calls(2));
    for _ in 0..3 {
        rig.chain.inject(account(ALICE), Fault::Unavailable);
    }
    let mut handles = Vec::new();
    for _ in 0..5 {
        handles.push(rig.submit(1, 1, 9).await);
    }
    sleep(ms(1_500)).await;
    // Comes while the first ones are away.
    handles.push(rig.submit(1, 1, 9).await);
    rig.all_done(handles).await;
    assert_eq!(rig.refused(), []);
}

#[tokio::test(start_paused = true)]
async fn permanently_failed_job_is_not_waited_for() {
    let mut rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    rig.chain.inject(account(ALICE), Fault::Unavailable);
    let failed = rig.submit(1, 1, 0).await;
    sleep(ms(1_100)).await;
    let start = tokio::time::Instant::now();
    let next = rig.submit(2, 1, 0).await;
    rig.all_done(vec![next]).await;
    assert!(start.elapsed() < ms(4_000), "{:?}", start.elapsed());
    assert!(failed.outcome().await.is_err());
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Submit { worker: u8, count: u64 },
    Block,
    Wait { ms: u64 },
    Fault(Fault),
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![
        Just(Fault::Unavailable),
        Just(Fault::Refused { retryable: true }),
        Just(Fault::Lost),
        Just(Fault::UnknownIncluded),
        Just(Fault::UnknownDropped),
    ];
    prop_oneof![
        8 => (0u8..3, 1u64..4).prop_map(|(worker, count)| Step::Submit { worker, count }),
        3 => Just(Step::Block),
        3 => (0u64..4_000).prop_map(|ms| Step::Wait { ms }),
        2 => fault.prop_map(Step::Fault),
    ]
}

async fn run(steps: Vec<Step>, max_lane_jobs: usize, finality_blocks: u32) {
    let config = prb_core::chain::memory::Config::default().with_finality_blocks(finality_blocks);
    let mut rig = Rig::on(config).await;
    let _trader =
        rig.trader(Config::default().with_max_lane_jobs(max_lane_jobs).with_first_calls(3).with_max_calls(6));
    let mut handles = Vec::new();
    for step in steps {
        match step {
            Step::Submit { worker, count } => handles.push(rig.submit(worker, count, 99).await),
            Step::Block => drop(rig.chain.produce_block()),
            Step::Wait { ms: time } => sleep(ms(time)).await,
            Step::Fault(fault) => rig.chain.inject(account(ALICE), fault),
        }
    }
    rig.all_done(handles).await;
    assert_eq!(rig.refused(), [], "sequences arrive in order, each once");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn sequences_arrive_in_order(
        steps in proptest::collection::vec(step(), 1..60),
        max_lane_jobs in 1usize..6,
        finality_blocks in 0u32..3,
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(steps, max_lane_jobs, finality_blocks));
    }
}
