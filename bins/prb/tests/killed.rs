//! `prb all` killed at any time continues from its stored state, and does nothing twice.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

mod support;
use support::{Net, chain};

const KILLS: u32 = 20;
const WORKERS: u32 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn killed_twenty_times_workers_become_active_and_nothing_is_done_twice() {
    let config = prb_devnet::Config { pools: 2, history: 600, ..chain() };
    let net = Net::start(config, WORKERS).await;
    let mut random = StdRng::seed_from_u64(20);
    for _ in 0..KILLS {
        let mut prb = net.process();
        // Some die while they open the store, some during the sync, some with transactions in flight.
        let life = Duration::from_millis(random.random_range(50..5_000));
        tokio::time::sleep(life).await;
        assert!(prb.is_running(), "it ended by itself:\n{}", net.log_tail());
        prb.kill();
    }
    // All workers may be active already, due to an earlier process.
    let before = net.log().matches("Got my peer id").count();
    let mut prb = net.process();
    net.until_up(before + 1, Duration::from_secs(60)).await;
    net.until_active(0..WORKERS as usize, Duration::from_secs(150)).await;
    net.assert_done_once();
    prb.signal("TERM");
    assert_eq!(prb.wait(Duration::from_secs(5)).await, Some(0));
    net.shutdown().await;
}
