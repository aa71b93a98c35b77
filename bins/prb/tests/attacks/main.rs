//! Strangers attack a data provider, a lifecycle manager and a monitor while honest workers compute, next to hostile
//! ones: the honest workers keep up.
//!
//! One attack after another, each for a while, then all at once. `PRB_TEST_WORKERS` (6), `PRB_TEST_STRANGERS`
//! (6, data providers that lie), `PRB_TEST_ATTACK_SECS` (2, for each attack), `PRB_TEST_BLOCK_MS` (500),
//! `PRB_TEST_ATTACK` (a part of a name: only these attacks) and `PRB_TEST_BINARY` (another build of `prb`) make
//! it another run; docs/CONTRIBUTING.md has the whole one. The daemons, the strangers and the honest users are
//! in network namespaces of one link where the system permits it ([`place`]).
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod honest;
mod http;
mod peers;
mod place;
mod sockets;
mod workers;

use std::{net::IpAddr, sync::Arc, time::Duration};

use honest::{Honest, TOKEN};
use place::{Place, Port, Sources};
use prb_devnet::Config;
use prb_walkie::{identity::Identity, proto::Role};
use support::{
    Net, STAKE, chain,
    daemons::{Daemon, TestPeer, assign, free_port, manager, provider},
    forward::Forward,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use workers::HostileWorkers;

/// Parachain blocks that a worker may be behind.
const MAX_LAG: u32 = 5;
/// Looks at `/livez` in a row without an answer, after which orchestrators restart a container.
const DEAD_LOOKS: u32 = 3;
/// What a daemon may have of memory at most, whatever is done to it.
const MEMORY: u64 = 1 << 30;
/// Where the daemons are on the link.
const PROVIDER: u8 = 2;
const MANAGER: u8 = 3;
const MONITOR: u8 = 4;
const LIMIT: Duration = Duration::from_secs(300);
/// The pre-shared key of the daemons.
const KEY: &str = "5b0d6f8e2c914a7fb3e1d7c04a96f258";

fn variable(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The addresses of the daemons under attack, and those that attacks come from.
#[derive(Clone)]
struct Targets {
    sources: Sources,
    provider: Port,
    manager: Port,
    blobs: Port,
    /// Ops ports, the API, the console and the queue page.
    http: Vec<Port>,
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
    provider: Daemon,
    manager: Daemon,
    monitor: Daemon,
    hostile_workers: HostileWorkers,
    targets: Targets,
    honest: Honest,
    place: Place,
    _forwards: [Forward; 2],
    /// Dropped last: a failed test prints the logs in its folder.
    net: Net,
}

/// Free ports for the manager's API and pages, and for the monitor's console.
#[derive(Clone, Copy)]
struct HttpPorts {
    api: u16,
    console: u16,
    queue: u16,
    peers: u16,
}

/// Configures a data provider, a lifecycle manager and a monitor that share a key.
fn daemons(net: &Net, place: &Place, ports: HttpPorts, relay: &str, para: &str) -> [Daemon; 3] {
    let ours = |daemon: Daemon, host| {
        place
            .put(daemon, host)
            .set("PRB_WALKIE_PSK", KEY)
            .set("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", false)
            .set("PHALA_CHAIN_ENDPOINT", para)
    };
    let provider = ours(provider(net, "dp"), PROVIDER).set("PHALA_PARENT_CHAIN_ENDPOINT", relay);
    let manager = ours(manager(net, "lm"), MANAGER)
        .set("PHALA_WALKIE_BOOT_NODES", provider.address())
        .set("PRB_API_TOKEN", TOKEN)
        .set("PRB_API_LISTEN", place.listen(ports.api))
        .set("PRB_CONSOLE_LISTEN", place.listen(ports.console))
        .set("PRB_QUEUE_PAGE_LISTEN", place.listen(ports.queue));
    let monitor = place
        .put(Daemon::new(net.dir.path(), "monitor", "mo"), MONITOR)
        .set("PRB_WALKIE_PSK", KEY)
        .set("PTP_BOOT_NODES", manager.address())
        .set("PRB_CONSOLE_LISTEN", place.listen(ports.peers));
    [provider, manager, monitor]
}

/// Assigns the workers to the manager and waits until they compute; then adds the hostile ones.
async fn assign_workers(net: &Net, manager: &Daemon, workers: u32, here: IpAddr) -> HostileWorkers {
    let test_peer = TestPeer::with_key(vec![manager.address()], "default", KEY).await;
    let client = test_peer.find(Role::LifecycleManager, "default", LIMIT).await;
    let all: Vec<_> = (0..workers as usize).collect();
    assign(net, &client, &[0], &all).await;
    net.until_active(all, LIMIT).await;
    let hostile_workers = HostileWorkers::start(here).await;
    hostile_workers.join(&client, net.devnet.pools()[0].pid).await;
    test_peer.close().await;
    hostile_workers
}

impl Targets {
    fn new(
        net: &Net,
        place: &Place,
        [provider, manager, monitor]: [&Daemon; 3],
        http: HttpPorts,
        identities: Arc<[Identity]>,
    ) -> Self {
        let ops = |daemon: &Daemon| daemon.ops_address().port();
        let http = [
            (MANAGER, http.api),
            (MANAGER, http.console),
            (MANAGER, http.queue),
            (MONITOR, http.peers),
            (PROVIDER, ops(provider)),
            (MANAGER, ops(manager)),
            (MONITOR, ops(monitor)),
        ];
        Self {
            sources: place.sources.clone(),
            provider: place.port(PROVIDER, provider.walkie_port()),
            manager: place.port(MANAGER, manager.walkie_port()),
            blobs: place.port(PROVIDER, blob_port(provider)),
            http: http.into_iter().map(|(host, port)| place.port(host, port)).collect(),
            chain_identity: prb_core::primitives::Hash(net.devnet.para().block_hash(1).unwrap().0),
            tip: net.devnet.para().finalized_number(),
            identities,
        }
    }
}

fn blob_port(provider: &Daemon) -> u16 {
    provider.variable("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT").unwrap().parse().unwrap()
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
        let place = Place::new();
        let here = place.address(1);
        let net = Net::start_at(config, workers, here.into()).await;
        let (relay_forward, relay) = Forward::url(here, &net.devnet.relay().url()).await;
        let (para_forward, para) = Forward::url(here, &net.devnet.para().url()).await;
        let [api, console, queue, peers] = [(); 4].map(|()| free_port());
        let http = HttpPorts { api, console, queue, peers };
        let [mut provider, mut manager, mut monitor] = daemons(&net, &place, http, &relay, &para);
        provider.start();
        manager.start();
        monitor.start();
        let hostile_workers = assign_workers(&net, &manager, workers, here.into()).await;
        let targets = Targets::new(&net, &place, [&provider, &manager, &monitor], http, identities);
        let at = |host, port| (place.address(host), port).into();
        let honest = Honest::start(&honest::Ports {
            from: place.honest(),
            api: at(MANAGER, api),
            console: at(MANAGER, console),
            monitor: at(MONITOR, peers),
            blobs: at(PROVIDER, blob_port(&provider)),
            manager: manager.address(),
        })
        .await;
        let _forwards = [relay_forward, para_forward];
        Self { net, provider, manager, monitor, hostile_workers, targets, honest, place, _forwards }
    }

    const fn daemons(&self) -> [&Daemon; 3] {
        [&self.provider, &self.manager, &self.monitor]
    }

    fn lag(&self) -> u32 {
        let tip = self.net.devnet.para().finalized_number();
        let behind = |next: u32| (tip + 1).saturating_sub(next);
        self.net.workers.iter().map(|worker| behind(worker.info().blocknum)).max().unwrap()
    }

    /// Starts attacks with the strangers' sockets.
    fn started(&self, attacks: &[Attack]) -> Vec<JoinSet<()>> {
        let strangers = self.place.strangers();
        let _entered = strangers.enter();
        attacks.iter().map(|attack| attack(&self.targets)).collect()
    }

    /// Looks at the workers while an attack goes on; gives by how much the worst was behind.
    async fn suffers(&self, name: &str, attacks: &[Attack]) {
        let mut running = self.started(attacks);
        let (start, first) = (Instant::now(), self.net.devnet.para().finalized_number());
        let time = Duration::from_secs(u64::from(variable("PRB_TEST_ATTACK_SECS", 2)));
        let (mut worst, mut dead, mut in_a_row) = (0, 0, [0; 3]);
        while start.elapsed() < time {
            worst = worst.max(self.lag());
            for (daemon, in_a_row) in self.daemons().into_iter().zip(&mut in_a_row) {
                let answer = tokio::task::block_in_place(|| daemon.ops("/livez"));
                let is_dead = answer.is_none_or(|(status, _)| status != 200);
                dead += u32::from(is_dead);
                *in_a_row = if is_dead { *in_a_row + 1 } else { 0 };
                assert!(*in_a_row < DEAD_LOOKS, "{name}: {} would be restarted", daemon.name());
            }
            sleep(Duration::from_millis(100)).await;
        }
        self.honest.are_served(name).await;
        worst = worst.max(self.lag());
        let blocks = self.net.devnet.para().finalized_number() - first;
        let files = self.daemons().map(Daemon::open_files);
        for attack in &mut running {
            attack.shutdown().await;
        }
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
    let attacks: [(&str, Attack); 10] = [
        ("data providers that lie", peers::false_providers),
        ("floods of calls", peers::call_floods),
        ("guesses of the key", peers::key_guesses),
        ("mDNS of nobody", sockets::false_mdns),
        ("slow readers of blobs", sockets::slow_readers),
        ("blob connections that come and go", sockets::churn),
        ("pipelines that nobody reads", http::unread_pipelines),
        ("requests that never end", http::slow_requests),
        ("guesses of the token", http::token_guesses),
        ("connections without end", sockets::connections_without_end),
    ];
    let wanted = std::env::var("PRB_TEST_ATTACK").unwrap_or_default();
    for (name, attack) in attacks.iter().filter(|(name, _)| name.contains(&wanted)) {
        scene.suffers(name, &[*attack]).await;
    }
    if wanted.is_empty() {
        scene.suffers("all of them at once", &attacks.map(|(_, attack)| attack)).await;
    }

    for daemon in scene.daemons() {
        let (peak, log) = (daemon.peak_memory_bytes(), daemon.log());
        println!("{}: {} MiB at most, {} lines of log", daemon.name(), peak >> 20, log.lines().count());
        assert!(peak < MEMORY, "{}: {} MiB", daemon.name(), peak >> 20);
        assert!(!log.contains("panicked"), "{}", daemon.log_tail());
    }
    let refused = scene.manager.log().lines().filter(|line| line.contains("HeaderValidateFailed")).count();
    assert_eq!(refused, 0, "a worker was sent a false header");
    scene.net.until_active(0..scene.net.workers.len(), LIMIT).await;
    scene.net.assert_done_once();
    scene.hostile_workers.had_no_success();
    scene.place.end();
    scene.monitor.stop().await;
    scene.manager.stop().await;
    scene.provider.stop().await;
    scene.net.shutdown().await;
}
