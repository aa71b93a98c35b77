//! The fleet file: its fields, rejected content with positions, and what restarts and edits preserve.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{path::Path, sync::Arc};

use clap::Parser;
use prb::{
    all::{Bridge, Failure},
    config::{self, Cli},
    fleet_file::FleetFile,
};
use prb_chain::inventory::{Config, HeedInventory};
use prb_core::{
    inventory::{AfterExternalStop, Edit, FleetRecord, Goal, Inventory, Snapshot, memory::MemoryInventory},
    primitives::{PoolId, WorkerKey},
    vault::{Vault, memory::MemoryVault},
};
use secrecy::ExposeSecret;

mod removals;

const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
const POOL: &str = "[[pools]]\npid = 1\noperator = \"bottom drive obey lake curtain smoke basket hold race lonely fit walk//One\"\n";

fn worker(name: &str, endpoint: &str) -> String {
    format!("[[workers]]\nname = \"{name}\"\npid = 1\nendpoint = \"{endpoint}\"\nstake = 5\n")
}

#[track_caller]
fn refusal(text: &str, json: bool) -> String {
    format!("{:#}", FleetFile::parse(text, json).map(|_| ()).unwrap_err())
}

/// Applies a file; returns the number of edits.
async fn apply(text: &str, inventory: &dyn Inventory, vault: &MemoryVault) -> usize {
    let edits = FleetFile::parse(text, false).unwrap().edits(inventory, vault).await.unwrap();
    let count = edits.len();
    inventory.apply(edits).await.unwrap();
    count
}

fn snapshot(inventory: &dyn Inventory) -> Arc<Snapshot> {
    inventory.snapshots().borrow().clone()
}

fn stopped() -> FleetRecord {
    let mut saved = FleetRecord::default();
    (saved.key, saved.goal) = (Some(WorkerKey([7; 32])), Goal::StayStopped);
    saved
}

#[tokio::test]
async fn every_field_is_read_from_both_formats() {
    let toml = r#"
        [[pools]]
        pid = 1
        operator = "bottom drive obey lake curtain smoke basket hold race lonely fit walk//One"
        after_stop = "reclaim"
        [[pools]]
        pid = 2
        name = "two"
        sync_only = true
        [[workers]]
        name = "a"
        pid = 1
        endpoint = "https://a:8000"
        stake = "30000000000000000"
        gatekeeper = true
        endpoints = ["https://a.example.org", "http://a.example.net:8080"]
        after_stop = "start-again"
        [[workers]]
        pid = 2
        endpoint = "http://b:8000"
        stake = 7
        enabled = false
    "#;
    let json = r#"{"pools": [{"pid": 1, "after_stop": "reclaim",
            "operator": "bottom drive obey lake curtain smoke basket hold race lonely fit walk//One"},
            {"pid": 2, "name": "two", "sync_only": true}],
        "workers": [{"name": "a", "pid": 1, "endpoint": "https://a:8000", "stake": "30000 PHA",
            "gatekeeper": true, "endpoints": ["https://a.example.org", "http://a.example.net:8080"],
            "after_stop": "start-again"},
            {"pid": 2, "endpoint": "http://b:8000", "stake": 7, "enabled": false}]}"#;
    for (text, json) in [(toml, false), (json, true)] {
        let (inventory, vault) = (MemoryInventory::default(), MemoryVault::new());
        let edits = FleetFile::parse(text, json).unwrap().edits(&inventory, &vault).await.unwrap();
        let snapshot = inventory.apply(edits).await.unwrap();
        let [one, two] = &snapshot.pools[..] else { panic!("{snapshot:?}") };
        assert_eq!(
            (one.name.as_str(), one.after_stop, one.sync_only),
            ("pool-1", Some(AfterExternalStop::Reclaim), false)
        );
        assert_eq!((two.name.as_str(), two.after_stop, two.sync_only), ("two", None, true));
        let sealed = &one.operator.as_ref().unwrap().key;
        assert_eq!(vault.open(sealed).await.unwrap().expose_secret(), format!("{PHRASE}//One"));
        let [a, b] = &snapshot.workers[..] else { panic!("{snapshot:?}") };
        assert_eq!(
            (a.gatekeeper, a.after_stop, a.stake),
            (true, Some(AfterExternalStop::StartAgain), 30_000_000_000_000_000)
        );
        assert_eq!(a.endpoints, ["https://a.example.org", "http://a.example.net:8080"]);
        assert_eq!((b.name.as_str(), b.pid, b.enabled), ("http://b:8000", PoolId(2), false));
        assert_eq!((b.gatekeeper, b.after_stop, b.endpoints.len()), (false, None, 0));
    }
}

