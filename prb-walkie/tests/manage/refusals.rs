//! Calls that are refused: the error names its kind, the entry and the field.

use prb_core::inventory::Inventory;
use prb_walkie::proto::{ErrorType, Identity, db, lifecycle as lm};
use prost::Message;

use super::{
    bench::{Bench, MNEMONIC, worker},
    identity, ids, pool, update_pool, update_worker,
};

const MISSING: &str = "00000000-0000-4000-8000-000000000000";

/// A call that is refused: its method, its request, and the error.
type Refused = (&'static str, Vec<u8>, ErrorType, &'static str);

fn refused_new_pools() -> Vec<Refused> {
    let create = |pools| lm::CreatePool { pools }.encode_to_vec();
    vec![
        (
            "CreatePool",
            create(vec![pool(2), pool(1)]),
            ErrorType::Duplicated,
            "pools[1] \"pool 1\": pid \"1\" is taken by \"pool 1\"",
        ),
        (
            "CreatePool",
            create(vec![db::Pool { owner: None, ..pool(2) }]),
            ErrorType::Server,
            "pools[0] \"pool 2\": the operator's secret is not valid",
        ),
        (
            "CreatePool",
            create(vec![db::Pool { real_phala_ss58: "x".into(), ..pool(2) }]),
            ErrorType::Server,
            "pools[0] \"pool 2\": the proxied account is not valid",
        ),
        ("CreatePool", vec![0x0a, 0xff], ErrorType::Server, "decode"),
    ]
}

fn refused_changes_of_pools() -> Vec<Refused> {
    let update = |id, pool| lm::UpdatePool { items: vec![lm::UpdatePoolItem { id, pool }] }.encode_to_vec();
    let of = |id, with| update_pool(id, pool(with)).encode_to_vec();
    vec![
        (
            "UpdatePool",
            of(Identity::Uuid(MISSING.into()), 2),
            ErrorType::NotFound,
            "there is no pool 00000000",
        ),
        (
            "UpdatePool",
            of(Identity::Uuid("no id".into()), 2),
            ErrorType::NotFound,
            "items[0]: there is no pool \"no id\"",
        ),
        (
            "UpdatePool",
            of(Identity::Pid(2), 2),
            ErrorType::NotFound,
            "items[0] \"pool 2\": there is no pool with pid 2",
        ),
        ("UpdatePool", update(None, Some(pool(2))), ErrorType::Server, "items[0]: it names no pool"),
        (
            "UpdatePool",
            update(identity(Identity::Pid(1)), None),
            ErrorType::Server,
            "items[0]: it has no value for the pool",
        ),
    ]
}

fn refused_workers() -> Vec<Refused> {
    let create = |worker| lm::CreateWorker { workers: vec![worker] }.encode_to_vec();
    vec![
        (
            "CreateWorker",
            create(db::Worker { name: "b".into(), ..worker(1) }),
            ErrorType::Duplicated,
            "worker endpoint \"http://10.0.0.1:10001\" is taken by \"worker 1\"",
        ),
        (
            "CreateWorker",
            create(db::Worker { pid: 9, ..worker(2) }),
            ErrorType::NotFound,
            "workers[0] \"worker 2\": there is no pool with pid 9",
        ),
        (
            "CreateWorker",
            create(db::Worker { stake: "1.5".into(), ..worker(2) }),
            ErrorType::Server,
            "workers[0] \"worker 2\": the stake is not valid",
        ),
        (
            "UpdateWorker",
            update_worker(Identity::Pid(1), worker(1)).encode_to_vec(),
            ErrorType::Server,
            "the id is not valid: a pid names a pool",
        ),
        (
            "UpdateWorker",
            update_worker(Identity::Name("x".into()), worker(1)).encode_to_vec(),
            ErrorType::NotFound,
            "there is no worker \"x\"",
        ),
    ]
}

fn refused_commands(existing: &str) -> Vec<Refused> {
    let of = |id| ids(&[id]).encode_to_vec();
    vec![
        ("RestartWorker", of(MISSING), ErrorType::NotFound, "ids[0]: there is no worker 00000000"),
        ("KickWorker", of("x"), ErrorType::NotFound, "ids[0]: there is no worker \"x\""),
        ("GetWorkerStatus", of(MISSING), ErrorType::NotFound, "ids[0]: there is no worker"),
        ("KickWorker", of(existing), ErrorType::Server, "it only manages the inventory"),
    ]
}

#[tokio::test]
async fn errors_name_kind_entry_and_field() {
    let bench = Bench::new(false).await;
    let _: lm::PoolList = bench.ok("CreatePool", &lm::CreatePool { pools: vec![pool(1)] }).await;
    let _: lm::WorkerList = bench.ok("CreateWorker", &lm::CreateWorker { workers: vec![worker(1)] }).await;
    let before = bench.inventory.snapshots().borrow().clone();
    let existing = before.workers[0].id.to_string();
    let calls =
        [refused_new_pools(), refused_changes_of_pools(), refused_workers(), refused_commands(&existing)];
    for (method, data, kind, text) in calls.into_iter().flatten() {
        let error = bench.ask(method, data).await.unwrap_err();
        assert_eq!(error.r#type(), kind, "{method}: {error:?}");
        assert!(error.message.contains(text), "{method}: {:?} has no {text:?}", error.message);
        assert!(!error.message.contains(MNEMONIC), "{error:?}");
    }
    assert_eq!(*bench.inventory.snapshots().borrow(), before, "something was applied");
}
