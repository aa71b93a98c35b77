//! Conformance suite of [`Inventory`].

use std::{future::Future, sync::Arc};

use uuid::Uuid;

use crate::{
    inventory::{
        AfterExternalStop, Edit, Error, FleetRecord, Goal, Inventory, Limits, MAX_ANNOUNCED,
        MAX_ENDPOINT_BYTES, MAX_NAME_BYTES, Operator, PendingOperation, PendingOperationKind, Pool, Snapshot,
        Worker,
    },
    primitives::{AccountId, ParaNumber, PoolId, WorkerKey},
    vault::Sealed,
};

/// Runs all checks. Each call of `make` must return an empty inventory with these limits.
///
/// ```
/// use prb_core::{conformance, inventory::memory::MemoryInventory};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// // In a `#[tokio::test]` of the backend.
/// conformance::inventory::all(async |limits| MemoryInventory::new(limits)).await;
/// # }
/// ```
///
/// # Panics
/// If the backend violates the seam's contract.
pub async fn all<I: Inventory, F: Future<Output = I>>(make: impl Fn(Limits) -> F) {
    stores_entries(&make(Limits::default()).await).await;
    replaces_and_removes(&make(Limits::default()).await).await;
    applies_all_or_nothing(&make(Limits::default()).await).await;
    stores_fleet_records(&make(Limits::default()).await).await;
    resumes_removed_workers(&make(Limits::default()).await).await;
    keeps_a_removed_worker_until_its_key_is_recorded(&make(Limits::default()).await).await;
    keeps_the_goal_of_a_replaced_key(&make(Limits::default()).await).await;
    forgets_the_oldest_removed_worker(&make(Limits { pools: 1, workers: 2 }).await).await;
    refuses_duplicates(&make(Limits::default()).await).await;
    refuses_to_put_an_entry_twice(&make(Limits::default()).await).await;
    lets_workers_swap(&make(Limits::default()).await).await;
    refuses_invalid_values(&make(Limits::default()).await).await;
    refuses_unknown_ids(&make(Limits::default()).await).await;
    enforces_its_limits(&make(Limits { pools: 1, workers: 2 }).await).await;
    publishes_edits(&make(Limits::default()).await).await;
    keeps_concurrent_edits(&make(Limits::default()).await).await;
}

/// A pool with that number.
pub fn pool(pid: u64) -> Pool {
    let operator = Operator { account: AccountId([pid as u8; 32]), key: Sealed(vec![1, 2, 3]) };
    Pool::new(Uuid::from_u128(u128::from(pid) + 1_000), PoolId(pid), format!("pool {pid}"))
        .with_operator(operator)
}

/// The `n`th worker of pool 1.
pub fn worker(n: u16) -> Worker {
    let id = Uuid::from_u128(u128::from(n) + 1);
    let endpoint = format!("http://10.0.0.1:{}", 8_000 + n);
    Worker::new(id, PoolId(1), format!("worker {n:05}"), endpoint, u128::MAX - u128::from(n))
}

async fn apply(inventory: &impl Inventory, edits: Vec<Edit>) -> Arc<Snapshot> {
    match inventory.apply(edits).await {
        Ok(snapshot) => snapshot,
        Err(e) => panic!("a valid edit was refused: {e}"),
    }
}

async fn refused(inventory: &impl Inventory, edits: Vec<Edit>, why: &str) -> Error {
    let before = inventory.snapshots().borrow().clone();
    let Err(error) = inventory.apply(edits).await else { panic!("accepted, although {why}") };
    assert_eq!(*inventory.snapshots().borrow(), before, "something was applied, although {why}");
    error
}

