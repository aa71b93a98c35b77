//! Logs of daemon processes: a broken or blocked reader does not stop the process, all lines are on one
//! stream, and no secret is logged.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader, Read},
    process::{ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use prb_walkie::identity::{Identity, Role};
use serde_json::Value;
use tempfile::TempDir;

mod support;
use support::{EXIT_LIMIT, Process, daemons::Probe};

const LIMIT: Duration = Duration::from_secs(60);

/// A data provider without nodes, which repeatedly logs failed connections.
fn provider(folder: &TempDir, level: &str) -> (Command, Probe) {
    let probe = Probe::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_prb"));
    command
        .env_clear()
        .arg("data-provider")
        .args(["--chain-endpoint=ws://127.0.0.1:9", "--parent-chain-endpoint=ws://127.0.0.1:10"])
        .args(["--local-server-port=0", "--walkie-disable-mdns-discovery"])
        .arg("--walkie-listen-addresses=/ip4/127.0.0.1/tcp/0")
        .arg(format!("--peer-id-prefix={}", folder.path().join("id").display()))
        .arg(format!("--local-db-path={}", folder.path().join("db").display()))
        .arg(format!("--ops-listen={}", probe.address()))
        .arg(format!("--log-level={level}"))
        .stdin(Stdio::null());
    (command, probe)
}

/// Every daemon, without what it connects to.
fn daemons(folder: &TempDir, level: &str) -> Vec<(Command, Probe)> {
    let identity = Identity::generate().unwrap();
    let id = folder.path().join("id");
    for role in [Role::DataProvider, Role::Lifecycle, Role::Monitor] {
        identity.store(&id, role).unwrap();
    }
    let others = ["lifecycle", "trader", "monitor"].map(|daemon| {
        let probe = Probe::new();
        let mut command = Command::new(env!("CARGO_BIN_EXE_prb"));
        command
            .env_clear()
            .arg(daemon)
            .env("PHALA_CHAIN_ENDPOINT", "ws://127.0.0.1:9")
            .env("PHALA_Q_REDIS_ENDPOINT", "redis://127.0.0.1:9")
            .envs(["PRB_API_LISTEN", "PRB_QUEUE_PAGE_LISTEN"].map(|name| (name, "none")))
            .env("PRB_CONSOLE_LISTEN", if daemon == "monitor" { "127.0.0.1:0" } else { "none" })
            .env("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", "true")
            .env("PHALA_WALKIE_LISTEN_ADDRESSES", "/ip4/127.0.0.1/tcp/0")
            .env("PHALA_PEER_ID_PREFIX", &id)
            .env("PHALA_LOCAL_DB_PATH", folder.path().join(daemon))
            .env("PRB_OPS_LISTEN", probe.address().to_string())
            .env("PHALA_LOGGER_LEVEL", level)
            .stdin(Stdio::null());
        (command, probe)
    });
    [provider(folder, level)].into_iter().chain(others).collect()
}

/// Checks that they run, and shut down gracefully on a signal.
async fn live_and_end(mut daemons: Vec<(Process, Probe)>) {
    for (_, probe) in &daemons {
        probe.until_live(LIMIT).await;
    }
    // Time for more log lines.
    tokio::time::sleep(Duration::from_millis(700)).await;
    for (process, probe) in &mut daemons {
        assert!(process.is_running(), "it died: {:?}", process.wait(LIMIT).await);
        assert_eq!(probe.ask("/livez").unwrap().0, 200);
        process.signal("TERM");
    }
    for (process, _) in &mut daemons {
        assert_eq!(process.wait(EXIT_LIMIT).await, Some(0));
    }
}

#[tokio::test]
async fn full_disk_behind_the_log_is_survived() {
    let folder = TempDir::new().unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let start = |(mut command, probe): (Command, Probe)| {
        let child = command.stdout(full.try_clone().unwrap()).stderr(full.try_clone().unwrap()).spawn();
        (Process::of(child.unwrap()), probe)
    };
    live_and_end(daemons(&folder, "debug").into_iter().map(start).collect()).await;
}

#[tokio::test]
async fn closed_reader_of_the_log_is_survived() {
    let folder = TempDir::new().unwrap();
    let start = |(mut command, probe): (Command, Probe)| {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        (Process::of(child), probe)
    };
    live_and_end(daemons(&folder, "debug").into_iter().map(start).collect()).await;
}

#[tokio::test]
async fn blocked_reader_of_the_log_blocks_nothing() {
    let folder = TempDir::new().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    // Full from the start: 64 KiB that nobody reads.
    fill(&writer);
    let start = |(mut command, probe): (Command, Probe)| {
        let child = command.stdout(writer.try_clone().unwrap()).stderr(writer.try_clone().unwrap()).spawn();
        (Process::of(child.unwrap()), probe)
    };
    let level = "trace,tokio=trace,mio=trace,libp2p_swarm=trace,hyper=trace";
    live_and_end(daemons(&folder, level).into_iter().map(start).collect()).await;
    drop(reader);
}

fn fill(writer: &std::io::PipeWriter) {
    use std::io::Write;
    let mut writer = writer.try_clone().unwrap();
    // The default pipe capacity; one more byte would block.
    writer.write_all(&[b'x'; 64 * 1024]).unwrap();
}

/// Lines of a process's output.
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    reader: std::thread::JoinHandle<()>,
}

