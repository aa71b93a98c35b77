//! Malicious data providers and corrupted connections before a lifecycle manager with workers: they are
//! suspended with a reason, workers get no bad block, and memory stays bounded.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prb_core::{primitives::Hash, prpc::Method};
use prb_devnet::Config;
use prb_walkie::{
    identity::Identity,
    node::{self, Node},
    proto::{
        Role,
        data_provider::{Info, Status},
    },
    rpc::{Client, Handlers, calls},
};
use tokio::time::{Instant, sleep};

use crate::{
    LIMIT,
    middle::{Middle, Tampering},
    support::{
        Net, chain,
        daemons::{Daemon, TestPeer, assign, manager, provider},
    },
    until,
};

/// Maximum memory of a manager, whatever it is sent. Without malicious providers it takes about 50 MiB.
const MEMORY: u64 = 256 << 20;
/// Longer than the time before a second provider is asked.
const LATE: Duration = Duration::from_secs(4);

/// A chain with workers for each scenario, and the honest data provider behind the malicious ones.
pub(crate) struct SharedSetup {
    behind: Daemon,
    /// What it tells about itself at the tip.
    info: Info,
    test_peer: TestPeer,
    /// Dropped last: a failed test prints the logs in its folder.
    net: Net,
}

impl SharedSetup {
    pub(crate) async fn start() -> Self {
        let net = Net::start(Config { pools: 3, ..chain() }, 5).await;
        let mut behind = provider(&net, "behind").set("PHALA_BRIDGE_IDENTITY", "behind");
        behind.start();
        let test_peer = TestPeer::new(vec![behind.address()], "default").await;
        let info = info_at_tip(&test_peer.find(Role::DataProviderInt, "behind", LIMIT).await).await;
        Self { net, behind, info, test_peer }
    }

    pub(crate) async fn end(mut self) {
        self.net.assert_done_once();
        self.behind.stop().await;
        self.test_peer.close().await;
        self.net.shutdown().await;
    }
}

/// A peer that announces itself and its heights truthfully, with a tampering proxy before its blobs.
struct Liar {
    node: Node,
    middle: Middle,
}

impl Liar {
    async fn start(setup: &SharedSetup, tampering: Tampering) -> Self {
        let SharedSetup { net, info, .. } = setup;
        let blobs = SocketAddr::from(([127, 0, 0, 1], info.blob_server_port as u16));
        let middle = Middle::of_blobs(blobs, tampering).await;
        let info = Info { blob_server_port: middle.address.port().into(), ..*info };
        let identity = tokio::task::spawn_blocking(Identity::generate).await.unwrap().unwrap();
        let mut config = node::Config::new(identity, Role::DataProviderInt);
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        config.mdns = false;
        config.hostname = format!("{tampering:?}");
        config.chain_identity = Some(Hash(net.devnet.para().block_hash(1).unwrap().0));
        config.handlers = Handlers::new().on(calls::GetDataProviderInfo, move |_, _| async move { Ok(info) });
        Self { node: Node::start(config).await.unwrap(), middle }
    }

    fn address(&self) -> String {
        self.node.listen_addresses()[0].to_string()
    }

    /// Returns the reason why a manager has suspended it.
    fn aside(&self, manager: &Daemon) -> Option<String> {
        let id = self.node.peer_id().to_string();
        let log = manager.log();
        let line =
            log.lines().find(|line| line.contains("a data provider is suspended") && line.contains(&id))?;
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        Some(line["fields"]["reason"].as_str().unwrap().to_owned())
    }
}

