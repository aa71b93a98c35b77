//! Tests of the inventory on disk: the conformance suite, restarts, kills, foreign and damaged files, a full
//! map.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use codec::Encode;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, types::Bytes};
use prb_chain::{
    inventory::{Config, Error, HeedInventory},
    keys::{OperatorKey, Sr25519Keys},
    store::{self, Store},
};
use prb_core::{
    conformance::{
        self,
        inventory::{pool, worker},
    },
    inventory::{self, AfterExternalStop, Edit, FleetRecord, Goal, Inventory, Limits, Snapshot},
    manage::{Manager, Parts, PoolValue, WorkerValue},
    primitives::{AccountId, PoolId},
    vault::{Vault, memory::MemoryVault},
};
use secrecy::ExposeSecret;
use tempfile::TempDir;
use uuid::Uuid;

/// The folder that the killed child process writes to.
const CHILD: &str = "PRB_TEST_INVENTORY";
const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";

fn folder() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("local.db");
    (parent, path)
}

fn open(path: &Path) -> HeedInventory {
    // A child process started by another test holds this one's locks between fork and exec, so retry.
    let start = Instant::now();
    loop {
        match HeedInventory::open(path, Config::default()) {
            Err(Error::InUse { .. }) if start.elapsed() < Duration::from_secs(5) => {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened.unwrap(),
        }
    }
}

fn snapshot(inventory: &HeedInventory) -> Arc<Snapshot> {
    inventory.snapshots().borrow().clone()
}

#[allow(unsafe_code)]
fn table_of(path: &Path, table: Option<&str>) -> (Env, Database<'static, Bytes, Bytes>) {
    // SAFETY: nobody else has the files open.
    let env = unsafe { EnvOpenOptions::new().max_dbs(5).open(path) }.unwrap();
    let txn = env.write_txn().unwrap();
    let opened = env.create_databases_and_commit(txn, |db, txn| {
        db.create_database(txn, table).map(CommitOrAbort::<_, ()>::Commit)
    });
    (env, opened.unwrap().unwrap_commit())
}

/// Returns the table's value of a key.
fn read(path: &Path, table: &str, key: &[u8]) -> Vec<u8> {
    let (env, db) = table_of(path, Some(table));
    let txn = env.read_txn().unwrap();
    db.get(&txn, key).unwrap().unwrap().to_vec()
}

/// Writes bytes as another program might.
fn write(path: &Path, table: &str, key: &[u8], value: &[u8]) {
    let (env, db) = table_of(path, Some(table));
    let mut txn = env.write_txn().unwrap();
    db.put(&mut txn, key, value).unwrap();
    txn.commit().unwrap();
}

#[tokio::test]
async fn heed_inventory_passes_conformance_suite() {
    let parent = tempfile::tempdir().unwrap();
    conformance::inventory::all(async |limits| {
        let path = parent.path().join(Uuid::new_v4().to_string());
        HeedInventory::open(&path, Config::default().with_limits(limits)).unwrap()
    })
    .await;
}

#[tokio::test]
async fn entries_survive_a_restart() {
    let (_parent, path) = folder();
    let mut proxied = pool(7);
    (proxied.proxied, proxied.operator, proxied.sync_only) = (Some(AccountId([9; 32])), None, true);
    proxied.after_stop = Some(AfterExternalStop::StartAgain);
    let mut off = worker(2);
    (off.enabled, off.sync_only, off.stake) = (false, true, u128::MAX);
    let before = {
        let inventory = open(&path);
        assert_eq!(*snapshot(&inventory), Snapshot::default());
        let puts = vec![Edit::PutPool(pool(1)), Edit::PutPool(proxied), Edit::PutWorker(worker(1))];
        inventory.apply(puts).await.unwrap();
        inventory.apply(vec![Edit::PutWorker(worker(3)), Edit::PutWorker(off)]).await.unwrap();
        let mut changed = worker(1);
        (changed.stake, changed.gatekeeper, changed.after_stop) = (5, true, Some(AfterExternalStop::Reclaim));
        changed.endpoints = vec!["https://a.example.org".into()];
        let edits = vec![
            Edit::RemoveWorker(worker(3).id),
            Edit::PutWorker(changed),
            Edit::PutFleetRecord(worker(2).id, conformance::inventory::saved()),
        ];
        inventory.apply(edits).await.unwrap();
        let stopped = Edit::PutFleetRecord(worker(4).id, conformance::inventory::saved());
        inventory.apply(vec![Edit::PutWorker(worker(4)), stopped]).await.unwrap();
        inventory.apply(vec![Edit::RemoveWorker(worker(4).id)]).await.unwrap()
    };
    assert_eq!((before.revision, before.pools.len(), before.workers.len()), (5, 2, 2));
    assert_eq!((before.saved.len(), before.removed.len()), (1, 1));
    let inventory = open(&path);
    assert_eq!(snapshot(&inventory), before);
    assert_eq!(
        inventory.apply(vec![Edit::RemovePool(pool(1).id)]).await.unwrap().revision,
        6,
        "it counts on"
    );
    let back = inventory.apply(vec![Edit::PutWorker(worker(4))]).await.unwrap();
    assert_eq!((back.saved(worker(4).id), back.removed.len()), (conformance::inventory::saved(), 0));
    drop(inventory);
    assert_eq!(snapshot(&open(&path)), back);
}

#[tokio::test]
async fn inventory_is_locked_by_its_owner() {
    let (_parent, path) = folder();
    let inventory = open(&path);
    let error = HeedInventory::open(&path, Config::default()).unwrap_err();
    assert!(matches!(error, Error::InUse { .. }) && error.is_retryable(), "{error:?}");
    let clone = inventory.clone();
    drop(inventory);
    assert!(HeedInventory::open(&path, Config::default()).is_err(), "a clone has it open");
    drop(clone);
    open(&path);
}

#[tokio::test]
async fn files_are_private() {
    let (_parent, path) = folder();
    let inventory = open(&path);
    inventory.apply(vec![Edit::PutPool(pool(1))]).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let files: Vec<_> = fs::read_dir(&path).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn original_file_is_reported_and_not_changed() {
    let (_parent, path) = folder();
    fs::write(&path, b"SQLite format 3\0 or ciphertext").unwrap();
    let error = HeedInventory::open(&path, Config::default()).unwrap_err();
    assert!(matches!(error, Error::NotAFolder { .. }), "{error:?}");
    assert!(error.to_string().contains("local.db"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"SQLite format 3\0 or ciphertext");
}

#[test]
fn invalid_database_file_is_an_error() {
    let (_parent, path) = folder();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("data.mdb"), vec![0x5a; 16384]).unwrap();
    let error = HeedInventory::open(&path, Config::default()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert_eq!(fs::read(path.join("data.mdb")).unwrap(), vec![0x5a; 16384], "it was changed");
}

#[tokio::test]
async fn other_layout_is_refused() {
    let (_parent, path) = folder();
    drop(open(&path));
    write(&path, "meta", b"schema", &2u32.encode());
    let error = HeedInventory::open(&path, Config::default()).unwrap_err();
    assert!(matches!(error, Error::Schema { found: 2, expected: 1, .. }), "{error:?}");
}

#[tokio::test]
async fn records_of_other_versions_are_read() {
    let (_parent, path) = folder();
    drop(open(&path));
    let (old, new) = (Uuid::from_u128(1), Uuid::from_u128(2));
    write(&path, "pools", old.as_bytes(), br#"{"pid":5,"name":"old","enabled":true}"#);
    let record =
        br#"{"pid":5,"name":"new","endpoint":"http://a","stake":"7","enabled":true,"some_later_field":{"x":1}}"#;
    write(&path, "workers", new.as_bytes(), record);
    let inventory = open(&path);
    let snapshot = snapshot(&inventory);
    let fields = (PoolId(5), true, false);
    let pool = &snapshot.pools[0];
    assert_eq!((pool.id, pool.name.as_str(), &pool.operator, pool.proxied), (old, "old", &None, None));
    assert_eq!((pool.pid, pool.enabled, pool.sync_only), fields);
    let worker = &snapshot.workers[0];
    assert_eq!((worker.id, worker.stake, (worker.pid, worker.enabled, worker.sync_only)), (new, 7, fields));
    assert_eq!((pool.after_stop, worker.after_stop, worker.gatekeeper), (None, None, false));
    assert!(worker.endpoints.is_empty());
    assert_eq!(snapshot.saved(new), FleetRecord::default());
}

/// As written by versions before the table of saved states.
#[tokio::test]
async fn database_without_saved_states_is_upgraded() {
    let (_parent, path) = folder();
    fs::create_dir(&path).unwrap();
    write(&path, "meta", b"schema", &1u32.encode());
    write(&path, "meta", b"revision", &9u64.encode());
    let id = Uuid::from_u128(2);
    let record =
        br#"{"pid":5,"name":"w","endpoint":"http://a","stake":"7","enabled":true,"sync_only":false}"#;
    write(&path, "workers", id.as_bytes(), record);
    write(&path, "pools", id.as_bytes(), br#"{"pid":5,"name":"p","enabled":true}"#);
    let inventory = open(&path);
    let before = snapshot(&inventory);
    assert_eq!((before.revision, before.workers.len(), before.pools.len()), (9, 1, 1));
    assert!(before.saved.is_empty());
    let saved = conformance::inventory::saved();
    let after = inventory.apply(vec![Edit::PutFleetRecord(id, saved)]).await.unwrap();
    drop(inventory);
    let inventory = open(&path);
    assert_eq!(snapshot(&inventory), after);
    assert_eq!(after.saved(id), saved);
    drop(inventory);
    let json: serde_json::Value = serde_json::from_slice(&read(&path, "saved", id.as_bytes())).unwrap();
    let expected = serde_json::json!({
        "key": format!("0x{}", "07".repeat(32)), "goal": "stay-stopped", "was_computing": true,
        "sent": { "operation": "start", "at": 9 }, "as_of": 9,
    });
    assert_eq!(json, expected);
    // Before the block of the newest view was kept.
    write(&path, "saved", id.as_bytes(), br#"{"key":null,"goal":"stop","was_computing":true}"#);
    let old = snapshot(&open(&path)).saved(id);
    assert_eq!((old.goal, old.was_computing, old.as_of), (Goal::Stop, true, None));
}

/// Also of an inventory as written by versions before the id.
#[tokio::test]
async fn id_is_created_once_and_copied_with_the_folder() {
    let (_parent, path) = folder();
    fs::create_dir(&path).unwrap();
    write(&path, "meta", b"schema", &1u32.encode());
    let id = open(&path).id().unwrap();
    assert_eq!(read(&path, "meta", b"id"), id.as_bytes());
    let inventory = open(&path);
    inventory.apply(vec![Edit::PutPool(pool(1))]).await.unwrap();
    assert_eq!((inventory.id().unwrap(), inventory.id().unwrap()), (id, id));
    drop(inventory);
    let (_other_parent, copy) = folder();
    fs::create_dir(&copy).unwrap();
    fs::copy(path.join("data.mdb"), copy.join("data.mdb")).unwrap();
    assert_eq!(open(&copy).id().unwrap(), id);
    fs::remove_dir_all(&copy).unwrap();
    assert_ne!(open(&copy).id().unwrap(), id, "two inventories share an id");

    write(&path, "meta", b"id", b"hunter2");
    let error = open(&path).id().unwrap_err();
    assert!(matches!(error, Error::Corrupt { what: "id of the inventory", .. }), "{error:?}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[tokio::test]
async fn damaged_record_is_reported() {
    let (_parent, path) = folder();
    drop(open(&path));
    let id = Uuid::from_u128(1);
    for (table, key, what) in [
        ("pools", id.as_bytes().as_slice(), "pool"),
        ("workers", b"no id", "worker"),
        ("saved", id.as_bytes(), "saved state of worker"),
        ("removed", id.as_bytes(), "removed worker"),
    ] {
        write(&path, table, key, br#"{"pid":"hunter2","goal":"hunter2"}"#);
        let error = HeedInventory::open(&path, Config::default()).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { what: found, .. } if *found == what), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "a record is quoted: {error:?}");
        fs::remove_dir_all(&path).unwrap();
        drop(open(&path));
    }
}

#[tokio::test]
async fn full_map_changes_nothing() {
    let (_parent, path) = folder();
    let config = Config::default().with_limits(Limits::default()).with_map_bytes(128 * 1024);
    let inventory = HeedInventory::open(&path, config).unwrap();
    let before = inventory.apply(vec![Edit::PutWorker(worker(1))]).await.unwrap();
    let many = (2..2_000).map(|n| Edit::PutWorker(worker(n))).collect();
    let error = inventory.apply(many).await.unwrap_err();
    let inventory::Error::Storage(source) = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("map_bytes"), "{source}");
    assert_eq!(snapshot(&inventory), before, "something was applied");
    let after = inventory.apply(vec![Edit::PutWorker(worker(2))]).await.unwrap();
    drop(inventory);
    assert_eq!(snapshot(&open(&path)), after, "a small edit still fits, and no other is in it");
}

/// A write that fills the disk is short; LMDB reports it as it reports a failing disk.
#[tokio::test]
async fn full_disk_is_named_whatever_space_it_has_left() {
    let (_parent, path) = folder();
    fs::create_dir(&path).unwrap();
    let run = |program: &str, options: &[&str]| {
        let status = Command::new(program).args(options).arg(&path).status().unwrap();
        assert!(status.success(), "{program}");
    };
    run("mount", &["-t", "tmpfs", "-o", "size=512k", "prb-test"]);
    let inventory = open(&path);
    let before = inventory.apply(vec![Edit::PutWorker(worker(1))]).await.unwrap();
    let others = path.join("others");
    let mut refused = Vec::new();
    for kib_left in [0, 4, 12, 60, 100, 200] {
        let mut others = fs::File::create(&others).unwrap();
        while others.write_all(&[0; 4096]).is_ok() {}
        others.set_len(others.metadata().unwrap().len() - (kib_left << 10)).unwrap();
        let many = (2..4_000).map(|n| Edit::PutWorker(worker(n))).collect();
        refused.push((kib_left, inventory.apply(many).await));
        assert_eq!(snapshot(&inventory), before, "something was applied");
    }
    fs::remove_file(&others).unwrap();
    let after = inventory.apply(vec![Edit::PutWorker(worker(2))]).await;
    drop(inventory);
    run("umount", &["-l"]);
    for (kib_left, result) in refused {
        let Err(inventory::Error::Storage(source)) = &result else { panic!("{kib_left}: {result:?}") };
        assert!(source.to_string().contains("is full"), "{kib_left}: {source}");
    }
    after.unwrap();
}

#[tokio::test]
async fn many_entries_fit_into_the_default_size() {
    let (_parent, path) = folder();
    let inventory = open(&path);
    let long = |n: u16| {
        let mut worker = worker(n);
        worker.name = format!("{n:0256}");
        worker.endpoint = format!("http://10.1.{}.{}/{}", n / 250, n % 250, "x".repeat(2_000));
        worker
    };
    let workers: Vec<Edit> = (0..10_000).map(|n| Edit::PutWorker(long(n))).collect();
    inventory.apply(workers.clone()).await.unwrap();
    let after = inventory.apply(workers).await.unwrap();
    drop(inventory);
    assert_eq!(snapshot(&open(&path)), after);
}

/// Not a test by itself: the process that `killed_writer_keeps_acknowledged_edits` kills.
#[tokio::test]
async fn killed_child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let inventory = open(Path::new(&path));
    for n in 1.. {
        // Each edit replaces the previous workers: a torn edit would show both or none.
        let edits = (0..20u16)
            .map(|i| {
                let mut worker = worker(i);
                (worker.name, worker.stake) = (format!("{n} {i}"), n);
                Edit::PutWorker(worker)
            })
            .collect();
        inventory.apply(edits).await.unwrap();
        println!("\nanswered {n}");
    }
}

#[test]
fn killed_writer_keeps_acknowledged_edits() {
    const ROUNDS: u32 = 12;
    let (_parent, path) = folder();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["killed_child", "--exact", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut answered = lines
            .filter_map(|line| line.unwrap().strip_prefix("answered ").map(|n| n.parse::<u128>().unwrap()));
        answered.by_ref().take(2).for_each(drop);
        let begun = Instant::now();
        let last = answered.next().unwrap();
        // Kill at another point of an edit each time, from its first to its last steps.
        std::thread::sleep(begun.elapsed() * round / ROUNDS);
        child.kill().unwrap();
        child.wait().unwrap();
        let last = answered.last().unwrap_or(last);

        let inventory = open(&path);
        let snapshot = snapshot(&inventory);
        assert_eq!(snapshot.workers.len(), 20);
        let stored = snapshot.workers[0].stake;
        assert!(stored == last || stored == last + 1, "answered {last}, found {stored}");
        assert!(snapshot.workers.iter().all(|w| w.stake == stored), "a torn edit: {:?}", snapshot.workers);
    }
}

#[tokio::test]
async fn manager_keeps_pools_and_keys_after_a_restart() {
    let (_parent, path) = folder();
    let vault = Arc::new(MemoryVault::new());
    let manager = |inventory: HeedInventory| {
        let (inventory, keys) = (Arc::new(inventory), Arc::new(Sr25519Keys));
        Manager::new(Parts { inventory, vault: vault.clone(), keys, fleet: None })
    };
    let value = PoolValue::default()
        .with_pid(PoolId(12))
        .with_name("twelve".into())
        .with_secret(Some(format!(" {PHRASE}//12\n").into()))
        .with_enabled(true);
    let made = {
        let manager = manager(open(&path));
        for secret in ["bottom drive", "", "///", "not a phrase at all"] {
            let value = value.clone().with_secret(Some(secret.into()));
            let error = manager.create_pools(vec![value]).await.unwrap_err();
            assert!(error.to_string().contains("the operator's secret is not valid"), "{error}");
        }
        let worker = WorkerValue::default()
            .with_pid(PoolId(12))
            .with_name("a".into())
            .with_endpoint("http://a:8000".into())
            .with_stake("30000000000000000".into());
        let made = manager.create_pools(vec![value]).await.unwrap();
        manager.create_workers(vec![worker]).await.unwrap();
        made
    };
    let account = OperatorKey::from_secret(&format!("{PHRASE}//12").into()).unwrap().account();
    assert_eq!(made[0].operator.as_ref().unwrap().account, account);
    let data = fs::read(path.join("data.mdb")).unwrap();
    assert!(!data.windows(12).any(|bytes| bytes == &PHRASE.as_bytes()[..12]), "the phrase is on the disk");

    let again = manager(open(&path));
    assert_eq!((again.pools(), again.workers().len()), (made, 1));
    let sealed = again.pools()[0].operator.clone().unwrap().key;
    assert_eq!(vault.open(&sealed).await.unwrap().expose_secret().trim(), format!("{PHRASE}//12"));
}

/// The names of the tables and of the meta keys, which other programs may read.
#[tokio::test]
async fn layout_is_as_documented() {
    let (_parent, path) = folder();
    {
        let inventory = open(&path);
        inventory.apply(vec![Edit::PutPool(pool(1)), Edit::PutWorker(worker(1))]).await.unwrap();
    }
    assert_eq!(read(&path, "meta", b"schema"), 1u32.encode());
    assert_eq!(read(&path, "meta", b"revision"), 1u64.encode());
    let json = |table, id: Uuid| -> serde_json::Value {
        serde_json::from_slice(&read(&path, table, id.as_bytes())).unwrap()
    };
    let account = format!("0x{}", "01".repeat(32));
    let expected = serde_json::json!({
        "pid": 1, "name": "pool 1", "enabled": true, "sync_only": false,
        "operator": {"account": account, "key": "010203"},
    });
    assert_eq!(json("pools", pool(1).id), expected);
    let stake = (u128::MAX - 1).to_string();
    let expected = serde_json::json!({
        "pid": 1, "name": "worker 00001", "endpoint": "http://10.0.0.1:8001", "stake": stake,
        "enabled": true, "sync_only": false, "gatekeeper": false,
    });
    assert_eq!(json("workers", worker(1).id), expected);
}

/// Two daemons with the same folder: the later one changes nothing in the other's database.
#[test]
fn a_database_of_another_kind_is_left_alone() {
    let (_parent, path) = folder();
    drop(open(&path));
    let refused = Store::open(&path, store::Config::default()).unwrap_err();
    assert!(matches!(refused, store::Error::OtherData { .. }), "{refused}");
    drop(open(&path));

    let (_parent, path) = folder();
    drop(Store::open(&path, store::Config::default()).unwrap());
    let refused = HeedInventory::open(&path, Config::default()).unwrap_err();
    assert!(matches!(refused, Error::OtherData { .. }), "{refused}");
    drop(Store::open(&path, store::Config::default()).unwrap());

    // Somebody else's database without tables.
    let (_parent, path) = folder();
    fs::create_dir(&path).unwrap();
    let (env, rows) = table_of(&path, None);
    let mut txn = env.write_txn().unwrap();
    rows.put(&mut txn, b"row", b"value").unwrap();
    txn.commit().unwrap();
    drop(env);
    let refused = HeedInventory::open(&path, Config::default()).unwrap_err();
    assert!(matches!(refused, Error::OtherData { .. }), "{refused}");
    let refused = Store::open(&path, store::Config::default()).unwrap_err();
    assert!(matches!(refused, store::Error::OtherData { .. }), "{refused}");
}
