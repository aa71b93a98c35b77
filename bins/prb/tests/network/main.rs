//! Daemons on failing and malicious networks: interfaces that are unplugged, and tampering proxies.
//!
//! The scenarios mostly wait, for timeouts and retries, so all of a test run at the same time.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod liars;
mod middle;
mod outage;

use std::{collections::HashMap, net::Ipv4Addr, pin::Pin, sync::Arc, time::Duration};

use outage::{Event::*, Way};
use support::{
    Net, chain,
    daemons::{Daemon, provider},
    forward::Forward,
    namespaces::bridge_or_loopback,
};
use tokio::{task::JoinSet, time::Instant};

/// Time limit that is long enough on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Waits for a condition; panics with further details on timeout.
async fn until(what: &str, mut is: impl FnMut() -> bool, otherwise: impl Fn() -> String) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}\n{}", otherwise());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// As on a machine that starts before its network, or in a container with IPv6 disabled, where a listener at every
/// address has none.
#[tokio::test(flavor = "multi_thread")]
async fn daemon_starts_without_a_network() {
    let folder = tempfile::tempdir().unwrap();
    let bridge = bridge_or_loopback();
    let alone = bridge.map(|mut bridge| (bridge.namespace("alone"), bridge));
    let mut monitor = Daemon::new(folder.path(), "monitor", "mo");
    if let Some((namespace, _)) = &alone {
        monitor = monitor.launched_by(&namespace.launcher(), Ipv4Addr::LOCALHOST);
    }
    let mut monitor =
        monitor.set("PORT", 0).set("PHALA_WALKIE_LISTEN_ADDRESSES", "/ip4/0.0.0.0/tcp/0,/ip6/::/tcp/0");
    monitor.start();
    let is_open = || monitor.log().contains("console open");
    until("the console is open", is_open, || monitor.log_tail()).await;
    monitor.stop().await;
}

/// A node's name has two addresses, and the first one takes connections but says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn silent_address_of_a_name_does_not_hide_the_other() {
    let private_mounts = std::process::Command::new("unshare").args(["-m", "true"]).status();
    if !private_mounts.is_ok_and(|status| status.success()) {
        eprintln!("not tested: without root, names cannot be given addresses");
        return;
    }
    let net = Net::start(chain(), 0).await;
    let (forward, _) = Forward::url(Ipv4Addr::new(127, 0, 0, 2), &net.devnet.para().url()).await;
    let port = forward.address.port();
    let _silent = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let hosts = net.dir.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost\n127.0.0.1 both\n127.0.0.2 both\n").unwrap();
    let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
    let mut provider = provider(&net, "dp")
        .launched_by(&["unshare", "-m", "sh", "-c", &script, "sh"], Ipv4Addr::LOCALHOST)
        .set("PHALA_CHAIN_ENDPOINT", format!("ws://both:{port}"));
    provider.start();
    provider.until_unready(&[], LIMIT).await;
    provider.stop().await;
}

type Scenario = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs scenarios at the same time; panics if one has failed.
async fn all_of(scenarios: impl IntoIterator<Item = (&'static str, Scenario)>) {
    let (start, mut running, mut names) = (Instant::now(), JoinSet::new(), HashMap::new());
    for (name, scenario) in scenarios {
        names.insert(running.spawn(scenario).id(), name);
    }
    while let Some(ended) = running.join_next_with_id().await {
        let id = ended.as_ref().map_or_else(tokio::task::JoinError::id, |(id, ())| *id);
        println!(
            "{}: {} after {:.0?}",
            names[&id],
            if ended.is_ok() { "ok" } else { "FAILED" },
            start.elapsed()
        );
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn daemons_reconnect_after_outages() {
    let mut setup = outage::SharedSetup::start().await;
    let mut scenarios = Vec::new();
    for (name, way, event) in [
        ("mDNS, the provider is cut off", Way::Mdns, Cut(outage::PROVIDER)),
        ("mDNS, the manager is cut off", Way::Mdns, Cut(outage::MANAGER)),
        ("mDNS, the provider gets another address", Way::Mdns, Move),
        ("boot node, the provider is cut off", Way::BootNode, Cut(outage::PROVIDER)),
        ("boot node, the manager is cut off", Way::BootNode, Cut(outage::MANAGER)),
    ] {
        scenarios.extend(setup.pair(way, event).map(|pair| (name, pair)));
    }
    let setup = Arc::new(setup);
    let scenario = |pair: outage::Seat| -> Scenario { Box::pin(pair.lose_each_other(setup.clone())) };
    all_of(scenarios.into_iter().map(|(name, pair)| (name, scenario(pair)))).await;
    Arc::into_inner(setup).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn malicious_providers_and_corrupted_connections_do_no_harm() {
    let setup = Arc::new(liars::SharedSetup::start().await);
    let scenarios: [(_, Scenario); 3] = [
        ("liars", Box::pin(liars::are_suspended_and_workers_get_no_bad_block(setup.clone()))),
        ("false headers", Box::pin(liars::no_worker_is_sent_a_false_header(setup.clone()))),
        ("a corrupted connection", Box::pin(liars::corrupted_connection_is_reestablished(setup.clone()))),
    ];
    all_of(scenarios).await;
    Arc::into_inner(setup).unwrap().end().await;
}
