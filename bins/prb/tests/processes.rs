//! Data providers and lifecycle managers as processes that discover each other, on a devnet.
//!
//! Variables: `PRB_TEST_WORKERS` (8), `PRB_TEST_HISTORY` (1200 relay blocks) and `PRB_TEST_KILLS` (2, during
//! the sync and at the tip each) enlarge the test with kills.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::HashMap, time::Duration};

use prb_walkie::{
    proto::{
        self, Role, WorkerState,
        data_provider::{BlobType, GetBlob, Info, Status, WantBlob},
        lifecycle as lm,
    },
    rpc::{Client, ErrorKind},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep};

mod support;
use support::{
    Net, chain,
    daemons::{Daemon, TestPeer, assign, manager, provider},
};

const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn data_provider_reports_heights_and_serves_blobs() {
    let net = Net::start(chain(), 0).await;
    let mut provider = provider(&net, "dp");
    provider.start();
    let test_peer = TestPeer::new(vec![provider.address()], "default").await;
    let client = test_peer.find(Role::DataProviderInt, "default", LIMIT).await;
    let info = until_idle(&client, &provider).await;
    assert!(info.para_id > 0 && info.parent_start_header >= 0, "{info:?}");
    assert!(info.parent_target >= info.parent_processed_height, "{info:?}");
    assert!(info.parent_processed_height > 250 && info.para_processed_height > 100, "{info:?}");
    assert!(info.parent_fetched_height >= info.parent_processed_height, "{info:?}");
    assert!(info.para_fetched_height >= info.para_processed_height, "{info:?}");
    assert!(info.para_committed_height >= info.para_processed_height, "{info:?}");
    protocols_give_the_same_blob(&client, &info).await;
    token_of_a_block_is_for_its_requester(&client, &provider).await;

    provider.until_unready(&[], LIMIT).await;
    assert_eq!(provider.ops("/livez").unwrap().0, 200);
    let metrics = provider.ops("/metrics").unwrap().1;
    assert!(metrics.contains("prb_chain_finalized{chain=\"relay\"}"), "{metrics}");

    // Killed and restarted, it is the same peer and continues from its store.
    let peer = client.peer();
    provider.kill();
    provider.start();
    let again = test_peer.find(Role::DataProviderInt, "default", LIMIT).await;
    assert_eq!(again.peer(), peer);
    assert!(provider.log().contains(&format!("\"peer_id\":\"{peer}\"")), "{}", provider.log_tail());
    provider.until_unready(&[], LIMIT).await;
    provider.stop().await;
    test_peer.close().await;
    net.shutdown().await;
}

/// Waits until a provider has stored all that its nodes have.
async fn until_idle(client: &Client, provider: &Daemon) -> Info {
    let start = Instant::now();
    loop {
        let info = client.data_provider_info().await.unwrap();
        if info.status() == Status::Idle {
            return info;
        }
        assert!(start.elapsed() < LIMIT, "{info:?}\n{}", provider.log_tail());
        sleep(Duration::from_millis(200)).await;
    }
}

async fn protocols_give_the_same_blob(client: &Client, info: &Info) {
    let key = format!("genesis:{}:pb", info.para_id);
    let by_call = client.blob_by_key(&key).await.unwrap().unwrap();
    assert_eq!(client.blob(&key).await.unwrap().unwrap(), by_call);
    let by_tcp = blob_over_tcp(info.blob_server_port as u16, &key).await;
    assert_eq!(by_tcp, by_call);
    assert!(client.blob("genesis:1:pb").await.unwrap().is_none());
}

