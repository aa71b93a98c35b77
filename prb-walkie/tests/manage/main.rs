//! Tests of the management calls as an original's monitor makes them: bytes over TCP, noise and mplex, to a
//! manager with in-memory parts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../node_rig/rig.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of the rig")]
mod rig;

#[path = "../manage_rig/rig.rs"]
mod bench;

mod refusals;

use std::time::Duration;

use bench::{Bench, MNEMONIC, PHA, worker};
use prb_core::{
    chain::memory::MemoryChain,
    inventory::{AfterExternalStop, Edit, FleetRecord, Goal, Inventory, Pool, Worker},
    primitives::{AccountId, PoolId, WorkerKey},
    prpc::Method as Prpc,
    pruntime::scripted::ScriptedWorker,
    vault::Vault,
    worker::State,
};
use prb_walkie::{
    proto::{
        Empty, FullAccount, Identity, QueryIdentity, WorkerState, WorkerStateUpdate, WorkerStatus, db,
        lifecycle as lm,
    },
    rpc::{Handlers, calls},
};
use prost::Message;
use secrecy::ExposeSecret;

fn pool(pid: u64) -> db::Pool {
    let mut owner = FullAccount::default();
    owner.mnemonic = MNEMONIC.to_owned();
    db::Pool { pid, name: format!("pool {pid}"), owner: Some(owner), enabled: true, ..db::Pool::default() }
}

fn identity(identity: Identity) -> Option<QueryIdentity> {
    Some(QueryIdentity { identity: Some(identity) })
}

fn update_pool(id: Identity, pool: db::Pool) -> lm::UpdatePool {
    lm::UpdatePool { items: vec![lm::UpdatePoolItem { id: identity(id), pool: Some(pool) }] }
}

fn update_worker(id: Identity, worker: db::Worker) -> lm::UpdateWorker {
    lm::UpdateWorker { items: vec![lm::UpdateWorkerItem { id: identity(id), worker: Some(worker) }] }
}

fn ids(ids: &[&str]) -> lm::UuidQueryRequest {
    lm::UuidQueryRequest { ids: ids.iter().map(|id| (*id).to_owned()).collect() }
}

#[tokio::test]
async fn every_management_method_has_a_handler() {
    let bench = Bench::new(false).await;
    let handlers = prb_walkie::manage::handlers(
        bench.manager.clone(),
        prb_walkie::manage::Sources::default(),
        Handlers::new(),
    );
    assert!(
        handlers.has(calls::ListPool) && handlers.has(calls::CreatePool) && handlers.has(calls::UpdatePool)
    );
    assert!(handlers.has(calls::ListWorker) && handlers.has(calls::CreateWorker));
    assert!(handlers.has(calls::UpdateWorker) && handlers.has(calls::RestartWorker));
    assert!(handlers.has(calls::RefreshRaAndRestartWorker) && handlers.has(calls::KickWorker));
    assert!(handlers.has(calls::GetWorkerStatus) && !handlers.has(calls::GetDataProviderInfo));
}

/// A request of `CreatePool` as protobuf.js writes it: fields that were set, including zeros, and unknown fields.
fn create_pools_as_javascript(pools: &[(u8, &str, &str, u8)]) -> Vec<u8> {
    let owner = [&[0x0a, MNEMONIC.len() as u8][..], MNEMONIC.as_bytes()].concat();
    let mut request = Vec::new();
    for (pid, name, real, sync_only) in pools {
        let mut pool = vec![0x12, owner.len() as u8];
        pool.extend(&owner);
        pool.extend([0x18, *pid, 0x22, name.len() as u8]);
        pool.extend(name.as_bytes());
        pool.extend([0x28, 1, 0x30, 0, 0x3a, real.len() as u8]);
        pool.extend(real.as_bytes());
        pool.extend([0x40, *sync_only, 0xf8, 0x07, 0x05]);
        request.push(0x0a);
        prost::encoding::encode_varint(pool.len() as u64, &mut request);
        request.extend(pool);
    }
    request
}

/// The pool in an answer: the owner's addresses without secrets.
fn answered_pool(uuid: &str, pid: u64, name: &str, real: &str, sync_only: bool) -> db::Pool {
    let account = MemoryChain::account_of(MNEMONIC);
    let mut owner = FullAccount::default();
    owner.ss58_phala = account.to_ss58(30);
    owner.ss58_polkadot = account.to_ss58(0);
    db::Pool {
        uuid: uuid.to_owned(),
        owner: Some(owner),
        pid,
        name: name.to_owned(),
        enabled: true,
        deleted: false,
        real_phala_ss58: real.to_owned(),
        sync_only,
        settings: None,
    }
}

