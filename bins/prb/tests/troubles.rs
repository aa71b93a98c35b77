//! Workers that cannot compute have the reason in their status, and do not delay others.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{sync::Arc, time::Duration};

use prb::all::Bridge;
use prb_core::worker::{State, WorkerStatus};
use prb_devnet::{Config, Devnet};
use tokio::time::{Instant, sleep};

mod support;
use support::{EXIT_LIMIT, Entry, Net, STAKE, chain, pool_toml};

const LIMIT: Duration = Duration::from_secs(90);

async fn status(bridge: &Bridge, name: &str) -> Option<Arc<WorkerStatus>> {
    bridge.view().await.fleet.workers.into_iter().find(|w| w.worker.name == name)
}

async fn until_says(bridge: &Bridge, name: &str, words: &[&str]) {
    let start = Instant::now();
    loop {
        let status = status(bridge, name).await;
        let message = status.as_ref().map(|s| s.message.to_string()).unwrap_or_default();
        if words.iter().all(|word| message.contains(word)) {
            assert_ne!(status.unwrap().state, State::Active);
            return;
        }
        assert!(start.elapsed() < LIMIT, "{name} says {message:?}, not {words:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_trouble_has_its_reason_and_other_workers_compute() {
    let net = Net::start(Config { pools: 4, free_stake: 10 * STAKE, ..chain() }, 5).await;
    let pools = net.devnet.pools();
    let fleet = [
        pool_toml(&pools[0], Some(&pools[0].mnemonic)),
        // The operator of another pool: the chain rejects it.
        pool_toml(&pools[1], Some(&pools[2].mnemonic)),
        pool_toml(&pools[3], None),
    ];
    let entry = |worker, pid, stake| Entry { worker, pid, stake };
    // More than the pool ever has, whichever worker starts first.
    let too_much = 50 * STAKE;
    let workers = [
        entry(0, pools[0].pid, STAKE),
        entry(1, pools[0].pid, STAKE),
        entry(2, pools[0].pid, too_much),
        entry(3, pools[1].pid, STAKE),
        entry(4, pools[3].pid, STAKE),
    ];
    net.write_fleet(&fleet.concat(), workers);
    let bridge = net.bridge().await;
    net.until_active([0, 1], LIMIT).await;
    until_says(&bridge, "w2", &["InsufficientFreeStake"]).await;
    until_says(&bridge, "w3", &["UnauthorizedPoolOwner"]).await;
    until_says(&bridge, "w4", &["operator"]).await;

    // Worker 1 is claimed for another pool: its status names the pool it belongs to, and it keeps computing
    // there.
    let fleet =
        [pool_toml(&pools[0], Some(&pools[0].mnemonic)), pool_toml(&pools[2], Some(&pools[2].mnemonic))];
    net.write_fleet(&fleet.concat(), [entry(0, pools[0].pid, STAKE), entry(1, pools[2].pid, STAKE)]);
    bridge.reload().await.unwrap();
    until_says(&bridge, "w1", &["pool", &pools[0].pid.to_string()]).await;
    net.until_active([0, 1], LIMIT).await;
    bridge.stop().await;
    net.shutdown().await;
}

/// A node returns wrong storage changes; the worker detects it, and another node's data replace them.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_storage_changes_of_a_node_are_replaced() {
    let config = Config { history: 200, ..chain() };
    let (honest, liar) = (Devnet::start(config.clone()).await.unwrap(), Devnet::start(config).await.unwrap());
    // Both nodes are used for history: all changes of these blocks from the first node are wrong.
    (2..=90).for_each(|block| liar.para().faults().corrupt_storage_changes(block));
    let net = Net::of(honest, vec![liar], 1).await;
    let mut prb = net.process_with(&["--sync-only"]);
    let (start, tip) = (Instant::now(), net.devnet.para().finalized_number());
    while net.workers[0].info().blocknum <= tip {
        assert!(
            prb.is_running() && start.elapsed() < LIMIT,
            "{:?}\n{}",
            net.workers[0].info(),
            net.log_tail()
        );
        sleep(Duration::from_millis(100)).await;
    }
    let log = net.log();
    // Blocks after the first wrong one are rechecked at once, or when the worker refuses them.
    let replaced =
        ["wrong storage changes have been replaced", "storage changes were wrong and have been replaced"];
    assert!(log.contains("StateRootMismatch block="), "the worker did not find out:\n{log}");
    assert!(replaced.iter().any(|words| log.contains(words)), "nothing was replaced:\n{log}");
    prb.signal("TERM");
    assert_eq!(prb.wait(EXIT_LIMIT).await, Some(0));
    net.shutdown().await;
}