async fn stores_entries(inventory: &impl Inventory) {
    assert_eq!(**inventory.snapshots().borrow(), Snapshot::default(), "a new inventory is not empty");
    let mut proxied = pool(7);
    (proxied.proxied, proxied.operator) = (Some(AccountId([9; 32])), None);
    proxied.after_stop = Some(AfterExternalStop::StartAgain);
    let mut gatekeeper = worker(2);
    gatekeeper.gatekeeper = true;
    gatekeeper.after_stop = Some(AfterExternalStop::Reclaim);
    gatekeeper.endpoints = vec!["https://b.example.org".into(), "http://a.example.org:8443/x".into()];
    let edits = vec![
        Edit::PutPool(proxied.clone()),
        Edit::PutWorker(gatekeeper.clone()),
        Edit::PutPool(pool(1)),
        Edit::PutWorker(worker(1)),
    ];
    let snapshot = apply(inventory, edits).await;
    assert_eq!(snapshot.revision, 1, "one transaction counts one revision");
    let pools: Vec<_> = snapshot.pools.iter().map(|p| Pool::clone(p)).collect();
    assert_eq!(pools, [pool(1), proxied], "pools by pid, as they were put");
    let workers: Vec<_> = snapshot.workers.iter().map(|w| Worker::clone(w)).collect();
    assert_eq!(workers, [worker(1), gatekeeper], "workers by name, as they were put");
    assert_eq!(*inventory.snapshots().borrow(), snapshot, "the feed shows what was applied");
    assert_eq!(apply(inventory, vec![]).await, snapshot, "no edits change nothing");
}

async fn replaces_and_removes(inventory: &impl Inventory) {
    apply(inventory, vec![Edit::PutPool(pool(1)), Edit::PutWorker(worker(1))]).await;
    // Pool 9 does not exist: an inventory does not require a worker's pool.
    let changed = Worker { stake: 5, pid: PoolId(9), enabled: false, ..worker(1) };
    let snapshot = apply(inventory, vec![Edit::PutWorker(changed.clone())]).await;
    assert_eq!(*snapshot.workers[0], changed, "a worker of a known id is replaced");
    assert_eq!(snapshot.workers.len(), 1, "number of workers");
    let snapshot = apply(inventory, vec![Edit::RemovePool(pool(1).id)]).await;
    assert!(snapshot.pools.is_empty(), "the pool is gone");
    assert_eq!(snapshot.workers.len(), 1, "workers stay when their pool goes");
    let snapshot = apply(inventory, vec![Edit::RemoveWorker(worker(1).id)]).await;
    assert!(snapshot.workers.is_empty(), "the worker is gone");
    assert_eq!(snapshot.revision, 4, "each transaction counts");
}

async fn applies_all_or_nothing(inventory: &impl Inventory) {
    apply(inventory, vec![Edit::PutWorker(worker(1))]).await;
    let edits = vec![
        Edit::PutPool(pool(1)),
        Edit::RemoveWorker(worker(1).id),
        Edit::PutWorker(worker(2)),
        Edit::RemoveWorker(Uuid::from_u128(77)),
    ];
    refused(inventory, edits, "the last edit is of an unknown worker").await;
}

/// The record of a worker that its owner has stopped.
pub fn saved() -> FleetRecord {
    let mut saved = FleetRecord::default();
    (saved.key, saved.goal, saved.was_computing) = (Some(WorkerKey([7; 32])), Goal::StayStopped, true);
    saved.sent = Some(PendingOperation::new(PendingOperationKind::Start, ParaNumber(9)));
    saved.as_of = Some(ParaNumber(9));
    saved
}

async fn stores_fleet_records(inventory: &impl Inventory) {
    let id = worker(1).id;
    let snapshot = apply(inventory, vec![Edit::PutPool(pool(1)), Edit::PutWorker(worker(1))]).await;
    assert_eq!(snapshot.saved(id), FleetRecord::default(), "a new worker has nothing saved");
    let snapshot = apply(inventory, vec![Edit::PutFleetRecord(id, saved())]).await;
    assert_eq!(snapshot.saved(id), saved(), "the state was not saved");
    assert_eq!(snapshot.revision, 2, "saving counts as an edit");
    assert_eq!(*snapshot.workers[0], worker(1), "saving changes the entry");

    let edited = Worker { stake: 5, pid: PoolId(9), endpoint: "http://other".into(), ..worker(1) };
    let snapshot = apply(inventory, vec![Edit::PutWorker(edited), Edit::PutPool(pool(1))]).await;
    assert_eq!(snapshot.saved(id), saved(), "an edit of the worker changes what was saved");
    let snapshot = apply(inventory, vec![Edit::RemovePool(pool(1).id)]).await;
    assert_eq!(snapshot.saved(id), saved(), "an edit of the pool changes what was saved");

    let snapshot = apply(inventory, vec![Edit::RemoveWorker(id)]).await;
    assert!(snapshot.saved.is_empty(), "a removed worker has a record");
    let unknown = vec![Edit::PutFleetRecord(worker(2).id, saved())];
    let error = refused(inventory, unknown, "there is no such worker").await;
    assert!(matches!(error, Error::Unknown { what: "worker", .. }), "an unknown worker gave {error:?}");
    let snapshot =
        apply(inventory, vec![Edit::PutWorker(worker(1)), Edit::PutFleetRecord(id, saved())]).await;
    assert_eq!(snapshot.saved(id), saved(), "a worker and its state do not go into one transaction");
}