#[tokio::test]
async fn pools_are_created_and_listed() {
    let bench = Bench::new(false).await;
    let none: lm::PoolList = bench.ok("ListPool", &Empty {}).await;
    assert!(none.pools.is_empty());
    let real = AccountId([9; 32]).to_ss58(30);
    let request = create_pools_as_javascript(&[(2, "two", &real, 0), (7, "seven", "", 1)]);
    let answer = bench.ask("CreatePool", request).await.unwrap();
    let made = lm::PoolList::decode(answer).unwrap().pools;
    let expected = [
        answered_pool(&made[0].uuid, 2, "two", &real, false),
        answered_pool(&made[1].uuid, 7, "seven", "", true),
    ];
    assert_eq!(made, expected);
    assert!(made.iter().all(|pool| uuid::Uuid::parse_str(&pool.uuid).is_ok()));
    let listed: lm::PoolList = bench.ok("ListPool", &Empty {}).await;
    assert_eq!(listed.pools, expected);
}

#[tokio::test]
async fn pools_are_changed_and_deleted() {
    let bench = Bench::new(false).await;
    let request =
        create_pools_as_javascript(&[(2, "two", &AccountId([9; 32]).to_ss58(30), 0), (7, "seven", "", 1)]);
    let made = lm::PoolList::decode(bench.ask("CreatePool", request).await.unwrap()).unwrap().pools;

    // Without a mnemonic, with and without an owner: the operator stays.
    let sealed = |bench: &Bench| bench.manager.pools()[0].operator.clone().unwrap();
    let before = sealed(&bench);
    for owner in [None, Some(FullAccount::default())] {
        let value = db::Pool { owner, name: "zwei".into(), enabled: false, ..pool(2) };
        let changed: lm::PoolList = bench.ok("UpdatePool", &update_pool(Identity::Pid(2), value)).await;
        let expected = db::Pool { enabled: false, ..answered_pool(&made[0].uuid, 2, "zwei", "", false) };
        assert_eq!(changed.pools, [expected]);
        assert_eq!(sealed(&bench), before);
    }

    // With a mnemonic, and with another pid: both change, the id stays.
    let mut owner = FullAccount::default();
    owner.mnemonic = "another".into();
    let value = db::Pool { owner: Some(owner), pid: 3, ..pool(2) };
    let id = Identity::Name("zwei".into());
    let changed: lm::PoolList = bench.ok("UpdatePool", &update_pool(id, value)).await;
    let [changed] = &changed.pools[..] else { panic!("{changed:?}") };
    let account = &changed.owner.as_ref().unwrap().ss58_phala;
    assert_eq!(*account, MemoryChain::account_of("another").to_ss58(30));
    assert_eq!((&changed.uuid, changed.pid), (&made[0].uuid, 3));

    let deleted = db::Pool { deleted: true, ..db::Pool::default() };
    let id = Identity::Uuid(made[0].uuid.clone());
    let changed: lm::PoolList = bench.ok("UpdatePool", &update_pool(id, deleted)).await;
    assert!(changed.pools.is_empty(), "deleted pools are not in the answer");
    let listed: lm::PoolList = bench.ok("ListPool", &Empty {}).await;
    assert_eq!(listed.pools, made[1..]);
}

