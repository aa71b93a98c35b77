//! `prb all` killed at any time, as by `kill -9` or for memory, continues from its stored state, and does nothing twice.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

use std::{
    process::Command,
    time::{Duration, Instant},
};

use prb_devnet::{Node, runtime::para::Operation, truth};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::timeout;

#[allow(dead_code)]
#[path = "api/client.rs"]
mod client;
mod support;
use client::Client;
use support::{EXIT_LIMIT, Net, chain, ports::free_port};

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
        let life = Duration::from_millis(random.random_range(50..3_000));
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
    assert_eq!(prb.wait(EXIT_LIMIT).await, Some(0));
    let data = net.dir.path().join("data");
    let verified = Command::new(env!("CARGO_BIN_EXE_prb"))
        .args(["store", "verify", "--data"])
        .arg(data)
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    net.shutdown().await;
}

/// Waits until the API shows a worker as wanted.
async fn until(net: &Net, api: &Client, worker: &str, what: &str, met: impl Fn(&Value) -> bool) {
    let start = Instant::now();
    loop {
        let shown = api.get(&format!("/workers/{worker}")).await.body;
        if met(&shown) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(90), "{what}: {shown}\n{}", net.log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_workers_stay_stopped_after_a_kill_and_with_a_new_name_and_address() {
    let config = prb_devnet::Config { pools: 1, history: 0, cool_down_secs: 5, ..chain() };
    let net = Net::start(config, WORKERS).await;
    let (listen, ops) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let further = ["--api-listen", &listen, "--ops-listen", &ops, "--queue-page-listen", "none"];
    let mut prb = net.process_with(&further);
    net.until_active(0..WORKERS as usize, Duration::from_secs(90)).await;
    let token = std::fs::read_to_string(net.dir.path().join("data/api-token")).unwrap().trim().to_owned();
    let api = Client { address: listen.parse().unwrap(), token: Some(token) };
    let stop = api.post("/commands/stop", json!({ "workers": ["*"] })).await;
    prb.kill();
    let stop = stop.is(200).body;
    assert_eq!((&stop["taken"], &stop["not_stored"]), (&json!(WORKERS), &Value::Null), "{stop}");

    let mut prb = net.process_with(&further);
    let start = Instant::now();
    while tokio::net::TcpStream::connect(api.address).await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(60), "the API is not up\n{}", net.log_tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for worker in 0..WORKERS {
        let goal = api.get(&format!("/workers/w{worker}")).await.is(200).body["goal"].clone();
        assert!(
            goal == "stop" || goal == "stay-stopped",
            "the stop of w{worker} is lost: its goal is {goal}"
        );
    }
    for worker in 0..WORKERS {
        let stopped = |w: &Value| w["on_chain"]["session"]["state"] == "WorkerCoolingDown";
        until(&net, &api, &format!("w{worker}"), "it stops", stopped).await;
    }
    api.post("/commands/reclaim", json!({ "workers": ["*"] })).await.is(200);
    for worker in 0..WORKERS {
        until(&net, &api, &format!("w{worker}"), "reclaimed", |w| w["reason"] == "stopped").await;
    }

    let file = std::fs::read_to_string(net.fleet()).unwrap();
    std::fs::write(net.fleet(), file.replace("name = \"w", "name = \"x").replace("127.0.0.1", "localhost"))
        .unwrap();
    prb.signal("HUP");
    for worker in 0..WORKERS {
        let seen = |w: &Value| w["public_key"].is_string() && w["reason"] == "stopped";
        until(&net, &api, &format!("x{worker}"), "it is seen", seen).await;
    }
    let kept = net.log().matches("is back and keeps its goal").count();
    assert_eq!(kept, WORKERS as usize, "{}", net.log_tail());
    let operations = truth::operations(net.devnet.para()).unwrap();
    let starts =
        operations.iter().filter(|(_, operation)| matches!(operation, Operation::Started(_))).count();
    assert_eq!(starts, WORKERS as usize, "one start of each");
    prb.signal("TERM");
    assert_eq!(prb.wait(EXIT_LIMIT).await, Some(0));
    net.shutdown().await;
}