async fn resumes_removed_workers(inventory: &impl Inventory) {
    let put = |worker: &Worker| Edit::PutWorker(worker.clone());
    let (id, kept) = (worker(1).id, saved());
    let old = FleetRecord { goal: Goal::Compute, ..kept };
    apply(inventory, vec![put(&worker(1)), put(&worker(2)), Edit::PutFleetRecord(id, old)]).await;
    apply(inventory, vec![Edit::RemoveWorker(id), Edit::RemoveWorker(worker(2).id)]).await;
    // A command of the moment before the removal.
    let snapshot = apply(inventory, vec![Edit::PutFleetRecord(id, kept)]).await;
    assert_eq!(snapshot.removed.len(), 1, "a removed worker is kept only if it has a record");
    let before = snapshot;
    let snapshot = apply(inventory, vec![put(&worker(1)), put(&worker(2))]).await;
    assert_eq!(snapshot.saved(id), kept, "a worker that is back starts without its record");
    assert_eq!(snapshot.saved(worker(2).id), FleetRecord::default(), "a worker has another one's record");
    assert!(snapshot.removed.is_empty(), "a worker that is present is kept as a removed one");
    let resumed = snapshot.resumed(&before);
    assert_eq!(
        resumed.iter().map(|(worker, goal)| (worker.id, *goal)).collect::<Vec<_>>(),
        [(id, kept.goal)]
    );

    // Another entry of the same name, or with the same machine, goes on with the goal. Whoever adds it confirms the key.
    let (other, goal) =
        (Uuid::from_u128(50), FleetRecord { goal: kept.goal, as_of: kept.as_of, ..FleetRecord::default() });
    let named = Worker { id: other, endpoint: "http://new".into(), ..worker(1) };
    let renamed =
        Worker { id: other, name: "new".into(), endpoint: "HTTP://10.0.0.1:8001/".into(), ..worker(1) };
    for back in [named, renamed] {
        apply(inventory, vec![Edit::RemoveWorker(id)]).await;
        let snapshot = apply(inventory, vec![put(&back)]).await;
        assert_eq!(snapshot.saved(other), goal, "{back:?} does not keep the goal");
        apply(inventory, vec![Edit::RemoveWorker(other), put(&worker(1)), Edit::PutFleetRecord(id, kept)])
            .await;
    }
    apply(inventory, vec![Edit::RemoveWorker(id)]).await;
    let elsewhere = Worker { id: other, pid: PoolId(9), name: "new".into(), ..worker(3) };
    let snapshot = apply(inventory, vec![put(&elsewhere)]).await;
    assert_eq!(snapshot.saved(other), FleetRecord::default(), "an unrelated worker has a removed one's goal");
    // A record of the same transaction is newer.
    let edits = vec![put(&worker(1)), Edit::PutFleetRecord(id, FleetRecord::default())];
    assert_eq!(
        apply(inventory, edits).await.saved(id),
        FleetRecord::default(),
        "a record put is overwritten"
    );
}

