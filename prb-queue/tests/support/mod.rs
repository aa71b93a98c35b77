//! Test support: a private redis-server, and the real bee-queue.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod captured_log;
mod ports;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use ports::free_port;
use prb_queue::redis::{Config, RedisQueue};
use tempfile::TempDir;

/// Longer than anything in these tests takes, even on a busy machine.
pub const LONG: Duration = Duration::from_secs(60);

/// How a server persists its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    None,
    /// Every write is on disk before it is answered.
    AppendOnly,
}

/// A redis-server on its own port and directory; killed on drop.
pub struct Server {
    dir: TempDir,
    pub port: u16,
    persistence: Persistence,
    child: Child,
}

impl Server {
    pub fn start() -> Self {
        Self::with(Persistence::None)
    }

    pub fn with(persistence: Persistence) -> Self {
        Self::of(persistence, &[])
    }

    /// Starts a server with additional arguments.
    pub fn with_arguments(arguments: &[&str]) -> Self {
        Self::of(Persistence::None, arguments)
    }

    fn of(persistence: Persistence, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..20 {
            let port = free_port();
            if let Some(child) = spawn(dir.path(), port, persistence, arguments) {
                return Self { dir, port, persistence, child };
            }
        }
        panic!("no redis-server could be started on 20 ports");
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the server with SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Restarts the server in place with other arguments, without waiting until it answers.
    pub fn restart_with(&mut self, arguments: &[&str]) {
        self.child = command(self.dir.path(), self.port, self.persistence, arguments).spawn().unwrap();
    }

    /// Restarts the server in place.
    pub fn restart(&mut self) {
        let until = Instant::now() + LONG;
        loop {
            if let Some(child) = spawn(self.dir.path(), self.port, self.persistence, &[]) {
                self.child = child;
                return;
            }
            assert!(Instant::now() < until, "redis-server did not start again on port {}", self.port);
        }
    }

    /// Sends a signal: SIGSTOP and SIGCONT simulate a server that hangs.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(LONG));
        client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
    }

    /// Runs a command given as words separated by spaces.
    pub async fn command<T: redis::FromRedisValue>(&self, words: &str) -> T {
        let mut words = words.split_whitespace();
        let mut command = redis::cmd(words.next().unwrap());
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut self.connection().await).await.unwrap()
    }

    pub fn queue(&self) -> RedisQueue {
        RedisQueue::start(self.config()).unwrap()
    }

    pub fn config(&self) -> Config {
        Config::new(self.url())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(dir: &Path, port: u16, persistence: Persistence, arguments: &[&str]) -> Command {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]);
    command.args(arguments).arg("--dir").arg(dir).stdout(Stdio::null()).stderr(Stdio::null());
    match persistence {
        Persistence::None => command.args(["--appendonly", "no"]),
        Persistence::AppendOnly => command.args(["--appendonly", "yes", "--appendfsync", "always"]),
    };
    command
}

/// Returns `None` if the server ended before it answered: the port was taken in the meantime.
fn spawn(dir: &Path, port: u16, persistence: Persistence, arguments: &[&str]) -> Option<Child> {
    let mut command = command(dir, port, persistence, arguments);
    let mut child = command.spawn().unwrap_or_else(|e| {
        panic!("redis-server is missing ({e}); install it: apt-get update && apt-get install -y redis-server")
    });
    let until = Instant::now() + LONG;
    loop {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        if answers(port) {
            return Some(child);
        }
        assert!(Instant::now() < until, "redis-server does not answer on port {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn answers(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut answer = [0; 7];
    stream.write_all(b"PING\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && (&answer == b"+PONG\r\n" || answer.starts_with(b"-NOAUTH"))
}

/// Returns an unused queue name.
pub fn fresh_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("queue{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The directory of the JavaScript programs, with their packages installed.
pub fn javascript() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js");
    let ask = format!("install them: apt-get install -y nodejs npm && npm ci --prefix {}", dir.display());
    assert!(
        Command::new("node").arg("--version").output().is_ok_and(|output| output.status.success()),
        "node is missing; {ask}"
    );
    for package in ["bee-queue", "bull-arena"] {
        assert!(dir.join("node_modules").join(package).is_dir(), "{package} is missing; {ask}");
    }
    dir
}

/// An error with its causes.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Enables logs, shown for failing tests.
pub fn log() {
    let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter("prb_queue=debug").try_init();
}

/// A JavaScript program that prints lines of JSON; killed on drop.
pub struct Node {
    child: tokio::process::Child,
    lines: tokio::io::Lines<tokio::io::BufReader<tokio::process::ChildStdout>>,
}

impl Node {
    pub fn run(script: &str, args: &[&str]) -> Self {
        use tokio::io::AsyncBufReadExt;
        let mut child = tokio::process::Command::new("node")
            .arg(javascript().join(script))
            .args(args)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Starts a worker of the real bee-queue and waits until it takes jobs.
    pub async fn worker(server: &Server, config: &Config) -> Self {
        let stall_ms = config.stall_interval.as_millis().to_string();
        let mut worker = Self::run("worker.js", &[&server.port.to_string(), &config.name, &stall_ms]);
        assert_eq!(worker.line().await["ready"], true);
        worker
    }

    /// Starts a producer of the real bee-queue with one job.
    pub fn producer(server: &Server, config: &Config, job: &serde_json::Value) -> Self {
        Self::run("producer.js", &[&server.port.to_string(), &config.name, &job.to_string()])
    }

    /// Returns the next line.
    pub async fn line(&mut self) -> serde_json::Value {
        let line = tokio::time::timeout(LONG, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("the program printed nothing within {LONG:?}"));
        serde_json::from_str(&line.unwrap().unwrap_or_else(|| panic!("the program ended"))).unwrap()
    }

    /// Returns the lines up to and including the first that has this field.
    pub async fn lines_until(&mut self, field: &str) -> Vec<serde_json::Value> {
        let mut lines = Vec::new();
        loop {
            lines.push(self.line().await);
            if lines.last().unwrap().get(field).is_some() {
                return lines;
            }
        }
    }

    /// Kills the program with SIGKILL.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Returns the next lease, within a generous timeout.
pub async fn lease(queue: &RedisQueue, ttl: Duration) -> prb_core::queue::Lease {
    use prb_core::queue::JobQueue;
    let lease = tokio::time::timeout(LONG, queue.lease(ttl)).await;
    lease.unwrap_or_else(|_| panic!("no job was handed out within {LONG:?}")).unwrap()
}

/// Returns a job's outcome, within a generous timeout.
pub async fn outcome_of(
    handle: prb_core::queue::JobHandle,
) -> Result<prb_core::queue::JobOutcome, prb_core::queue::JobFailure> {
    let outcome = tokio::time::timeout(LONG, handle.outcome()).await;
    outcome.unwrap_or_else(|_| panic!("the submitter learned nothing within {LONG:?}"))
}

/// An outcome of one call.
pub fn done(block: u32) -> prb_core::queue::JobOutcome {
    prb_core::queue::JobOutcome {
        calls: vec![prb_core::queue::CallOutcome::Done],
        block: prb_core::primitives::ParaNumber(block),
        extrinsic: None,
        fee: None,
    }
}
