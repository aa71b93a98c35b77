//! A data provider and a lifecycle manager, each on an interface of its own, lose each other for longer than
//! the ping timeout: they reconnect and the workers continue without intervention.

use std::{net::Ipv4Addr, time::Duration};

use prb_devnet::Config;
use prb_walkie::proto::Role;
use tokio::time::{Instant, sleep};

use crate::{
    LIMIT,
    forward::Forward,
    namespaces::{Bridge, Namespace},
    support::{
        Net, chain,
        daemons::{Daemon, TestPeer, assign_at, free_port, manager, provider},
    },
    until,
};

/// A ping is sent every 15 s and times out after 10 s.
const AWAY: Duration = Duration::from_secs(30);
const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
const WORKERS: usize = 2;

/// How daemons discover each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Discovery {
    Mdns,
    BootNode,
}

/// Where the daemons run.
struct Placement {
    /// `None` on loopback addresses.
    namespaces: Option<[Namespace; 2]>,
    // Dropped last.
    bridge: Option<Bridge>,
}

impl Placement {
    fn find() -> Self {
        let mut bridge = match Bridge::new() {
            Ok(bridge) => bridge,
            Err(why) => {
                assert!(std::env::var("PRB_TEST_NAMESPACES").is_err(), "no network namespaces: {why}");
                eprintln!("no network namespaces, so on loopback addresses: {why}");
                return Self { namespaces: None, bridge: None };
            }
        };
        let namespaces = ["dp", "lm"].map(|short| bridge.namespace(short));
        Self { namespaces: Some(namespaces), bridge: Some(bridge) }
    }

    /// Returns an address of its network: 1 is the test's, 2 the provider's, 3 the manager's.
    fn address(&self, host: u8) -> Ipv4Addr {
        self.bridge.as_ref().map_or(Ipv4Addr::LOCALHOST, |bridge| bridge.address(host))
    }

    /// Configures a daemon for its network namespace.
    fn put(&self, daemon: Daemon, which: usize) -> Daemon {
        match &self.namespaces {
            Some(namespaces) => {
                daemon.launched_by(&namespaces[which].launcher(), self.address(which as u8 + 2))
            }
            None => daemon,
        }
    }
}

struct Deployment {
    net: Net,
    provider: Daemon,
    manager: Daemon,
    test_peer: TestPeer,
    discovery: Discovery,
    placement: Placement,
    _forwards: Vec<Forward>,
}

impl Deployment {
    async fn start(discovery: Discovery) -> Self {
        let placement = Placement::find();
        let net = Net::start(Config { history: 100, ..chain() }, WORKERS as u32).await;
        let here = placement.address(1);
        let (relay_forward, relay) = Forward::url(here, &net.devnet.relay().url()).await;
        let (para_forward, para) = Forward::url(here, &net.devnet.para().url()).await;
        let mut forwards = vec![relay_forward, para_forward];
        let mut endpoints = Vec::new();
        for worker in &net.workers {
            let (forward, url) = Forward::url(here, &worker.endpoint()).await;
            forwards.push(forward);
            endpoints.push(url);
        }
        // Other tests on this network use other groups.
        let group = format!("network-{}-{}", std::process::id(), discovery as u8);
        let member = |daemon: Daemon| {
            let daemon = daemon.set("PHALA_CHAIN_ENDPOINT", &para).set("PHALA_BRIDGE_IDENTITY", &group);
            match discovery {
                Discovery::BootNode => daemon,
                // Discovered by anybody's announcement, and accepted because it knows the key.
                Discovery::Mdns => {
                    daemon.set("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", false).set("PRB_WALKIE_PSK", KEY)
                }
            }
        };
        let mut provider = placement
            .put(member(provider(&net, "dp")), 0)
            .set("PHALA_PARENT_CHAIN_ENDPOINT", &relay)
            .set("PHALA_WALKIE_LISTEN_ADDRESSES", "/ip4/0.0.0.0/tcp/28888,/ip6/::/tcp/28888");
        let mut manager = placement
            .put(member(manager(&net, "lm")), 1)
            .set("PRB_WALKIE_PSK", KEY)
            .set("PHALA_WALKIE_LISTEN_ADDRESSES", "/ip4/0.0.0.0/tcp/29888,/ip6/::/tcp/29888");
        if placement.bridge.is_none() {
            // On one shared network, each daemon has a port of its own.
            for daemon in [&mut provider, &mut manager] {
                let listen = format!("/ip4/0.0.0.0/tcp/{}", free_port());
                daemon.put("PHALA_WALKIE_LISTEN_ADDRESSES", listen);
            }
        }
        let port = |daemon: &Daemon| {
            let listen = daemon.variable("PHALA_WALKIE_LISTEN_ADDRESSES").unwrap();
            listen.split(',').next().unwrap().rsplit('/').next().unwrap().to_owned()
        };
        let boot = |daemon: &Daemon, host| format!("/ip4/{}/tcp/{}", placement.address(host), port(daemon));
        let mut known = Vec::new();
        if discovery == Discovery::BootNode {
            manager.put("PHALA_WALKIE_BOOT_NODES", boot(&provider, 2));
            known.push(boot(&manager, 3).parse().unwrap());
        }
        // The manager starts before its network exists.
        manager.start();
        manager.peer_id(LIMIT).await;
        if let Some(namespaces) = &placement.namespaces {
            namespaces.iter().zip(2..).for_each(|(namespace, host)| namespace.plug(placement.address(host)));
        }
        provider.start();
        let test_peer = TestPeer::with_key(known, &group, KEY).await;
        let client = test_peer.find(Role::LifecycleManager, &group, LIMIT).await;
        assign_at(&net, &client, &[0], &[0, 1], &endpoints).await;
        let deployment =
            Self { net, provider, manager, test_peer, discovery, placement, _forwards: forwards };
        deployment.until_well().await;
        deployment
    }