/// A machine is known by its key: its record outlives an entry that only has its old address.
async fn keeps_a_removed_worker_until_its_key_is_recorded(inventory: &impl Inventory) {
    let put = |worker: &Worker| Edit::PutWorker(worker.clone());
    let kept = saved();
    apply(inventory, vec![put(&worker(1)), Edit::PutFleetRecord(worker(1).id, kept)]).await;
    let at_its_address = Worker { endpoint: worker(1).endpoint, ..worker(2) };
    let snapshot = apply(inventory, vec![Edit::RemoveWorker(worker(1).id), put(&at_its_address)]).await;
    assert_eq!(
        snapshot.saved(worker(2).id).goal,
        kept.goal,
        "a worker at its address does not keep the goal"
    );
    let removed = |snapshot: &Snapshot| snapshot.removed.get(&worker(1).id).map(|worker| worker.record);
    assert_eq!(removed(&snapshot), Some(kept), "it may answer elsewhere");
    // Its name and address were taken over already.
    let named = Worker { name: worker(1).name, ..worker(3) };
    let snapshot = apply(inventory, vec![put(&named)]).await;
    assert_eq!(snapshot.saved(worker(3).id), FleetRecord::default(), "a goal is taken over twice");
    assert_eq!(removed(&snapshot), Some(kept), "it is forgotten with a name");
    let other = FleetRecord { key: Some(WorkerKey([9; 32])), ..FleetRecord::default() };
    let snapshot = apply(inventory, vec![Edit::PutFleetRecord(worker(2).id, other)]).await;
    assert_eq!(removed(&snapshot), Some(kept), "it is forgotten with another key");
    let snapshot = apply(inventory, vec![Edit::PutFleetRecord(worker(3).id, kept)]).await;
    assert_eq!(removed(&snapshot), None, "it is kept although its key is back");
}

/// The goal of a key that another one replaces at its entry is kept until that key is recorded again, at any entry.
async fn keeps_the_goal_of_a_replaced_key(inventory: &impl Inventory) {
    let (first, second) = (worker(1).id, worker(2).id);
    let record = |key: u8, goal| FleetRecord { key: Some(WorkerKey([key; 32])), goal, ..saved() };
    let put = |id, key, goal| Edit::PutFleetRecord(id, record(key, goal));
    let goals = |snapshot: &Snapshot| {
        let mut goals: Vec<_> = snapshot
            .removed
            .values()
            .map(|kept| (kept.pid, kept.record.key.map(|key| key.0[0]), kept.record.goal))
            .collect();
        goals.sort_unstable_by_key(|(_, key, _)| *key);
        goals
    };
    let edits = vec![Edit::PutWorker(worker(1)), Edit::PutWorker(worker(2)), put(first, 1, Goal::Reclaim)];
    apply(inventory, edits).await;
    apply(inventory, vec![put(second, 2, Goal::Compute)]).await;
    let snapshot =
        apply(inventory, vec![put(first, 3, Goal::StayStopped), put(second, 4, Goal::Compute)]).await;
    let kept = (worker(1).pid, Some(1), Goal::Reclaim);
    assert_eq!(goals(&snapshot), [kept], "not the goal of the stopped key alone");
    let snapshot = apply(inventory, vec![put(first, 4, Goal::StayStopped)]).await;
    let second_kept = (worker(1).pid, Some(3), Goal::StayStopped);
    assert_eq!(goals(&snapshot), [kept, second_kept], "not one for each key");
    let snapshot = apply(inventory, vec![put(second, 1, Goal::Reclaim)]).await;
    assert_eq!(goals(&snapshot), [second_kept], "it is kept although its key is back");
    // Exchanged in one edit: both keys are at an entry.
    let edits = vec![put(first, 1, Goal::StayStopped), put(second, 4, Goal::StayStopped)];
    let snapshot = apply(inventory, edits).await;
    assert_eq!(goals(&snapshot), [second_kept], "a key that is present is kept");
}

/// With a limit of two workers.
async fn forgets_the_oldest_removed_worker(inventory: &impl Inventory) {
    for n in 1..=3 {
        let record = FleetRecord { key: Some(WorkerKey([n as u8; 32])), ..saved() };
        let edits = vec![Edit::PutWorker(worker(n)), Edit::PutFleetRecord(worker(n).id, record)];
        apply(inventory, edits).await;
        apply(inventory, vec![Edit::RemoveWorker(worker(n).id)]).await;
    }
    let removed = inventory.snapshots().borrow().removed.clone();
    assert!(removed.len() == 2 && !removed.contains_key(&worker(1).id), "not the last two: {removed:?}");
}