#[tokio::test]
async fn workers_are_created_listed_changed_and_deleted() {
    let bench = Bench::new(false).await;
    let _: lm::PoolList = bench.ok("CreatePool", &lm::CreatePool { pools: vec![pool(u64::MAX)] }).await;
    let wanted = |n| db::Worker { pid: u64::MAX, ..worker(n) };
    let request = lm::CreateWorker { workers: vec![wanted(2), wanted(1)] };
    let made: lm::WorkerList = bench.ok("CreateWorker", &request).await;
    let expected = |n: usize, of| db::Worker { uuid: made.workers[n].uuid.clone(), ..wanted(of) };
    assert_eq!(made.workers, [expected(0, 2), expected(1, 1)], "in the call's order");
    let listed: lm::WorkerList = bench.ok("ListWorker", &Empty {}).await;
    assert_eq!(listed.workers, [expected(1, 1), expected(0, 2)], "by name");

    let id = Identity::Uuid(made.workers[0].uuid.clone());
    let value = db::Worker { stake: "7".into(), enabled: false, sync_only: true, ..wanted(3) };
    let changed: lm::WorkerList = bench.ok("UpdateWorker", &update_worker(id, value.clone())).await;
    assert_eq!(changed.workers, [db::Worker { uuid: made.workers[0].uuid.clone(), ..value }]);

    let gone = db::Worker { deleted: true, ..db::Worker::default() };
    let items = ["worker 3", "worker 1"].map(|name| lm::UpdateWorkerItem {
        id: identity(Identity::Name(name.into())),
        worker: Some(gone.clone()),
    });
    let changed: lm::WorkerList = bench.ok("UpdateWorker", &lm::UpdateWorker { items: items.into() }).await;
    assert!(changed.workers.is_empty());
    assert!(bench.manager.workers().is_empty());
}

/// The wire has no fields for these values: an edit by an original's monitor must not undo them.
#[tokio::test]
async fn update_keeps_values_without_a_wire_field() {
    let bench = Bench::new(false).await;
    let _: lm::PoolList = bench.ok("CreatePool", &lm::CreatePool { pools: vec![pool(1)] }).await;
    let _: lm::WorkerList = bench.ok("CreateWorker", &lm::CreateWorker { workers: vec![worker(1)] }).await;
    let snapshot = bench.inventory.snapshots().borrow().clone();
    let mut set_pool = Pool::clone(&snapshot.pools[0]);
    set_pool.after_stop = Some(AfterExternalStop::Reclaim);
    let mut set = Worker::clone(&snapshot.workers[0]);
    (set.gatekeeper, set.after_stop) = (true, Some(AfterExternalStop::StartAgain));
    set.endpoints = vec!["https://worker-1.example.org".into()];
    let mut saved = FleetRecord::default();
    (saved.key, saved.goal) = (Some(WorkerKey([7; 32])), Goal::StayStopped);
    let edits = vec![
        Edit::PutPool(set_pool.clone()),
        Edit::PutWorker(set.clone()),
        Edit::PutFleetRecord(set.id, saved),
    ];
    bench.inventory.apply(edits).await.unwrap();

    let value = db::Worker { stake: "7".into(), ..worker(1) };
    let id = Identity::Uuid(set.id.to_string());
    let _: lm::WorkerList = bench.ok("UpdateWorker", &update_worker(id, value)).await;
    let value = db::Pool { sync_only: true, owner: None, ..pool(1) };
    let _: lm::PoolList = bench.ok("UpdatePool", &update_pool(Identity::Pid(1), value)).await;
    let after = bench.inventory.snapshots().borrow().clone();
    set.stake = 7;
    set_pool.sync_only = true;
    assert_eq!((&*after.workers[0], &*after.pools[0], after.saved(set.id)), (&set, &set_pool, saved));
}

#[tokio::test]
async fn all_workers_are_idle_in_config_mode() {
    let bench = Bench::new(false).await;
    let _: lm::PoolList = bench.ok("CreatePool", &lm::CreatePool { pools: vec![pool(1)] }).await;
    let made: lm::WorkerList = bench.ok("CreateWorker", &lm::CreateWorker { workers: vec![worker(1)] }).await;
    let all: WorkerStateUpdate = bench.ok("GetWorkerStatus", &ids(&[])).await;
    let expected = WorkerState {
        status: WorkerStatus::Idle.into(),
        parent_header_synched_to: -1,
        para_header_synched_to: -1,
        para_block_dispatched_to: -1,
        initialized: false,
        worker: Some(made.workers[0].clone()),
        public_key: String::new(),
        last_message: all.worker_states[0].last_message.clone(),
        session_info_json: "{\n  \"runtimeInfo\": {}\n}".into(),
        worker_account_id: String::new(),
    };
    assert_eq!(all.worker_states, [expected]);
    let message = &all.worker_states[0].last_message;
    assert!(
        message.ends_with("+00:00] This process only manages the inventory; workers do not run here"),
        "{message}"
    );
}

