//! Workers at the tip stay there while many more catch up beside them.
//!
//! Variables: `PRB_TEST_TIP_WORKERS` (10), `PRB_TEST_NEWCOMERS` (20), `PRB_TEST_HISTORY` (400 relay blocks)
//! and `PRB_TEST_BLOCK_MS` (500). The full check has 100 and 200 workers on two cores.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use prb::all::Bridge;
use prb_devnet::Config;
use tokio::time::{Instant, sleep};

mod support;
use support::{Entry, Net, STAKE, chain};

/// Maximum lag of a worker at the tip, in parachain blocks.
const MAX_LAG: u32 = 2;
/// Duration of a newcomer's dispatch; far longer than the devnet's shared verification.
const DISPATCH: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(600);

fn variable(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Returns the largest lag of the first `tip` workers, and the number of others at the tip.
async fn look(bridge: &Bridge, tip: usize) -> (u32, usize) {
    let workers = bridge.view().await.fleet.workers;
    let index = |name: &str| name.trim_start_matches('w').parse::<usize>().unwrap();
    let (first, others): (Vec<_>, Vec<_>) = workers.iter().partition(|w| index(&w.worker.name) < tip);
    let worst = first.iter().map(|w| w.lag.unwrap_or(u32::MAX)).max().unwrap();
    (worst, others.iter().filter(|w| w.lag.is_some_and(|lag| lag <= MAX_LAG)).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_at_the_tip_are_not_delayed_by_newcomers() {
    let (tip, newcomers) = (variable("PRB_TEST_TIP_WORKERS", 10), variable("PRB_TEST_NEWCOMERS", 20));
    let all = (tip + newcomers) as usize;
    let config = Config {
        history: variable("PRB_TEST_HISTORY", 400),
        block_ms: u64::from(variable("PRB_TEST_BLOCK_MS", 500)),
        free_stake: u128::from(tip + newcomers) * STAKE,
        ..chain()
    };
    let net = Net::start(config, tip + newcomers).await;
    let pid = net.devnet.pools()[0].pid;
    let entries = |count: usize| (0..count).map(move |worker| Entry { worker, pid, stake: STAKE });
    net.write_fleet(&net.pools_toml(), entries(tip as usize));
    let bridge = net.bridge().await;
    net.until_active(0..tip as usize, LIMIT).await;

    net.workers[tip as usize..].iter().for_each(|worker| worker.faults().slow_dispatch(DISPATCH));
    net.write_fleet(&net.pools_toml(), entries(all));
    bridge.reload().await.unwrap();
    let (start, mut samples, mut behind, mut worst) = (Instant::now(), 0_u32, 0_u32, 0);
    loop {
        let (lag, caught_up) = look(&bridge, tip as usize).await;
        samples += 1;
        behind += u32::from(lag > MAX_LAG);
        worst = worst.max(lag);
        if caught_up == newcomers as usize {
            break;
        }
        assert!(start.elapsed() < LIMIT, "{caught_up} of {newcomers} have caught up");
        sleep(Duration::from_millis(50)).await;
    }
    println!("caught up after {:?}; worst lag {worst} in {samples} looks", start.elapsed());
    assert!(samples > 20, "they caught up at once: nothing was tested");
    assert_eq!(behind, 0, "of {samples} looks; a worker at the tip was {worst} blocks behind");
    bridge.stop().await;
    net.shutdown().await;
}