async fn refuses_to_put_an_entry_twice(inventory: &impl Inventory) {
    let renamed = Worker { name: "renamed".into(), ..worker(1) };
    // Which of the two wins must not depend on the backend.
    let edits = vec![Edit::PutWorker(worker(1)), Edit::PutWorker(renamed)];
    let error = refused(inventory, edits, "the first of two would be lost").await;
    assert!(matches!(error, Error::PutTwice { what: "worker", .. }), "a worker put twice gave {error:?}");
    let edits = vec![Edit::PutPool(pool(1)), Edit::PutPool(pool(1))];
    let error = refused(inventory, edits, "the first of two would be lost").await;
    assert!(matches!(error, Error::PutTwice { what: "pool", .. }), "a pool put twice gave {error:?}");
}

async fn refuses_duplicates(inventory: &impl Inventory) {
    apply(inventory, vec![Edit::PutPool(pool(1)), Edit::PutWorker(worker(1))]).await;
    let duplicate = Pool { id: Uuid::from_u128(1), ..pool(1) };
    let error = refused(inventory, vec![Edit::PutPool(duplicate)], "the pid is taken").await;
    assert!(matches!(&error, Error::Duplicate { what: "pid", .. }), "a pid taken gave {error:?}");
    let named = Pool { name: pool(1).name, ..pool(2) };
    let error = refused(inventory, vec![Edit::PutPool(named)], "the name is taken").await;
    assert!(matches!(&error, Error::Duplicate { what: "pool name", .. }), "a name taken gave {error:?}");
    let named = Worker { name: worker(1).name, ..worker(2) };
    let error = refused(inventory, vec![Edit::PutWorker(named)], "the name is taken").await;
    assert!(
        matches!(&error, Error::Duplicate { what: "worker name", holder, .. } if *holder == worker(1).name),
        "a name taken gave {error:?}"
    );
    // All spellings of one endpoint: two entries for one pRuntime would both drive it.
    for endpoint in [
        "http://10.0.0.1:8001",
        "http://10.0.0.1:8001/",
        "HTTP://10.0.0.1:8001",
        "http://[::ffff:10.0.0.1]:8001",
    ] {
        let there = Worker { endpoint: endpoint.into(), ..worker(2) };
        let error = refused(inventory, vec![Edit::PutWorker(there)], "the endpoint is taken").await;
        assert!(
            matches!(&error, Error::Duplicate { what: "worker endpoint", .. }),
            "an endpoint taken gave {error:?}"
        );
    }
}

async fn lets_workers_swap(inventory: &impl Inventory) {
    apply(inventory, vec![Edit::PutWorker(worker(1)), Edit::PutWorker(worker(2))]).await;
    let edits = vec![
        Edit::PutWorker(Worker { endpoint: worker(2).endpoint, ..worker(1) }),
        Edit::PutWorker(Worker { endpoint: worker(1).endpoint, ..worker(2) }),
    ];
    let snapshot = apply(inventory, edits).await;
    assert_eq!(snapshot.workers[0].endpoint, worker(2).endpoint, "endpoints are swapped");
}