#[test]
fn conflicting_entries_are_refused_with_both_positions() {
    // Lines 1 to 3 are the pool; each worker has 5.
    let file = |entries: &[String]| POOL.to_owned() + &entries.concat();
    let (a, b) = (worker("a", "http://a:1"), worker("b", "http://b:1"));
    let unnamed = "[[workers]]\npid = 1\nendpoint = \"http://a:1/\"\nstake = 5\n".to_owned();
    for (entries, words) in [
        (vec![a.clone(), b.clone(), worker("a", "http://c:1")], ["name \"a\"", "line 4 and at line 14"]),
        (vec![a.clone(), b, worker("c", "HTTP://B:1/")], ["endpoint HTTP://B:1/", "line 9 and at line 14"]),
        (vec![unnamed.clone(), unnamed], ["endpoint http://a:1/", "line 4 and at line 8"]),
        (vec![a.clone(), worker(" a\u{a0}", "http://c:1")], ["name \"a\"", "line 4 and at line 9"]),
        (vec![a.clone(), worker("c", "http://a.:1")], ["endpoint http://a.:1", "line 4 and at line 9"]),
        (vec![a, POOL.to_owned()], ["pool 1 is listed twice", "line 1 and at line 9"]),
        (
            vec!["[[pools]]\npid = 2\nname = \"pool-1\"\nsync_only = true\n".to_owned()],
            ["name \"pool-1\"", "line 1 and at line 4"],
        ),
    ] {
        let error = refusal(&file(&entries), false);
        for word in words {
            assert!(error.contains(word), "{word:?} in {error}");
        }
    }
    let json = r#"{"pools": [{"pid": 1}], "workers": [{"name": "a", "pid": 1, "endpoint": "http://a", "stake": 1},
        {"name": "b", "pid": 1, "endpoint": "http://b", "stake": 1},
        {"name": "a", "pid": 1, "endpoint": "http://c", "stake": 1}]}"#;
    let error = refusal(json, true);
    assert!(error.contains("name \"a\", at entry 1 and at entry 3"), "{error}");
}

