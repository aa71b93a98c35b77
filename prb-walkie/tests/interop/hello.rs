//! Tests of discovery: boot nodes, mDNS, Hello in both directions, closed connections.

use prb_walkie::{
    node::{self, Config, Membership, Node},
    proto::{AuthStatus, Role},
};
use serde_json::{Value, json};

use crate::{
    js::{Peer, Tool},
    ours,
};

const CHAIN: &str = "0x5555555555555555555555555555555555555555555555555555555555555555";
const PROVIDER: &[&str] =
    &["--role", "WR_DATA_PROVIDER_INT", "--chain-identity", CHAIN, "--bridge-identity", "interop"];

/// A lifecycle manager of the same chain and namespace as [`PROVIDER`].
async fn manager(boot: &[&str]) -> Node {
    configured(|config| config.boot_nodes = boot.iter().map(|address| address.parse().unwrap()).collect())
        .await
}

/// The same, discovered by mDNS.
async fn announced(listen: &str) -> Node {
    configured(|config| {
        config.listen = vec![listen.parse().unwrap()];
        config.mdns = true;
    })
    .await
}

async fn configured(configure: impl FnOnce(&mut Config)) -> Node {
    ours::start(Role::LifecycleManager, |config| {
        configure(config);
        config.hostname = "ours".into();
        config.bridge_identity = "interop".into();
        config.chain_identity = Some(CHAIN.parse().unwrap());
    })
    .await
}

/// Asserts what the original must see of [`manager`].
fn assert_is_ours(info: &Value, node: &Node) {
    assert_eq!(info["hostname"], "ours");
    assert_eq!(info["peerId"], node.peer_id().to_string());
    assert_eq!(info["role"], "WR_LIFECYCLE_MANAGER");
    assert_eq!(info["chainIdentity"], CHAIN);
    assert_eq!(info["bridgeIdentity"], "interop");
}

/// Asserts what we must see of [`PROVIDER`].
fn assert_is_theirs(peer: &node::Peer, theirs: &Peer) {
    assert_eq!(peer.peer_id.to_string(), theirs.peer_id);
    assert_eq!(peer.role, Role::DataProviderInt);
    assert!(!peer.hostname.is_empty());
    assert_eq!(peer.chain_identity, CHAIN);
    assert_eq!(peer.bridge_identity, "interop");
    assert_eq!(peer.membership, Membership::Accepted);
    assert_eq!(peer.auth, AuthStatus::None);
    assert_eq!(peer.ip, Some("127.0.0.1".parse().unwrap()));
}

#[tokio::test]
async fn our_node_joins_via_the_original() {
    for with_id in [true, false] {
        let mut theirs = Peer::start(PROVIDER).await;
        let boot =
            if with_id { theirs.address.clone() } else { ours::without_id(&theirs.address).to_string() };
        let node = manager(&[&boot]).await;
        let peer = ours::peer(&node, &theirs.peer_id, "usable", |peer| peer.is_usable()).await;
        assert_is_theirs(&peer, &theirs);
        assert_eq!(peer.address.unwrap().to_string(), theirs.address);

        let greeting = theirs.tool.event("request").await;
        assert_eq!(greeting["method"], "Hello");
        assert_eq!(greeting["peerId"], node.peer_id().to_string());
        assert_is_ours(&greeting["request"], &node);
        // It dials back because we have dialled it, so its table fills, too.
        assert_is_ours(&theirs.tool.event("hello-answered").await["info"], &node);
    }
}

#[tokio::test]
async fn original_joins_via_our_node() {
    let node = manager(&[]).await;
    let mut theirs = Peer::start(&[PROVIDER, &["--boot", &ours::address(&node)]].concat()).await;
    let answered = theirs.tool.event("hello-answered").await;
    assert_eq!(answered["peerId"], node.peer_id().to_string());
    assert_is_ours(&answered["info"], &node);
    // It closes the connection; we have its address from identify, and stay connected.
    let dialled = |peer: &node::Peer| {
        peer.is_usable() && peer.address.as_ref().is_some_and(|address| address.to_string() == theirs.address)
    };
    let peer = ours::peer(&node, &theirs.peer_id, "dialled back", dialled).await;
    assert_is_theirs(&peer, &theirs);
}