async fn info_at_tip(client: &Client) -> Info {
    let start = Instant::now();
    loop {
        let info = client.data_provider_info().await.unwrap();
        if info.status() == Status::Idle {
            return info;
        }
        assert!(start.elapsed() < LIMIT, "{info:?}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// Checks that a daemon is undamaged.
fn is_sound(daemon: &Daemon) {
    let peak = daemon.peak_memory_bytes();
    assert!(peak < MEMORY, "{} MiB", peak >> 20);
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log_tail());
}

/// Returns a manager's log lines about batches that a worker rejected.
fn refusals(manager: &Daemon) -> Vec<String> {
    let log = manager.log();
    let failed = log.lines().filter(|line| line.contains("sync failed") && !line.contains("no chain data"));
    failed.map(str::to_owned).collect()
}

/// Those whose answers are wrong are suspended; those that are only late or cut off answers are not.
async fn detectable_liars_are_suspended(liars: &[Liar], manager: &Daemon) {
    let [flip, truncate, delay, other_key, huge] = liars else { unreachable!() };
    for (liar, why) in [
        (flip, "it sent bad bytes: the frame's checksum is"),
        (other_key, "it gave "),
        (huge, "a frame claims "),
    ] {
        until(why, || liar.aside(manager).is_some(), || manager.log_tail()).await;
        let reason = liar.aside(manager).unwrap();
        assert!(reason.contains(why), "{reason}");
    }
    for liar in [truncate, delay] {
        until("it is asked", || liar.middle.done() > 0, || manager.log_tail()).await;
        assert_eq!(liar.aside(manager), None, "it sends no wrong answers");
    }
}

pub(crate) async fn are_suspended_and_workers_get_no_bad_block(setup: Arc<SharedSetup>) {
    const WORKERS: [usize; 2] = [0, 1];
    let net = &setup.net;
    let mut liars = Vec::new();
    for tampering in
        [Tampering::Flip, Tampering::Truncate, Tampering::Delay(LATE), Tampering::OtherKey, Tampering::Huge]
    {
        liars.push(Liar::start(&setup, tampering).await);
    }
    let mut honest = provider(net, "honest-liars");
    let forger = Liar::start(&setup, Tampering::None).await;
    let boot: Vec<_> =
        liars.iter().chain([&forger]).map(Liar::address).chain([honest.address().to_string()]).collect();
    let mut manager = manager(net, "lm-liars").set("PHALA_WALKIE_BOOT_NODES", boot[..liars.len()].join(","));
    manager.start();
    let managing = TestPeer::new(vec![manager.address()], "default").await;
    let client = managing.find(Role::LifecycleManager, "default", LIMIT).await;
    assign(net, &client, &[0], &WORKERS).await;

    // Only malicious providers.
    detectable_liars_are_suspended(&liars, &manager).await;
    assert_eq!(refusals(&manager), [""; 0], "a worker got what is no block");

    // One honest provider among them.
    honest.put("PHALA_WALKIE_BOOT_NODES", manager.address());
    honest.start();
    net.until_active(WORKERS, LIMIT).await;
    assert_eq!(refusals(&manager), [""; 0], "a worker got what is no block");

    // A provider that was honest so far forges blocks: they are well-formed, and only a worker can detect it.
    forger.middle.set(Tampering::Forge);
    is_sound(&manager);
    manager.stop().await;
    manager.put("PHALA_WALKIE_BOOT_NODES", boot.join(","));
    manager.start();
    until(
        "the forger is suspended",
        || forger.aside(&manager).is_some(),
        || format!("{} forged; {}", forger.middle.done(), manager.log_tail()),
    )
    .await;
    let reason = forger.aside(&manager).unwrap();
    assert!(reason.contains("a worker refused its answer") && reason.contains("gives another"), "{reason}");
    let tip = net.devnet.para().finalized_number();
    let taken = || WORKERS.iter().all(|at| net.workers[*at].info().blocknum > tip + 5);
    until("workers go on", taken, || manager.log_tail()).await;
    net.until_active(WORKERS, LIMIT).await;

    is_sound(&manager);
    manager.stop().await;
    honest.stop().await;
    for liar in liars.into_iter().chain([forger]) {
        liar.node.stop(Duration::from_secs(1)).await;
    }
    managing.close().await;
}

/// One provider forges relay headers that only the authorities' signatures give away: the manager finds out itself.
pub(crate) async fn no_worker_is_sent_a_false_header(setup: Arc<SharedSetup>) {
    const WORKERS: [usize; 2] = [2, 3];
    let net = &setup.net;
    let forger = Liar::start(&setup, Tampering::ForgeHeaders).await;
    let mut manager = manager(net, "lm-headers").set("PHALA_WALKIE_BOOT_NODES", forger.address());
    manager.start();
    let managing = TestPeer::new(vec![manager.address()], "default").await;
    let client = managing.find(Role::LifecycleManager, "default", LIMIT).await;
    assign(net, &client, &[1], &WORKERS).await;

    // Nobody else is there: workers wait, and the forger is named.
    until("it is put aside", || forger.aside(&manager).is_some(), || manager.log_tail()).await;
    let reason = forger.aside(&manager).unwrap();
    assert!(reason.contains("is false: bad justification of relay block"), "{reason}");
    until("it is asked again", || forger.middle.done() > 2, || manager.log_tail()).await;
    let sent = WORKERS.map(|at| net.workers[at].calls(Method::SyncCombinedHeaders));
    assert_eq!(sent, [0; 2], "a worker was sent a false header");

    // With an honest one all workers compute, at the tip too, where the forger comes back now and then.
    let mut honest =
        provider(net, "honest-headers").set("PHALA_WALKIE_BOOT_NODES", manager.address().to_string());
    honest.start();
    net.until_active(WORKERS, LIMIT).await;
    let done = forger.middle.done();
    until("it has been asked at the tip", || forger.middle.done() > done, || manager.log_tail()).await;
    let tip = net.devnet.para().finalized_number();
    let taken = || WORKERS.iter().all(|at| net.workers[*at].info().blocknum > tip + 3);
    until("workers go on", taken, || manager.log_tail()).await;
    assert_eq!(refusals(&manager), [""; 0], "a worker was sent a false header");

    is_sound(&manager);
    for daemon in [&mut manager, &mut honest] {
        daemon.stop().await;
    }
    forger.node.stop(Duration::from_secs(1)).await;
    managing.close().await;
}

pub(crate) async fn corrupted_connection_is_reestablished(setup: Arc<SharedSetup>) {
    let net = &setup.net;
    let mut provider = provider(net, "dp-corrupted");
    let port = provider.address().to_string().rsplit('/').next().unwrap().parse().unwrap();
    let middle = Middle::of_bytes(SocketAddr::from(([127, 0, 0, 1], port)), Tampering::Flip).await;
    let mut manager = manager(net, "lm-corrupted")
        .set("PHALA_WALKIE_BOOT_NODES", format!("/ip4/127.0.0.1/tcp/{}", middle.address.port()));
    provider.start();
    manager.start();
    let test_peer = TestPeer::new(vec![manager.address()], "default").await;
    let client = test_peer.find(Role::LifecycleManager, "default", LIMIT).await;
    assign(net, &client, &[2], &[4]).await;
    let logs = |manager: &Daemon| manager.log_tail();

    // Whatever the result, the connection is tried again.
    for tampering in [Tampering::Flip, Tampering::Truncate, Tampering::Huge] {
        middle.set(tampering);
        let before = middle.done();
        until("another connection is tried", || middle.done() >= before + 2, || logs(&manager)).await;
        assert_eq!(manager.usable_peers().unwrap_or_default(), 0, "{tampering:?}");
    }
    middle.set(Tampering::Delay(Duration::from_millis(200)));
    until("a slow one is usable", || manager.usable_peers() == Some(1), || logs(&manager)).await;
    middle.set(Tampering::None);
    net.until_active([4], LIMIT).await;

    // Corrupted while in use: the peers reconnect, also around the proxy, and the worker is not affected.
    let before = middle.done();
    middle.set(Tampering::Flip);
    until("data is corrupted", || middle.done() > before, || logs(&manager)).await;
    until("the manager reconnects", || manager.usable_peers() == Some(1), || logs(&manager)).await;
    let tip = net.devnet.para().finalized_number();
    until("the worker goes on", || net.workers[4].info().blocknum > tip + 2, || logs(&manager)).await;
    net.until_active([4], LIMIT).await;
    assert_eq!(refusals(&manager), [""; 0]);
    for daemon in [&mut manager, &mut provider] {
        is_sound(daemon);
        daemon.stop().await;
    }
    test_peer.close().await;
}
