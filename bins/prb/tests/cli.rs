//! The command line against running daemons: a `prb lifecycle` that only takes edits, and a `prb all` on a devnet.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

mod support;
use support::{Net, Process, chain, daemons::free_port};

const LIMIT: Duration = Duration::from_secs(60);
const MNEMONIC: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";

/// The result of a command.
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Done {
    #[track_caller]
    fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self.out
    }

    #[track_caller]
    fn bad(self, texts: &[&str]) {
        assert_eq!(self.code, Some(1), "{}{}", self.out, self.err);
        for text in texts {
            assert!(self.err.contains(text), "{text:?} is missing in\n{}", self.err);
        }
    }
}

/// A client's environment: the daemon's address and its token.
struct Shell {
    variables: Vec<(String, String)>,
}

impl Shell {
    fn new(port: u16, folder: &str, token_folder: &Path) -> Self {
        let url = format!("http://127.0.0.1:{port}");
        let variables = [("PRB_API_URL", url.as_str()), (folder, token_folder.to_str().unwrap())];
        Self { variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec() }
    }

    fn run(&self, arguments: &[&str]) -> Done {
        self.run_with(arguments, "")
    }

    fn run_with(&self, arguments: &[&str], input: &str) -> Done {
        let mut child = Command::new(env!("CARGO_BIN_EXE_prb"))
            .args(arguments)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs a command with --json and parses its output.
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[arguments, &["--json"]].concat()).good()).unwrap()
    }

    fn until(&self, what: &str, mut met: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !met(self) {
            assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Starts a `prb lifecycle` in configuration mode; it needs no chain.
fn editor(folder: &Path, port: u16) -> Process {
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_prb"))
        .env_clear()
        .env("PHALA_MODULE", "lifecycle")
        .env("PHALA_LIFECYCLE_CONFIG_MODE", "true")
        .env("PHALA_CHAIN_ENDPOINT", "ws://127.0.0.1:9")
        .env("PHALA_LOCAL_DB_PATH", folder.join("db"))
        .env("PHALA_PEER_ID_PREFIX", folder.join("id"))
        .env("PHALA_WALKIE_LISTEN_ADDRESSES", format!("/ip4/127.0.0.1/tcp/{}", free_port()))
        .env("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", "true")
        .env("PRB_OPS_LISTEN", "none")
        .env("PRB_API_LISTEN", format!("127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Process::of(child)
}

#[test]
fn pools_and_workers_are_added_changed_moved_and_removed() {
    let dir = tempfile::TempDir::new().unwrap();
    let port = free_port();
    let shell = Shell::new(port, "PHALA_LOCAL_DB_PATH", &dir.path().join("db"));
    shell.run(&["status"]).bad(&["no daemon answers at", "prb lifecycle", "PRB_API_URL"]);
    let mut daemon = editor(dir.path(), port);
    shell.until("it answers", |shell| shell.run(&["status"]).code == Some(0));

    // A pool whose mnemonic comes from a pipe or a file; never from an argument.
    shell.run(&["pool", "add", "12"]).bad(&["--secret-file", "--secret-stdin"]);
    shell
        .run_with(&["pool", "add", "12", "--secret-stdin"], "four words are few\n")
        .bad(&["mnemonic is not valid"]);
    shell.run_with(&["pool", "add", "12", "--secret-stdin", "--dry-run"], MNEMONIC).good();
    assert_eq!(shell.json(&["pool", "list"]), Value::Array(Vec::new()));
    shell.run_with(&["pool", "add", "12", "--name", "twelve", "--secret-stdin"], MNEMONIC).good();
    let file = dir.path().join("secret");
    std::fs::write(&file, format!("{MNEMONIC}//two\n")).unwrap();
    shell.run(&["pool", "add", "13", "--secret-file", file.to_str().unwrap()]).good();
    let before = shell.json(&["pool", "show", "12"]);
    assert!(before["operator"].is_string() && !before.to_string().contains("bottom"), "{before}");
    shell.run(&["pool", "set", "12", "--enabled", "false", "--after-stop", "reclaim"]).good();
    let after = shell.json(&["pool", "show", "twelve"]);
    assert_eq!((&after["operator"], &after["enabled"]), (&before["operator"], &Value::Bool(false)));
    assert_eq!(after["after_stop"], "reclaim");
    shell.run(&["pool", "set", "12", "--after-stop", "inherit", "--enabled"]).good();
    assert_eq!(shell.json(&["pool", "show", "12"])["after_stop"], Value::Null);

    // One worker, then a file of workers: with bad rows nothing is added and each is reported with its line.
    shell
        .run(&[
            "worker",
            "add",
            "w0",
            "--pid",
            "12",
            "--endpoint",
            "http://10.0.0.1:8000",
            "--stake",
            "1.5PHA",
        ])
        .good();
    assert_eq!(shell.json(&["worker", "show", "w0"])["stake"], "1500000000000");
    shell.run(&["worker", "add", "w1", "--pid", "12"]).bad(&["endpoint is missing", "stake is missing"]);
    let csv = dir.path().join("workers.csv");
    let head = "name,pid,endpoint,stake,enabled\n";
    let bad =
        "a,12,http://a,1,\nw0,12,http://b,1,\nc,99,http://c,1,\nd,12,not a url,1,\ne,12,http://e,1,perhaps\n";
    std::fs::write(&csv, format!("{head}{bad}")).unwrap();
    let import = ["worker", "import", csv.to_str().unwrap()];
    shell.run(&import).bad(&[
        "nothing was imported",
        "line 3",
        "line 4",
        "line 5",
        "line 6",
        "enabled must be",
    ]);
    assert_eq!(shell.json(&["worker", "list"]).as_array().unwrap().len(), 1);
    let rows: String = (1..=60)
        .map(|n| format!("rack-{}-{n},{},http://10.1.0.{n}:8000,30000PHA,no\n", n % 3, 12 + n % 2))
        .collect();
    std::fs::write(&csv, format!("{head}{rows}")).unwrap();
    shell.run(&[&import[..], &["--dry-run"]].concat()).good();
    assert!(shell.run(&import).good().contains("60 workers were added"));
    shell.run(&import).bad(&["line 2", "taken"]);

    // By pattern and pool, all or none.
    let of =
        |arguments: &[&str]| shell.json(&[&["worker", "list"], arguments].concat()).as_array().unwrap().len();
    assert_eq!(
        (of(&["rack-1-*"]), of(&["rack-?-7"]), of(&["--pool", "13"]), of(&["rack-1-*", "--pool", "13"])),
        (20, 1, 30, 10)
    );
    shell.run(&["worker", "set", "rack-1-*", "--pool", "13", "--stake", "7", "--gatekeeper"]).good();
    let changed = shell.json(&["worker", "list"]);
    assert_eq!(changed.as_array().unwrap().iter().filter(|worker| worker["stake"] == "7").count(), 10);
    shell.run(&["worker", "set", "rack-1-*", "--pid", "99"]).bad(&["there is no pool"]);
    shell.run(&["worker", "set", "rack-1-*"]).bad(&["nothing to change"]);
    shell.run(&["worker", "set", "--stake", "1"]).bad(&["no worker is selected"]);
    shell.run(&["worker", "remove", "rack-9-*"]).bad(&["there is no worker"]);
    shell.run(&["pool", "remove", "13"]).bad(&["30 workers belong to"]);
    shell.run(&["worker", "stop", "w0"]).bad(&["no workers run in this process"]);

    // Exported and imported again, in each format.
    for (format, end) in [("csv", "csv"), ("json", "json"), ("yaml", "yml")] {
        let file = dir.path().join(format!("out.{end}"));
        std::fs::write(&file, shell.run(&["worker", "export", "--format", format]).good()).unwrap();
        shell.run(&["worker", "remove", "*", "--dry-run"]).good();
        shell.run(&["worker", "remove", "*"]).good();
        assert_eq!(of(&[]), 0);
        shell.run(&["worker", "import", file.to_str().unwrap()]).good();
        let again = shell.json(&["worker", "list"]);
        for (was, is) in changed.as_array().unwrap().iter().zip(again.as_array().unwrap()) {
            for field in ["name", "pid", "endpoint", "stake", "enabled", "gatekeeper"] {
                assert_eq!(was[field], is[field], "{format}");
            }
        }
    }
    let table = shell.run(&["worker", "list", "rack-0-*"]).good();
    assert!(table.starts_with("NAME") && table.lines().count() == 21, "{table}");
    shell.run(&["job", "list"]).bad(&["no trade queue"]);
    assert_eq!(shell.json(&["provider", "list"]), Value::Array(Vec::new()));

    // Without the token, reads work, and changes are refused with its location; it is never sent unencrypted.
    let stranger = Shell::new(port, "PRB_DATA", dir.path());
    stranger.run(&["worker", "list"]).good();
    stranger.run(&["worker", "remove", "*"]).bad(&["token", "db/api-token"]);
    shell.run(&["status", "--api", "http://192.0.2.1:3001"]).bad(&["without encryption", "https"]);
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    let token = std::fs::read_to_string(dir.path().join("db/api-token")).unwrap();
    assert!(!log.contains("bottom drive") && !log.contains(token.trim()), "{log}");
    daemon.kill();
    shell.run(&["worker", "list"]).bad(&["no daemon answers"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_imported_watched_and_stopped() {
    let net = Net::start(chain(), 2).await;
    let bridge =
        net.bridge_of_inventory(&["--api-listen", "127.0.0.1:0", "--queue-page-listen", "none"]).await;
    let shell = Shell::new(bridge.api().unwrap().port(), "PRB_DATA", &net.dir.path().join("data"));
    let pool = net.devnet.pools()[0].clone();
    let endpoints: Vec<_> = net.workers.iter().map(|worker| worker.endpoint()).collect();
    tokio::task::spawn_blocking(move || {
        let pid = pool.pid.to_string();
        shell.run_with(&["pool", "add", &pid, "--secret-stdin"], &pool.mnemonic).good();
        let entries: Vec<_> = (0..2)
            .map(|n| serde_json::json!({ "name": format!("w{n}"), "pid": pool.pid, "endpoint": endpoints[n], "stake": "100PHA" }))
            .collect();
        let text = serde_json::json!({ "workers": entries }).to_string();
        shell.run_with(&["worker", "import", "-", "--format", "json"], &text).good();
        let states = |shell: &Shell| -> Vec<Value> {
            shell.json(&["worker", "list"]).as_array().unwrap().iter().map(|w| w["state"].clone()).collect()
        };
        shell.until("both compute", |shell| states(shell).iter().all(|state| state == "S_ACTIVE"));
        let status = shell.run(&["status"]).good();
        assert!(status.contains("S_ACTIVE 2") && status.contains("200 PHA"), "{status}");
        assert!(shell.run(&["worker", "show", "w0"]).good().contains("operation-done"));
        assert!(shell.run(&["job", "list", "--state", "succeeded"]).good().contains("succeeded"));
        let preview = shell.run(&["worker", "stop", "w*", "--dry-run"]).good();
        assert!(preview.contains("w0") && preview.contains("w1"), "{preview}");
        assert!(states(&shell).iter().all(|state| state == "S_ACTIVE"));
        shell.run(&["worker", "stop", "--pool", &pid]).good();
        shell.until("both cool down", |shell| {
            let list = shell.json(&["worker", "list"]);
            list.as_array().unwrap().iter().all(|worker| worker["session"] == "WorkerCoolingDown")
        });
        shell.run(&["worker", "checkpoint", "w0", "nobody"]).bad(&["there is no worker \"nobody\""]);
    })
    .await
    .unwrap();
    bridge.stop().await;
    net.shutdown().await;
}

#[test]
fn completions_and_man_pages_know_the_commands() {
    let dir = tempfile::TempDir::new().unwrap();
    let shell = Shell { variables: Vec::new() };
    for name in ["bash", "zsh", "fish"] {
        let text = shell.run(&["completions", name]).good();
        assert!(text.contains("leave-pool") && text.contains("lifecycle"), "{name}");
    }
    assert!(shell.run(&["man"]).good().contains(".TH prb"));
    shell.run(&["man", "--to", dir.path().join("man1").to_str().unwrap()]).good();
    let page = std::fs::read_to_string(dir.path().join("man1/prb-worker-leave-pool.1")).unwrap();
    assert!(page.contains("dry\\-run"), "{page}");
}
