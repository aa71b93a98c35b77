//! The manager on parts in memory: edits as transactions, secrets, commands and status, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use prb_core::{
    chain::memory::MemoryChain,
    fleet::CommandError,
    inventory::{
        self, AfterExternalStop, Edit, FleetRecord, Goal, Inventory, Pool, Snapshot, Worker, clean_name,
        memory::MemoryInventory,
    },
    manage::{
        Change, Error, KeyError, MAX_ENTRIES, Manager, OperatorKeys, Parts, PoolValue, Selector, WorkerValue,
        memory::MemoryKeys,
    },
    primitives::{AccountId, ParaNumber, PoolId, WorkerKey},
    prpc::Method,
    pruntime::scripted::Failure,
    vault::{MAX_SECRET_BYTES, Vault, memory::MemoryVault},
    worker::State,
};
use proptest::prelude::*;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use uuid::Uuid;

mod commands;

#[path = "../fleet_rig/rig.rs"]
mod rig;
use rig::{Rig, endpoint};

const SECRET: &str = "wombat hunter quokka of pool one";

/// As one on a disk: it gives others their turn before it applies, and applies although its caller has gone.
#[derive(Clone, Debug, Default)]
struct SlowInventory(MemoryInventory);

#[async_trait]
impl Inventory for SlowInventory {
    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.snapshots()
    }

    async fn apply(&self, edits: Vec<Edit>) -> Result<Arc<Snapshot>, inventory::Error> {
        let inner = self.0.clone();
        let applied = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            inner.apply(edits).await
        });
        applied.await.unwrap()
    }
}

/// Takes no secret with a question mark in it.
#[derive(Debug)]
struct Keys;

impl OperatorKeys for Keys {
    fn account(&self, secret: &SecretString) -> Result<AccountId, KeyError> {
        if secret.expose_secret().contains('?') {
            return Err(KeyError::Invalid("it is no mnemonic".into()));
        }
        Ok(MemoryChain::account_of(secret.expose_secret()))
    }
}

struct Setup {
    manager: Manager,
    inventory: Arc<SlowInventory>,
    vault: Arc<MemoryVault>,
}

fn setup() -> Setup {
    let vault = Arc::new(MemoryVault::new());
    let inventory = Arc::new(SlowInventory::default());
    let parts =
        Parts { inventory: inventory.clone(), vault: vault.clone(), keys: Arc::new(Keys), fleet: None };
    Setup { manager: Manager::new(parts), inventory, vault }
}

fn manager_of(rig: &Rig) -> Manager {
    Manager::new(Parts {
        inventory: rig.inventory.clone(),
        vault: rig.vault.clone(),
        keys: Arc::new(MemoryKeys),
        fleet: rig.fleet.clone(),
    })
}

fn pool(pid: u64) -> PoolValue {
    PoolValue::new(PoolId(pid), format!("pool {pid}")).with_secret(Some(SECRET.into()))
}

fn worker(n: usize) -> WorkerValue {
    WorkerValue::new(PoolId(1), format!("worker {n}"), endpoint(n), u128::MAX)
}

fn id_of(worker: &Worker) -> Selector {
    Selector::Id(worker.id)
}

#[tokio::test(start_paused = true)]
async fn secrets_of_created_pools_are_only_stored_sealed() {
    let Setup { manager, vault, .. } = setup();
    let owner = AccountId([7; 32]);
    let proxied = pool(2).with_proxied(format!(" {} ", owner.to_ss58(30)));
    assert!(!format!("{proxied:?}").contains("wombat"), "a value shows its secret");
    let made = manager.create_pools(vec![proxied, pool(1).with_name(" a ".into())]).await.unwrap();
    let names: Vec<_> = made.iter().map(|p| (p.pid.0, p.name.as_str(), p.enabled, p.proxied)).collect();
    assert_eq!(names, [(2, "pool 2", true, Some(owner)), (1, "a", true, None)], "in the call's order");
    assert_ne!(made[0].id, made[1].id);
    for pool in &made {
        let operator = pool.operator.as_ref().unwrap();
        assert_eq!(operator.account, MemoryChain::account_of(SECRET));
        assert_eq!(vault.open(&operator.key).await.unwrap().expose_secret(), SECRET);
    }
    assert_eq!(manager.pools().iter().map(|p| p.pid.0).collect::<Vec<_>>(), [1, 2]);
    assert!(!format!("{manager:?} {made:?}").contains("wombat"), "a secret is shown");
}

