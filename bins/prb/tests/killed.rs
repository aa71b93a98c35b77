//! `prb all` killed at any time continues from its stored state, and does nothing twice.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::time::{Duration, Instant};

use prb_devnet::{runtime::para::Operation, truth};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

#[allow(dead_code)]
#[path = "api/client.rs"]
mod client;
mod support;
use client::Client;
use support::{Net, chain, ports::free_port};

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
    assert_eq!(prb.wait(Duration::from_secs(6)).await, Some(0));
    net.shutdown().await;
}