#[test]
fn invalid_worker_is_reported_with_its_position() {
    let with = |line: &str| POOL.to_owned() + &worker("a", "http://a:1") + &worker("b", "http://b:1") + line;
    for (line, words) in [
        ("endpoints = [\"https://b\", \"b.example.org\"]", "endpoint to announce is not valid"),
        ("endpoints = [\"ws://b\"]", "endpoint to announce is not valid"),
        ("endpoints = [\"https://u:hunter2@b\"]", "endpoint to announce is not valid"),
        ("after_stop = \"restart\"", "expected one of `stay-stopped`, `reclaim`, `start-again`"),
    ] {
        let error = refusal(&with(line), false);
        let place = if line.starts_with("after_stop") { "line 14" } else { "line 9" };
        assert!(error.contains(words) && error.contains(place), "{line}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    for (stake, words) in [
        (
            "\"30k PHA\"",
            "\"30k PHA\" is not an amount: write an integer in 10^-12 PHA, or an amount in PHA such as",
        ),
        ("30000.5", "\"30000.5\" is not an amount"),
        ("30.0", "\"30.0\" is not an amount"),
        ("-5", "\"-5\" is not an amount"),
        ("\"30.000 PHA\"", "write 30 PHA or 30000 PHA"),
        ("true", "such as 30000 PHA"),
    ] {
        let error = refusal(&with("").replace("b:1\"\nstake = 5", &format!("b:1\"\nstake = {stake}")), false);
        let place =
            if stake == "true" { ["line 13", "stake"] } else { ["line 9", "worker \"b\": the stake"] };
        assert!(error.contains(words) && place.iter().all(|word| error.contains(word)), "{error}");
    }
    let error = refusal(&(POOL.to_owned() + &worker("c", "https://u:hunter2@c")), false);
    assert!(error.contains("line 4") && error.contains("password") && !error.contains("hunter2"), "{error}");
    let error = refusal(&worker("c", "http://c"), false);
    assert!(error.contains("\"c\" at line 1") && error.contains("pool 1"), "{error}");
    assert!(FleetFile::parse(&(POOL.to_owned() + &worker("c", "https://c")), false).is_ok(), "TLS is spoken");
}

#[test]
fn file_without_entries_is_recognised() {
    assert!(FleetFile::parse("# nothing yet\n", false).unwrap().is_empty());
    assert!(FleetFile::parse("{}", true).unwrap().is_empty());
    assert!(!FleetFile::parse(POOL, false).unwrap().is_empty());
    for key in ["remove_unlisted", "remove_all"] {
        assert!(FleetFile::parse(&format!("{key} = true"), false).unwrap().is_empty());
        assert!(FleetFile::parse(&format!("{{\"{key}\": true}}"), true).unwrap().is_empty());
    }
}

#[tokio::test]
async fn unchanged_file_changes_nothing() {
    let (inventory, vault) = (MemoryInventory::default(), MemoryVault::new());
    let text = POOL.to_owned() + &worker("a", "http://a") + &worker("b", "http://b");
    assert_eq!(apply(&text, &inventory, &vault).await, 3);
    assert_eq!(apply(&text, &inventory, &vault).await, 0, "the new seal of a pool's key counts as a change");
    assert_eq!(apply(&text.replace("stake = 5", "stake = 6"), &inventory, &vault).await, 2);
    assert_eq!(apply(&text.replace("//One", "//Two"), &inventory, &vault).await, 3);

    // Another identity cannot open the sealed key, so it is sealed again.
    let other = MemoryVault::new();
    assert_eq!(apply(&text.replace("//One", "//Two"), &inventory, &other).await, 1);
    let operator = snapshot(&inventory).pools[0].operator.clone().unwrap();
    assert_eq!(other.open(&operator.key).await.unwrap().expose_secret(), format!("{PHRASE}//Two"));
}

#[tokio::test]
async fn fleet_records_follow_the_name_or_the_endpoint() {
    let (inventory, vault) = (MemoryInventory::default(), MemoryVault::new());
    let text = POOL.to_owned() + &worker("a", "http://a:1") + &worker("b", "http://b:1");
    apply(&text, &inventory, &vault).await;
    let a = snapshot(&inventory).workers[0].id;
    inventory.apply(vec![Edit::PutFleetRecord(a, stopped())]).await.unwrap();
    let saved = |name: &str| {
        let snapshot = snapshot(&inventory);
        snapshot.workers.iter().find(|w| w.name == name).map(|w| snapshot.saved(w.id)).unwrap()
    };

    apply(&text.replace("stake = 5", "stake = 6").replace("http://a:1", "http://a:2"), &inventory, &vault)
        .await;
    assert_eq!((saved("a"), saved("b")), (stopped(), FleetRecord::default()), "edited");
    apply(&text.replace("\"a\"", "\"c\"").replace("http://a:1", "http://A:2/"), &inventory, &vault).await;
    assert_eq!((saved("c"), saved("b")), (stopped(), FleetRecord::default()), "renamed");
    assert_eq!(snapshot(&inventory).saved.len(), 1, "nothing is kept of a name that is gone");

    apply(&(POOL.to_owned() + &worker("b", "http://b:1")), &inventory, &vault).await;
    assert!(snapshot(&inventory).saved.is_empty());
    let renamed = POOL.to_owned() + &worker("d", "http://a:2");
    apply(&renamed, &inventory, &vault).await;
    assert_eq!(saved("d").goal, Goal::StayStopped, "renamed in two steps");
    apply(&text, &inventory, &vault).await;
    assert_eq!(saved("b"), FleetRecord::default());
}

/// Commented out for a while, or rendered in two steps.
#[tokio::test]
async fn entry_that_goes_and_comes_back_keeps_its_record() {
    let (inventory, vault) = (MemoryInventory::default(), MemoryVault::new());
    let (a, b) = (worker("a", "http://a:1"), worker("b", "http://b:1"));
    let whole = POOL.to_owned() + &a + &b;
    apply(&whole, &inventory, &vault).await;
    let id = snapshot(&inventory).workers[0].id;
    for goal in [Goal::StayStopped, Goal::Reclaim, Goal::LeavePool] {
        let mut record = stopped();
        record.goal = goal;
        inventory.apply(vec![Edit::PutFleetRecord(id, record)]).await.unwrap();
        apply(&(POOL.to_owned() + &b), &inventory, &vault).await;
        assert!(!snapshot(&inventory).saved.contains_key(&id));
        apply(&whole, &inventory, &vault).await;
        assert_eq!(snapshot(&inventory).saved(id), record, "{goal:?}");
    }
    // Renamed and renamed back.
    let renamed = whole.replace("\"a\"", "\"c\"");
    apply(&renamed, &inventory, &vault).await;
    apply(&whole, &inventory, &vault).await;
    assert_eq!(snapshot(&inventory).saved(id).goal, Goal::LeavePool);
    assert!(snapshot(&inventory).removed.is_empty());
}

/// Starts a daemon whose nodes and workers do not answer.
async fn bridge(folder: &Path) -> Bridge {
    start(folder).await.unwrap()
}

fn refusal_of(failure: Failure) -> String {
    match failure {
        Failure::Configuration(error) => format!("{error:#}"),
        other => panic!("{other:?}"),
    }
}

fn args(folder: &Path) -> [String; 6] {
    [
        "all".into(),
        "--parent-chain-endpoint=ws://127.0.0.1:2".into(),
        "--chain-endpoint=ws://127.0.0.1:1".into(),
        "--queue-page-listen=none".into(),
        format!("--data={}", folder.join("data").display()),
        format!("--fleet={}", folder.join("fleet.toml").display()),
    ]
}

async fn start(folder: &Path) -> Result<Bridge, Failure> {
    let cli = Cli::try_parse_from(["prb".to_owned()].into_iter().chain(args(folder)));
    let config::Command::All(args) = cli.unwrap().command else { unreachable!() };
    Bridge::start(&args).await
}

/// Runs the check; returns its exit code and what it says.
fn check(folder: &Path) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_prb"));
    let output = command.args(args(folder)).arg("--check").output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn prb_all_keeps_keys_and_goals_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = |workers: &[String]| {
        std::fs::write(folder.path().join("fleet.toml"), POOL.to_owned() + &workers.concat()).unwrap();
    };
    let (a, b) = (worker("a", "http://127.0.0.1:1/a"), worker("b", "http://127.0.0.1:1/b"));
    let open = || HeedInventory::open(&folder.path().join("data/inventory"), Config::default()).unwrap();
    file(&[a.clone(), b.clone()]);
    bridge(folder.path()).await.stop().await;
    let (id, key) = {
        let inventory = open();
        let snapshot = snapshot(&inventory);
        let edits = snapshot.workers.iter().map(|worker| Edit::PutFleetRecord(worker.id, stopped()));
        inventory.apply(edits.collect()).await.unwrap();
        (snapshot.workers[0].id, snapshot.pools[0].operator.clone().unwrap().key)
    };

    let running = bridge(folder.path()).await;
    file(&[a.replace("stake = 5", "stake = 6")]);
    running.reload().await.unwrap();
    running.stop().await;
    let after = snapshot(&open());
    assert_eq!((after.workers.len(), after.workers[0].id, after.workers[0].stake), (1, id, 6));
    assert_eq!(after.saved(id), stopped(), "a restart and a new stake changed what was kept");
    assert_eq!((after.saved.len(), after.removed.len()), (1, 1), "the worker that has left the file");
    assert_eq!(after.pools[0].operator.as_ref().unwrap().key, key);

    // Truncated: it would remove the worker and, once it is whole again, start it.
    let fleet = folder.path().join("fleet.toml");
    for (text, named) in [("", "names nothing"), (POOL, "names no workers")] {
        std::fs::write(&fleet, text).unwrap();
        let refused = refusal_of(start(folder.path()).await.unwrap_err());
        assert!(refused.contains(named) && refused.contains("remove_unlisted = true"), "{refused}");
        assert_eq!(snapshot(&open()), after);
        let (code, told) = check(folder.path());
        assert!(code == Some(2) && told.contains("remove_unlisted = true"), "{told}");
    }
    file(&[a]);
    let running = bridge(folder.path()).await;
    let before = running.manager().snapshots().borrow().clone();
    std::fs::write(&fleet, "").unwrap();
    assert!(running.reload().await.unwrap_err().to_string().contains("has 1 worker (\"a\")"));
    assert_eq!(running.manager().snapshots().borrow().clone(), before);
    std::fs::write(&fleet, "remove_all = true\n").unwrap();
    running.reload().await.unwrap();
    assert!(running.manager().snapshots().borrow().clone().workers.is_empty());
    running.stop().await;
}

