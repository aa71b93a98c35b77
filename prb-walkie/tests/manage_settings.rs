//! What edits say beyond the original's fields: set, kept by edits that say nothing of it, refused where it cannot be,
//! and in no answer.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "node_rig/rig.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of the rig")]
mod rig;

#[path = "manage_rig/rig.rs"]
#[allow(dead_code, reason = "each test program uses a part of the rig")]
mod bench;

use bench::{Bench, MNEMONIC, worker};
use prb_core::inventory::AfterExternalStop;
use prb_walkie::proto::{
    FullAccount, Identity, QueryIdentity, db,
    detail::{PoolSettings, StatusQuery, StatusUpdate, WorkerSettings},
    lifecycle as lm,
};
use prost::Message;

fn pool(settings: Option<PoolSettings>) -> db::Pool {
    let mut owner = FullAccount::default();
    owner.mnemonic = MNEMONIC.to_owned();
    db::Pool {
        pid: 1,
        name: "one".into(),
        owner: Some(owner),
        enabled: true,
        settings,
        ..db::Pool::default()
    }
}

fn named(name: &str) -> Option<QueryIdentity> {
    Some(QueryIdentity { identity: Some(Identity::Name(name.into())) })
}

fn update_worker(worker: db::Worker) -> lm::UpdateWorker {
    lm::UpdateWorker { items: vec![lm::UpdateWorkerItem { id: named(&worker.name), worker: Some(worker) }] }
}

fn update_pool(pool: db::Pool) -> lm::UpdatePool {
    lm::UpdatePool { items: vec![lm::UpdatePoolItem { id: named(&pool.name), pool: Some(pool) }] }
}

fn all() -> WorkerSettings {
    WorkerSettings {
        gatekeeper: true,
        endpoints: vec!["https://a.example.org".into(), "http://b.example.org".into()],
        after_stop: "reclaim".into(),
    }
}

#[tokio::test]
async fn every_field_of_an_entry_can_be_set_over_the_wire() {
    let bench = Bench::new(false).await;
    let told: StatusUpdate =
        bench.ok("GetWorkerStatus", &StatusQuery { detail: true, ..StatusQuery::default() }).await;
    assert!(told.detail.unwrap().takes_settings);
    let start = PoolSettings { after_stop: "start-again".into() };
    let request = lm::CreatePool { pools: vec![pool(Some(start))] };
    let made: lm::PoolList = bench.ok("CreatePool", &request).await;
    assert_eq!(made.pools[0].settings, None, "answers are the original's");
    assert_eq!(bench.manager.pools()[0].after_stop, Some(AfterExternalStop::StartAgain));
    let request = lm::CreateWorker { workers: vec![db::Worker { settings: Some(all()), ..worker(1) }] };
    let made: lm::WorkerList = bench.ok("CreateWorker", &request).await;
    assert_eq!(made.workers[0].settings, None, "answers are the original's");
    let now = || bench.manager.workers()[0].clone();
    assert!(now().gatekeeper && now().after_stop == Some(AfterExternalStop::Reclaim));
    assert_eq!(now().endpoints, all().endpoints);

    // An original that edits the rest leaves them.
    let stake = db::Worker { stake: "7".into(), ..worker(1) };
    let _: lm::WorkerList = bench.ok("UpdateWorker", &update_worker(stake.clone())).await;
    assert!(now().gatekeeper && now().stake == 7 && now().endpoints.len() == 2);
    let off = db::Pool { enabled: false, owner: None, ..pool(None) };
    let _: lm::PoolList = bench.ok("UpdatePool", &update_pool(off)).await;
    assert_eq!(bench.manager.pools()[0].after_stop, Some(AfterExternalStop::StartAgain));

    // Empty ones clear.
    let none = db::Worker { settings: Some(WorkerSettings::default()), ..stake };
    let _: lm::WorkerList = bench.ok("UpdateWorker", &update_worker(none)).await;
    assert!(!now().gatekeeper && now().endpoints.is_empty() && now().after_stop.is_none());
    let _: lm::PoolList = bench.ok("UpdatePool", &update_pool(pool(Some(PoolSettings::default())))).await;
    assert_eq!(bench.manager.pools()[0].after_stop, None);
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_with_their_entry() {
    let bench = Bench::new(false).await;
    let bad = PoolSettings { after_stop: "never".into() };
    let request = lm::CreatePool { pools: vec![pool(Some(bad.clone()))] };
    let refused = bench.ask("CreatePool", request.encode_to_vec()).await.unwrap_err();
    assert!(format!("{refused:?}").contains("pools[0]: what happens after a stop must be"), "{refused:?}");
    assert!(bench.manager.pools().is_empty());
    let _: lm::PoolList = bench.ok("CreatePool", &lm::CreatePool { pools: vec![pool(None)] }).await;
    let refused = bench.ask("UpdatePool", update_pool(pool(Some(bad))).encode_to_vec()).await.unwrap_err();
    assert!(format!("{refused:?}").contains("items[0]"), "{refused:?}");
    let many = (0..100).map(|n| format!("https://{n}.example.org")).collect();
    for (settings, text) in [
        (WorkerSettings { endpoints: many, ..all() }, "endpoint to announce is not valid"),
        (WorkerSettings { endpoints: vec!["ftp://a".into()], ..all() }, "endpoint to announce is not valid"),
        (WorkerSettings { after_stop: "Reclaim".into(), ..all() }, "workers[0]: what happens after a stop"),
    ] {
        let request =
            lm::CreateWorker { workers: vec![db::Worker { settings: Some(settings), ..worker(1) }] };
        let refused = bench.ask("CreateWorker", request.encode_to_vec()).await.unwrap_err();
        assert!(format!("{refused:?}").contains(text), "{refused:?}");
        assert!(bench.manager.workers().is_empty());
    }
}