/// Two workers: one that computes, and a disabled one. Returns their ids, and the double of the first.
async fn start_workers(bench: &Bench) -> ([String; 2], ScriptedWorker) {
    let _: lm::PoolList = bench.ok("CreatePool", &lm::CreatePool { pools: vec![pool(1)] }).await;
    let account = bench.manager.pools()[0].operator.as_ref().unwrap().account;
    bench.chain.add_pool(PoolId(1), account, 1_000_000 * PHA);
    let disabled = db::Worker { enabled: false, ..worker(2) };
    let request = lm::CreateWorker { workers: vec![worker(1), disabled] };
    let made: lm::WorkerList = bench.ok("CreateWorker", &request).await;
    let scripted = bench.connect(1);
    bench.until_active().await;
    ([0, 1].map(|n: usize| made.workers[n].uuid.clone()), scripted)
}

#[tokio::test]
async fn state_of_a_running_worker_has_all_fields() {
    let bench = Bench::new(true).await;
    let ([id, _], scripted) = start_workers(&bench).await;
    let listed: lm::WorkerList = bench.ok("ListWorker", &Empty {}).await;

    let some: WorkerStateUpdate = bench.ok("GetWorkerStatus", &ids(&[&id, &id])).await;
    let [state] = &some.worker_states[..] else { panic!("{some:?}") };
    let status = bench.manager.status(&[id.parse().unwrap()]).unwrap().remove(0);
    assert_eq!((state.status(), status.state), (WorkerStatus::Active, State::Active));
    let at = status.position.unwrap();
    let heights =
        (state.parent_header_synched_to, state.para_header_synched_to, state.para_block_dispatched_to);
    let numbers = (at.relay_header.0 as i32 - 1, at.para_header.0 as i32 - 1, at.block.0 as i32 - 1);
    assert_eq!(heights, numbers);
    assert!(state.initialized && heights.2 > 0);
    assert_eq!(state.worker.as_ref().unwrap(), &listed.workers[0]);
    assert_eq!(state.public_key, hex::encode(scripted.key().0));
    let session = bench.chain.worker(scripted.key()).session.unwrap();
    assert_eq!(state.worker_account_id, session.account.to_ss58(30));
    let (time, text) = state.last_message.split_once("] ").unwrap();
    assert_eq!(text, &*status.message);
    assert!(time.starts_with("[20") && time.ends_with("+00:00") && time.len() == 26, "{time}");
    let json: serde_json::Value = serde_json::from_str(&state.session_info_json).unwrap();
    assert_eq!(json["state"], "WorkerIdle");
    assert_eq!(json["raw"]["benchmark"]["pInit"], session.p_init);
    assert_eq!(json["runtimeInfo"]["publicKey"], hex::encode(scripted.key().0));

    let all: WorkerStateUpdate = bench.ok("GetWorkerStatus", &ids(&[])).await;
    let labels: Vec<_> = all.worker_states.iter().map(|state| state.status()).collect();
    assert_eq!(labels, [WorkerStatus::Active, WorkerStatus::Idle], "disabled ones too, by name");
    bench.stop().await;
}

#[tokio::test]
async fn running_workers_take_commands() {
    let bench = Bench::new(true).await;
    let ([running, disabled], scripted) = start_workers(&bench).await;

    // A list with a worker that does not run: the other one gets the command.
    let infos = scripted.count(Prpc::GetInfo);
    let answer: WorkerStateUpdate = bench.ok("RestartWorker", &ids(&[&disabled, &running])).await;
    let answered: Vec<_> =
        answer.worker_states.iter().map(|s| s.worker.as_ref().unwrap().uuid.as_str()).collect();
    assert_eq!(answered, [&disabled, &running]);
    bench.until("restarted", || scripted.count(Prpc::GetInfo) > infos).await;
    let error = bench.ask("KickWorker", ids(&[&disabled]).encode_to_vec()).await.unwrap_err();
    assert_eq!(error.message, "no worker was commanded: worker worker 2 does not run: Worker is disabled");
    let nobody: WorkerStateUpdate = bench.ok("KickWorker", &ids(&[])).await;
    assert!(nobody.worker_states.is_empty());
    assert_eq!(scripted.kicks(), 0, "an empty list selects none");
    let _: WorkerStateUpdate = bench.ok("KickWorker", &ids(&[&running])).await;
    bench.until("kicked", || scripted.kicks() == 1).await;
    bench.until_active().await;

    let registered = || bench.chain.worker(scripted.key()).registration.unwrap().last_updated;
    let before = registered();
    let _: WorkerStateUpdate = bench.ok("RefreshRaAndRestartWorker", &ids(&[&running])).await;
    bench.until("registered again", || registered() > before).await;
    bench.stop().await;
}

