//! Commands and status.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use prb_core::{
    fleet::{Command, Fleet},
    manage::STORED_WITHIN,
};
use tokio::time::Instant;

use super::*;

#[tokio::test(start_paused = true)]
async fn inventory_is_served_without_a_fleet() {
    let Setup { manager, .. } = setup();
    manager.create_pools(vec![pool(1)]).await.unwrap();
    let made = manager.create_workers(vec![worker(2), worker(1)]).await.unwrap();
    let all = manager.status(&[]).unwrap();
    assert_eq!(all.iter().map(|s| s.worker.name.as_str()).collect::<Vec<_>>(), ["worker 1", "worker 2"]);
    assert!(
        all.iter().all(|s| s.state == State::Idle && s.pool.is_some() && s.message.contains("inventory"))
    );
    assert_eq!(manager.status(&[made[0].id]).unwrap()[0].message_at, all[0].message_at, "it does not tick");
    let text = |manager: &Manager| manager.restart(&[made[0].id]).unwrap_err().to_string();
    assert!(matches!(manager.restart(&[made[0].id]), Err(Error::NoFleet { setting: None })));
    assert!(text(&manager).ends_with("it only manages the inventory"), "{}", text(&manager));
    let named = manager.clone().with_fleet_setting("RUN_FLEET");
    assert!(text(&named).ends_with("it only manages the inventory (RUN_FLEET)"), "{}", text(&named));
    assert!(matches!(manager.kick(&[Uuid::nil()]), Err(Error::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn commands_reach_only_the_named_workers() {
    let mut rig = Rig::new(3, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    let manager = manager_of(&rig);
    let ids = [rig.ids[2], rig.ids[0]];

    let done = manager.kick(&[ids[0], ids[1], ids[0]]).unwrap();
    assert_eq!(
        done.workers.iter().map(|s| s.worker.id).collect::<Vec<_>>(),
        ids,
        "in the call's order, once"
    );
    assert!(done.refused.is_empty());
    assert_eq!(
        done.answers.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        ids,
        "each is told what will happen"
    );
    assert!(done.answers.iter().all(|(_, answer)| !answer.is_empty()), "{:?}", done.answers);
    rig.until("kicked and back", |s| s.count(State::Active) == 3 && rig.workers[0].kicks() == 1).await;
    assert_eq!([0, 1, 2].map(|n| rig.workers[n].kicks()), [1, 0, 1]);

    let infos = |n: usize| rig.workers[n].count(Method::GetInfo);
    let (before, other) = (infos(0), infos(1));
    manager.restart(&[rig.ids[0]]).unwrap();
    rig.until("observed", |_| infos(0) > before).await;
    assert_eq!(infos(1), other);

    let registered = |n: usize| rig.chain.worker(rig.key(n)).registration.unwrap().last_updated;
    let (before, other) = (registered(0), registered(1));
    manager.refresh_ra_and_restart(&[rig.ids[0]]).unwrap();
    rig.until("registered again", |s| registered(0) > before && s.count(State::Active) == 3).await;
    assert_eq!(registered(1), other);

    assert!(manager.restart(&[]).unwrap().workers.is_empty(), "an empty list is nobody");
    let kicks = rig.workers[0].kicks();
    let error = manager.kick(&[rig.ids[0], Uuid::nil()]).unwrap_err();
    assert!(matches!(&error, Error::NotFound { entry, .. } if entry == "ids[1]"), "{error:?}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.workers[0].kicks(), kicks, "nobody is commanded where one is unknown");
}

#[tokio::test(start_paused = true)]
async fn kick_waits_for_a_running_checkpoint() {
    let mut rig = Rig::new(2, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    let manager = manager_of(&rig);
    rig.workers[0].set_latency(Method::TakeCheckpoint, Duration::from_secs(30));
    let at = rig.workers[0].next_block() - 1;
    manager.checkpoint(&rig.ids[..1]).unwrap();
    rig.until_worker(0, "taking", |w| &*w.message == "Taking a checkpoint").await;
    manager.kick(&rig.ids[..1]).unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(rig.workers[0].kicks(), 0, "the kick waits");
    rig.until_worker(0, "a checkpoint", |w| w.checkpoint.is_some()).await;
    let checkpoint = rig.status(0).checkpoint.clone().unwrap();
    let block = checkpoint.result.unwrap();
    assert!(block >= ParaNumber(at) && block <= rig.chain.head(), "{block}");
    rig.until("the kick", |s| rig.workers[0].kicks() == 1 && s.count(State::Active) == 2).await;
    assert_eq!(rig.workers[0].count(Method::TakeCheckpoint), 1);
    assert_eq!(rig.workers[1].count(Method::TakeCheckpoint), 0);

    rig.workers[1].fail_next(Method::TakeCheckpoint, Failure::refuse("No space left on device"));
    manager.checkpoint(&rig.ids[1..]).unwrap();
    rig.until_worker(1, "a failure", |w| w.checkpoint.is_some()).await;
    let error = rig.status(1).checkpoint.clone().unwrap().result.unwrap_err();
    assert!(error.contains("No space left on device"), "{error}");
    let head = rig.chain.head();
    rig.until_worker(1, "going on", |w| w.position.unwrap().dispatched_to() > Some(head)).await;
    assert_eq!(rig.workers[1].overlaps(), 0);
}

/// Stores records only while it is told to, or refuses to; counts how often it is asked to.
#[derive(Clone, Debug)]
struct Disk {
    inventory: Arc<MemoryInventory>,
    state: watch::Sender<DiskState>,
    records: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DiskState {
    Writes,
    Hangs,
    Full,
}

#[async_trait]
impl Inventory for Disk {
    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.inventory.snapshots()
    }

    async fn apply(&self, edits: Vec<Edit>) -> Result<Arc<Snapshot>, inventory::Error> {
        if edits.iter().any(|edit| matches!(edit, Edit::PutFleetRecord(..))) {
            self.records.fetch_add(1, Relaxed);
            let mut state = self.state.subscribe();
            if *state.wait_for(|state| *state != DiskState::Hangs).await.unwrap() == DiskState::Full {
                return Err(inventory::Error::Storage("No space left on device".into()));
            }
        }
        self.inventory.apply(edits).await
    }
}

/// A fleet of workers that compute, and its disk.
async fn on_a_disk(workers: usize) -> (Rig, Disk, Manager) {
    let mut rig = Rig::new(workers, 10).await;
    rig.run();
    let disk = Disk {
        inventory: rig.inventory.clone(),
        state: watch::Sender::new(DiskState::Writes),
        records: Arc::default(),
    };
    let mut parts = rig.parts(rig.source.clone());
    parts.inventory = Arc::new(disk.clone());
    rig.fleet = Some(Fleet::start(parts, Rig::config()));
    rig.until_all(State::Active).await;
    // Whatever is stored of their start.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let manager = manager_of(&rig);
    (rig, disk, manager)
}

fn goals(rig: &Rig) -> Vec<Goal> {
    let snapshot = rig.inventory.snapshots().borrow().clone();
    rig.ids.iter().map(|id| snapshot.saved(*id).goal).collect()
}

#[tokio::test(start_paused = true)]
async fn command_is_answered_once_its_goals_are_stored() {
    let (rig, disk, manager) = on_a_disk(5).await;
    disk.state.send_replace(DiskState::Hangs);
    let before = disk.records.load(Relaxed);
    let stops = tokio::spawn({
        let (manager, ids) = (manager.clone(), rig.ids.clone());
        async move { manager.command_stored(&ids, Command::Stop).await }
    });
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!stops.is_finished(), "answered before it was stored");
    // What stores nothing does not wait.
    let start = Instant::now();
    let done = manager.command_stored(&rig.ids, Command::Restart).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(1) && done.not_stored.is_none(), "{done:?}");
    assert_eq!(goals(&rig), [Goal::Compute; 5]);
    disk.state.send_replace(DiskState::Writes);
    let done = stops.await.unwrap().unwrap();
    assert_eq!((goals(&rig), done.not_stored), (vec![Goal::Stop; 5], None));
    assert!(done.answers.iter().all(|(_, answer)| answer.contains("stops computing")), "{:?}", done.answers);
    let transactions = disk.records.load(Relaxed) - before;
    assert!(transactions <= 2, "{transactions} transactions for one command");
    // Nothing is left to store.
    let done = manager.command_stored(&rig.ids, Command::Stop).await.unwrap();
    assert_eq!(done.not_stored, None);
}

#[tokio::test(start_paused = true)]
async fn command_that_cannot_be_stored_is_answered_with_the_reason() {
    let (rig, disk, manager) = on_a_disk(2).await;
    for (state, reason) in
        [(DiskState::Hangs, "the inventory has not answered"), (DiskState::Full, "No space left on device")]
    {
        disk.state.send_replace(state);
        let start = Instant::now();
        let done = manager.command_stored(&rig.ids[..1], Command::Stop).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), STORED_WITHIN.as_secs());
        let why = done.not_stored.expect("it cannot be stored").to_string();
        assert!(why.starts_with("accepted, but not stored yet") && why.ends_with(reason), "{why}");
        assert!(done.answers[0].1.starts_with("stops computing") && done.answers[0].1.ends_with(reason));
        assert_eq!(goals(&rig), [Goal::Compute; 2]);
        disk.state.send_replace(DiskState::Writes);
        // The next attempt follows after a backoff.
        let mut snapshots = rig.inventory.snapshots();
        let stored = snapshots.wait_for(|stored| stored.saved(rig.ids[0]).goal == Goal::Stop);
        tokio::time::timeout(Duration::from_secs(60), stored).await.expect("it is never stored").unwrap();
        let done = manager.command_stored(&rig.ids[..1], Command::Start).await.unwrap();
        assert_eq!(done.not_stored, None, "it is stored by now, after a failure too");
        rig.until_worker(0, "computing", |w| w.state == State::Active && w.saved.goal == Goal::Compute).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // A worker that writes its checkpoint takes no command up.
    rig.workers[1].set_latency(Method::TakeCheckpoint, Duration::from_secs(30));
    manager.checkpoint(&rig.ids[1..]).unwrap();
    rig.until_worker(1, "taking", |w| &*w.message == "Taking a checkpoint").await;
    let done = manager.command_stored(&rig.ids[1..], Command::Stop).await.unwrap();
    let why = done.not_stored.expect("it is not taken up").to_string();
    assert!(why.contains("checkpoint"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn fleet_whose_inventory_hangs_stops_in_time() {
    let (rig, disk, _) = on_a_disk(2).await;
    disk.state.send_replace(DiskState::Hangs);
    let before = disk.records.load(Relaxed);
    rig.fleet().command(rig.ids[0], Command::Stop).unwrap();
    assert!(rig.fleet().stop().await, "its tasks were abandoned");
    assert!(disk.records.load(Relaxed) > before, "it was not asked to store the stop");
}

#[tokio::test(start_paused = true)]
async fn workers_that_do_not_run_are_skipped_with_their_names() {
    let mut rig = Rig::new(2, 10).await;
    rig.edit_worker(1, |w| w.enabled = false).await;
    rig.run();
    rig.start();
    rig.until_worker(0, "computing", |w| w.state == State::Active).await;
    let manager = manager_of(&rig);
    let done = manager.kick(&rig.ids).unwrap();
    assert_eq!(done.workers.len(), 2);
    assert_eq!(done.answers.iter().map(|(id, _)| *id).collect::<Vec<_>>(), rig.ids[..1]);
    assert!(
        matches!(&done.refused[..], [(id, CommandError::NotRunning { name, .. })]
            if *id == rig.ids[1] && name == "worker 00001"),
        "{:?}",
        done.refused
    );
    rig.until("the other", |_| rig.workers[0].kicks() == 1).await;
    let error = manager.kick(&rig.ids[1..]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no worker was commanded: worker worker 00001 does not run: Worker is disabled"
    );
    rig.fleet().stop().await;
    let error = manager.kick(&rig.ids).unwrap_err();
    assert!(matches!(error, Error::NotCommanded(CommandError::Stopped)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn status_shows_an_edit_immediately() {
    let mut rig = Rig::new(1, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    let manager = manager_of(&rig);
    let value = worker(7).with_endpoint(endpoint(7));
    let made = manager.create_workers(vec![value]).await.unwrap();
    // Whether or not the fleet has seen the edit.
    let all = manager.status(&[]).unwrap();
    assert_eq!(all.iter().map(|s| s.worker.name.as_str()).collect::<Vec<_>>(), ["worker 00000", "worker 7"]);

    let renamed = worker(0).with_endpoint(endpoint(0)).with_name("renamed".into());
    manager.update_workers(vec![(Selector::Id(rig.ids[0]), Change::Put(renamed))]).await.unwrap();
    let status = manager.status(&rig.ids[..1]).unwrap().remove(0);
    assert_eq!((status.worker.name.as_str(), status.state), ("renamed", State::Active));
    manager.update_workers(vec![(id_of(&made[0]), Change::Delete)]).await.unwrap();
    assert_eq!(manager.status(&[]).unwrap().len(), 1, "one deleted is not shown");
    assert!(matches!(manager.status(&[made[0].id]), Err(Error::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn created_worker_starts_computing() {
    let mut rig = Rig::new(0, 10).await;
    rig.run();
    rig.start();
    let index = rig.workers.len();
    let scripted = prb_core::pruntime::scripted::ScriptedWorker::new(1);
    rig.connect.add(&endpoint(index), scripted.clone());
    let manager = manager_of(&rig);
    let account = manager.create_pools(vec![pool(5)]).await.unwrap()[0].operator.clone().unwrap().account;
    rig.chain.add_pool(PoolId(5), account, 1_000_000 * rig::PHA);
    let value = worker(index).with_pid(PoolId(5)).with_stake(rig::STAKE.to_string());
    manager.create_workers(vec![value]).await.unwrap();
    rig.until_all(State::Active).await;
    assert_eq!(rig.chain.worker(scripted.key()).pool, Some(PoolId(5)));
}
