//! Outages of nodes and workers; all workers become active again without intervention.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use tokio::time::sleep;

mod support;
use support::{Net, chain};

/// Longer than it takes until the pauses between tries have their full length.
const AWAY: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn workers_recover_from_outages_of_both_nodes() {
    let net = Net::start(chain(), 3).await;
    let bridge = net.bridge().await;
    sleep(Duration::from_millis(700)).await;
    for away in [AWAY / 5, AWAY] {
        net.devnet.relay().stop_rpc().await;
        net.devnet.para().stop_rpc().await;
        sleep(away).await;
        net.devnet.relay().start_rpc().await.unwrap();
        net.devnet.para().start_rpc().await.unwrap();
        net.until_active(0..3, LIMIT).await;
    }
    net.assert_done_once();
    bridge.stop().await;
    net.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_recover_from_restarts_with_and_without_state() {
    let net = Net::start(chain(), 3).await;
    let bridge = net.bridge().await;
    net.until_active(0..3, LIMIT).await;
    net.workers[0].go_away(true).await;
    net.workers[1].go_away(false).await;
    sleep(AWAY).await;
    // It is not held up by its neighbours.
    net.until_active([2], LIMIT).await;
    net.workers[0].come_back().await.unwrap();
    net.workers[1].come_back().await.unwrap();
    net.until_active(0..3, LIMIT).await;
    net.assert_done_once();
    bridge.stop().await;
    net.shutdown().await;
}
