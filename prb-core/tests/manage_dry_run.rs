//! A dry run refuses what an edit would be refused for, and leaves nothing behind.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use prb_core::{
    inventory::memory::MemoryInventory,
    manage::{Change, Error, Manager, Parts, PoolValue, Selector, WorkerValue, memory::MemoryKeys},
    primitives::PoolId,
    vault::memory::MemoryVault,
};

fn manager() -> Manager {
    Manager::new(Parts {
        inventory: Arc::new(MemoryInventory::default()),
        vault: Arc::new(MemoryVault::new()),
        keys: Arc::new(MemoryKeys),
        fleet: None,
    })
}

fn pool(pid: u64, name: &str) -> PoolValue {
    let secret = Some("operator".into());
    PoolValue::default().with_pid(PoolId(pid)).with_name(name.into()).with_secret(secret).with_enabled(true)
}

fn worker(name: &str, pid: u64) -> WorkerValue {
    let endpoint = format!("http://{name}");
    WorkerValue::default()
        .with_name(name.into())
        .with_pid(PoolId(pid))
        .with_endpoint(endpoint)
        .with_stake("1".into())
}

#[tokio::test]
async fn refuses_what_the_inventory_would() {
    let manager = manager();
    manager.create_pools(vec![pool(1, "one")]).await.unwrap();
    manager.create_workers(vec![worker("a", 1)]).await.unwrap();
    let dry = manager.dry_run();

    let refused = dry.create_pools(vec![pool(2, "two"), pool(1, "again")]).await;
    assert!(matches!(refused, Err(Error::Duplicate { .. })), "{refused:?}");
    let refused = dry.create_workers(vec![worker("a", 1)]).await;
    assert!(matches!(refused, Err(Error::Duplicate { .. })), "{refused:?}");
    let refused = dry.create_workers(vec![worker("b", 2)]).await;
    assert!(matches!(refused, Err(Error::NotFound { .. })), "{refused:?}");
}

#[tokio::test]
async fn leaves_nothing_behind() {
    let manager = manager();
    manager.create_pools(vec![pool(1, "one")]).await.unwrap();
    let before = manager.snapshots().borrow().clone();
    let dry = manager.dry_run();

    let created = dry.create_pools(vec![pool(2, "two")]).await.unwrap().remove(0);
    assert!(created.operator.as_ref().unwrap().key.0.is_empty(), "a dry run keeps a secret");
    dry.create_workers(vec![worker("b", 2)]).await.unwrap();
    dry.update_pools(vec![(Selector::Pid(PoolId(1)), Change::Delete)]).await.unwrap();
    assert_eq!(*manager.snapshots().borrow(), before);
    assert!(manager.workers().is_empty());
}