/// Substrate would derive a key from its published development phrase.
#[tokio::test]
async fn path_in_place_of_the_secret_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "/run/secrets/pool-12\n").unwrap();
    for line in [
        "operator = \"/run/secrets/pool-12\"".to_owned(),
        "operator = \"//pool-12\"".to_owned(),
        // Holds a path, too.
        "operator_env = \"CARGO_MANIFEST_DIR\"".to_owned(),
        format!("operator_file = {file:?}"),
    ] {
        let (inventory, vault) = (MemoryInventory::default(), MemoryVault::new());
        let file = FleetFile::parse(&format!("[[pools]]\npid = 1\n{line}\n"), false).unwrap();
        let refused = format!("{:#}", file.edits(&inventory, &vault).await.unwrap_err());
        assert!(refused.contains("line 1") && refused.contains("operator_file"), "{line}: {refused}");
        assert!(!refused.contains("pool-12") && !refused.contains(env!("CARGO_MANIFEST_DIR")), "{refused}");
    }
}

/// Wherever in the file it is.
#[tokio::test]
async fn no_refusal_quotes_a_secret() {
    const SECRET: &str = PHRASE;
    let pool = |line: &str| format!("[[pools]]\npid = 1\n{line}\n");
    let of_worker = |line: &str| format!("[[pools]]\npid = 1\n[[workers]]\n{line}\n");
    let texts = [
        pool(&format!("operator_env = \"{SECRET}\"")),
        pool(&format!("operator_env = \"{}\"", "ab".repeat(32))),
        pool(&format!("proxied = \"{SECRET}\"")),
        pool(&format!("enabled = \"{SECRET}\"")),
        pool(&format!("after_stop = \"{SECRET}\"")),
        pool(&format!("\"{SECRET}\" = 1")),
        pool(&format!("operator = {SECRET}")),
        format!("[[pools]]\npid = \"{SECRET}\"\n"),
        of_worker(&format!("pid = 1\nendpoint = \"http://w\"\nstake = \"{SECRET}\"")),
        of_worker(&format!("pid = 1\nendpoint = \"{SECRET}\"\nstake = 5")),
        of_worker("pid = 1\nendpoint = \"http://w/?key=lonely\"\nstake = 5"),
        pool(&format!("name = \"{SECRET}\"")),
        pool(&format!("name = \"{SECRET}\"\n[[pools]]\npid = 2\nname = \" {SECRET}\"")),
        POOL.to_owned() + &worker(SECRET, "http://a"),
        format!("{{\"pools\":[{{\"pid\":\"{SECRET}\"}}]}}"),
        format!("{{\"pools\":[{{\"pid\":1,\"operator_env\":[\"{SECRET}\"]}}]}}"),
    ];
    for text in texts {
        let (inventory, vault) = (MemoryInventory::default(), MemoryVault::new());
        let read = FleetFile::parse(&text, text.starts_with('{'));
        let refused = match read {
            Err(error) => format!("{error:#}"),
            Ok(file) => format!("{:#}", file.edits(&inventory, &vault).await.unwrap_err()),
        };
        let told = ["obey", "lonely", "abab"].iter().find(|word| refused.contains(*word));
        assert!(told.is_none(), "{refused}");
    }
}