/// The peer queries and does not answer, so it must have discovered us.
#[tokio::test]
async fn original_discovers_our_node_by_mdns() {
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/0.0.0.0/tcp/0"] {
        let node = announced(listen).await;
        let mdns = &["--mdns", "--mdns-interval", "2000", "--mdns-silent"];
        let mut theirs = Peer::start(&[PROVIDER, mdns].concat()).await;
        let us = node.peer_id().to_string();
        let of_us = |event: &Value, name: &str| event["event"] == name && event["peerId"] == *us;
        let found = theirs.tool.find("discovery", |event| of_us(event, "discovered")).await;
        let mut addresses: Vec<_> = found["addresses"].as_array().unwrap().iter().collect();
        addresses.sort_unstable_by_key(|address| address.to_string());
        let mut expected: Vec<_> = node.listen_addresses().iter().map(|a| json!(a.to_string())).collect();
        expected.sort_unstable_by_key(Value::to_string);
        assert!(addresses.iter().copied().eq(&expected), "{addresses:?}, not {expected:?}");
        let answered = theirs.tool.find("Hello", |event| of_us(event, "hello-answered")).await;
        assert_is_ours(&answered["info"], &node);
        let peer = ours::peer(&node, &theirs.peer_id, "usable", |peer| peer.is_usable()).await;
        assert_is_theirs(&peer, &theirs);
    }
}

/// The peer dials nobody, so we must have discovered it.
#[tokio::test]
async fn our_node_discovers_the_original_by_mdns() {
    let mut shy = Peer::start(&[PROVIDER, &["--mdns", "--mdns-interval", "3600000", "--shy"]].concat()).await;
    let node = announced("/ip4/127.0.0.1/tcp/0").await;
    let peer = ours::peer(&node, &shy.peer_id, "usable", |peer| peer.is_usable()).await;
    assert_is_theirs(&peer, &shy);
    let us = node.peer_id().to_string();
    let greeting = shy.tool.find("Hello", |e| e["event"] == "request" && e["peerId"] == *us).await;
    assert_is_ours(&greeting["request"], &node);
}

/// A node that knows one original discovers its peers, and vice versa.
#[tokio::test]
async fn peers_are_discovered_through_others() {
    let first = manager(&[]).await;
    let theirs = Peer::start(&[PROVIDER, &["--boot", &ours::address(&first)]].concat()).await;
    ours::peer(&first, &theirs.peer_id, "usable", |peer| peer.is_usable()).await;
    let second = manager(&[&theirs.address]).await;
    let met = |peer: &node::Peer| peer.connected && peer.role == Role::LifecycleManager;
    ours::peer(&second, &first.peer_id().to_string(), "met", met).await;

    let mut last = Peer::start(&["--boot", &ours::address(&second)]).await;
    for known in [&first.peer_id().to_string(), &theirs.peer_id] {
        last.tool.find("Hello", |e| e["event"] == "hello-answered" && e["peerId"] == **known).await;
    }
}

#[tokio::test]
async fn other_chains_and_namespaces_are_ignored() {
    let other_chain =
        ["--role", "WR_DATA_PROVIDER_INT", "--chain-identity", "0x01", "--bridge-identity", "interop"];
    let other_bridge =
        ["--role", "WR_DATA_PROVIDER_INT", "--chain-identity", CHAIN, "--bridge-identity", "else"];
    let one = Peer::start(&other_chain).await;
    let two = Peer::start(&other_bridge).await;
    let node = manager(&[&one.address, &two.address]).await;
    let known = |peer: &node::Peer| peer.connected;
    assert_eq!(ours::peer(&node, &one.peer_id, "known", known).await.membership, Membership::OtherChain);
    assert_eq!(ours::peer(&node, &two.peer_id, "known", known).await.membership, Membership::OtherBridge);
    assert_eq!(node.peers().borrow().usable(Role::DataProviderInt).count(), 0);
}

#[tokio::test]
async fn closed_connections_and_restarts_are_recovered() {
    let folder = tempfile::tempdir().unwrap();
    let identity = folder.path().join("identity");
    let identity = ["--identity", identity.to_str().unwrap(), "--shy"];
    let mut theirs = Peer::start(&[PROVIDER, &identity].concat()).await;
    let node = manager(&[&theirs.address]).await;
    ours::peer(&node, &theirs.peer_id, "usable", |peer| peer.is_usable()).await;
    let client = node.client(theirs.peer_id.parse().unwrap());
    for _ in 0..5 {
        theirs.tool.ask(json!({ "command": "hangup", "addr": ours::address(&node) })).await;
        assert_eq!(client.blob_by_key("pattern:10").await.unwrap().unwrap().len(), 10);
    }

    let (address, peer_id) = (theirs.address.clone(), theirs.peer_id.clone());
    theirs.tool.kill().await;
    ours::peer(&node, &peer_id, "away", |peer| !peer.connected).await;
    assert!(client.blob_by_key("pattern:10").await.is_err());

    let listen = ours::without_id(&address).to_string();
    let again = [&["serve", "--listen", &listen], PROVIDER, &identity].concat();
    let theirs = Peer::ready(Tool::start("peer.js", &again)).await;
    assert_eq!(theirs.address, address);
    ours::peer(&node, &peer_id, "usable again", |peer| peer.is_usable()).await;
    assert_eq!(client.blob_by_key("pattern:10").await.unwrap().unwrap().len(), 10);
}
