//! The command line against running daemons: a `prb lifecycle` that only takes edits, and a `prb all` on a devnet.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::path::Path;

use serde_json::Value;

mod offline;
mod shell;
#[path = "../support/mod.rs"]
mod support;
mod update;

use shell::{MNEMONIC, Shell, editor};
use support::{Net, chain, daemons::free_port};

#[test]
fn pools_and_workers_are_added_changed_moved_and_removed() {
    let dir = tempfile::TempDir::new().unwrap();
    let port = free_port();
    let shell = Shell::new(port, "PHALA_LOCAL_DB_PATH", &dir.path().join("db"));
    shell.run(&["status"]).bad(&["no daemon answers at", "prb lifecycle", "PRB_API_URL"]);
    let mut daemon = editor(dir.path(), port);
    shell.until("it answers", |shell| shell.run(&["status"]).code == Some(0));
    pools_are_added_and_changed(&shell, dir.path());
    workers_are_added_and_imported(&shell, dir.path());
    workers_are_changed_by_pattern_and_pool(&shell);
    workers_are_exported_and_imported_again(&shell, dir.path());
    changes_need_the_token(&shell, dir.path(), port);
    daemon.kill();
    shell.run(&["worker", "list"]).bad(&["no daemon answers"]);
}

/// A pool's mnemonic comes from a pipe or a file, never from an argument.
fn pools_are_added_and_changed(shell: &Shell, dir: &Path) {
    shell.run(&["pool", "add", "12"]).bad(&["--secret-file", "--secret-stdin"]);
    shell
        .run_with(&["pool", "add", "12", "--secret-stdin"], "four words are few\n")
        .bad(&["mnemonic is not valid"]);
    shell.run_with(&["pool", "add", "12", "--secret-stdin", "--dry-run"], MNEMONIC).good();
    assert_eq!(shell.json(&["pool", "list"]), Value::Array(Vec::new()));
    shell.run_with(&["pool", "add", "12", "--name", "twelve", "--secret-stdin"], MNEMONIC).good();
    let file = dir.join("secret");
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
}

/// If a file of workers has bad rows, nothing is added and each is reported with its line.
fn workers_are_added_and_imported(shell: &Shell, dir: &Path) {
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
    let csv = dir.join("workers.csv");
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
}

/// Edits by pattern and pool apply to all or none.
fn workers_are_changed_by_pattern_and_pool(shell: &Shell) {
    assert_eq!(["rack-1-*", "rack-?-7"].map(|name| count(shell, &[name])), [20, 1]);
    assert_eq!(count(shell, &["--pool", "13"]), 30);
    assert_eq!(count(shell, &["rack-1-*", "--pool", "13"]), 10);
    shell.run(&["worker", "set", "rack-1-*", "--pool", "13", "--stake", "7", "--gatekeeper"]).good();
    let changed = shell.json(&["worker", "list"]);
    assert_eq!(changed.as_array().unwrap().iter().filter(|worker| worker["stake"] == "7").count(), 10);
    shell.run(&["worker", "set", "rack-1-*", "--pid", "99"]).bad(&["there is no pool"]);
    shell.run(&["worker", "set", "rack-1-*"]).bad(&["nothing to change"]);
    shell.run(&["worker", "set", "--stake", "1"]).bad(&["no worker is selected"]);
    shell.run(&["worker", "remove", "rack-9-*"]).bad(&["there is no worker"]);
    shell.run(&["pool", "remove", "13"]).bad(&["30 workers belong to"]);
    shell.run(&["pool", "set", "13", "--pid", "21"]).bad(&["30 workers belong to"]);
    shell.run(&["worker", "stop", "w0"]).bad(&["no workers run in this process"]);
}

/// Every format that is written can be read.
fn workers_are_exported_and_imported_again(shell: &Shell, dir: &Path) {
    let listed = shell.json(&["worker", "list"]);
    for (format, end) in [("csv", "csv"), ("json", "json"), ("yaml", "yml")] {
        let file = dir.join(format!("out.{end}"));
        std::fs::write(&file, shell.run(&["worker", "export", "--format", format]).good()).unwrap();
        shell.run(&["worker", "remove", "*", "--dry-run"]).good();
        shell.run(&["worker", "remove", "*"]).good();
        assert_eq!(count(shell, &[]), 0);
        shell.run(&["worker", "import", file.to_str().unwrap()]).good();
        let again = shell.json(&["worker", "list"]);
        for (was, is) in listed.as_array().unwrap().iter().zip(again.as_array().unwrap()) {
            for field in ["name", "pid", "endpoint", "stake", "enabled", "gatekeeper"] {
                assert_eq!(was[field], is[field], "{format}");
            }
        }
    }
    let table = shell.run(&["worker", "list", "rack-0-*"]).good();
    assert!(table.starts_with("NAME") && table.lines().count() == 21, "{table}");
    shell.run(&["job", "list"]).bad(&["no trade queue"]);
    assert_eq!(shell.json(&["provider", "list"]), Value::Array(Vec::new()));
}

/// Without the token, reads work, and changes are refused with its location; it is never sent unencrypted.
fn changes_need_the_token(shell: &Shell, dir: &Path, port: u16) {
    let stranger = Shell::new(port, "PRB_DATA", dir);
    stranger.run(&["worker", "list"]).good();
    stranger.run(&["worker", "remove", "*"]).bad(&["token", "db/api-token"]);
    shell.run(&["status", "--api", "http://192.0.2.1:3001"]).bad(&["without encryption", "https"]);
    let log = std::fs::read_to_string(dir.join("log")).unwrap();
    let token = std::fs::read_to_string(dir.join("db/api-token")).unwrap();
    assert!(!log.contains("bottom drive") && !log.contains(token.trim()), "{log}");
}

