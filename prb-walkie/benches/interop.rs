//! Benchmark of calls between our node and the JavaScript peer of the interoperability tests, in both
//! directions, on a kept connection and with a connection per call; and of small blobs. Ours to ours and
//! JavaScript to JavaScript are the baselines. `SECONDS` is the duration of each row.
#![allow(missing_docs, dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use prb_walkie::{
    blob::{
        client::{Bounds, Client as BlobClient, Config as BlobConfig},
        server::{Config as ServerConfig, Server},
    },
    node::Node,
    proto::{Role, data_provider::Info},
    rpc::{Client, Handlers, calls},
};
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

#[path = "../tests/interop/js.rs"]
mod js;
#[path = "../tests/interop/ours.rs"]
mod ours;

use js::{Peer, Tool};

const METHOD: &str = "GetDataProviderInfo";
const PARALLEL: [usize; 2] = [1, 32];
const KEY: &str = "pattern:1024";

/// Duration of each row.
fn seconds() -> u64 {
    std::env::var("SECONDS").map_or(5, |seconds| seconds.parse().expect("SECONDS is a number"))
}

/// Prints a row from the durations of all calls.
fn row(what: &str, parallel: usize, mut times: Vec<Duration>, elapsed: Duration) {
    times.sort_unstable();
    let at =
        |share: f64| times[((times.len() as f64 * share) as usize).min(times.len() - 1)].as_secs_f64() * 1e3;
    let rate = times.len() as f64 / elapsed.as_secs_f64();
    println!(
        "{what:<52} {parallel:>3} {rate:>10.1}/s   median {:>8.3} ms   p99 {:>8.3} ms",
        at(0.5),
        at(0.99)
    );
}

/// Prints a row measured by a JavaScript tool.
fn js_row(what: &str, parallel: usize, figures: &Value) {
    let number = |name: &str| figures[name].as_f64().unwrap();
    let (rate, median, p99) = (number("perSecond"), number("medianMs"), number("p99Ms"));
    println!("{what:<52} {parallel:>3} {rate:>10.1}/s   median {median:>8.3} ms   p99 {p99:>8.3} ms");
}

/// Runs `once` repeatedly in `parallel` lanes.
async fn measure<F: Future<Output = ()>>(what: &str, parallel: usize, once: impl Fn() -> F) {
    once().await;
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds());
    let lanes = (0..parallel).map(|_| async {
        let mut times = Vec::new();
        while Instant::now() < end {
            let before = Instant::now();
            once().await;
            times.push(before.elapsed());
        }
        times
    });
    let times = futures::future::join_all(lanes).await.concat();
    row(what, parallel, times, start.elapsed());
}

async fn serving() -> Node {
    let info = Info { para_id: 2035, blob_server_port: 8012, ..Info::default() };
    let handlers = Handlers::new().on(calls::GetDataProviderInfo, move |_, _| async move { Ok(info) });
    ours::start(Role::DataProviderInt, |config| config.handlers = handlers).await
}

/// Returns a node that has met the peer at `address` and dials nobody by itself afterwards.
async fn calling(address: &str, peer_id: &str) -> (Node, Client) {
    let node = ours::start(Role::Client, |config| {
        config.boot_nodes = vec![address.parse().unwrap()];
        let rest = Duration::from_secs(3600);
        config.limits.redial.first = rest;
        config.limits.redial.max = rest;
    })
    .await;
    ours::peer(&node, peer_id, "known", |_| true).await;
    let client = node.client(peer_id.parse().unwrap());
    (node, client)
}

async fn ask(client: &Client) {
    client.data_provider_info().await.unwrap();
}

async fn our_calls(what: &str, address: &str, peer_id: &str) {
    let (node, client) = calling(address, peer_id).await;
    for parallel in PARALLEL {
        measure(&format!("{what}, kept connection"), parallel, || ask(&client)).await;
    }
    // The node also sends Hello beside the call.
    measure(&format!("{what}, connection per call"), 1, || async {
        node.disconnect(client.peer()).await;
        ask(&client).await;
    })
    .await;
}

async fn their_calls(what: &str, address: &str) {
    for (how, parallels) in [("kept connection", [1, 32]), ("connection per call", [1, 8])] {
        for parallel in parallels {
            let (lanes, seconds) = (parallel.to_string(), seconds().to_string());
            let mut args = vec!["bench", "--addr", address, "--method", METHOD];
            args.extend(["--parallel", &lanes, "--seconds", &seconds]);
            if how == "connection per call" {
                args.push("--fresh");
            }
            let figures = Tool::run("peer.js", &args).await;
            js_row(&format!("{what}, {how}"), parallel, &figures[0]);
        }
    }
}

async fn our_blobs(what: &str, port: u16) {
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let client = BlobClient::start(address, "bench", BlobConfig::default());
    let bounds = Bounds { max_bytes: 1 << 20, timeout: Duration::from_secs(60) };
    for parallel in PARALLEL {
        let once = || async { assert_eq!(client.get(KEY, bounds).await.unwrap().unwrap().len(), 1024) };
        measure(what, parallel, once).await;
    }
}

async fn their_blobs(what: &str, port: u16) {
    for parallel in PARALLEL {
        let (port, lanes, seconds) = (port.to_string(), parallel.to_string(), seconds().to_string());
        let args = ["--port", &port, "--bench", "--in-flight", &lanes, "--seconds", &seconds, KEY];
        js_row(what, parallel, &Tool::run("blob-client.js", &args).await[0]);
    }
}

async fn calls_both_ways() {
    let node = serving().await;
    let (our_address, our_id) = (ours::address(&node), node.peer_id().to_string());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, r#"{"GetDataProviderInfo":{"paraId":2035,"blobServerPort":8012}}"#).unwrap();
    let theirs = Peer::start(&["--shy", "--quiet", "--answers", file.path().to_str().unwrap()]).await;

    our_calls("ours to ours", &our_address, &our_id).await;
    our_calls("ours to JavaScript", &theirs.address, &theirs.peer_id).await;
    their_calls("JavaScript to ours", &our_address).await;
    their_calls("JavaScript to JavaScript", &theirs.address).await;
}

async fn blobs_both_ways() {
    let bind =
        Server::bind("127.0.0.1:0".parse().unwrap(), Arc::new(ours::Patterns), ServerConfig::default());
    let server = bind.await.unwrap();
    let our_port = server.local_addr().port();
    let _server = AbortOnDropHandle::new(tokio::spawn(server.run(CancellationToken::new())));
    let mut tool = Tool::start("blob-server.js", &["--quiet"]);
    let their_port = u16::try_from(tool.event("listening").await["port"].as_u64().unwrap()).unwrap();

    our_blobs("blob of 1 KiB, ours from ours", our_port).await;
    our_blobs("blob of 1 KiB, ours from JavaScript", their_port).await;
    their_blobs("blob of 1 KiB, JavaScript from ours", our_port).await;
    their_blobs("blob of 1 KiB, JavaScript from JavaScript", their_port).await;
}

#[tokio::main]
async fn main() {
    println!("{:<52} {:>3}", "", "in parallel");
    calls_both_ways().await;
    blobs_both_ways().await;
}
