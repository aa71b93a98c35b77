//! Concurrent editors of one fleet over the real manager: none overwrites another's edit.

use std::sync::Arc;

use prb::console::{Local, backend::Backend};
use prb_core::{
    inventory::memory::MemoryInventory,
    manage::{Manager, Parts, PoolValue, WorkerValue, memory::MemoryKeys},
    primitives::PoolId,
    vault::memory::MemoryVault,
};

use crate::rig::*;

/// Creates a manager without a fleet, with one pool and one worker.
async fn manager() -> Manager {
    let manager = Manager::new(Parts {
        inventory: Arc::new(MemoryInventory::default()),
        vault: Arc::new(MemoryVault::new()),
        keys: Arc::new(MemoryKeys),
        fleet: None,
    });
    let pool = PoolValue::default()
        .with_pid(PoolId(7))
        .with_name("seven".into())
        .with_secret(Some("operator".into()))
        .with_enabled(true);
    manager.create_pools(vec![pool]).await.unwrap();
    manager.create_workers(vec![worker("a")]).await.unwrap();
    manager
}

fn worker(name: &str) -> WorkerValue {
    let endpoint = format!("http://{name}");
    let stake = "1".into();
    WorkerValue::default()
        .with_pid(PoolId(7))
        .with_name(name.into())
        .with_endpoint(endpoint)
        .with_stake(stake)
        .with_enabled(true)
}