impl Log {
    fn of(stdout: ChildStdout) -> Self {
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                kept.lock().unwrap().push(line.unwrap());
            }
        });
        Self { lines, reader }
    }

    /// Waits until each of these texts was logged; generating a key takes seconds on a busy machine.
    async fn until(&self, words: &[&str]) {
        let logged = |word: &&str| self.lines.lock().unwrap().iter().any(|line| line.contains(*word));
        let all = async {
            while !words.iter().all(logged) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let lines = || self.lines.lock().unwrap().clone();
        assert!(tokio::time::timeout(LIMIT, all).await.is_ok(), "{words:?} not in {:#?}", lines());
    }

    fn end(self) -> Vec<String> {
        self.reader.join().unwrap();
        std::mem::take(&mut self.lines.lock().unwrap())
    }
}

#[tokio::test]
async fn logs_are_json_lines_on_standard_output() {
    let folder = TempDir::new().unwrap();
    let (mut command, probe) = provider(&folder, "info");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let mut process = Process::of(child);
    let log = Log::of(stdout);
    probe.until_live(LIMIT).await;
    log.until(&["Got my peer id", "prb::progress"]).await;
    process.signal("TERM");
    assert_eq!(process.wait(LIMIT).await, Some(0));
    let lines = log.end();
    for line in &lines {
        assert!(serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object()), "{line}");
    }
    let has = |word: &str| lines.iter().any(|line| line.contains(word));
    assert!(has("Got my peer id") && has("prb::progress") && has("stopping"), "{lines:#?}");
    let mut text = String::new();
    stderr.read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
}

#[tokio::test]
async fn libraries_are_quiet_in_development() {
    let folder = TempDir::new().unwrap();
    let (mut command, probe) = provider(&folder, "debug");
    let mut child = command.env("NODE_ENV", "development").stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let mut process = Process::of(child);
    let log = Log::of(stdout);
    probe.until_live(LIMIT).await;
    // It generates its key, and tries to reach its nodes.
    log.until(&["Got my peer id"]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    process.signal("TERM");
    assert_eq!(process.wait(LIMIT).await, Some(0));
    let lines = log.end();
    assert!(lines.iter().any(|line| line.contains("Got my peer id")), "{lines:#?}");
    let others: Vec<_> = lines.iter().filter(|l| l.contains("DEBUG") && !l.contains(" prb")).collect();
    assert!(others.is_empty(), "{others:#?}");
}

/// Returns exit code and output of `prb data-provider --check` with this log level.
fn checked(level: &str) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_prb"))
        .env_clear()
        .env("PHALA_LOGGER_LEVEL", level)
        .args([
            "data-provider",
            "--check",
            "--chain-endpoint=ws://127.0.0.1:9",
            "--parent-chain-endpoint=ws://127.0.0.1:10",
        ])
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn original_levels_are_accepted_and_typos_refused_with_a_suggestion() {
    for level in ["FATAL", "30", "warning", "silly", "Info", "info,prb_core=debug", "off"] {
        assert_eq!(checked(level).0, Some(0), "{level}: {}", checked(level).1);
    }
    for (slip, meant) in [("debgu", "debug"), ("warnign", "warn"), ("info,tarce", "trace"), ("35", "30")] {
        let (code, error) = checked(slip);
        assert_eq!(code, Some(2), "{slip}: {error}");
        assert!(error.contains(meant) && error.contains("PHALA_LOGGER_LEVEL"), "{slip}: {error}");
    }
}

/// In every field that is read, and where it does not belong.
#[test]
fn refusals_do_not_quote_secrets() {
    const MNEMONIC: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
    const SECRETS: [&str; 4] = [
        MNEMONIC,
        "http://user:swordfish@node.example/v1/0123456789abcdef0123456789abcdef",
        "0xe5be9a5092b81bca64be81d212e7f2f9eba183bb7a90954f7b76361f6edb5c0a",
        "//Swordfish//1",
    ];
    let help = Command::new(env!("CARGO_BIN_EXE_prb")).args(["lifecycle", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let words = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let mut names: Vec<_> = words
        .filter(|word| ["PHALA_", "PRB_", "PRPC_", "WORKER_", "USE_"].iter().any(|p| word.starts_with(p)))
        .collect();
    names.extend(["PHALA_MODULE", "PHALA_LOGGER_LEVEL"]);
    assert!(names.len() > 30, "{names:?}");
    for (name, secret) in names.iter().flat_map(|name| SECRETS.map(|secret| (*name, secret))) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prb"));
        command.env_clear().env("PHALA_CHAIN_ENDPOINT", "ws://a").env("USE_BUILT_IN_TRADER", "1");
        if name != "PHALA_MODULE" {
            command.arg("lifecycle");
        }
        let output = command.arg("--check").env(name, secret).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        for part in ["bottom", "drive", "lonely", "swordfish", "Swordfish", "0123456789abcdef", "e5be9a50"] {
            assert!(!error.contains(part), "{name}: {error}");
        }
    }
    for arguments in [&[MNEMONIC][..], &["lifecycle", MNEMONIC], &["lifecycle", "--log-level", MNEMONIC]] {
        let output = Command::new(env!("CARGO_BIN_EXE_prb")).env_clear().args(arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(!error.contains("lonely"), "{error}");
    }
}