    /// Waits until the daemons are connected and the workers compute at the tip.
    async fn until_well(&self) {
        let start = Instant::now();
        self.until("they have found each other", || self.manager.usable_peers() == Some(1)).await;
        eprintln!("found after {:.1?}", start.elapsed());
        let tip = self.net.devnet.para().finalized_number();
        let logs = || format!("{}\n\n{}", self.provider.log_tail(), self.manager.log_tail());
        let taken = || self.net.workers.iter().all(|worker| worker.info().blocknum > tip + 2);
        until("the workers go on", taken, logs).await;
        self.net.until_active(0..WORKERS, LIMIT).await;
        self.manager.until_unready(&[], LIMIT).await;
        self.provider.until_unready(&[], LIMIT).await;
    }

    async fn until(&self, what: &str, is: impl FnMut() -> bool) {
        let logs = || format!("{}\n\n{}", self.provider.log_tail(), self.manager.log_tail());
        until(what, is, logs).await;
    }

    /// Disconnects one of them for a while, or stops it if its network cannot be removed.
    async fn cut(&self, which: usize) {
        match &self.placement.namespaces {
            Some(namespaces) => namespaces[which].down(),
            None => [&self.provider, &self.manager][which].signal("STOP"),
        }
        sleep(AWAY).await;
        // The other one has noticed.
        let other = [&self.manager, &self.provider][which];
        self.until("it is missed", || other.usable_peers() == Some(0)).await;
        match &self.placement.namespaces {
            Some(namespaces) => namespaces[which].up(),
            None => [&self.provider, &self.manager][which].signal("CONT"),
        }
    }

    async fn end(mut self) {
        self.net.assert_done_once();
        self.manager.stop().await;
        self.provider.stop().await;
        self.test_peer.close().await;
        self.net.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnects_by_mdns_after_an_outage() {
    let deployment = Deployment::start(Discovery::Mdns).await;
    for which in [0, 1] {
        deployment.cut(which).await;
        deployment.until_well().await;
    }
    // Another interface with another address, as after a move to another switch.
    if let Some([provider, _]) = &deployment.placement.namespaces {
        provider.unplug();
        deployment.until("the manager has noticed", || deployment.manager.usable_peers() == Some(0)).await;
        provider.plug(deployment.placement.address(9));
        let well = || deployment.manager.usable_peers() == Some(1);
        deployment.until("the provider is found at its new address", well).await;
        let address = format!("{}:", deployment.placement.address(9));
        let found = |line: &str| line.contains("data provider found") && line.contains(&address);
        deployment.until("its blobs too", || deployment.manager.log().lines().any(found)).await;
        let tip = deployment.net.devnet.para().finalized_number();
        let taken = || deployment.net.workers.iter().all(|worker| worker.info().blocknum > tip + 2);
        deployment.until("the workers go on", taken).await;
    }
    deployment.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reconnects_by_boot_node_after_an_outage() {
    let deployment = Deployment::start(Discovery::BootNode).await;
    assert!(deployment.discovery == Discovery::BootNode);
    for which in [0, 1] {
        deployment.cut(which).await;
        deployment.until_well().await;
    }
    deployment.end().await;
}
