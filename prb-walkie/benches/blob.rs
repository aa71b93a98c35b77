//! Benchmark of blobs over loopback: server and client of this crate against raw TCP with the same sizes.
//!
//! `cargo bench -p prb-walkie --bench blob`. Each line of the table is one number of clients and one size;
//! the ratios are bytes per second, and bytes per second of CPU time, relative to a raw stream on as many
//! connections in the same run. Raw streams have no checksums and requests and discard the payload.
//! Criterion's own figures follow.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    hint::black_box,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use criterion::{Criterion, Throughput};
use futures::future::join_all;
use prb_core::blob::Error;
use prb_walkie::blob::{
    Lookup,
    client::{self, Bounds, Client},
    server::{self, Server},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_util::sync::CancellationToken;

const SIZES: [usize; 3] = [1 << 10, 64 << 10, 1 << 20];
const CLIENTS: [usize; 2] = [1, 8];
/// Requests in flight of one client. For large blobs few, so that what all clients wait for fits the caches.
const fn in_flight(size: usize, clients: usize) -> usize {
    match size {
        0..=1024 => 64,
        1025..=65536 => 16,
        _ if clients == 1 => 16,
        _ => 4,
    }
}

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const BOUNDS: Bounds = Bounds { max_bytes: 2 << 20, timeout: Duration::from_secs(60) };

#[derive(Debug)]
struct Fixed(Vec<Bytes>);

#[async_trait]
impl Lookup for Fixed {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        Ok(key.parse::<usize>().ok().and_then(|i| self.0.get(i)).cloned())
    }

    fn reserve_bytes(&self, key: &str) -> usize {
        key.parse::<usize>().ok().and_then(|i| self.0.get(i)).map_or(0, Bytes::len)
    }
}

async fn serve() -> (SocketAddr, tokio_util::sync::DropGuard) {
    let blobs = SIZES.iter().map(|size| vec![7u8; *size].into()).collect();
    let server = Server::bind(LOOPBACK, Arc::new(Fixed(blobs)), server::Config::default()).await.unwrap();
    let (address, stop) = (server.local_addr(), CancellationToken::new());
    tokio::spawn(server.run(stop.clone()));
    (address, stop.drop_guard())
}

/// Fetches `count` blobs, shared among the clients, each with `in_flight` requests.
async fn fetch(clients: &[Arc<Client>], which: usize, in_flight: usize, count: usize) {
    let key = which.to_string();
    let lanes = clients.len() * in_flight;
    let tasks = (0..clients.len()).map(|i| {
        let (client, key) = (clients[i].clone(), key.clone());
        tokio::spawn(async move {
            join_all((0..in_flight).map(|lane| {
                let (client, key) = (&client, &key);
                async move {
                    for _ in (i * in_flight + lane..count).step_by(lanes) {
                        let blob = client.get(key, BOUNDS).await.unwrap().unwrap();
                        black_box(blob.len());
                    }
                }
            }))
            .await;
        })
    });
    join_all(tasks).await.into_iter().for_each(Result::unwrap);
}

/// Sends `count` times `size` bytes over as many raw streams, back to back.
async fn raw(clients: usize, size: usize, count: usize) {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    let share = count / clients;
    let send = tokio::spawn(async move {
        let mut tasks = Vec::new();
        for _ in 0..clients {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tasks.push(tokio::spawn(async move {
                let blob = vec![7u8; size];
                for _ in 0..share {
                    stream.write_all(&blob).await.unwrap();
                }
            }));
        }
        join_all(tasks).await
    });
    let receive = (0..clients).map(|_| {
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let mut buffer = vec![0; size.max(64 << 10)];
            let mut left = share * size;
            while left > 0 {
                left -= stream.read(&mut buffer).await.unwrap();
            }
        })
    });
    join_all(receive).await.into_iter().for_each(Result::unwrap);
    send.await.unwrap().into_iter().for_each(Result::unwrap);
}

/// CPU time of all threads of this process, which other load on the machine does not affect.
fn cpu() -> Duration {
    let mut nanos = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        nanos += stat.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Duration::from_nanos(nanos)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Prints the table from alternating runs, so that other load affects both alike.
fn ratios(runtime: &Runtime) {
    println!(
        "{:>8} {:>8} {:>12} {:>10} {:>10} {:>6}",
        "clients", "KiB", "blobs/s", "MB/s", "raw MB/s", "ratio"
    );
    let (address, _guard) = runtime.block_on(serve());
    for count in CLIENTS {
        let clients: Vec<_> = runtime.block_on(async {
            (0..count).map(|_| Arc::new(Client::start(address, "bench", config()))).collect()
        });
        for (which, size) in SIZES.into_iter().enumerate() {
            let blobs = (256 << 20) / size.max(8 << 10);
            let time = |future: &mut dyn FnMut()| {
                let (start, used) = (Instant::now(), cpu());
                future();
                (start.elapsed(), cpu() - used)
            };
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..7 {
                ours.push(time(&mut || {
                    runtime.block_on(fetch(&clients, which, in_flight(size, count), blobs))
                }));
                theirs.push(time(&mut || runtime.block_on(raw(count, size, blobs))));
            }
            let rate = |times: Vec<Duration>| (blobs * size) as f64 / median(times).as_secs_f64() / 1e6;
            let ((ours, our_cpu), (theirs, their_cpu)): ((Vec<_>, Vec<_>), (Vec<_>, Vec<_>)) =
                (ours.into_iter().unzip(), theirs.into_iter().unzip());
            let (ours, theirs) = (rate(ours), rate(theirs));
            println!(
                "{count:>8} {:>8} {:>12.0} {ours:>10.0} {theirs:>10.0} {:>6.2} {:>10.2}",
                size >> 10,
                ours * 1e6 / size as f64,
                ours / theirs,
                rate(our_cpu) / rate(their_cpu)
            );
        }
    }
}

fn config() -> client::Config {
    client::Config::default().with_max_in_flight(64)
}

fn main() {
    let runtime = Runtime::new().unwrap();
    // `cargo test` runs benches once to check them; a named benchmark is run alone.
    if std::env::args().skip(1).all(|arg| arg == "--bench") {
        ratios(&runtime);
    }
    let mut criterion = Criterion::default().configure_from_args().sample_size(20);
    let mut group = criterion.benchmark_group("blob");
    let (address, _guard) = runtime.block_on(serve());
    for (which, size) in SIZES.into_iter().enumerate() {
        let client = runtime.block_on(async { Arc::new(Client::start(address, "bench", config())) });
        let clients = [client];
        group.throughput(Throughput::Bytes((64 * size) as u64));
        group.bench_function(format!("64 blobs of {} KiB", size >> 10), |b| {
            b.iter(|| runtime.block_on(fetch(&clients, which, in_flight(size, 1), 64)));
        });
    }
    group.finish();
    criterion.final_summary();
}
