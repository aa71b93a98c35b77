//! Jobs per second from enqueue to completed, ours and bee-queue's own in the same run, on a redis-server of
//! the benchmark's own. Needs redis-server, node and the packages of `tests/js`.
//!
//! `cargo bench -p prb-queue`
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use prb_core::{
    conformance::queue::job,
    primitives::ParaNumber,
    queue::{CallOutcome, JobOutcome, JobQueue},
};
use prb_queue::redis::{Config, RedisQueue};
use support::{Server, fresh_name};

/// Rounds; the median counts.
const ROUNDS: usize = 2;

struct Case {
    consumers: usize,
    in_flight: usize,
    jobs: usize,
}

fn main() {
    // `cargo test --benches` only checks that it builds.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let runtime = if std::env::var_os("CT").is_some() {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    } else {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    };
    let only_ours = std::env::args().any(|arg| arg == "ours");
    println!("jobs/s enqueue -> completed, median of {ROUNDS} (p50 of a job)");
    for case in [
        Case { consumers: 1, in_flight: 1, jobs: 3_000 },
        Case { consumers: 1, in_flight: 1_000, jobs: 10_000 },
        Case { consumers: 1_000, in_flight: 1_000, jobs: 40_000 },
    ] {
        let (mut ours, mut one, mut two) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(runtime.block_on(measure(&case)));
            if only_ours {
                continue;
            }
            one.push(bee_queue(&case, false));
            two.push(bee_queue(&case, true));
        }
        if only_ours {
            println!("{}/{}: {:?}", case.consumers, case.in_flight, median(ours));
            continue;
        }
        let (ours, one, two) = (median(ours), median(one), median(two));
        let ratio = ours.0 / one.0.max(two.0);
        println!(
            "consumers {:>5}, in flight {:>5}: prb-queue {:>7.0} ({:.2} ms), bee-queue {:>6.0} ({:.2} ms), \
             in two processes {:>6.0} ({:.2} ms): {ratio:.1}x",
            case.consumers, case.in_flight, ours.0, ours.1, one.0, one.1, two.0, two.1
        );
    }
}

fn median(mut figures: Vec<(f64, f64)>) -> (f64, f64) {
    figures.sort_by(|a, b| a.0.total_cmp(&b.0));
    figures[figures.len() / 2]
}

async fn measure(case: &Case) -> (f64, f64) {
    let server = Server::start();
    let config = Config { name: fresh_name(), ..server.config() };
    let consumer = RedisQueue::start(config.clone()).unwrap();
    let producer = RedisQueue::start(config).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..case.consumers {
        let queue = consumer.clone();
        tasks.spawn(async move {
            loop {
                let lease = queue.lease(Duration::from_secs(30)).await.unwrap();
                let calls = vec![CallOutcome::Done];
                let outcome = JobOutcome { calls, block: ParaNumber(1), extrinsic: None };
                queue.complete(lease.id, lease.token, outcome).await.unwrap();
            }
        });
    }
    run(&producer, case.in_flight, case.jobs / 10).await;
    let start = Instant::now();
    let mut latencies = run(&producer, case.in_flight, case.jobs).await;
    let secs = start.elapsed().as_secs_f64();
    latencies.sort_unstable();
    if std::env::var_os("STATS").is_some() {
        let info: String = server.command("INFO all").await;
        for line in info.lines().filter(|l| {
            l.contains("cmdstat_eval")
                || l.contains("used_cpu_")
                || l.contains("cmdstat_blmove")
                || l.contains("total_commands")
        }) {
            println!("{line}");
        }
        println!("secs {secs}");
    }
    (case.jobs as f64 / secs, latencies[latencies.len() / 2].as_secs_f64() * 1e3)
}

async fn run(queue: &RedisQueue, in_flight: usize, jobs: usize) -> Vec<Duration> {
    let left = Arc::new(AtomicUsize::new(jobs));
    let mut lanes = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let (queue, left) = (queue.clone(), left.clone());
        lanes.spawn(async move {
            let mut latencies = Vec::new();
            let take = |n: usize| n.checked_sub(1);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                let start = Instant::now();
                queue.submit(job(7, 0)).await.unwrap().outcome().await.unwrap();
                latencies.push(start.elapsed());
            }
            latencies
        });
    }
    let mut latencies = Vec::new();
    while let Some(lane) = lanes.join_next().await {
        latencies.extend(lane.unwrap());
    }
    latencies
}

fn bee_queue(case: &Case, two_processes: bool) -> (f64, f64) {
    let server = Server::start();
    let node = |role: &str| {
        let mut command = Command::new("node");
        command.arg(support::javascript().join("bench.js")).arg(server.port.to_string()).arg("bench");
        command.args([case.consumers, case.in_flight, case.jobs].map(|n| n.to_string())).arg(role);
        command
    };
    let mut worker = two_processes.then(|| {
        use std::io::{BufRead, BufReader};
        let mut worker = node("worker").stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(worker.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        worker
    });
    let output = node(if two_processes { "producer" } else { "" }).output().unwrap();
    if let Some(worker) = &mut worker {
        worker.kill().unwrap();
        worker.wait().unwrap();
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figure: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |name: &str| figure[name].as_f64().unwrap();
    (number("jobs") / number("secs"), number("p50Ms"))
}
