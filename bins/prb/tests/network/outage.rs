//! Pairs of a data provider and a lifecycle manager, each on an interface of its own, lose each other for longer
//! than the ping timeout: they reconnect and the workers continue without intervention.

use std::{net::Ipv4Addr, ops::Range, sync::Arc, time::Duration};

use prb_devnet::Config;
use prb_walkie::proto::Role;
use tokio::time::sleep;

use crate::{
    LIMIT,
    support::{
        Net, chain,
        daemons::{Daemon, TestPeer, assign_at, free_port, manager, provider},
        forward::Forward,
        namespaces::{Bridge, Namespace, bridge_or_loopback},
    },
    until,
};

/// Connections end within 30 s of the cut.
const AWAY: Duration = Duration::from_secs(30);
const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
/// Pairs of daemons, each with a pool.
const PAIRS: usize = 5;
/// Workers of a pair.
const WORKERS: usize = 2;

/// The daemons of a pair.
pub(crate) const PROVIDER: usize = 0;
pub(crate) const MANAGER: usize = 1;

/// How daemons discover each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Mdns,
    BootNode,
}

/// What happens to a pair.
#[derive(Clone, Copy)]
pub(crate) enum Event {
    /// One of them has no network for a while.
    Cut(usize),
    /// The provider gets another interface with another address, as after a move to another switch.
    Move,
}

/// The chain, the workers and the network of all pairs.
pub(crate) struct SharedSetup {
    net: Net,
    relay: String,
    para: String,
    endpoints: Vec<String>,
    /// `None` on loopback addresses.
    bridge: Option<Bridge>,
    pairs: usize,
    _forwards: Vec<Forward>,
}

impl SharedSetup {
    pub(crate) async fn start() -> Self {
        let config = Config { history: 100, pools: PAIRS as u64, ..chain() };
        let net = Net::start(config, (PAIRS * WORKERS) as u32).await;
        let bridge = bridge_or_loopback();
        let here = address(bridge.as_ref(), 1);
        let (relay_forward, relay) = Forward::url(here, &net.devnet.relay().url()).await;
        let (para_forward, para) = Forward::url(here, &net.devnet.para().url()).await;
        let mut forwards = vec![relay_forward, para_forward];
        let mut endpoints = Vec::new();
        for worker in &net.workers {
            let (forward, url) = Forward::url(here, &worker.endpoint()).await;
            forwards.push(forward);
            endpoints.push(url);
        }
        Self { net, relay, para, endpoints, bridge, pairs: 0, _forwards: forwards }
    }

    /// Adds a pair that is not started yet; `None` if its event needs a network that is not there.
    pub(crate) fn pair(&mut self, way: Way, event: Event) -> Option<Seat> {
        if matches!(event, Event::Move) && self.bridge.is_none() {
            return None;
        }
        let number = self.pairs;
        self.pairs += 1;
        let mut namespace = |short: &str| Some(self.bridge.as_mut()?.namespace(&format!("{short}{number}")));
        let namespaces = namespace("dp").zip(namespace("lm")).map(|(dp, lm)| [dp, lm]);
        Some(Seat { number, way, event, namespaces })
    }

    pub(crate) async fn end(self) {
        self.net.assert_done_once();
        self.net.shutdown().await;
    }
}

/// Returns an address of the network; 1 is the test's.
fn address(bridge: Option<&Bridge>, host: u8) -> Ipv4Addr {
    bridge.map_or(Ipv4Addr::LOCALHOST, |bridge| bridge.address(host))
}

/// Where a pair's daemons run, and what happens to them.
pub(crate) struct Seat {
    number: usize,
    way: Way,
    event: Event,
    /// `None` on loopback addresses.
    namespaces: Option<[Namespace; 2]>,
}

impl Seat {
    /// Starts the daemons, does to them what is due, and waits until all is well again.
    pub(crate) async fn lose_each_other(self, setup: Arc<SharedSetup>) {
        let event = self.event;
        let mut pair = Pair::start(self, &setup).await;
        match event {
            Event::Cut(which) => pair.cut(which).await,
            Event::Move => pair.move_provider().await,
        }
        pair.until_well().await;
        pair.end().await;
    }

    /// Returns the address of a daemon; the provider has another one after a move.
    fn address(&self, setup: &SharedSetup, which: usize) -> Ipv4Addr {
        address(setup.bridge.as_ref(), (2 + 3 * self.number + which) as u8)
    }

    fn workers(&self) -> Range<usize> {
        self.number * WORKERS..(self.number + 1) * WORKERS
    }

    /// Configures a daemon for its place.
    fn place(&self, setup: &SharedSetup, daemon: Daemon, which: usize) -> Daemon {
        match &self.namespaces {
            // Each has all ports for itself.
            Some(namespaces) => daemon
                .launched_by(&namespaces[which].launcher(), self.address(setup, which))
                .set("PHALA_WALKIE_LISTEN_ADDRESSES", "/ip4/0.0.0.0/tcp/28888,/ip6/::/tcp/28888"),
            None => daemon.set("PHALA_WALKIE_LISTEN_ADDRESSES", format!("/ip4/0.0.0.0/tcp/{}", free_port())),
        }
    }