/// A block is fetched by its token, which only the requesting peer can use.
async fn token_of_a_block_is_for_its_requester(client: &Client, provider: &Daemon) {
    let wanted = WantBlob { number: 20, r#type: BlobType::ParaBlock.into() };
    let meta = client.want_blob(wanted).await.unwrap();
    assert_eq!(meta.origin_peer, client.peer().to_string());
    let token = GetBlob { token: meta.get_token.clone() };
    let block = client.blob_with_token(token.clone()).await.unwrap();
    assert_eq!((block.number, block.data.is_empty()), (20, false));
    let other = TestPeer::new(vec![provider.address()], "default").await;
    let stranger = other.find(Role::DataProviderInt, "default", LIMIT).await;
    let refused = stranger.blob_with_token(token).await.unwrap_err();
    assert_eq!(refused.kind(), Some(ErrorKind::Unauthorized));
    let missing = client.want_blob(WantBlob { number: 1_000_000, ..wanted }).await.unwrap_err();
    assert_eq!(missing.kind(), Some(ErrorKind::NotFound));
    other.close().await;
}

/// Requests a blob from a blob server in the original's frames.
async fn blob_over_tcp(port: u16, key: &str) -> Vec<u8> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let body = [&[1, 2, 3, 4, 5, 6, 7, 8], key.as_bytes()].concat();
    stream.write_all(&[&[u8::try_from(body.len()).unwrap()], &body[..]].concat()).await.unwrap();
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await.unwrap();
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[..8], body[..8]);
    answer.split_off(16)
}

async fn states(client: &Client) -> Vec<WorkerState> {
    let all = lm::UuidQueryRequest::default();
    // The manager answers while its data providers die: one failed call fails the test.
    client.worker_status(all).await.unwrap().worker_states
}

/// Maximum time that a worker may be in a lower state than before, or apply no block.
const MAY_LEAVE: Duration = Duration::from_secs(10);
/// How long a provider is away at the first of several kills; longer than a worker may make no progress.
const LONG_AWAY: Duration = Duration::from_secs(15);

/// Checks that no worker is in a lower state, or makes no progress, for long.
#[derive(Default)]
struct Watch {
    workers: HashMap<String, Seen>,
    longest_away: Duration,
    longest_still: Duration,
}

/// The observations of a worker.
struct Seen {
    best: i32,
    /// Since when it has been in a lower state.
    left: Option<Instant>,
    position: (i32, i32),
    moved: Instant,
}

impl Watch {
    /// Returns the number of workers in at least this state.
    fn look(&mut self, states: &[WorkerState], at_least: proto::WorkerStatus) -> usize {
        let there = states.iter().filter(|state| self.see(state) >= at_least as i32);
        there.count()
    }

    fn see(&mut self, state: &WorkerState) -> i32 {
        let name = &state.worker.as_ref().unwrap().name;
        // Kicked or failed workers count as lower than any state of the sync.
        let step = if state.status <= proto::WorkerStatus::Active as i32 { state.status } else { 0 };
        let position = (state.parent_header_synched_to, state.para_block_dispatched_to);
        let new = || Seen { best: step, left: None, position, moved: Instant::now() };
        let seen = self.workers.entry(name.clone()).or_insert_with(new);
        if step >= seen.best {
            (seen.best, seen.left) = (step, None);
        }
        let away = (step < seen.best).then(|| seen.left.get_or_insert_with(Instant::now).elapsed());
        // Before the first block there may be nothing to apply.
        if position != seen.position || step < proto::WorkerStatus::Synching as i32 {
            (seen.position, seen.moved) = (position, Instant::now());
        }
        let (away, still) = (away.unwrap_or_default(), seen.moved.elapsed());
        assert!(away < MAY_LEAVE, "{name} was in state {} and left it for {away:?}: {state:?}", seen.best);
        assert!(still < MAY_LEAVE, "{name} has stood still for {still:?}: {state:?}");
        self.longest_away = self.longest_away.max(away);
        self.longest_still = self.longest_still.max(still);
        step
    }
}

