//! Benchmark: jobs per second from submission to completion, of this crate and of bee-queue in the same run,
//! on a private redis-server. Needs redis-server, node and the packages of `tests/js`.
//!
//! `cargo bench -p prb-queue [-- WORDS]` runs only the cases whose name contains one of the words, such as
//! `1/1000` (consumers and jobs in flight) or `bee-queue`.
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
use prb_queue::redis::RedisQueue;
use support::{Server, fresh_name};

/// Duration of the consumers' leases.
const TTL: Duration = Duration::from_secs(30);
/// Number of rounds; the median is reported.
const ROUNDS: usize = 3;

struct Case {
    consumers: usize,
    in_flight: usize,
    jobs: usize,
}

/// The result of one case.
#[derive(Clone, Copy, Default)]
struct Figure {
    jobs_per_sec: f64,
    p50_ms: f64,
    /// CPU time of each job, of the programs and of redis-server: more reliable than wall time on a busy machine.
    cpu_us: f64,
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { jobs_per_sec, p50_ms, cpu_us } = self;
        write!(f, "{jobs_per_sec:>7.0}/s (p50 {p50_ms:.2} ms, CPU {cpu_us:.0} us)")
    }
}

type Bench = fn(&Case) -> Figure;

const BENCHES: [(&str, Bench); 4] = [
    ("prb-queue, one thread", |case| in_runtime(tokio::runtime::Builder::new_current_thread(), case)),
    ("prb-queue, two threads", |case| in_runtime(tokio::runtime::Builder::new_multi_thread(), case)),
    ("bee-queue", |case| bee_queue(case, false)),
    ("bee-queue, two processes (CPU of one)", |case| bee_queue(case, true)),
];

fn main() {
    // `cargo test --benches` only checks that it builds.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let words: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    println!("jobs enqueue -> completed, median of {ROUNDS}");
    for case in [
        Case { consumers: 1, in_flight: 1, jobs: 3_000 },
        Case { consumers: 1, in_flight: 1_000, jobs: 10_000 },
        Case { consumers: 1_000, in_flight: 1_000, jobs: 40_000 },
    ] {
        let named =
            BENCHES.map(|(name, bench)| (format!("{}/{} {name}", case.consumers, case.in_flight), bench));
        let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
        let mut lines: Vec<_> =
            named.into_iter().filter(|(name, _)| wanted(name)).map(|line| (line, Vec::new())).collect();
        for _ in 0..ROUNDS {
            for ((_, bench), figures) in &mut lines {
                figures.push(bench(&case));
            }
        }
        for ((name, _), figures) in lines {
            println!("{name:<50} {}", median(figures));
        }
    }
}

fn in_runtime(mut builder: tokio::runtime::Builder, case: &Case) -> Figure {
    builder.worker_threads(2).enable_all().build().unwrap().block_on(measure(case))
}

fn median(mut figures: Vec<Figure>) -> Figure {
    figures.sort_by(|a, b| a.jobs_per_sec.total_cmp(&b.jobs_per_sec));
    figures[figures.len() / 2]
}

/// CPU time of this process so far, in microseconds, measured in ticks of 10 ms.
fn own_cpu_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10_000.0
}

fn redis_cpu_us(info: &str) -> f64 {
    let number = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse::<f64>().unwrap() * 1e6
    };
    number("used_cpu_sys:") + number("used_cpu_user:")
}

async fn measure(case: &Case) -> Figure {
    let server = Server::start();
    let config = server.config().with_name(fresh_name());
    let consumer = RedisQueue::start(config.clone()).unwrap();
    let producer = RedisQueue::start(config).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..case.consumers {
        let queue = consumer.clone();
        tasks.spawn(async move {
            let mut lease = queue.lease(TTL).await.unwrap();
            loop {
                // A consumer has one job at a time and reports its end while it fetches the next one, as a trader does.
                let outcome = JobOutcome {
                    calls: vec![CallOutcome::Done],
                    block: ParaNumber(1),
                    extrinsic: None,
                    fee: None,
                };
                let complete = queue.complete(lease.id, lease.token, outcome);
                let (completed, next) = tokio::join!(complete, queue.lease(TTL));
                completed.unwrap();
                lease = next.unwrap();
            }
        });
    }
    run(&producer, case.in_flight, case.jobs / 10).await;
    let cpu = own_cpu_us() + redis_cpu_us(&server.command::<String>("INFO cpu").await);
    let start = Instant::now();
    let mut latencies = run(&producer, case.in_flight, case.jobs).await;
    let secs = start.elapsed().as_secs_f64();
    let cpu = own_cpu_us() + redis_cpu_us(&server.command::<String>("INFO cpu").await) - cpu;
    latencies.sort_unstable();
    Figure {
        jobs_per_sec: case.jobs as f64 / secs,
        p50_ms: latencies[latencies.len() / 2].as_secs_f64() * 1e3,
        cpu_us: cpu / case.jobs as f64,
    }
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

fn bee_queue(case: &Case, two_processes: bool) -> Figure {
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let info: String = runtime.block_on(server.command("INFO cpu"));
    // Includes the warm-up rounds, a tenth more jobs.
    let redis = redis_cpu_us(&info) / (number("jobs") * 1.1);
    Figure {
        jobs_per_sec: number("jobs") / number("secs"),
        p50_ms: number("p50Ms"),
        cpu_us: number("cpuUs") + redis,
    }
}