    fn daemons(&self, setup: &SharedSetup, group: &str) -> [Daemon; 2] {
        let net = &setup.net;
        let member = |daemon: Daemon, which| {
            let daemon = self.place(setup, daemon, which);
            let daemon = daemon.set("PHALA_CHAIN_ENDPOINT", &setup.para).set("PHALA_BRIDGE_IDENTITY", group);
            match self.way {
                Way::BootNode => daemon,
                // Discovered by anybody's announcement, and accepted because it knows the key.
                Way::Mdns => {
                    daemon.set("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", false).set("PRB_WALKIE_PSK", KEY)
                }
            }
        };
        let provider = provider(net, &format!("dp{}", self.number));
        let manager = manager(net, &format!("lm{}", self.number));
        let provider = member(provider, PROVIDER).set("PHALA_PARENT_CHAIN_ENDPOINT", &setup.relay);
        [provider, member(manager, MANAGER).set("PRB_WALKIE_PSK", KEY)]
    }
}

struct Pair {
    setup: Arc<SharedSetup>,
    seat: Seat,
    provider: Daemon,
    manager: Daemon,
    test_peer: TestPeer,
}

impl Pair {
    async fn start(seat: Seat, setup: &Arc<SharedSetup>) -> Self {
        // Other tests on this network, and other pairs, use other groups.
        let group = format!("network-{}-{}", std::process::id(), seat.number);
        let [mut provider, mut manager] = seat.daemons(setup, &group);
        let mut known = Vec::new();
        if seat.way == Way::BootNode {
            let boot = |daemon: &Daemon, which| {
                let listen = daemon.variable("PHALA_WALKIE_LISTEN_ADDRESSES").unwrap();
                let port = listen.split(',').next().unwrap().rsplit('/').next().unwrap();
                format!("/ip4/{}/tcp/{port}", seat.address(setup, which))
            };
            manager.put("PHALA_WALKIE_BOOT_NODES", boot(&provider, PROVIDER));
            known.push(boot(&manager, MANAGER).parse().unwrap());
        }
        // The manager starts before its network exists.
        manager.start();
        manager.peer_id(LIMIT).await;
        if let Some(namespaces) = &seat.namespaces {
            for which in [PROVIDER, MANAGER] {
                namespaces[which].plug(seat.address(setup, which));
            }
        }
        provider.start();
        let test_peer = TestPeer::with_key(known, &group, KEY).await;
        let client = test_peer.find(Role::LifecycleManager, &group, LIMIT).await;
        let workers: Vec<_> = seat.workers().collect();
        assign_at(&setup.net, &client, &[seat.number], &workers, &setup.endpoints).await;
        let pair = Self { setup: setup.clone(), seat, provider, manager, test_peer };
        pair.until_well().await;
        pair
    }

    async fn until(&self, what: &str, is: impl FnMut() -> bool) {
        let logs = || format!("{}\n\n{}", self.provider.log_tail(), self.manager.log_tail());
        until(what, is, logs).await;
    }

    /// Waits until the daemons are connected and the workers compute at the tip.
    async fn until_well(&self) {
        let net = &self.setup.net;
        self.until("they have found each other", || self.manager.usable_peers() == Some(1)).await;
        let tip = net.devnet.para().finalized_number();
        let taken = || self.seat.workers().all(|at| net.workers[at].info().blocknum > tip + 2);
        self.until("the workers go on", taken).await;
        net.until_active(self.seat.workers(), LIMIT).await;
        self.manager.until_unready(&[], LIMIT).await;
        self.provider.until_unready(&[], LIMIT).await;
    }

    /// Disconnects one of them for a while, or stops it if its network cannot be removed.
    async fn cut(&self, which: usize) {
        match &self.seat.namespaces {
            Some(namespaces) => namespaces[which].down(),
            None => [&self.provider, &self.manager][which].signal("STOP"),
        }
        sleep(AWAY).await;
        // The other one has noticed.
        let other = [&self.manager, &self.provider][which];
        self.until("it is missed", || other.usable_peers() == Some(0)).await;
        match &self.seat.namespaces {
            Some(namespaces) => namespaces[which].up(),
            None => [&self.provider, &self.manager][which].signal("CONT"),
        }
    }

    async fn move_provider(&mut self) {
        let namespace = &self.seat.namespaces.as_ref().unwrap()[PROVIDER];
        namespace.unplug();
        self.until("the manager has noticed", || self.manager.usable_peers() == Some(0)).await;
        let new = address(self.setup.bridge.as_ref(), (4 + 3 * self.seat.number) as u8);
        namespace.plug(new);
        self.provider.moved_to(new);
        let found = |line: &str| line.contains("data provider found") && line.contains(&format!("{new}:"));
        self.until("its blobs are found at its new address", || self.manager.log().lines().any(found)).await;
    }

    async fn end(mut self) {
        self.manager.stop().await;
        self.provider.stop().await;
        self.test_peer.close().await;
    }
}