#[tokio::test(start_paused = true)]
async fn pool_without_secret_must_be_sync_only() {
    let Setup { manager, .. } = setup();
    for secret in [None, Some("".into()), Some("  \n".into())] {
        let error = manager.create_pools(vec![pool(1).with_secret(secret)]).await.unwrap_err();
        assert!(error.to_string().starts_with("pools[0] \"pool 1\": the operator's secret"), "{error}");
    }
    let made = manager.create_pools(vec![pool(1).with_secret(None).with_sync_only(true)]).await.unwrap();
    assert_eq!(made[0].operator, None);
}

#[tokio::test(start_paused = true)]
async fn calls_are_applied_completely_or_not_at_all() {
    let Setup { manager, .. } = setup();
    manager.create_pools(vec![pool(1)]).await.unwrap();
    manager.create_workers(vec![worker(1)]).await.unwrap();
    let before = manager.snapshots().borrow().clone();

    let twin = pool(3).with_name("twin".into());
    let error = manager.create_pools(vec![pool(2), pool(3), twin]).await.unwrap_err();
    assert!(
        matches!(&error, Error::Duplicate { entry, field: "pid", value, holder }
            if entry == "pools[2] \"twin\"" && value == "3" && holder == "pool 3"),
        "{error:?}"
    );
    let there = worker(3).with_endpoint(format!("{}/", endpoint(1)));
    let error = manager.create_workers(vec![worker(2), there]).await.unwrap_err();
    let text = "workers[1] \"worker 3\": worker endpoint \"http://10.0.0.1:10001\" is taken by \"worker 1\"";
    assert_eq!(error.to_string(), text);
    let items = vec![
        (Selector::Name("worker 1".into()), Change::Delete),
        (id_of(&Worker::clone(&before.workers[0])), Change::Delete),
    ];
    let error = manager.update_workers(items).await.unwrap_err();
    assert!(
        matches!(&error, Error::Invalid { entry, field, .. } if entry == "items[1]" && field == "id"),
        "{error:?}"
    );
    let items =
        vec![(Selector::Pid(PoolId(1)), Change::Delete), (Selector::Pid(PoolId(9)), Change::Put(pool(9)))];
    let error = manager.update_pools(items).await.unwrap_err();
    assert_eq!(error.to_string(), "items[1] \"pool 9\": there is no pool with pid 9");
    assert_eq!(*manager.snapshots().borrow(), before, "something was applied");
}

#[tokio::test(start_paused = true)]
async fn invalid_pool_is_refused_with_entry_and_field() {
    let Setup { manager, .. } = setup();
    let long: String = "x".repeat(MAX_SECRET_BYTES + 1);
    let cases = [
        ("operator's secret", pool(2).with_secret(Some("hunter?".into()))),
        ("operator's secret", pool(2).with_secret(Some(long.into()))),
        ("proxied account", pool(2).with_proxied("4fake".into())),
        ("proxied account", pool(2).with_proxied("hunter of a mnemonic".into())),
        ("pool name", pool(2).with_name(" ".into())),
        ("pool name", pool(2).with_name("x".repeat(257))),
    ];
    for (wanted, value) in cases {
        let error = manager.create_pools(vec![pool(1), value]).await.unwrap_err();
        let Error::Invalid { entry, field, .. } = &error else { panic!("{error:?}") };
        assert!(entry.starts_with("pools[1]") && entry.len() < 100, "{entry}");
        assert_eq!(field, wanted, "{error}");
        assert!(!error.to_string().contains("hunter") && error.to_string().len() < 300, "{error}");
    }
    assert!(manager.pools().is_empty());
}