/// Returns the value of a form's hidden field; the last one with that name.
fn hidden(page: &Answer, name: &str) -> String {
    let field = format!("name=\"{name}\" value=\"");
    page.body.rsplit(&field).next().unwrap().split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn second_of_two_editors_is_refused_and_nothing_is_lost() {
    let manager = manager().await;
    let backend: Arc<dyn Backend> = Arc::new(Local::new(manager.clone()));
    let page = Page::over(backend, &prb_core::queue::memory::MemoryQueue::default()).await;
    let (worker, pool) = (manager.workers()[0].id, manager.pools()[0].id);

    // Both have opened the form of the same worker and save concurrently, repeatedly.
    for round in 0..20 {
        let form = page.get(&format!("/workers/{worker}/edit")).await;
        let version = hidden(&form, "version");
        let body = |stake: u32| {
            format!("id={worker}&version={version}&name=a&pid=7&endpoint=http://a&stake={stake}&enabled=1")
        };
        let (first, second) = (body(2 * round + 2), body(2 * round + 3));
        let (first, second) = tokio::join!(
            page.post("/workers/save", Some(TOKEN), &first),
            page.post("/workers/save", Some(TOKEN), &second)
        );
        let mut statuses = [first.status, second.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{} {}", first.body, second.body);
        let (told, stake) =
            if first.status == 409 { (first, 2 * round + 3) } else { (second, 2 * round + 2) };
        told.has(&["Somebody else has changed it"]);
        assert_eq!(manager.workers()[0].stake, u128::from(stake) * PHA);
    }

    // A pool is changed over the API while its form is open: the cached view may be slightly out of date.
    let form = page.get(&format!("/pools/{pool}/edit")).await;
    let version = hidden(&form, "version");
    let renamed = PoolValue::default().with_pid(PoolId(7)).with_name("eight".into()).with_enabled(true);
    let selector = prb_core::manage::Selector::Id(pool);
    let change = prb_core::manage::Change::Put(renamed.clone());
    manager.update_pools(vec![(selector.clone(), change)]).await.unwrap();
    let body = format!("id={pool}&version={version}&pid=7&name=mine&enabled=1");
    assert_eq!(page.post("/pools/save", Some(TOKEN), &body).await.status, 409);
    assert_eq!(manager.pools()[0].name, "eight");
    // The same with another secret for the same operator, which no page shows.
    let read = manager.pools()[0].clone();
    let version = hidden(&page.get(&format!("/pools/{pool}/edit")).await, "version");
    let change = prb_core::manage::Change::Put(renamed.with_secret(Some("operator".into())));
    manager.update_pools(vec![(selector, change)]).await.unwrap();
    assert_eq!(
        read.operator.as_ref().unwrap().account,
        manager.pools()[0].operator.as_ref().unwrap().account
    );
    let body = format!("id={pool}&version={version}&pid=7&name=mine&enabled=1");
    assert_eq!(page.post("/pools/save", Some(TOKEN), &body).await.status, 409);
}

/// An original takes less than our forms have: they say so, and nothing is taken that would be lost.
#[tokio::test]
async fn a_form_has_what_its_manager_takes() {
    let made = Made::new(fleet(3, 100));
    let worker = made.fleet.lock().unwrap().workers[0].entry.id;
    let pool = made.fleet.lock().unwrap().pools[0].id;
    let page = Page::of(&made).await;
    let forms = ["/workers/new".to_owned(), format!("/workers/{worker}/edit"), format!("/pools/{pool}/edit")];
    for form in &forms {
        page.get(form).await.has(&["name=\"after_stop\""]).lacks(&["it cannot be told"]);
    }
    page.get(&forms[0]).await.has(&["name=\"gatekeeper\"", "name=\"endpoints\""]);
    made.change(|fleet| fleet.takes_settings = false);
    for form in &forms {
        let told = page.get(form).await;
        told.has(&["an original or of an older version: it cannot be set from here"]);
        told.lacks(&["name=\"after_stop\"", "name=\"gatekeeper\"", "name=\"endpoints\""]);
    }
    let body = "name=a&pid=1&endpoint=http://a&stake=1&enabled=1";
    for more in ["gatekeeper=1", "endpoints=http://b", "after_stop=reclaim"] {
        let answer = page.post("/workers/save", Some(TOKEN), &format!("{body}&{more}")).await;
        assert_eq!(answer.status, 409, "{more}");
        answer.has(&["does not take", "nothing was changed"]);
    }
    let answer = page.post("/pools/save", Some(TOKEN), "pid=99&name=n&after_stop=reclaim").await;
    assert_eq!(answer.status, 409, "{}", answer.body);
    assert!(made.edits.lock().unwrap().is_empty());
    assert_eq!(page.post("/workers/save", Some(TOKEN), body).await.status, 200);
    match made.edits.lock().unwrap().remove(0) {
        prb::console::backend::Edit::PutWorker(None, value) => {
            assert_eq!((value.gatekeeper, value.endpoints, value.after_stop), (None, None, None));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn removal_of_a_changed_pool_is_refused() {
    let manager = manager().await;
    let backend: Arc<dyn Backend> = Arc::new(Local::new(manager.clone()));
    let page = Page::over(backend, &prb_core::queue::memory::MemoryQueue::default()).await;
    let (one, pool) = (manager.workers()[0].id, manager.pools()[0].id);
    // The pool is empty, and its form is open.
    let form = page.get(&format!("/workers/{one}/edit")).await;
    let body = format!("id={one}&version={}", hidden(&form, "version"));
    assert_eq!(
        page.post("/workers/remove", Some(TOKEN), &body.replace("version=", "version=x")).await.status,
        409
    );
    assert_eq!(page.post("/workers/remove", Some(TOKEN), &body).await.status, 200);
    assert_eq!(page.post("/workers/remove", Some(TOKEN), &body).await.status, 404, "it is gone");
    let form = page.get(&format!("/pools/{pool}/edit")).await;
    form.has(&["Remove seven"]);
    let body = format!("id={pool}&version={}", hidden(&form, "version"));
    // Somebody adds a worker.
    manager.create_workers(vec![worker("b")]).await.unwrap();
    let refused = page.post("/pools/remove", Some(TOKEN), &body).await;
    assert_eq!(refused.status, 409);
    refused.has(&["The pool has 1 worker by now"]);
    assert_eq!(manager.pools().len(), 1);
    page.get(&format!("/pools/{pool}/edit")).await.has(&["It has 1 worker here"]).lacks(&["Remove seven"]);
}

/// Its workers would have no pool, and those that compute no heartbeats.
#[tokio::test]
async fn number_of_a_pool_with_workers_is_not_changed() {
    let manager = manager().await;
    let backend: Arc<dyn Backend> = Arc::new(Local::new(manager.clone()));
    let page = Page::over(backend, &prb_core::queue::memory::MemoryQueue::default()).await;
    let (worker, pool) = (manager.workers()[0].id, manager.pools()[0].id);
    let save = async |pid: u64, name: &str| {
        let form = page.get(&format!("/pools/{pool}/edit")).await;
        let version = hidden(&form, "version");
        let body = format!("id={pool}&version={version}&pid={pid}&name={name}&enabled=1");
        page.post("/pools/save", Some(TOKEN), &body).await
    };
    let refused = save(8, "eight").await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    refused.has(&["The pool has 1 worker by now"]);
    assert_eq!((manager.pools()[0].pid, &*manager.pools()[0].name), (PoolId(7), "seven"));
    assert_eq!(save(7, "eight").await.status, 200, "its number stays");
    let remove = (prb_core::manage::Selector::Id(worker), prb_core::manage::Change::Delete);
    manager.update_workers(vec![remove]).await.unwrap();
    assert_eq!(save(8, "eight").await.status, 200, "it has no workers");
    assert_eq!(manager.pools()[0].pid, PoolId(8));
}

/// A browser selects the first option of a list in which none is selected, and sends it.
#[tokio::test]
async fn worker_form_keeps_a_pool_that_is_not_in_the_inventory() {
    let made = Made::new(fleet(3, 100));
    let worker = made.fleet.lock().unwrap().workers[0].entry.clone();
    let page = Page::of(&made).await;
    let (form, pid) = (format!("/workers/{}/edit", worker.id), worker.pid.0);
    let selected = format!("<option value=\"{pid}\" selected>");
    page.get(&form).await.has(&[&selected]).lacks(&["not in the inventory"]);
    made.change(|fleet| fleet.pools.retain(|pool| pool.pid != pid));
    let first = format!("<select name=\"pid\" required>{selected}{pid} (not in the inventory)</option>");
    page.get(&form).await.has(&[&first]);
    // A new one has no pool until one is chosen.
    page.get("/workers/new").await.has(&["<select name=\"pid\" required><option value=\"\"></option>"]);
}
