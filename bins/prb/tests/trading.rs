//! Traders and managers as processes: built-in trader with Redis, the original's jobs, and missing keys.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use prb_chain::inventory::{self, HeedInventory};
use prb_core::inventory::{Edit, Inventory};
use prb_devnet::{
    Config,
    runtime::{para::Operation, types::WorkerState},
    truth,
};
use prb_walkie::{
    identity,
    proto::{Role, detail::CommandRequest, lifecycle as lm},
    rpc::Client,
};
use tokio::time::sleep;

mod support;
use support::{
    Net, chain,
    daemons::{Daemon, Probe, TestPeer, assign, free_port, manager, provider},
    disk_faults::FaultyDisk,
    redis::Redis,
};

const LIMIT: Duration = Duration::from_secs(90);

/// The compose file of the original's guide sets both.
#[tokio::test(flavor = "multi_thread")]
async fn redis_and_the_built_in_trader_work_together() {
    let net = Net::start(Config { cool_down_secs: 1, ..chain() }, 1).await;
    let redis = Redis::start(net.dir.path());
    let page = free_port();
    let mut provider = provider(&net, "dp");
    let mut manager = manager(&net, "lm")
        .set("PHALA_Q_REDIS_ENDPOINT", redis.url())
        .set("PRB_QUEUE_PAGE_LISTEN", format!("127.0.0.1:{page}"))
        .set("PHALA_WALKIE_BOOT_NODES", provider.address());
    provider.start();
    manager.start();
    let test_peer = TestPeer::new(vec![manager.address()], "default").await;
    let client = test_peer.find(Role::LifecycleManager, "default", LIMIT).await;
    assign(&net, &client, &[0], &[0]).await;
    net.until_active([0], LIMIT).await;
    let succeeded = redis.ask("SCARD bq:prbmq__main:succeeded").unwrap();
    assert!(!succeeded.starts_with(":0"), "the jobs were in another queue: {succeeded}");
    assert!(Probe::at(page).ask("/").is_some(), "there is no page");
    net.assert_done_once();
    manager = start_is_taken_back(&net, &redis, manager, client).await;

    // Without its identity it refuses to start, and generates no other one.
    manager.stop().await;
    let key = manager.identity_folder().join("LIFECYCLE");
    let away = manager.identity_folder().join("away");
    std::fs::rename(&key, &away).unwrap();
    let log = manager.refuses(LIMIT).await;
    assert!(log.contains("keys restore") && log.contains("LIFECYCLE") && !key.exists(), "{log}");
    // It also refuses to start with another identity.
    identity::Identity::generate()
        .unwrap()
        .store(&manager.identity_folder(), identity::Role::Lifecycle)
        .unwrap();
    let log = manager.refuses(LIMIT).await;
    assert!(
        log.contains("cannot open the sealed keys") && log.contains(&net.devnet.pools()[0].pid.to_string()),
        "{log}"
    );
    std::fs::rename(&away, &key).unwrap();
    manager.start();
    manager.until_unready(&[], LIMIT).await;
    manager.stop().await;
    provider.stop().await;
    test_peer.close().await;
    net.shutdown().await;
}

/// Stops the worker and frees its stake; then a start waits in Redis while no trader is there, and the worker is stopped.
async fn start_is_taken_back(net: &Net, redis: &Redis, mut manager: Daemon, client: Client) -> Daemon {
    let id = client
        .worker_status(lm::UuidQueryRequest::default())
        .await
        .unwrap()
        .worker_states
        .remove(0)
        .worker
        .unwrap()
        .uuid;
    let request =
        |command: &str| CommandRequest { ids: vec![id.clone()], command: command.into(), dry_run: false };
    let tell = async |client: &Client, command: &str| {
        let answer = client.command_workers(request(command)).await.unwrap().answers.remove(0);
        assert!(!answer.refused, "{}", answer.text);
        answer.text
    };
    let session = || truth::worker(net.devnet.para(), net.workers[0].public_key().0).unwrap().session;
    tell(&client, "stop").await;
    until(&manager, "it cools down", || session() == Some(WorkerState::WorkerCoolingDown)).await;
    let start = Instant::now();
    // The manager sees it a moment after the chain has it, and refuses until then.
    while let Err(error) = client.command_workers(request("reclaim")).await {
        assert!(start.elapsed() < LIMIT, "{error}\n{}", manager.log_tail());
        sleep(Duration::from_millis(50)).await;
    }
    until(&manager, "its stake is free", || session() == Some(WorkerState::Ready)).await;

    manager.stop().await;
    manager.put("USE_BUILT_IN_TRADER", false);
    manager.start();
    let test_peer = TestPeer::new(vec![manager.address()], "default").await;
    let client = test_peer.find(Role::LifecycleManager, "default", LIMIT).await;
    let waiting = || redis.ask("LRANGE bq:prbmq__main:waiting 0 -1").unwrap();
    let is_empty = || waiting().starts_with("*0");
    tell(&client, "start").await;
    until(&manager, "the start waits", || !is_empty()).await;
    let answer = tell(&client, "stop").await;
    assert!(answer.contains("its start is") && answer.contains("taken back"), "{answer}");
    until(&manager, "the start is taken back", is_empty).await;

    // A start that is given up while the manager is down.
    tell(&client, "start").await;
    until(&manager, "the start waits again", || !is_empty()).await;
    test_peer.close().await;
    manager.stop().await;
    assert!(!is_empty(), "jobs survive a restart");
    disable_worker(&manager).await;
    manager.start();
    until(&manager, "the start of the former process is withdrawn", is_empty).await;

    manager.stop().await;
    manager.put("USE_BUILT_IN_TRADER", true);
    manager.start();
    manager.until_unready(&[], LIMIT).await;
    let (para, from) = (net.devnet.para(), net.devnet.para().finalized_number());
    until(&manager, "blocks with a trader", || para.finalized_number() > from + 10).await;
    let operations = truth::operations(para).unwrap();
    let starts =
        operations.iter().filter(|(_, operation)| matches!(operation, Operation::Started(_))).count();
    assert_eq!((starts, session()), (1, Some(WorkerState::Ready)), "{}", manager.log_tail());
    manager
}