#[tokio::test(start_paused = true)]
async fn invalid_worker_is_refused_with_entry_and_field() {
    let Setup { manager, .. } = setup();
    manager.create_pools(vec![pool(1)]).await.unwrap();
    let mut cases = vec![
        ("worker endpoint", worker(2).with_endpoint("10.0.0.1".into())),
        ("worker name", worker(2).with_name(String::new())),
        ("endpoint to announce", worker(2).with_endpoints(Some(vec!["https://a".into(), "a".into()]))),
    ];
    let stakes =
        ["", " ", "+1", "1.5", "0x10", "1,000 PHA", "12 pha", "340282366920938463463374607431768211456"];
    for stake in stakes.into_iter().chain(["hunter of a mnemonic"]) {
        cases.push(("stake", worker(2).with_stake(stake.into())));
    }
    for (wanted, value) in cases {
        let error = manager.create_workers(vec![worker(1), value]).await.unwrap_err();
        let Error::Invalid { entry, field, .. } = &error else { panic!("{error:?}") };
        assert!(entry.starts_with("workers[1]"), "{entry}");
        assert!(!error.to_string().contains("hunter"), "{error}");
        assert_eq!(field, wanted, "{error}");
    }
    let error = manager.create_workers(vec![worker(1).with_pid(PoolId(2))]).await.unwrap_err();
    assert_eq!(error.to_string(), "workers[0] \"worker 1\": there is no pool with pid 2");
    assert!(manager.workers().is_empty());
    let made = manager.create_workers(vec![worker(1)]).await.unwrap();
    assert_eq!(made[0].stake, u128::MAX);
}

#[tokio::test(start_paused = true)]
async fn number_of_entries_per_call_is_limited() {
    let Setup { manager, .. } = setup();
    let error = manager.create_workers(vec![worker(1); MAX_ENTRIES + 1]).await.unwrap_err();
    assert!(matches!(error, Error::TooMany { limit: MAX_ENTRIES, .. }), "{error:?}");
    let items = vec![(Selector::Pid(PoolId(1)), Change::Delete); MAX_ENTRIES + 1];
    assert!(matches!(manager.update_pools(items).await, Err(Error::TooMany { .. })));
    let ids = vec![Uuid::nil(); MAX_ENTRIES + 1];
    assert!(matches!(manager.status(&ids), Err(Error::TooMany { .. })));
}

