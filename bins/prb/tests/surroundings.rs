//! Broken surroundings of a lifecycle manager: a process that stands still, a clock that jumps, a disk that is full.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use prb_walkie::{
    proto::{Role, db, lifecycle as lm},
    rpc::Client,
};
use tokio::time::{Instant, sleep};

mod support;
use support::{
    Net, chain,
    daemons::{Daemon, TestPeer, assign, manager, provider},
};

const LIMIT: Duration = Duration::from_secs(120);
const KEY: &str = "a3d07c5e19b84f62907e5ac1d48f3b26";
/// Long enough that peers give up on a process that stands still, and connections break.
const STILL: Duration = Duration::from_secs(8);

struct Scene {
    net: Net,
    provider: Daemon,
    manager: Daemon,
    test_peer: TestPeer,
    client: Client,
}

impl Scene {
    async fn start(net: Net, change: impl FnOnce(Daemon) -> Daemon) -> Self {
        let mut provider = provider(&net, "dp").set("PRB_WALKIE_PSK", KEY);
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
        let tip = self.net.devnet.para().finalized_number();
        let start = Instant::now();
        while self.net.workers[0].info().blocknum <= tip + 3 {
            assert!(start.elapsed() < LIMIT, "the worker stands still: {}", self.manager.log_tail());
            sleep(Duration::from_millis(100)).await;
        }
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

/// A disk of its own, small; taken away when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(place: &Path, kib: u32) -> Self {
        fs::create_dir_all(place).unwrap();
        let size = format!("size={kib}k");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "prb-test"]).arg(place).output().unwrap();
        assert!(mount.status.success(), "{}", String::from_utf8_lossy(&mount.stderr));
        Self(place.to_owned())
    }

    fn fill(&self) {
        use std::io::Write;
        let mut others = fs::File::create(self.0.join("others")).unwrap();
        while others.write_all(&[0; 4096]).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("others")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_edits_and_stops_no_worker() {
    let net = Net::start(chain(), 1).await;
    let place = net.dir.path().join("disk");
    let disk = Disk::mount(&place, 2048);
    let blocks = Disk::mount(&net.dir.path().join("dp/db"), 32 * 1024);
    let scene =
        Scene::start(net, |manager| manager.set("PHALA_LOCAL_DB_PATH", place.join("db").display())).await;
    let pid = scene.net.devnet.pools()[0].pid;
    let more = |from: usize| {
        let worker = |number: usize| db::Worker {
            pid,
            name: format!("more-{number}-{}", "x".repeat(40)),
            endpoint: format!("http://127.0.0.1:9/{number}"),
            stake: "1000000000000".into(),
            ..db::Worker::default()
        };
        lm::CreateWorker { workers: (from..from + 400).map(worker).collect() }
    };
    disk.fill();
    let refused = scene.client.create_workers(more(0)).await.unwrap_err();
    let cause = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("full") || cause.contains("space"), "{refused}: {cause}");
    assert_eq!(scene.client.list_workers().await.unwrap().workers.len(), 1, "half of an edit");
    scene.goes_on().await;
    disk.empty();
    scene.client.create_workers(more(0)).await.unwrap();
    assert_eq!(scene.client.list_workers().await.unwrap().workers.len(), 401);
    scene.goes_on().await;

    // The data provider's disk.
    blocks.fill();
    let start = Instant::now();
    while !scene.provider.unready().unwrap_or_default().contains(&"disk_full".to_owned()) {
        assert!(start.elapsed() < LIMIT, "{}", scene.provider.log_tail());
        sleep(Duration::from_millis(100)).await;
    }
    blocks.empty();
    scene.provider.until_unready(&[], LIMIT).await;
    scene.goes_on().await;
    scene.end().await;
    drop((disk, blocks));
}