async fn refuses_invalid_values(inventory: &impl Inventory) {
    let long = format!("http://a/{}", "x".repeat(MAX_ENDPOINT_BYTES));
    for endpoint in [
        "",
        "worker",
        "10.0.0.1:8000",
        "ftp://a",
        "file:///etc/passwd",
        "http://",
        "http://a:99999",
        "http://u:pw@a",
        "http://a/?key=pw",
        "http://a#pw",
        "http://a:0",
        "http://0.0.0.0:8000",
        "http://a\t:1",
        &long,
    ] {
        let worker = Worker { endpoint: endpoint.into(), ..worker(1) };
        let error = refused(inventory, vec![Edit::PutWorker(worker)], "the endpoint is invalid").await;
        assert!(matches!(error, Error::Invalid { .. }), "endpoint {endpoint:?} gave {error:?}");
        assert!(!error.to_string().contains("pw"), "a password is shown: {error}");
    }
    let twice = ["https://a".to_owned(), "HTTPS://a:443/".to_owned()];
    for endpoints in [
        &["worker.example.org".to_owned()][..],
        &["https://a".into(), "ftp://a".into()],
        &["https://u:pw@a".into()],
        &["https://a:0".into()],
        &[String::new()],
        std::slice::from_ref(&long),
        &twice,
        &(0..=MAX_ANNOUNCED).map(|n| format!("https://{n}.example.org")).collect::<Vec<_>>(),
    ] {
        let worker = Worker { endpoints: endpoints.to_vec(), ..worker(1) };
        let error = refused(inventory, vec![Edit::PutWorker(worker)], "the endpoints are invalid").await;
        assert!(
            matches!(&error, Error::Invalid { what, .. } if what == "endpoint to announce"),
            "endpoints {endpoints:?} gave {error:?}"
        );
        assert!(!error.to_string().contains("pw"), "a password is shown: {error}");
    }
    let mnemonic = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
    for name in ["", "  ", "a\nb", "a ", "a\u{200b}", "e\u{301}", mnemonic, &"x".repeat(MAX_NAME_BYTES + 1)] {
        let worker = Worker { name: name.into(), ..worker(1) };
        let error = refused(inventory, vec![Edit::PutWorker(worker)], "the name is invalid").await;
        assert!(matches!(error, Error::Invalid { .. }), "name {name:?} gave {error:?}");
        assert!(!error.to_string().contains("lonely"), "a mnemonic is shown: {error}");
        let pool = Pool { name: name.into(), ..pool(1) };
        let error = refused(inventory, vec![Edit::PutPool(pool)], "the name is invalid").await;
        assert!(matches!(error, Error::Invalid { .. }), "pool name {name:?} gave {error:?}");
    }
}

async fn refuses_unknown_ids(inventory: &impl Inventory) {
    let id = Uuid::from_u128(77);
    let error = refused(inventory, vec![Edit::RemovePool(id)], "there is no such pool").await;
    assert!(matches!(error, Error::Unknown { what: "pool", .. }), "an unknown pool gave {error:?}");
    let error = refused(inventory, vec![Edit::RemoveWorker(id)], "there is no such worker").await;
    assert!(matches!(error, Error::Unknown { what: "worker", .. }), "an unknown worker gave {error:?}");
}

/// With limits of one pool and two workers.
async fn enforces_its_limits(inventory: &impl Inventory) {
    apply(inventory, vec![Edit::PutPool(pool(1)), Edit::PutWorker(worker(1)), Edit::PutWorker(worker(2))])
        .await;
    let error = refused(inventory, vec![Edit::PutPool(pool(2))], "it is full").await;
    assert!(matches!(error, Error::Full { what: "pool", limit: 1 }), "a second pool gave {error:?}");
    let error = refused(inventory, vec![Edit::PutWorker(worker(3))], "it is full").await;
    assert!(matches!(error, Error::Full { what: "worker", limit: 2 }), "a third worker gave {error:?}");
    apply(inventory, vec![Edit::PutWorker(worker(3)), Edit::RemoveWorker(worker(1).id)]).await;
}

async fn publishes_edits(inventory: &impl Inventory) {
    let mut feed = inventory.snapshots();
    feed.mark_unchanged();
    let snapshot = apply(inventory, vec![Edit::PutWorker(worker(1))]).await;
    assert!(feed.changed().await.is_ok(), "the feed has ended");
    assert_eq!(*feed.borrow_and_update(), snapshot, "the feed gives the edited snapshot");
    // Unknown id: the edit is refused.
    let _ = inventory.apply(vec![Edit::RemoveWorker(Uuid::from_u128(77))]).await;
    assert!(matches!(feed.has_changed(), Ok(false)), "a refused edit was published");
}

async fn keeps_concurrent_edits(inventory: &impl Inventory) {
    // A backend that reads, edits and writes without a lock loses some of them.
    let edits = (1..=32).map(|n| inventory.apply(vec![Edit::PutWorker(worker(n))]));
    for result in futures::future::join_all(edits).await {
        assert!(result.is_ok(), "a concurrent edit was refused: {result:?}");
    }
    let snapshot = inventory.snapshots().borrow().clone();
    assert_eq!((snapshot.workers.len(), snapshot.revision), (32, 32), "edits were lost");
}