#[tokio::test(start_paused = true)]
async fn pools_are_changed_by_id_name_and_pid() {
    let Setup { manager, vault, .. } = setup();
    let made = manager.create_pools(vec![pool(1), pool(2), pool(3)]).await.unwrap();
    let proxied = AccountId([9; 32]).to_ss58(30);
    let kept = pool(1).with_name("one".into()).with_secret(None).with_enabled(false).with_proxied(proxied);
    let moved = pool(2).with_pid(PoolId(22)).with_secret(Some("another".into()));
    let items = vec![
        (Selector::Id(made[0].id), Change::Put(kept)),
        (Selector::Name("pool 2".into()), Change::Put(moved)),
        (Selector::Pid(PoolId(3)), Change::Delete),
    ];
    let changed = manager.update_pools(items).await.unwrap();
    assert_eq!(changed, manager.pools(), "those deleted are not answered");
    assert_eq!(
        changed.iter().map(|p| (p.id, p.pid.0)).collect::<Vec<_>>(),
        [(made[0].id, 1), (made[1].id, 22)]
    );
    assert_eq!(changed[0].operator, made[0].operator, "no secret leaves the operator");
    assert_eq!((changed[0].enabled, changed[0].proxied), (false, Some(AccountId([9; 32]))));
    let operator = changed[1].operator.as_ref().unwrap();
    assert_eq!(operator.account, MemoryChain::account_of("another"));
    assert_eq!(vault.open(&operator.key).await.unwrap().expose_secret(), "another");

    let back = manager.update_pools(vec![(Selector::Pid(PoolId(1)), Change::Put(pool(1)))]).await.unwrap();
    assert_eq!(back[0].proxied, None, "a full value without a proxied account has none");
    for selector in [Selector::Id(Uuid::nil()), Selector::Name("pool 3".into()), Selector::Pid(PoolId(3))] {
        let error = manager.update_pools(vec![(selector, Change::Delete)]).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { what: "pool", .. }), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn workers_are_changed_by_id_and_name_and_may_swap() {
    let Setup { manager, .. } = setup();
    manager.create_pools(vec![pool(1)]).await.unwrap();
    let made = manager.create_workers(vec![worker(1), worker(2), worker(3)]).await.unwrap();
    let items = vec![
        (id_of(&made[0]), Change::Put(worker(1).with_endpoint(endpoint(2)).with_stake(" 5 ".into()))),
        (Selector::Name("worker 2".into()), Change::Put(worker(2).with_endpoint(endpoint(1)))),
        (id_of(&made[2]), Change::Delete),
    ];
    let changed = manager.update_workers(items).await.unwrap();
    assert_eq!(changed, manager.workers());
    assert_eq!((changed[0].id, &changed[0].endpoint, changed[0].stake), (made[0].id, &endpoint(2), 5));
    for stake in ["12PHA", "12 PHA"] {
        let value = worker(1).with_endpoint(endpoint(2)).with_stake(stake.into());
        let changed = manager.update_workers(vec![(id_of(&made[0]), Change::Put(value))]).await.unwrap();
        assert_eq!(changed[0].stake, 12_000_000_000_000, "{stake}");
    }

    let by_pid = vec![(Selector::Pid(PoolId(1)), Change::Put(worker(1)))];
    let error = manager.update_workers(by_pid).await.unwrap_err();
    assert!(matches!(&error, Error::Invalid { field, .. } if field == "id"), "{error:?}");
    let gone = vec![(id_of(&made[2]), Change::Put(worker(3)))];
    assert!(matches!(manager.update_workers(gone).await, Err(Error::NotFound { what: "worker", .. })));
    // Workers stay when their pool goes, and can be edited; others cannot be moved to it.
    manager.update_pools(vec![(Selector::Pid(PoolId(1)), Change::Delete)]).await.unwrap();
    let kept = worker(1).with_endpoint(endpoint(2));
    manager.update_workers(vec![(id_of(&made[0]), Change::Put(kept))]).await.unwrap();
    let moved = worker(1).with_pid(PoolId(2));
    let error = manager.update_workers(vec![(id_of(&made[0]), Change::Put(moved))]).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { what: "pool", .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn absent_fields_are_kept() {
    let Setup { manager, inventory, .. } = setup();
    let set = pool(1).with_after_stop(Some(Some(AfterExternalStop::Reclaim)));
    let made = manager.create_pools(vec![set, pool(2)]).await.unwrap();
    assert_eq!([made[0].after_stop, made[1].after_stop], [Some(AfterExternalStop::Reclaim), None]);
    let set = worker(1)
        .with_gatekeeper(Some(true))
        .with_endpoints(Some(vec![" https://w1.example.org ".into(), "https://w1.example.net".into()]))
        .with_after_stop(Some(Some(AfterExternalStop::StartAgain)));
    let made = manager.create_workers(vec![set, worker(2)]).await.unwrap();
    assert_eq!(made[0].endpoints, ["https://w1.example.org", "https://w1.example.net"]);
    let fields = |w: &Worker| (w.gatekeeper, w.endpoints.len(), w.after_stop);
    assert_eq!(fields(&made[0]), (true, 2, Some(AfterExternalStop::StartAgain)));
    assert_eq!(fields(&made[1]), (false, 0, None));
    let mut saved = FleetRecord::default();
    (saved.key, saved.goal, saved.was_computing) = (Some(WorkerKey([7; 32])), Goal::StayStopped, true);
    inventory.apply(vec![Edit::PutFleetRecord(made[0].id, saved)]).await.unwrap();

    // As a caller who knows nothing of these fields changes the others.
    let changed = Change::Put(worker(1).with_stake("5".into()).with_enabled(false));
    let worker_1 = manager.update_workers(vec![(id_of(&made[0]), changed)]).await.unwrap().remove(0);
    assert_eq!((worker_1.stake, worker_1.enabled), (5, false));
    assert_eq!(fields(&worker_1), fields(&made[0]));
    let renamed = pool(1).with_name("one".into()).with_secret(None);
    let pools = manager.update_pools(vec![(Selector::Pid(PoolId(1)), Change::Put(renamed))]).await.unwrap();
    assert_eq!((pools[0].name.as_str(), pools[0].after_stop), ("one", Some(AfterExternalStop::Reclaim)));
    assert_eq!(manager.snapshots().borrow().saved(made[0].id), saved, "an edit changed what the fleet keeps");

    let cleared =
        worker(1).with_gatekeeper(Some(false)).with_endpoints(Some(vec![])).with_after_stop(Some(None));
    let changed = manager.update_workers(vec![(id_of(&made[0]), Change::Put(cleared))]).await.unwrap();
    assert_eq!(fields(&changed[0]), (false, 0, None));
    let cleared = pool(1).with_after_stop(Some(None));
    let pools = manager.update_pools(vec![(Selector::Pid(PoolId(1)), Change::Put(cleared))]).await.unwrap();
    assert_eq!(pools[0].after_stop, None);
    assert_eq!(manager.snapshots().borrow().saved(made[0].id), saved);
}

#[tokio::test(start_paused = true)]
async fn failing_key_service_is_not_reported_as_invalid_input() {
    /// Breaks, or is away.
    #[derive(Debug)]
    struct Broken(bool);
    impl OperatorKeys for Broken {
        fn account(&self, _: &SecretString) -> Result<AccountId, KeyError> {
            assert!(self.0, "broken");
            Err(KeyError::Unavailable("the key server is away".into()))
        }
    }
    for away in [true, false] {
        let manager = Manager::new(Parts {
            inventory: Arc::new(MemoryInventory::default()),
            vault: Arc::new(MemoryVault::new()),
            keys: Arc::new(Broken(away)),
            fleet: None,
        });
        let error = manager.create_pools(vec![pool(1)]).await.unwrap_err();
        let Error::Keys { entry, source } = &error else { panic!("{error:?}") };
        assert!(
            entry.starts_with("pools[0]") && source.is_retryable() && !error.is_caller_fault(),
            "{error:?}"
        );
        assert!(!format!("{error:?}").contains(SECRET), "a secret shows");
    }
}

#[tokio::test(start_paused = true)]
async fn concurrent_edits_lose_nothing() {
    let Setup { manager, vault, .. } = setup();
    manager.create_pools(vec![pool(1)]).await.unwrap();
    let select = || Selector::Pid(PoolId(1));
    let rekeyed = Change::Put(pool(1).with_secret(Some("new key".into())));
    let renamed = Change::Put(pool(1).with_secret(None).with_name("renamed".into()));
    let (a, b) = tokio::join!(
        manager.update_pools(vec![(select(), rekeyed)]),
        manager.update_pools(vec![(select(), renamed)])
    );
    a.unwrap();
    b.unwrap();
    let operator = manager.pools()[0].operator.clone().unwrap();
    assert_eq!(vault.open(&operator.key).await.unwrap().expose_secret(), "new key", "the key was lost");
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof!["\\PC{0,80}", "[0-9]{0,50}", "http://[a-z]{1,9}(:[0-9]{1,6})?", Just(String::new())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever comes is taken or refused, never both, and what was taken is what was sent.
    #[test]
    fn any_value_is_taken_or_refused(name in texts(), address in texts(), stake in texts(), pid in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let manager = setup().manager;
            let value = PoolValue::default().with_pid(PoolId(pid)).with_name(name.clone()).with_proxied(address.clone()).with_secret(None).with_sync_only(true).with_enabled(false).with_after_stop(None);
            let pools = manager.create_pools(vec![value]).await;
            match pools {
                Ok(pools) => assert_eq!((pools[0].pid.0, pools[0].name.as_str()), (pid, &*clean_name(&name))),
                Err(error) => assert!(matches!(error, Error::Invalid { .. }) && manager.pools().is_empty()),
            }
            let snapshot = manager.snapshots();
            let known = snapshot.borrow().pool(PoolId(pid)).is_some();
            let value = WorkerValue::default().with_pid(PoolId(pid)).with_name(name.clone()).with_endpoint(address).with_stake(stake.clone()).with_enabled(true);
            match manager.create_workers(vec![value]).await {
                Ok(workers) if !stake.contains("PHA") => assert_eq!(workers[0].stake.to_string(), Some(stake.trim().trim_start_matches('0')).filter(|s| !s.is_empty()).unwrap_or("0")),
                Ok(_) => {}
                Err(Error::NotFound { what: "pool", .. }) => assert!(!known),
                Err(error) => assert!(matches!(error, Error::Invalid { .. }), "{error:?}"),
            }
        });
    }
}

/// Used by [`Pool`]'s readers: nobody's `Debug` shows what is sealed.
#[tokio::test]
async fn sealed_keys_are_not_shown() {
    let Setup { manager, .. } = setup();
    let made: Vec<Arc<Pool>> = manager.create_pools(vec![pool(1)]).await.unwrap();
    let sealed = &made[0].operator.as_ref().unwrap().key.0;
    let shown = format!("{made:?}");
    assert!(!shown.contains(&hex::encode(sealed)) && !shown.contains(&format!("{sealed:?}")), "{shown}");
}

/// Renames a worker, if it is what was seen.
async fn rename(manager: &Manager, seen: &Arc<Worker>, name: &str) -> Result<Vec<Arc<Worker>>, Error> {
    let (seen, id) = (Arc::clone(seen), seen.id);
    let careful = manager.with_condition(move |now| now.workers.iter().any(|w| w.id == id && *w == seen));
    careful.update_workers(vec![(Selector::Id(id), Change::Put(worker(1).with_name(name.into())))]).await
}

/// The caller of the first edit has gone, or its time was over, before the edit was stored.
#[tokio::test(start_paused = true)]
async fn edit_sees_one_that_was_given_up_and_is_still_being_stored() {
    let Setup { manager, .. } = setup();
    manager.create_pools(vec![pool(1)]).await.unwrap();
    let made = manager.create_workers(vec![worker(1)]).await.unwrap().remove(0);
    let given_up = tokio::time::timeout(Duration::from_millis(1), rename(&manager, &made, "first")).await;
    assert!(given_up.is_err());
    let second = rename(&manager, &made, "second").await;
    assert!(matches!(second, Err(Error::Changed)), "{second:?}");
    assert_eq!(manager.workers()[0].name, "first");
}

/// Two editors who have read the same: the second edit is refused, and the first one stays.
#[tokio::test(start_paused = true)]
async fn second_of_two_conditional_edits_is_refused() {
    let Setup { manager, .. } = setup();
    manager.create_pools(vec![pool(1)]).await.unwrap();
    let made = manager.create_workers(vec![worker(1)]).await.unwrap().remove(0);
    let edit = |name: &'static str| rename(&manager, &made, name);
    let (first, second) = tokio::join!(edit("first"), edit("second"));
    assert_eq!(first.unwrap()[0].name, "first");
    assert!(matches!(second, Err(Error::Changed)), "{second:?}");
    assert_eq!(manager.workers()[0].name, "first");
    // Without a condition it is nobody's business what was read.
    let value = worker(1).with_name("third".into());
    manager.update_workers(vec![(id_of(&made), Change::Put(value))]).await.unwrap();
}
