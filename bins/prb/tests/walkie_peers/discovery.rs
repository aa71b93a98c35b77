//! Discovery: by mDNS, by boot nodes, through a third peer; each side lists the other.

use serde_json::Value;

use crate::{
    js::Peer,
    setup::{self, LIMIT, until},
    support::{
        Net, chain,
        daemons::{Daemon, manager, provider},
    },
};

/// The expected Hello of our daemon.
struct Ours<'a> {
    peer_id: &'a str,
    role: &'a str,
    chain: &'a str,
    group: &'a str,
}

impl Ours<'_> {
    fn check(&self, info: &Value) {
        assert_eq!(info["peerId"], *self.peer_id);
        assert_eq!(info["role"], *self.role);
        assert_eq!(info["chainIdentity"], *self.chain);
        assert_eq!(info["bridgeIdentity"], *self.group);
        assert!(!info["hostname"].as_str().unwrap().is_empty());
    }

    /// The original has sent Hello to ours, and was answered.
    async fn answers(&self, theirs: &mut Peer) {
        let is_it = |e: &Value| e["event"] == "hello-answered" && e["peerId"] == *self.peer_id;
        self.check(&theirs.tool.find("an answered Hello", is_it).await["info"]);
    }

    /// Ours has sent Hello to the original.
    async fn greets(&self, theirs: &mut Peer) {
        let is_it =
            |e: &Value| e["event"] == "request" && e["method"] == "Hello" && e["peerId"] == *self.peer_id;
        self.check(&theirs.tool.find("a Hello", is_it).await["request"]);
    }
}

fn lists(daemon: &Daemon, peer: &Peer, role: &str) -> bool {
    let line = |line: &str| {
        line.contains("met a peer")
            && line.contains(&peer.peer_id)
            && line.contains(role)
            && line.contains("accepted")
    };
    daemon.log().lines().any(line)
}

const PROVIDER: &str = "WR_DATA_PROVIDER_INT";

#[tokio::test(flavor = "multi_thread")]
async fn discovery_by_mdns() {
    let net = Net::start(chain(), 0).await;
    let group = format!("js-mdns-{}", std::process::id());
    let by_mdns = |daemon: Daemon| {
        daemon
            .set("PHALA_BRIDGE_IDENTITY", &group)
            .set("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", false)
            .set("PHALA_WALKIE_LISTEN_ADDRESSES", "/ip4/0.0.0.0/tcp/0")
    };
    let mut provider = by_mdns(provider(&net, "dp"));
    let mut manager = by_mdns(manager(&net, "lm"));
    provider.start();
    manager.start();
    provider.until_unready(&[], LIMIT).await;
    manager.until_unready(&[], LIMIT).await;
    let (dp, lm, chain) =
        (provider.peer_id(LIMIT).await, manager.peer_id(LIMIT).await, setup::chain_identity(&net));
    let dp = Ours { peer_id: &dp, role: PROVIDER, chain: &chain, group: &group };
    let lm = Ours { peer_id: &lm, role: "WR_LIFECYCLE_MANAGER", ..dp };
    let member = setup::member(&net, PROVIDER, &group);

    // This peer sends Hello but does not answer: it discovers ours, but ours do not accept it.
    let mut asks = setup::peer(&member, &["--mdns", "--mdns-interval", "2000", "--mdns-silent"]).await;
    // This peer answers but dials nobody: ours discover it.
    let mut shy = setup::peer(&member, &["--mdns", "--mdns-interval", "3600000", "--shy"]).await;
    for ours in [&dp, &lm] {
        ours.answers(&mut asks).await;
        ours.greets(&mut shy).await;
    }
    for theirs in [&asks, &shy] {
        until("both list both", || {
            [&provider, &manager].iter().all(|daemon| lists(daemon, theirs, "data provider"))
        })
        .await;
    }
    // Both kinds of peers together.
    until("all are usable", || [&provider, &manager].iter().all(|daemon| daemon.usable_peers() == Some(3)))
        .await;

    // A peer that disappears is no longer usable.
    shy.tool.kill().await;
    until("one is away", || [&provider, &manager].iter().all(|daemon| daemon.usable_peers() == Some(2)))
        .await;
    provider.stop().await;
    manager.stop().await;
    net.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_by_boot_nodes_and_through_a_third_peer() {
    let net = Net::start(chain(), 0).await;
    const GROUP: &str = "js-boot";
    let member = setup::member(&net, PROVIDER, GROUP);
    let mut theirs = setup::peer(&member, &[]).await;
    let without_id = theirs.address.split("/p2p/").next().unwrap();
    let mut provider =
        provider(&net, "dp").set("PHALA_BRIDGE_IDENTITY", GROUP).set("PHALA_WALKIE_BOOT_NODES", without_id);
    let mut manager = manager(&net, "lm")
        .set("PHALA_BRIDGE_IDENTITY", GROUP)
        .set("PHALA_WALKIE_BOOT_NODES", &theirs.address);
    provider.start();
    manager.start();
    let (dp, lm) = (provider.peer_id(LIMIT).await, manager.peer_id(LIMIT).await);
    let by_id = |e: &Value, id: &str| e["event"] == "hello-answered" && e["peerId"] == *id;
    for id in [&dp, &lm] {
        // Ours dials back; its chain details follow later.
        theirs.tool.find("an answered Hello", |e| by_id(e, id)).await;
    }
    // Ours discover each other through the original.
    provider.until_unready(&[], LIMIT).await;
    manager.until_unready(&[], LIMIT).await;
    for daemon in [&provider, &manager] {
        until("the original is listed", || daemon.usable_peers() == Some(2)).await;
    }

    // An original that starts from ours.
    let chain = setup::chain_identity(&net);
    let dp = Ours { peer_id: &dp, role: PROVIDER, chain: &chain, group: GROUP };
    let lm = Ours { peer_id: &lm, role: "WR_LIFECYCLE_MANAGER", ..dp };
    let boot = [setup::address(&provider).await, setup::address(&manager).await];
    let mut other = setup::peer(&member, &["--boot", &boot[0], "--boot", &boot[1]]).await;
    for ours in [&dp, &lm] {
        ours.answers(&mut other).await;
        ours.greets(&mut other).await;
    }
    for daemon in [&provider, &manager] {
        until("it is listed", || daemon.usable_peers() == Some(3)).await;
    }
    provider.stop().await;
    manager.stop().await;
    net.shutdown().await;
}