/// Disables the worker of a manager that does not run.
async fn disable_worker(manager: &Daemon) {
    let path = manager.variable("PHALA_LOCAL_DB_PATH").unwrap();
    let inventory = HeedInventory::open(Path::new(path), inventory::Config::default()).unwrap();
    let worker = inventory.snapshots().borrow().workers[0].clone();
    let edit = Edit::PutWorker((*worker).clone().with_enabled(false));
    inventory.apply(vec![edit]).await.unwrap();
}

async fn until(manager: &Daemon, what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}\n{}", manager.log_tail());
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trader_with_pools_signs_jobs_that_name_only_their_pool() {
    let net = Net::start(chain(), 1).await;
    let redis = Redis::start(net.dir.path());
    let mut trader = Daemon::new(net.dir.path(), "trade", "trader")
        .set("PHALA_CHAIN_ENDPOINT", net.devnet.para().url())
        .set("PHALA_Q_REDIS_ENDPOINT", redis.url())
        .set("PRB_QUEUE_PAGE_LISTEN", "none");
    // It has no key to open sealed keys, and no pools.
    let log = trader.refuses(LIMIT).await;
    assert!(log.contains("keys backup") && log.contains("PRB_TRADER_POOLS"), "{log}");
    assert!(!trader.identity_folder().join("LIFECYCLE").exists(), "a new key is in the way of the right one");

    net.write_fleet(&net.pools_toml(), []);
    let identity = trader.identity_folder();
    let disk = FaultyDisk::new(&identity, &net.dir.path().join("trader-faults"));
    let mut trader = disk.under(trader.set("PRB_TRADER_POOLS", net.fleet().display()));
    trader.start();
    trader.until_unready(&[], LIMIT).await;
    // Once it has its identity, it needs no disk; that the identity is gone would show at the next start only.
    disk.fail("write,meta,sync,truncate,create,rename 5");
    let away = identity.with_extension("away");
    std::fs::rename(&identity, &away).unwrap();
    trader.until_unready(&["files_missing"], LIMIT).await;
    // A job in the format of the original's lifecycle manager.
    let pool = net.devnet.pools()[0].pid;
    let key = format!("0x{}", "11".repeat(32));
    let data = format!(r#"{{"action":"ADD_WORKER","payload":{{"pid":"{pool}","publicKey":"{key}"}}}}"#);
    let options = r#"{"timestamp":1,"stacktraces":[],"retries":0}"#;
    let job = format!(r#"{{"data":{data},"options":{options},"status":"created"}}"#);
    let queue = "bq:prbmq__main";
    for command in [
        format!("SET {queue}:id 1"),
        format!("HSET {queue}:jobs 1 '{job}'"),
        format!("LPUSH {queue}:waiting 1"),
    ] {
        redis.ask(&command).unwrap();
    }
    let start = Instant::now();
    let ended = loop {
        let job = redis.ask(&format!("HGET {queue}:jobs 1")).unwrap();
        if job.contains("\"succeeded\"") || job.contains("\"failed\"") {
            break job;
        }
        assert!(start.elapsed() < LIMIT, "{job}\n{}", trader.log_tail());
        sleep(Duration::from_millis(100)).await;
    };
    // Signed and sent: the error that the worker is unknown comes from the chain.
    assert!(ended.contains("WorkerNotRegistered") || ended.contains("WorkerNotExists"), "{ended}");
    std::fs::rename(&away, &identity).unwrap();
    trader.until_unready(&[], LIMIT).await;
    trader.stop().await;
    net.shutdown().await;
}
