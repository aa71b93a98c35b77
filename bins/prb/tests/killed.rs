//! `prb all` killed at any time, as by `kill -9` or for memory, continues from its stored state, and does nothing twice.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{process::Command, time::Duration};

use prb_devnet::Node;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::timeout;

mod support;
use support::{Net, chain};

const KILLS: u32 = 18;
const WORKERS: u32 = 6;
const LIMIT: Duration = Duration::from_secs(150);
const SUBMIT: &str = "author_submitAndWatchExtrinsic";

/// When a process is killed that sends a transaction.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// A job was taken; nothing is signed.
    Taken,
    /// The transaction is signed and on its way: the node takes it when its sender has gone.
    Signed,
    /// It is in a block that is not final; nobody was told.
    InBlock,
}

/// Waits until a node was asked once more than `before`.
async fn until_asked(node: &Node, method: &str, before: u64, log: impl Fn() -> String) {
    let asked = async {
        while node.rpc_counters().get(method).copied().unwrap_or_default() <= before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(LIMIT, asked).await.is_ok(), "{method} is not called\n{}", log());
}

/// Starts a process and kills it at that moment.
async fn kill_at(net: &Net, moment: Moment) {
    let para = net.devnet.para();
    let held = match moment {
        Moment::Taken => "system_accountNextIndex",
        Moment::Signed | Moment::InBlock => SUBMIT,
    };
    let before = para.rpc_counters().get(held).copied().unwrap_or_default();
    if !matches!(moment, Moment::InBlock) {
        para.faults().hold(held);
    }
    let mut prb = net.process();
    until_asked(para, held, before, || net.log_tail()).await;
    if matches!(moment, Moment::InBlock) {
        para.inject(&"finality-lag=1000".parse().unwrap());
        let mut best = para.subscribe_best();
        for _ in 0..2 {
            timeout(LIMIT, best.changed()).await.unwrap().unwrap();
        }
    }
    assert!(prb.is_running(), "{moment:?}: it ended by itself:\n{}", net.log_tail());
    prb.kill();
    para.faults().release(held);
    para.inject(&"finality-lag=0".parse().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_twenty_times_workers_become_active_and_nothing_is_done_twice() {
    let config = prb_devnet::Config { pools: 2, history: 600, ..chain() };
    let net = Net::start(config, WORKERS).await;
    let mut random = StdRng::seed_from_u64(20);
    for kill in 0..KILLS {
        let mut prb = net.process();
        // Some die while they open the store, some during the sync, some with transactions in flight.
        let life = Duration::from_millis(random.random_range(50..5_000));
        tokio::time::sleep(life).await;
        assert!(prb.is_running(), "it ended by itself:\n{}", net.log_tail());
        prb.kill();
        // Early, so that there is still something to send.
        match kill {
            1 => kill_at(&net, Moment::Taken).await,
            2 => kill_at(&net, Moment::Signed).await,
            3 => kill_at(&net, Moment::InBlock).await,
            _ => {}
        }
    }
    // All workers may be active already, due to an earlier process.
    let before = net.log().matches("Got my peer id").count();
    let mut prb = net.process();
    net.until_up(before + 1, Duration::from_secs(60)).await;
    net.until_active(0..WORKERS as usize, LIMIT).await;
    net.assert_done_once();
    prb.signal("TERM");
    assert_eq!(prb.wait(Duration::from_secs(5)).await, Some(0));
    let data = net.dir.path().join("data");
    let verified = Command::new(env!("CARGO_BIN_EXE_prb"))
        .args(["store", "verify", "--data"])
        .arg(data)
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    net.shutdown().await;
}
