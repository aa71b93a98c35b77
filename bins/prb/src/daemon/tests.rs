#![allow(clippy::unwrap_used)]

use std::time::Duration;

use prb_walkie::{
    identity::{Identity, Role},
    node::Node,
};

use super::{Daemon, Failure};
use crate::{
    config::{Cli, Command},
    data_provider::DataProvider,
    lifecycle::LifecycleManager,
    monitor::Monitor,
};

/// A daemon ends, with the cause, when its peer-to-peer node has ended or failed: without one it would only look
/// alive.
async fn ends_with_its_node<D: Daemon>(started: Result<D, Failure>, node: impl FnOnce(&D) -> Node) {
    let mut daemon = started.unwrap();
    let running = tokio::time::timeout(Duration::from_millis(200), daemon.ended()).await;
    assert!(running.is_err(), "{running:?}");
    // What a panic of its task comes to as well: its channels close.
    node(&daemon).stop(Duration::ZERO).await;
    let ended = tokio::time::timeout(Duration::from_secs(30), daemon.ended()).await.unwrap();
    assert!(ended.to_string().contains("peer-to-peer node has ended"), "{ended:#}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_ends_with_its_node() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (db, id) = (path("db"), path("id"));
    let identity = Identity::generate().unwrap();
    for role in [Role::DataProvider, Role::Lifecycle, Role::Monitor] {
        identity.store(id.as_ref(), role).unwrap();
    }
    let node = "--chain-endpoint=ws://127.0.0.1:9";
    let command = |more: &[&str]| {
        let peers = ["--walkie-listen-addresses=/ip4/127.0.0.1/tcp/0", "--walkie-disable-mdns-discovery"];
        let words = [&["prb"], more, &peers, &["--peer-id-prefix", &id]].concat();
        Cli::read(words).unwrap().command
    };
    let off = ["--api-listen=none", "--console-listen=none", "--queue-page-listen=none"];
    let manager = [&["lifecycle", "--use-built-in-trader", "--local-db-path", &db, node], &off[..]].concat();
    let Command::Lifecycle(args) = command(&manager) else { unreachable!() };
    ends_with_its_node(LifecycleManager::start(&args).await, |daemon| daemon.node().clone()).await;

    let (blocks, relay) = (path("blocks"), "--parent-chain-endpoint=ws://127.0.0.1:10");
    let provider = ["data-provider", "--local-server-port=0", "--local-db-path", &blocks, node, relay];
    let Command::DataProvider(args) = command(&provider) else { unreachable!() };
    ends_with_its_node(DataProvider::start(&args).await, |daemon| daemon.node().clone()).await;

    let Command::Monitor(args) = command(&["monitor", "--port=0"]) else { unreachable!() };
    ends_with_its_node(Monitor::start(&args).await, |daemon| daemon.node().clone()).await;
}
