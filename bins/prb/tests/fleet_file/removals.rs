//! Removals by a file: which are refused without a confirmation, and what is said of them.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use prb_chain::inventory::{Config, HeedInventory};
use prb_core::{
    inventory::{Edit, Goal, Inventory, Operator, Pool, Worker},
    primitives::{AccountId, PoolId},
    vault::{Vault, memory::MemoryVault},
};
use uuid::Uuid;

use super::{PHRASE, POOL, bridge, check, refusal_of, snapshot, start, stopped, worker};

/// Returns an inventory as the API, the console and imports make it.
async fn inventory_of_other_sources(path: &Path) -> HeedInventory {
    let inventory = HeedInventory::open(path, Config::default()).unwrap();
    let (vault, account) = (MemoryVault::new(), AccountId([1; 32]));
    let key = vault.seal(&PHRASE.to_owned().into()).await.unwrap();
    let pool = |pid: u64| Pool::new(Uuid::new_v4(), PoolId(pid), format!("pool-{pid}"));
    let mut edits: Vec<Edit> = [1, 2]
        .map(|pid| Edit::PutPool(pool(pid).with_operator(Operator { account, key: key.clone() })))
        .into();
    let worker = |name: &str, pid: u64| {
        let endpoint = format!("http://127.0.0.1:1/{name}");
        let worker = Worker::new(Uuid::new_v4(), PoolId(pid), name, endpoint, 5);
        let mut record = stopped();
        record.was_computing = true;
        let record = Edit::PutFleetRecord(worker.id, record);
        [Edit::PutWorker(worker), record]
    };
    edits.extend([worker("a", 1), worker("b", 1), worker("c", 2)].into_iter().flatten());
    inventory.apply(edits).await.unwrap();
    inventory
}

/// An operator may start with a file on a folder that was managed over the API before.
#[tokio::test(flavor = "multi_thread")]
async fn entries_of_other_sources_are_removed_only_with_a_confirmation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/inventory");
    let before = snapshot(&inventory_of_other_sources(&path).await);
    let file = |text: String| std::fs::write(folder.path().join("fleet.toml"), text).unwrap();
    let open = || HeedInventory::open(&path, Config::default()).unwrap();
    let (a, b) = (worker("a", "http://127.0.0.1:1/a"), worker("b", "http://127.0.0.1:1/b"));

    file(POOL.to_owned() + &a);
    let refused = refusal_of(start(folder.path()).await.unwrap_err());
    let (code, told) = check(folder.path());
    assert_eq!(code, Some(2), "{told}");
    for words in [
        "the fleet file does not name",
        "1 pool (\"pool-2\"), 2 workers (\"b\", \"c\")",
        "`prb worker export`",
        "remove_unlisted = true",
    ] {
        assert!(refused.contains(words) && told.contains(words), "{words:?} in {refused}\n{told}");
    }
    let removed = "removes 1 pool (\"pool-2\") and 2 workers (\"b\", \"c\")";
    assert!(told.contains(removed) && told.contains("changes 1 pool (\"pool-1\")"), "{told}");
    assert_eq!(snapshot(&open()), before);

    // All entries, but not the secrets.
    let c = worker("c", "http://127.0.0.1:1/c").replace("pid = 1", "pid = 2");
    let pools = "[[pools]]\npid = 1\n[[pools]]\npid = 2\n";
    file(pools.to_owned() + &a + &b + &c);
    let refused = refusal_of(start(folder.path()).await.unwrap_err());
    assert!(refused.contains("2 operators of pools (\"pool-1\", \"pool-2\")"), "{refused}");
    assert_eq!(snapshot(&open()), before);

    // From here on the entries are the file's.
    let whole = POOL.to_owned() + &POOL.replace("pid = 1", "pid = 2") + &a + &b + &c;
    file(whole.clone());
    bridge(folder.path()).await.stop().await;
    let after = snapshot(&open());
    assert!(after.workers.iter().all(|worker| after.saved(worker.id).goal == Goal::StayStopped), "{after:?}");
    file(whole.replace(&b, ""));
    let (code, told) = check(folder.path());
    assert!(code == Some(0) && told.contains("fleet.toml removes 1 worker (\"b\")\n"), "{told}");
    bridge(folder.path()).await.stop().await;
    assert_eq!(snapshot(&open()).workers.len(), 2);
    let (code, told) = check(folder.path());
    assert!(code == Some(0) && told.contains("changes nothing"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn confirmed_removals_are_logged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/inventory");
    drop(inventory_of_other_sources(&path).await);
    let text = format!("remove_unlisted = true\n{POOL}{}", worker("a", "http://127.0.0.1:1/a"));
    std::fs::write(folder.path().join("fleet.toml"), text).unwrap();
    let log = Log::default();
    // Of the whole program: with one of a thread, what other threads have logged first may stay disabled.
    tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).init();
    let running = bridge(folder.path()).await;
    assert_eq!(running.manager().snapshots().borrow().workers.len(), 1);
    running.stop().await;
    let log = log.text();
    for (kind, names) in [("pools", "number=1 names=\"\\\"pool-2"), ("workers", "number=2 names=\"\\\"b")] {
        // Other tests log removals, too.
        let words = ["WARN", "removed", &format!("kind=\"{kind}\""), names];
        assert!(log.lines().any(|line| words.iter().all(|word| line.contains(word))), "{words:?}: {log}");
    }
    assert!(log.contains("delete this line") && log.contains("computed when they were last seen"), "{log}");
}

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