#[tokio::test]
async fn answers_and_logs_contain_no_secret() {
    let log = bench::capture_log();
    let bench = Bench::new(true).await;
    let secret = format!("{MNEMONIC} quokka");
    let mut owned = pool(1);
    owned.owner.as_mut().unwrap().mnemonic = secret.clone();
    let mut bad = pool(2);
    bad.owner.as_mut().unwrap().mnemonic = format!("{secret}?");
    let mut huge = pool(2);
    huge.owner.as_mut().unwrap().mnemonic = secret.repeat(200);
    let named = |pool: db::Pool| db::Pool { name: secret.clone(), ..pool };
    let mut misplaced = worker(2);
    misplaced.name = format!(" {secret}");
    let mut answers = Vec::new();
    for (method, request) in [
        ("CreatePool", lm::CreatePool { pools: vec![owned.clone()] }.encode_to_vec()),
        ("CreatePool", lm::CreatePool { pools: vec![owned.clone()] }.encode_to_vec()),
        ("CreatePool", lm::CreatePool { pools: vec![bad] }.encode_to_vec()),
        ("CreatePool", lm::CreatePool { pools: vec![huge] }.encode_to_vec()),
        ("CreateWorker", lm::CreateWorker { workers: vec![worker(1)] }.encode_to_vec()),
        ("CreatePool", lm::CreatePool { pools: vec![named(pool(2))] }.encode_to_vec()),
        ("CreateWorker", lm::CreateWorker { workers: vec![misplaced] }.encode_to_vec()),
        ("UpdatePool", update_pool(Identity::Name(secret.clone()), named(pool(2))).encode_to_vec()),
        ("UpdatePool", update_pool(Identity::Pid(1), owned.clone()).encode_to_vec()),
        ("UpdatePool", update_pool(Identity::Pid(5), owned).encode_to_vec()),
        ("ListPool", Vec::new()),
        ("ListWorker", Vec::new()),
        ("GetWorkerStatus", Vec::new()),
    ] {
        answers.push(bench.raw(method, request).await);
    }
    assert_eq!((answers.len(), bench.manager.pools().len(), bench.manager.workers().len()), (13, 1, 1));
    let operator = bench.manager.pools()[0].operator.clone().unwrap();
    assert_eq!(bench.vault.open(&operator.key).await.unwrap().expose_secret(), secret, "it was sealed");
    let sealed = operator.key.0;
    let shown = format!("{:?} {:?}", bench.manager, bench.manager.status(&[]).unwrap());
    answers.push(shown.into_bytes());
    bench.stop().await;
    answers.push(log.text().into_bytes());
    assert!(log.text().contains("pools or workers were edited"), "the log was not captured");
    // Fragments count, too: no answer has 12 bytes of them, raw or in hexadecimal.
    let needles =
        [secret.as_bytes()[..12].to_vec(), sealed[sealed.len() - 12..].to_vec(), sealed[..12].to_vec()];
    for needle in needles {
        for needle in [needle.clone(), hex::encode(&needle).into_bytes(), format!("{needle:?}").into_bytes()]
        {
            for answer in &answers {
                let found = answer.windows(needle.len()).any(|bytes| bytes == needle);
                assert!(
                    !found,
                    "{} is in {}",
                    String::from_utf8_lossy(&needle),
                    String::from_utf8_lossy(answer)
                );
            }
        }
    }
}

#[tokio::test]
async fn concurrent_calls_are_all_applied() {
    let bench = Bench::new(false).await;
    let _: lm::PoolList = bench.ok("CreatePool", &lm::CreatePool { pools: vec![pool(1)] }).await;
    let makes = (0..40).map(|n| {
        let bench = &bench;
        async move {
            let request = lm::CreateWorker { workers: vec![worker(n)] };
            let made: lm::WorkerList = bench.ok("CreateWorker", &request).await;
            assert_eq!(made.workers.len(), 1);
        }
    });
    let all = futures::future::join_all(makes);
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    let listed: lm::WorkerList = bench.ok("ListWorker", &Empty {}).await;
    assert_eq!(listed.workers.len(), 40);
}