/// Counts the workers of a list.
fn count(shell: &Shell, arguments: &[&str]) -> usize {
    shell.json(&[&["worker", "list"], arguments].concat()).as_array().unwrap().len()
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
        jobs_name_their_worker(&shell);
        let preview = shell.run(&["worker", "stop", "w*", "--dry-run"]).good();
        assert!(preview.contains("w0") && preview.contains("w1"), "{preview}");
        assert!(states(&shell).iter().all(|state| state == "S_ACTIVE"));
        shell.run(&["worker", "stop", "--pool", &pid]).good();
        shell.until("both cool down", |shell| {
            let list = shell.json(&["worker", "list"]);
            list.as_array().unwrap().iter().all(|worker| worker["session"] == "WorkerCoolingDown")
        });
        added_workers_keep_their_goals(&shell, &entries);
        let dead = serde_json::json!({ "name": "w9", "pid": pool.pid, "endpoint": "http://127.0.0.1:1", "stake": "1PHA" });
        let text = serde_json::json!({ "workers": [dead] }).to_string();
        shell.run_with(&["worker", "import", "-", "--format", "json"], &text).good();
        shell.until("the unreachable one is shown", |shell| {
            let status = shell.run(&["status"]).good();
            status.split_once("IN TROUBLE").is_some_and(|(_, rows)| rows.contains("w9") && rows.contains("S_ERROR"))
        });
        shell.run(&["worker", "checkpoint", "w0", "nobody"]).bad(&["there is no worker \"nobody\""]);
    })
    .await
    .unwrap();
    bridge.stop().await;
    net.shutdown().await;
}

/// A worker that was stopped and removed is stopped when it is added again, and each command that adds it says so.
fn added_workers_keep_their_goals(shell: &Shell, entries: &[Value]) {
    let goal = shell.json(&["worker", "show", "w0"])["goal"].as_str().unwrap().to_owned();
    assert_ne!(goal, "compute");
    let kept = format!("worker w0 was removed or renamed before and keeps its goal, {goal}");
    let with_more = serde_json::json!({ "workers": [&entries[0], {
        "name": "new", "pid": entries[0]["pid"], "endpoint": "http://127.0.0.1:2", "stake": "1PHA", "enabled": false } ] });
    for update in [&[][..], &["--update"]] {
        shell.run(&["worker", "remove", "w0"]).good();
        let import = [&["worker", "import", "-", "--format", "json"], update].concat();
        let said = shell.run_with(&import, &with_more.to_string()).good();
        assert!(said.contains(&kept) && !said.contains("worker new was removed"), "{said}");
        shell.run(&["worker", "remove", "new"]).good();
    }
    shell.run(&["worker", "remove", "w0"]).good();
    let field =
        |name: &str| entries[0][name].as_str().map_or_else(|| entries[0][name].to_string(), str::to_owned);
    let (pid, endpoint) = (field("pid"), field("endpoint"));
    let add = ["worker", "add", "again", "--pid", &pid, "--endpoint", &endpoint, "--stake", "100PHA"];
    let added = shell.json(&add);
    assert_eq!(added["workers"][0]["resumed_goal"], goal, "the same machine: {added}");
    shell.run(&["worker", "remove", "again"]).good();
    let only = serde_json::json!({ "workers": [&entries[0]] }).to_string();
    let updated =
        shell.run_with(&["worker", "import", "-", "--format", "json", "--update", "--json"], &only).good();
    let updated: Value = serde_json::from_str(&updated).unwrap();
    assert_eq!(updated["resumed_goals"], serde_json::json!({ "w0": goal }));
}

fn jobs_name_their_worker(shell: &Shell) {
    let list = shell.run(&["job", "list", "--state", "succeeded"]).good();
    assert!(list.contains("succeeded") && list.lines().next().unwrap().contains("WORKER"), "{list}");
    let of_first = |line: &&str| line.split_whitespace().any(|word| word == "w0");
    let row = list.lines().find(of_first).unwrap_or_else(|| panic!("{list}"));
    let job = row.split_whitespace().next().unwrap();
    let shown = shell.run(&["job", "show", job]).good();
    assert!(shown.lines().any(|line| line.starts_with("worker") && line.contains("w0")), "{shown}");
}

#[test]
fn help_is_wrapped() {
    let shell = Shell { variables: Vec::new() };
    let all = [
        "all",
        "data-provider",
        "lifecycle",
        "trader",
        "monitor",
        "keys",
        "import",
        "worker",
        "pool",
        "job",
        "status",
    ];
    for command in all.map(Some).into_iter().chain([None]) {
        let arguments: Vec<_> = command.into_iter().chain(["--help"]).collect();
        let help = shell.run(&arguments).good();
        // clap does not wrap the usage.
        let lines = help.lines().filter(|line| !line.starts_with("Usage:"));
        let longest = lines.map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= 100, "{command:?}: {longest} columns in\n{help}");
    }
}

#[test]
fn global_flags_are_last_in_the_help_and_those_of_daemons_only_in_theirs() {
    let shell = Shell { variables: Vec::new() };
    let help = shell.run(&["worker", "set", "--help"]).good();
    let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("{text} in\n{help}"));
    let order =
        ["--pid", "--stake", "--json", "--help", "Connection:", "--api ", "Global options:", "--node-env"];
    assert!(order.map(at).is_sorted(), "{help}");
    for (words, shown) in
        [(&["worker", "set"][..], false), (&["keys", "show"], false), (&["lifecycle"], true)]
    {
        let help = shell.run(&[words, &["--help"]].concat()).good();
        for flag in ["  --check", "  --config "] {
            assert_eq!(help.contains(flag), shown, "{flag} in the help of {words:?}\n{help}");
        }
    }
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
