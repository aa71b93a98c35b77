//! Broken surroundings of daemons: a process that stands still, a clock that jumps, disks that are full or fail.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{fs, path::PathBuf, time::Duration};

use prb_walkie::{
    proto::{Role, db, lifecycle as lm},
    rpc::Client,
};
use tokio::time::{Instant, sleep};

#[path = "../support/mod.rs"]
mod support;

mod disks;
mod first_process;
mod start;

use support::{
    Net, chain,
    daemons::{Daemon, TestPeer, assign, manager, provider},
};

const LIMIT: Duration = Duration::from_secs(120);
const KEY: &str = "a3d07c5e19b84f62907e5ac1d48f3b26";
/// Long enough that peers give up on a process that stands still, and connections break.
const STILL: Duration = Duration::from_secs(8);

struct Scene {
    provider: Daemon,
    manager: Daemon,
    test_peer: TestPeer,
    client: Client,
    /// Dropped last: a failed test prints the logs in its folder.
    net: Net,
}

impl Scene {
    async fn start(net: Net, change: impl FnOnce(Daemon) -> Daemon) -> Self {
        Self::start_both(net, change, |provider| provider).await
    }

    async fn start_both(
        net: Net,
        change: impl FnOnce(Daemon) -> Daemon,
        change_provider: impl FnOnce(Daemon) -> Daemon,
    ) -> Self {
        let mut provider = change_provider(provider(&net, "dp").set("PRB_WALKIE_PSK", KEY));
        let manager = manager(&net, "lm")
            .set("PRB_WALKIE_PSK", KEY)
            .set("PHALA_WALKIE_BOOT_NODES", provider.address())
            .set("PRB_API_LISTEN", "none")
            .set("PRB_CONSOLE_LISTEN", "none")
            .set("PRB_QUEUE_PAGE_LISTEN", "none");
        let mut manager = change(manager);
        provider.start();
        manager.start();
        let test_peer = TestPeer::with_key(vec![manager.address()], "default", KEY).await;
        let client = test_peer.find(Role::LifecycleManager, "default", LIMIT).await;
        assign(&net, &client, &[0], &[0]).await;
        net.until_active([0], LIMIT).await;
        Self { net, provider, manager, test_peer, client }
    }

    /// Waits until the worker has taken blocks that are made from now on.
    async fn goes_on(&self) {
        until_taken(&self.net, || self.manager.log_tail()).await;
        self.net.until_active([0], LIMIT).await;
    }

    async fn end(mut self) {
        self.net.assert_done_once();
        for daemon in [&mut self.manager, &mut self.provider] {
            assert!(!daemon.log().contains("panicked"), "{}", daemon.log_tail());
            daemon.stop().await;
        }
        self.test_peer.close().await;
        self.net.shutdown().await;
    }
}

/// Waits until the first worker has taken blocks that are made from now on.
async fn until_taken(net: &Net, log: impl Fn() -> String) {
    let tip = net.devnet.para().finalized_number();
    let start = Instant::now();
    while net.workers[0].info().blocknum <= tip + 3 {
        assert!(start.elapsed() < LIMIT, "the worker stands still: {}", log());
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stood_still_goes_on() {
    let scene = Scene::start(Net::start(chain(), 1).await, |manager| manager).await;
    for daemon in [&scene.manager, &scene.provider] {
        daemon.signal("STOP");
        sleep(STILL).await;
        daemon.signal("CONT");
        scene.goes_on().await;
        daemon.until_unready(&[], LIMIT).await;
    }
    scene.client.list_pools().await.unwrap();
    scene.end().await;
}

/// The library that fakes the time of a program.
fn faketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let places = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    let known = places.chain(["/usr/lib64/faketime/libfaketimeMT.so.1".into()]).find(|path| path.is_file());
    known.expect("libfaketime is missing; install it: apt-get install -y faketime")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_stops_nothing() {
    let net = Net::start(chain(), 1).await;
    let clock = net.dir.path().join("clock");
    fs::write(&clock, "+0").unwrap();
    let scene = Scene::start(net, |manager| {
        manager
            .set("LD_PRELOAD", faketime().display())
            .set("FAKETIME_TIMESTAMP_FILE", clock.display())
            .set("FAKETIME_NO_CACHE", 1)
            .set("DONT_FAKE_MONOTONIC", 1)
            .set("FAKETIME_DONT_FAKE_MONOTONIC", 1)
    })
    .await;
    let pid = scene.net.devnet.pools()[0].pid;
    // A year ahead, a day back, and right again.
    for (number, jump) in ["+1y", "-1d", "+0"].into_iter().enumerate() {
        // Replaced at once: half a line is no time.
        let new = clock.with_extension("new");
        fs::write(&new, jump).unwrap();
        fs::rename(&new, &clock).unwrap();
        scene.goes_on().await;
        scene.manager.until_unready(&[], LIMIT).await;
        // A call with the key, which is logged.
        let worker = db::Worker {
            pid,
            name: format!("idle-{number}"),
            endpoint: format!("http://127.0.0.1:9/{number}"),
            stake: "1000000000000".into(),
            ..db::Worker::default()
        };
        scene.client.create_workers(lm::CreateWorker { workers: vec![worker] }).await.unwrap();
    }
    let log = scene.manager.log();
    let year =
        |line: &str| line.split('"').nth(3).and_then(|time| time.split('-').next()?.parse::<u32>().ok());
    let years: Vec<_> = log.lines().filter_map(year).collect();
    assert!(years.iter().max() > years.iter().min(), "the clock did not jump: {}", scene.manager.log_tail());
    scene.end().await;
}
