//! Benchmark of calls per second and their 99th percentile between two of our nodes on loopback: on a kept
//! connection with 1 and 32 calls in flight, and with a connection per call, as originals do.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prb_walkie::{
    identity::Identity,
    node::{Config, Node},
    proto::{Role, data_provider::Info},
    rpc::{Client, Handlers, calls},
};
use tokio::{runtime::Runtime, task::JoinSet};

fn config(role: Role) -> Config {
    let mut config = Config::new(Identity::generate().unwrap(), role);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.mdns = false;
    config
}

/// A data provider, and a client that knows it.
async fn pair() -> (Node, Node) {
    let mut provider = config(Role::DataProviderInt);
    provider.handlers = Handlers::new().on(calls::GetDataProviderInfo, |_, _| async {
        Ok(Info { blob_server_port: 8012, ..Info::default() })
    });
    let provider = Node::start(provider).await.unwrap();
    let mut caller = config(Role::Client);
    let at = format!("{}/p2p/{}", provider.listen_addresses()[0], provider.peer_id());
    caller.boot_nodes = vec![at.parse().unwrap()];
    (provider, Node::start(caller).await.unwrap())
}

async fn timed(client: &Client) -> Duration {
    let started = Instant::now();
    client.data_provider_info().await.unwrap();
    started.elapsed()
}

/// Makes `calls` calls, `at_a_time` concurrently; returns their durations.
async fn kept(client: &Client, calls: u64, at_a_time: u64) -> Vec<Duration> {
    let mut lanes = JoinSet::new();
    for lane in 0..at_a_time {
        let (client, share) = (client.clone(), calls / at_a_time + u64::from(lane < calls % at_a_time));
        lanes.spawn(async move {
            let mut times = Vec::new();
            for _ in 0..share {
                times.push(timed(&client).await);
            }
            times
        });
    }
    lanes.join_all().await.concat()
}

async fn one_each(node: &Node, client: &Client, calls: u64) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..calls {
        let started = Instant::now();
        client.data_provider_info().await.unwrap();
        node.disconnect(client.peer()).await;
        times.push(started.elapsed());
    }
    times
}

fn show(name: &str, mut times: Vec<Duration>, took: Duration) {
    times.sort_unstable();
    let p99 = times[(times.len() - 1) * 99 / 100];
    println!(
        "{name}: {:.0} calls/s, p99 {p99:?}, {} calls",
        times.len() as f64 / took.as_secs_f64(),
        times.len()
    );
}

fn calls(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let (provider, caller) = runtime.block_on(pair());
    let client = caller.client(provider.peer_id());
    runtime.block_on(timed(&client));
    let mut group = c.benchmark_group("rpc");
    group.throughput(Throughput::Elements(1)).sample_size(20).measurement_time(Duration::from_secs(5));
    for at_a_time in [1, 32] {
        let (mut all, mut took) = (Vec::new(), Duration::ZERO);
        group.bench_function(format!("kept connection, {at_a_time} in flight"), |b| {
            b.iter_custom(|calls| {
                let started = Instant::now();
                let times = runtime.block_on(kept(&client, calls, at_a_time));
                let elapsed = started.elapsed();
                took += elapsed;
                all.extend(times);
                elapsed
            });
        });
        show(&format!("kept connection, {at_a_time} in flight"), all, took);
    }
    let (mut all, mut took) = (Vec::new(), Duration::ZERO);
    group.bench_function("a connection for each call", |b| {
        b.iter_custom(|calls| {
            let started = Instant::now();
            all.extend(runtime.block_on(one_each(&caller, &client, calls)));
            let elapsed = started.elapsed();
            took += elapsed;
            elapsed
        });
    });
    show("a connection for each call", all, took);
    group.finish();
    runtime.block_on(async {
        caller.stop(Duration::from_secs(1)).await;
        provider.stop(Duration::from_secs(1)).await;
    });
}

criterion_group!(benches, calls);
criterion_main!(benches);