fn variable(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Two data providers and two lifecycle managers of different bridge identities; boot nodes only.
struct Deployment {
    providers: [Daemon; 2],
    managers: [Daemon; 2],
    clients: [Client; 2],
    test_peer: TestPeer,
    watch: Watch,
    random: StdRng,
    limit: Duration,
    /// Dropped last: a failed test prints the logs in its folder.
    net: Net,
}

impl Deployment {
    async fn start(workers: usize) -> Self {
        // Many workers' heartbeats take longer to get on chain than a fast chain allows.
        let block_ms = if workers > 40 { 1500 } else { 300 };
        let history = variable("PRB_TEST_HISTORY", 1200) as u32;
        let config = prb_devnet::Config { pools: 4, history, block_ms, ..chain() };
        let net = Net::start(config, workers as u32).await;
        for worker in &net.workers {
            // A sync that takes long enough to be disturbed.
            worker.faults().slow(Duration::from_millis(150));
        }
        let mut providers = [provider(&net, "dp-0"), provider(&net, "dp-1")];
        let boot = format!("{},{}", providers[0].address(), providers[1].address());
        let address = providers[0].address();
        providers[1].put("PHALA_WALKIE_BOOT_NODES", address);
        let manager = |name, bridge: &str| {
            manager(&net, name)
                .set("PHALA_WALKIE_BOOT_NODES", &boot)
                .set("PHALA_BRIDGE_IDENTITY", bridge)
                .set("PHALA_PTP_IGNORE_BRIDGE_IDENTITY", true)
        };
        let mut managers = [manager("lm-0", "red"), manager("lm-1", "blue")];
        // The managers start first, and wait.
        managers.iter_mut().for_each(Daemon::start);
        let test_peer = TestPeer::new(managers.iter().map(Daemon::address).collect(), "default").await;
        let red = test_peer.find(Role::LifecycleManager, "red", LIMIT).await;
        let blue = test_peer.find(Role::LifecycleManager, "blue", LIMIT).await;
        for manager in &managers {
            manager.until_unready(&["no_data_provider"], LIMIT).await;
        }
        let half = workers / 2;
        assign(&net, &red, &[0, 1], &(0..half).collect::<Vec<_>>()).await;
        assign(&net, &blue, &[2, 3], &(half..workers).collect::<Vec<_>>()).await;
        providers.iter_mut().for_each(Daemon::start);
        let limit = LIMIT + Duration::from_secs(2) * workers as u32;
        let random = StdRng::seed_from_u64(7);
        let (clients, watch) = ([red, blue], Watch::default());
        Self { net, providers, managers, clients, test_peer, watch, random, limit }
    }

    async fn look(&mut self, at_least: proto::WorkerStatus) -> usize {
        let mut there = 0;
        for client in &self.clients {
            there += self.watch.look(&states(client).await, at_least);
        }
        there
    }

    /// Watches until all workers are at least in a state.
    async fn until(&mut self, at_least: proto::WorkerStatus) {
        let start = Instant::now();
        while self.look(at_least).await < self.net.workers.len() {
            if start.elapsed() > self.limit {
                let states = [states(&self.clients[0]).await, states(&self.clients[1]).await].concat();
                let lines = states.iter().map(|s| format!("{} {}", s.status, s.last_message));
                let logs = self.managers.iter().map(Daemon::log_tail).collect::<Vec<_>>().join("\n");
                panic!("not {at_least:?}:\n{}\n{logs}", lines.collect::<Vec<_>>().join("\n"));
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    async fn watch_for(&mut self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            self.look(proto::WorkerStatus::Synching).await;
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// Watches until both managers can ask that many data providers.
    async fn until_usable(&mut self, providers: u32) {
        let start = Instant::now();
        while !self.managers.iter().all(|manager| manager.usable_providers() == Some(providers)) {
            let logs = || self.managers.iter().map(Daemon::log_tail).collect::<Vec<_>>().join("\n");
            assert!(start.elapsed() < LIMIT, "not {providers} usable data providers:\n{}", logs());
            self.watch_for(Duration::from_millis(250)).await;
        }
    }

    /// Kills the providers alternately, each for a few seconds; both can be asked when the next one dies.
    async fn kill_providers(&mut self, times: usize) {
        for kill in 0..times {
            let victim = kill % 2;
            self.until_usable(2).await;
            self.providers[victim].kill();
            // Otherwise it could be back before it is missed, and count as usable while it starts.
            self.until_usable(1).await;
            let away = Duration::from_millis(self.random.random_range(500..4_000));
            self.watch_for(if kill == 0 { LONG_AWAY } else { away }).await;
            self.providers[victim].start();
            self.until_usable(2).await;
            let pause = Duration::from_millis(self.random.random_range(0..2_000));
            self.watch_for(pause).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_continue_while_data_providers_are_killed() {
    let workers = variable("PRB_TEST_WORKERS", 8);
    let kills = variable("PRB_TEST_KILLS", 2);
    let mut deployment = Deployment::start(workers).await;

    // During the sync.
    deployment.until(proto::WorkerStatus::Synching).await;
    deployment.kill_providers(kills).await;
    let synching = workers - deployment.look(proto::WorkerStatus::Synched).await;
    deployment.net.workers.iter().for_each(|worker| worker.faults().clear());
    deployment.until(proto::WorkerStatus::Active).await;

    // At the tip.
    deployment.kill_providers(kills).await;
    deployment.until(proto::WorkerStatus::Active).await;
    eprintln!(
        "{workers} workers, {kills} kills each: {synching} were synching after the kills, out of state at most \
         {:?}, without a block at most {:?}",
        deployment.watch.longest_away, deployment.watch.longest_still
    );
    deployment.net.until_active(0..workers, LIMIT).await;
    deployment.net.assert_done_once();
    for manager in &deployment.managers {
        // While both providers are unusable, there may be nothing to send; whatever is sent is valid.
        let log = manager.log();
        let failed: Vec<_> = log.lines().filter(|line| line.contains("sync failed")).collect();
        let refused = failed.iter().find(|line| !line.contains("no chain data"));
        assert!(refused.is_none(), "a worker refused what it was sent: {refused:?}");
    }
    for daemon in deployment.managers.iter_mut().chain(&mut deployment.providers) {
        daemon.stop().await;
    }
    deployment.test_peer.close().await;
    deployment.net.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn management_needs_the_key_or_a_whitelist_entry() {
    let net = Net::start(chain(), 0).await;
    const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
    let mut keyed = manager(&net, "keyed")
        .set("PHALA_LIFECYCLE_CONFIG_MODE", true)
        .set("PHALA_BRIDGE_IDENTITY", "keyed")
        .set("PRB_WALKIE_PSK", KEY);
    keyed.start();
    let stranger = TestPeer::new(vec![keyed.address()], "default").await;
    let client = stranger.find(Role::LifecycleManager, "keyed", LIMIT).await;
    assert_eq!(client.list_workers().await.unwrap_err().kind(), Some(ErrorKind::Unauthorized));
    let knows = TestPeer::with_key(vec![keyed.address()], "default", KEY).await;
    let client = knows.find(Role::LifecycleManager, "keyed", LIMIT).await;
    assert!(client.list_workers().await.unwrap().workers.is_empty());
    assign(&net, &client, &[0], &[]).await;
    assert!(!keyed.log().contains(KEY) && !keyed.log().contains(&net.devnet.pools()[0].mnemonic));

    let mut named = manager(&net, "named")
        .set("PHALA_LIFECYCLE_CONFIG_MODE", true)
        .set("PHALA_BRIDGE_IDENTITY", "named")
        .set("PHALA_WALKIE_BOOT_NODES", knows.address())
        .set("PRB_WALKIE_WHITELIST", knows.peer_id());
    named.start();
    let client = knows.find(Role::LifecycleManager, "named", LIMIT).await;
    assert!(client.list_pools().await.unwrap().pools.is_empty());
    let other = TestPeer::new(vec![named.address()], "default").await;
    let client = other.find(Role::LifecycleManager, "named", LIMIT).await;
    assert_eq!(client.list_pools().await.unwrap_err().kind(), Some(ErrorKind::Unauthorized));
    for test_peer in [stranger, knows, other] {
        test_peer.close().await;
    }
    keyed.stop().await;
    named.stop().await;
    net.shutdown().await;
}

/// A redis-server of this test; killed when dropped.
fn redis(net: &Net, port: u16) -> support::Process {
    let child = std::process::Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(net.dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap_or_else(|e| {
            panic!("redis-server is missing ({e}); install it: apt-get install -y redis-server")
        });
    support::Process::of(child)
}

#[tokio::test(flavor = "multi_thread")]
async fn separate_trader_processes_the_queue_in_redis() {
    let net = Net::start(chain(), 2).await;
    let port = support::daemons::free_port();
    let url = format!("redis://127.0.0.1:{port}");
    let mut provider = provider(&net, "dp");
    let mut manager = manager(&net, "lm")
        .set("USE_BUILT_IN_TRADER", false)
        .set("PHALA_Q_REDIS_ENDPOINT", &url)
        .set("PHALA_WALKIE_BOOT_NODES", provider.address());
    provider.start();
    manager.start();
    let test_peer = TestPeer::new(vec![manager.address()], "default").await;
    let client = test_peer.find(Role::LifecycleManager, "default", LIMIT).await;
    assign(&net, &client, &[0], &[0, 1]).await;
    // Everything but Redis is available.
    manager.until_unready(&["queue_unreachable"], LIMIT).await;
    let mut redis = redis(&net, port);
    manager.until_unready(&[], LIMIT).await;

    // The trader has the manager's identity, and is killed with work in progress.
    let mut trader = Daemon::new(net.dir.path(), "trade", "trader")
        .set("PHALA_CHAIN_ENDPOINT", net.devnet.para().url())
        .set("PHALA_PEER_ID_PREFIX", net.dir.path().join("lm").join("id").display())
        .set("PHALA_Q_REDIS_ENDPOINT", &url);
    for life in [700, 2500] {
        trader.start();
        sleep(Duration::from_millis(life)).await;
        trader.kill();
    }
    trader.start();
    net.until_active(0..2, LIMIT).await;
    net.assert_done_once();
    trader.until_unready(&[], LIMIT).await;
    trader.stop().await;
    manager.stop().await;
    provider.stop().await;
    redis.kill();
    test_peer.close().await;
    net.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovered_by_mdns_and_edited_in_configuration_mode() {
    let net = Net::start(chain(), 1).await;
    // Other tests on this network use other groups.
    let group = format!("test-{}", std::process::id());
    let by_mdns = |daemon: Daemon| {
        daemon
            .set("PHALA_BRIDGE_IDENTITY", &group)
            .set("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", false)
            .set("PHALA_WALKIE_LISTEN_ADDRESSES", "/ip4/0.0.0.0/tcp/0")
            .set("PHALA_WALKIE_BOOT_NODES", "/ip4/0.0.0.0/tcp/18888,/ip6/::/tcp/28889")
    };
    let mut manager = by_mdns(manager(&net, "lm")).set("PHALA_LIFECYCLE_CONFIG_MODE", true);
    manager.start();
    let test_peer = TestPeer::new(Vec::new(), &group).await;
    let client = test_peer.find(Role::LifecycleManager, &group, LIMIT).await;
    assign(&net, &client, &[0], &[0]).await;
    let ids = lm::UuidQueryRequest::default();
    let listed = client.list_workers().await.unwrap().workers;
    assert_eq!(listed.len(), 1);
    assert_eq!(net.workers[0].info().headernum, 0, "a worker runs in configuration mode");
    assert_eq!(states(&client).await.iter().filter(|s| s.status != 0).count(), 0);
    manager.stop().await;

    // The same inventory, now with running workers.
    manager.put("PHALA_LIFECYCLE_CONFIG_MODE", false);
    manager.start();
    let mut provider = by_mdns(provider(&net, "dp"));
    provider.start();
    net.until_active([0], LIMIT).await;
    manager.until_unready(&[], LIMIT).await;
    let client = test_peer.find(Role::LifecycleManager, &group, LIMIT).await;
    let state = client.worker_status(ids).await.unwrap().worker_states.remove(0);
    assert_eq!(state.worker.unwrap(), listed[0]);
    assert!(state.initialized && !state.public_key.is_empty() && !state.session_info_json.is_empty());
    manager.stop().await;
    provider.stop().await;
    test_peer.close().await;
    net.shutdown().await;
}
