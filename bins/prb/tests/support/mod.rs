//! A devnet with workers, and a `prb all` on it: as a process that can be killed, or in this process.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, unreachable_pub)]

use std::{
    collections::HashMap,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use clap::Parser;
use prb::{
    all::Bridge,
    config::{self, AllArgs, Cli},
};
use prb_devnet::{
    Config, Devnet, Pool,
    runtime::{para::Operation, types::WorkerState},
    truth,
    worker::{self, WorkerConfig, WorkerHandle},
};
use tempfile::TempDir;

pub mod daemons;
pub mod disk_faults;
pub mod forward;
pub mod load;
pub mod namespaces;
#[path = "../../../../prb-queue/tests/support/ports.rs"]
pub mod ports;
pub mod redis;

/// The stake of a worker: 100 PHA.
pub const STAKE: u128 = 100_000_000_000_000;

/// How long a daemon may take to end after a signal: five seconds, and what a busy machine adds.
pub const EXIT_LIMIT: Duration = Duration::from_secs(6);

/// A devnet, its workers, and a folder for the bridge.
pub struct Net {
    pub devnet: Devnet,
    /// Further nodes of the same chains, used before the devnet's own.
    pub others: Vec<Devnet>,
    pub workers: Vec<WorkerHandle>,
    pub dir: TempDir,
}

/// A fleet file's worker.
pub struct Entry {
    pub worker: usize,
    pub pid: u64,
    pub stake: u128,
}

/// Chain settings of most tests: ten blocks in three seconds, so that authority sets and history are crossed
/// in seconds.
pub fn chain() -> Config {
    Config { history: 300, block_ms: 300, set_length: 40, changes_per_block: 20, ..Config::default() }
}

impl Net {
    pub async fn start(config: Config, workers: u32) -> Self {
        let devnet = Devnet::start(config).await.unwrap();
        devnet.spawn_ticker().await;
        Self::of(devnet, Vec::new(), workers).await
    }

    /// The same with workers that listen at an address.
    pub async fn start_at(config: Config, workers: u32, ip: IpAddr) -> Self {
        let devnet = Devnet::start(config).await.unwrap();
        devnet.spawn_ticker().await;
        Self::of_at(devnet, Vec::new(), workers, ip).await
    }

    /// Creates it on chains without new blocks.
    pub async fn of(devnet: Devnet, others: Vec<Devnet>, workers: u32) -> Self {
        Self::of_at(devnet, others, workers, Ipv4Addr::LOCALHOST.into()).await
    }

    async fn of_at(devnet: Devnet, others: Vec<Devnet>, workers: u32, ip: IpAddr) -> Self {
        let config = WorkerConfig { listen: SocketAddr::new(ip, 0), ..WorkerConfig::new("test", 0) };
        let workers = worker::spawn_like(&config, workers, 0).await.unwrap();
        let net = Self { devnet, others, workers, dir: TempDir::new().unwrap() };
        let pools = net.devnet.pools().len();
        let entries = (0..net.workers.len()).map(|worker| Entry {
            worker,
            pid: net.devnet.pools()[worker % pools].pid,
            stake: STAKE,
        });
        net.write_fleet(&net.pools_toml(), entries);
        net
    }

    /// Formats all pools for a fleet file.
    pub fn pools_toml(&self) -> String {
        self.devnet.pools().iter().map(|pool| pool_toml(pool, Some(&pool.mnemonic))).collect()
    }

    pub fn write_fleet(&self, pools: &str, workers: impl IntoIterator<Item = Entry>) {
        let mut text = pools.to_owned();
        for Entry { worker, pid, stake } in workers {
            let endpoint = self.workers[worker].endpoint();
            writeln!(
                text,
                "[[workers]]\nname = \"w{worker}\"\npid = {pid}\nendpoint = \"{endpoint}\"\nstake = \"{stake}\"\n"
            )
            .unwrap();
        }
        std::fs::write(self.fleet(), text).unwrap();
        // The file has mnemonics: a daemon warns of other permissions.
        std::fs::set_permissions(self.fleet(), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub fn fleet(&self) -> PathBuf {
        self.dir.path().join("fleet.toml")
    }

    fn urls(&self, url: fn(&Devnet) -> String) -> String {
        let all: Vec<_> = self.others.iter().chain([&self.devnet]).map(url).collect();
        all.join(",")
    }

    fn arguments(&self) -> Vec<String> {
        [
            "all",
            "--parent-chain-endpoint",
            &self.urls(|devnet| devnet.relay().url()),
            "--chain-endpoint",
            &self.urls(|devnet| devnet.para().url()),
            "--data",
            self.dir.path().join("data").to_str().unwrap(),
            "--fleet",
            self.fleet().to_str().unwrap(),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Starts `prb all` in this process, without a fleet file and with further arguments.
    pub async fn bridge_of_inventory(&self, further: &[&str]) -> Bridge {
        let mut args = self.arguments();
        let fleet = args.iter().position(|arg| arg == "--fleet").unwrap();
        args.drain(fleet..=fleet + 1);
        let args =
            std::iter::once("prb".to_owned()).chain(args).chain(further.iter().map(|arg| (*arg).to_owned()));
        let config::Command::All(args) = Cli::try_parse_from(args).unwrap().command else { unreachable!() };
        Bridge::start(&args).await.unwrap()
    }

    /// Starts `prb all` in this process.
    pub async fn bridge(&self) -> Bridge {
        let args = self.arguments();
        let cli = Cli::try_parse_from(std::iter::once("prb".to_owned()).chain(args)).unwrap();
        let config::Command::All(args) = cli.command else { unreachable!() };
        let args: AllArgs = *args;
        Bridge::start(&args).await.unwrap()
    }

    /// Starts `prb all` as a process; its output is in the folder for diagnosis.
    pub fn process(&self) -> Process {
        self.process_with(&[])
    }

    /// The same with further arguments.
    pub fn process_with(&self, further: &[&str]) -> Process {
        let path = self.dir.path().join("log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_prb"))
            .args(self.arguments())
            .args(further)
            .env("PHALA_LOGGER_LEVEL", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Process(child)
    }

    /// Returns the process's output.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits until that many processes have started: each logged its peer id and handles signals.
    pub async fn until_up(&self, times: usize, limit: Duration) {
        let start = Instant::now();
        while self.log().matches("Got my peer id").count() < times {
            assert!(start.elapsed() < limit, "not up within {limit:?}\n{}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the end of the process's output.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Returns whether chain and worker agree that the worker computes at the tip.
    pub fn is_active(&self, worker: usize) -> bool {
        let worker = &self.workers[worker];
        let truth = truth::worker(self.devnet.para(), worker.public_key().0).unwrap();
        truth.session == Some(WorkerState::WorkerIdle)
            && worker.info().blocknum + 2 > self.devnet.para().finalized_number()
    }

    /// Waits until the workers compute at the tip.
    pub async fn until_active(&self, workers: impl IntoIterator<Item = usize>, limit: Duration) {
        let start = Instant::now();
        let workers: Vec<_> = workers.into_iter().collect();
        while !workers.iter().all(|w| self.is_active(*w)) {
            if start.elapsed() > limit {
                let mut report = String::new();
                for worker in &workers {
                    let handle = &self.workers[*worker];
                    let truth = truth::worker(self.devnet.para(), handle.public_key().0).unwrap();
                    writeln!(report, "w{worker}: next block {}, {truth:?}", handle.info().blocknum).unwrap();
                }
                let tip = self.devnet.para().finalized_number();
                panic!("not active within {limit:?}, tip {tip}\n{report}\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Checks that nothing was done twice for any worker: one registration, one addition to the pool, one start.
    pub fn assert_done_once(&self) {
        let mut counts = HashMap::<([u8; 32], &str), u32>::new();
        for (_, operation) in truth::operations(self.devnet.para()).unwrap() {
            let (worker, what) = match operation {
                Operation::Registered(worker) => (worker, "registered"),
                Operation::Added(worker) => (worker, "added"),
                Operation::Started(worker) => (worker, "started"),
                Operation::Restarted(worker) => (worker, "restarted"),
                Operation::Stopped(worker) => (worker, "stopped"),
                Operation::Delivered { .. } => continue,
            };
            *counts.entry((worker.0, what)).or_default() += 1;
        }
        for worker in &self.workers {
            let key = worker.public_key().0;
            let count = |what| counts.get(&(key, what)).copied().unwrap_or_default();
            let done = ["registered", "added", "started", "restarted", "stopped"].map(count);
            assert_eq!(done, [1, 1, 1, 0, 0], "worker {}", worker.index());
            assert_eq!(worker.overlapping_calls(), 0, "worker {}", worker.index());
        }
    }

    pub async fn shutdown(self) {
        for worker in self.workers {
            worker.shutdown().await;
        }
        for devnet in self.others {
            devnet.shutdown().await;
        }
        self.devnet.shutdown().await;
    }
}

/// Formats a pool for a fleet file.
pub fn pool_toml(pool: &Pool, mnemonic: Option<&str>) -> String {
    let operator = mnemonic.map(|m| format!("operator = \"{m}\"\n")).unwrap_or_default();
    format!("[[pools]]\npid = {}\n{operator}\n", pool.pid)
}

/// A child process; killed when dropped.
pub struct Process(Child);

impl Process {
    pub fn of(child: Child) -> Self {
        Self(child)
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end; returns the exit code.
    pub async fn wait(&mut self, limit: Duration) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < limit, "still running after {limit:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
