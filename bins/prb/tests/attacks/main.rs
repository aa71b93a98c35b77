//! Strangers attack a data provider and a lifecycle manager while honest workers compute: the workers keep up.
//!
//! One attack after another, each for a while, then all at once. `PRB_TEST_WORKERS` (6), `PRB_TEST_STRANGERS` (6, data
//! providers that lie), `PRB_TEST_ATTACK_SECS` (2, for each attack), `PRB_TEST_BLOCK_MS` (500) and `PRB_TEST_BINARY`
//! (another build of `prb`) make it another run; docs/CONTRIBUTING.md has the whole one.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod http;
mod peers;
mod sockets;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prb_devnet::Config;
use prb_walkie::{identity::Identity, node::Multiaddr, proto::Role};
use support::{
    Net, STAKE, chain,
    daemons::{Daemon, TestPeer, assign, free_port, manager, provider},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

/// Parachain blocks that a worker may be behind.
const MAX_LAG: u32 = 5;
/// Looks at `/livez` in a row without an answer, after which orchestrators restart a container.
const DEAD_LOOKS: u32 = 3;
/// What a daemon may have of memory at most, whatever is done to it.
const MEMORY: u64 = 1 << 30;
const LIMIT: Duration = Duration::from_secs(300);
/// The key of those who belong together.
const KEY: &str = "5b0d6f8e2c914a7fb3e1d7c04a96f258";

fn variable(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Where the daemons are, for those who attack them.
#[derive(Clone)]
struct Targets {
    provider: Multiaddr,
    manager: Multiaddr,
    blobs: SocketAddr,
    /// Ops ports, the API and the console.
    http: Vec<SocketAddr>,
    chain_identity: prb_core::primitives::Hash,
    /// Parachain blocks that there are, about.
    tip: u32,
    /// Keys of the data providers that lie: making them takes longer than an attack.
    identities: Arc<[Identity]>,
}

/// Makes keys, as many at a time as there are cores.
async fn identities(count: u32) -> Arc<[Identity]> {
    let mut made = JoinSet::new();
    for _ in 0..count {
        made.spawn_blocking(|| Identity::generate().unwrap());
    }
    made.join_all().await.into()
}

/// Starts an attack, which goes on until it is dropped.
type Attack = fn(&Targets) -> JoinSet<()>;

/// Everything that is looked at during an attack.
struct Scene {
    net: Net,
    provider: Daemon,
    manager: Daemon,
    targets: Targets,
}

impl Scene {
    async fn start() -> Self {
        let workers = variable("PRB_TEST_WORKERS", 6);
        let config = Config {
            history: 60,
            block_ms: u64::from(variable("PRB_TEST_BLOCK_MS", 500)),
            free_stake: u128::from(workers) * STAKE,
            ..chain()
        };
        let identities = identities(variable("PRB_TEST_STRANGERS", 6)).await;
        let net = Net::start(config, workers).await;
        let limited = |daemon: Daemon| {
            daemon.launched_by(&["sh", "-c", "ulimit -n 1024 && exec \"$0\""], [127, 0, 0, 1].into())
        };
        let mut provider = limited(provider(&net, "dp"))
            .set("PRB_WALKIE_PSK", KEY)
            .set("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", false);
        let (api, console) = (free_port(), free_port());
        let mut manager = limited(manager(&net, "lm"))
            .set("PRB_WALKIE_PSK", KEY)
            .set("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", false)
            .set("PHALA_WALKIE_BOOT_NODES", provider.address())
            .set("PRB_API_LISTEN", format!("127.0.0.1:{api}"))
            .set("PRB_CONSOLE_LISTEN", format!("127.0.0.1:{console}"))
            .set("PRB_QUEUE_PAGE_LISTEN", "none");
        provider.start();
        manager.start();
        let test_peer = TestPeer::with_key(vec![manager.address()], "default", KEY).await;
        let client = test_peer.find(Role::LifecycleManager, "default", LIMIT).await;
        let all: Vec<_> = (0..workers as usize).collect();
        assign(&net, &client, &[0], &all).await;
        test_peer.close().await;
        net.until_active(all, LIMIT).await;
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let blobs = provider.variable("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT").unwrap().parse().unwrap();
        let targets = Targets {
            provider: provider.address(),
            manager: manager.address(),
            blobs: local(blobs),
            http: vec![local(api), local(console), provider.ops_address(), manager.ops_address()],
            chain_identity: prb_core::primitives::Hash(net.devnet.para().block_hash(1).unwrap().0),
            tip: net.devnet.para().finalized_number(),
            identities,
        };
        Self { net, provider, manager, targets }
    }

    fn lag(&self) -> u32 {
        let tip = self.net.devnet.para().finalized_number();
        let behind = |next: u32| (tip + 1).saturating_sub(next);
        self.net.workers.iter().map(|worker| behind(worker.info().blocknum)).max().unwrap()
    }

    /// Looks at the workers while an attack goes on; gives by how much the worst was behind.
    async fn suffers(&self, name: &str, mut attack: JoinSet<()>) {
        let (start, first) = (Instant::now(), self.net.devnet.para().finalized_number());
        let time = Duration::from_secs(u64::from(variable("PRB_TEST_ATTACK_SECS", 2)));
        let (mut worst, mut dead, mut in_a_row) = (0, 0, [0; 2]);
        while start.elapsed() < time {
            worst = worst.max(self.lag());
            for (daemon, in_a_row) in [&self.provider, &self.manager].into_iter().zip(&mut in_a_row) {
                let answer = tokio::task::block_in_place(|| daemon.ops("/livez"));
                let is_dead = answer.is_none_or(|(status, _)| status != 200);
                dead += u32::from(is_dead);
                *in_a_row = if is_dead { *in_a_row + 1 } else { 0 };
                assert!(*in_a_row < DEAD_LOOKS, "{name}: {} would be restarted", daemon.name());
            }
            sleep(Duration::from_millis(100)).await;
        }
        worst = worst.max(self.lag());
        let blocks = self.net.devnet.para().finalized_number() - first;
        let files = [&self.provider, &self.manager].map(Daemon::open_files);
        attack.shutdown().await;
        println!(
            "{name}: {blocks} blocks, the worst worker {worst} behind, {files:?} files open, {dead} dead looks"
        );
        assert!(worst <= MAX_LAG, "{name}: a worker was {worst} blocks behind\n{}", self.manager.log_tail());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_keep_up_whatever_strangers_do() {
    prb::descriptors::raise();
    let mut scene = Scene::start().await;
    let targets = scene.targets.clone();
    let attacks: [(&str, Attack); 8] = [
        ("data providers that lie", peers::false_providers),
        ("floods of calls", peers::call_floods),
        ("guesses of the key", peers::key_guesses),
        ("mDNS of nobody", sockets::false_mdns),
        ("slow readers of blobs", sockets::slow_readers),
        ("pipelines that nobody reads", http::unread_pipelines),
        ("requests that never end", http::slow_requests),
        ("connections without end", sockets::connections_without_end),
    ];
    for (name, attack) in attacks {
        scene.suffers(name, attack(&targets)).await;
    }
    let mut together = JoinSet::new();
    for (_, attack) in attacks {
        let mut attack = attack(&targets);
        together.spawn(async move { while attack.join_next().await.is_some() {} });
    }
    scene.suffers("all of them at once", together).await;

    for daemon in [&scene.provider, &scene.manager] {
        let (peak, log) = (daemon.peak_memory_bytes(), daemon.log());
        println!("{}: {} MiB at most, {} lines of log", daemon.name(), peak >> 20, log.lines().count());
        assert!(peak < MEMORY, "{}: {} MiB", daemon.name(), peak >> 20);
        assert!(!log.contains("panicked"), "{}", daemon.log_tail());
    }
    let refused = scene.manager.log().lines().filter(|line| line.contains("HeaderValidateFailed")).count();
    assert_eq!(refused, 0, "a worker was sent a false header");
    scene.net.until_active(0..scene.net.workers.len(), LIMIT).await;
    scene.net.assert_done_once();
    scene.manager.stop().await;
    scene.provider.stop().await;
    scene.net.shutdown().await;
}
