//! Tests of discovery, membership, and peers and networks that come and go.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "node_rig/rig.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of the rig")]
mod rig;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use prb_core::primitives::Hash;
use prb_walkie::{
    node::{ConfigError, Membership, Multiaddr, Node},
    proto::{Role, data_provider::Info},
    rpc::{Error, Handlers, calls},
};
use rig::{CHAIN, LONG, RawPeer, address, config, start, start_knowing, until, until_friends, until_peer};
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A data provider that answers with its port.
fn provider(n: usize, port: u32) -> prb_walkie::node::Config {
    let mut config = config(n, Role::DataProviderInt);
    config.handlers = Handlers::new().on(calls::GetDataProviderInfo, move |_, _| async move {
        Ok(Info { blob_server_port: port, ..Info::default() })
    });
    config
}

async fn port_of(node: &Node, peer: &Node) -> u32 {
    node.client(peer.peer_id()).data_provider_info().await.unwrap().blob_server_port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_fills_both_peer_tables() {
    let provider = start(provider(0, 8012)).await;
    let lifecycle = start_knowing(config(1, Role::LifecycleManager), &provider).await;
    until_friends(&provider, &lifecycle).await;

    let seen = until_peer(&lifecycle, provider.peer_id(), "pinged", |p| p.round_trip.is_some()).await;
    assert_eq!((seen.role, seen.hostname.as_str()), (Role::DataProviderInt, "host-0"));
    assert_eq!(
        (seen.chain_identity.as_str(), seen.bridge_identity.as_str()),
        (&*CHAIN.to_string(), "default")
    );
    assert_eq!((seen.ip, seen.address.clone()), (Some(LOCALHOST), Some(address(&provider))));
    assert!(seen.since <= seen.last_seen && seen.connected && seen.membership == Membership::Accepted);

    // The dialled node also learns where the other one listens.
    let listens = address(&lifecycle);
    let seen =
        until_peer(&provider, lifecycle.peer_id(), "address", |p| p.address.as_ref() == Some(&listens)).await;
    assert_eq!(
        (seen.role, seen.hostname.as_str(), seen.ip),
        (Role::LifecycleManager, "host-1", Some(LOCALHOST))
    );

    let table = lifecycle.peers().borrow().clone();
    assert_eq!(table.usable(Role::DataProviderInt).count(), 1);
    assert_eq!(table.usable(Role::LifecycleManager).count(), 0);
    assert_eq!(port_of(&lifecycle, &provider).await, 8012);
    // The dialled node calls back over the same connection.
    let error = provider.client(lifecycle.peer_id()).data_provider_info().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chain_identity_may_be_set_later() {
    let mut late = config(0, Role::DataProviderInt);
    late.chain_identity = None;
    let late = start(late).await;
    let other = start_knowing(config(1, Role::LifecycleManager), &late).await;
    let (late_id, other_id) = (late.peer_id(), other.peer_id());
    until_peer(&other, late_id, "no chain yet", |p| p.membership == Membership::ChainUnknown).await;
    until_peer(&late, other_id, "own chain unknown", |p| p.membership == Membership::OwnChainUnknown).await;
    assert_eq!(other.peers().borrow().usable(Role::DataProviderInt).count(), 0);

    // The dialled node announces it by itself.
    late.set_chain_identity(CHAIN).await;
    until_friends(&late, &other).await;
    late.set_chain_identity(Hash([8; 32])).await;
    until_peer(&other, late_id, "another chain", |p| p.membership == Membership::OtherChain).await;
    assert_eq!(other.peers().borrow().usable(Role::DataProviderInt).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_namespaces_are_ignored_unless_configured() {
    let provider = start(provider(0, 8012)).await;
    let mut strict = config(1, Role::LifecycleManager);
    strict.bridge_identity = "mine".into();
    let mut lenient = config(2, Role::LifecycleManager);
    (lenient.bridge_identity, lenient.ignore_bridge_identity) = ("mine".into(), true);
    let strict = start_knowing(strict, &provider).await;
    let lenient = start_knowing(lenient, &provider).await;
    let ignored = |p: &prb_walkie::node::Peer| p.membership == Membership::OtherBridge;
    until_peer(&strict, provider.peer_id(), "ignored", ignored).await;
    until_peer(&lenient, provider.peer_id(), "accepted", |p| p.is_usable()).await;
    until_peer(&provider, lenient.peer_id(), "ignored", ignored).await;
    assert_eq!(strict.peers().borrow().usable(Role::DataProviderInt).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boot_node_may_start_late_and_restart() {
    // A port that was free a moment ago.
    let address: Multiaddr = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port()).parse().unwrap()
    };
    let mut early = config(0, Role::LifecycleManager);
    early.boot_nodes = vec![address.clone()];
    let early = start(early).await;
    assert!(early.peers().borrow().is_empty());
    let at_that_address = |n, port| {
        let mut config = provider(n, port);
        config.listen = vec![address.clone()];
        config
    };

    let first = start(at_that_address(1, 1)).await;
    until_friends(&early, &first).await;
    assert_eq!(port_of(&early, &first).await, 1);
    let id = first.peer_id();
    assert!(first.stop(LONG).await);
    until_peer(&early, id, "gone", |p| !p.connected).await;
    let error = first.client(early.peer_id()).list_pools().await.unwrap_err();
    assert!(matches!(error, Error::Stopped), "{error}");

    // The same peer again at the same address.
    let again = start(at_that_address(1, 2)).await;
    until_friends(&early, &again).await;
    assert_eq!(port_of(&early, &again).await, 2);
    assert!(again.stop(LONG).await);

    // Another peer at that address.
    let other = start(at_that_address(2, 3)).await;
    until_friends(&early, &other).await;
    assert_eq!(port_of(&early, &other).await, 3);
    assert!(!early.peers().borrow().get(&id).unwrap().connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_discover_each_other_via_a_boot_node() {
    let middle = start(config(0, Role::DataProviderInt)).await;
    let left = start_knowing(config(1, Role::DataProviderInt), &middle).await;
    let right = start_knowing(config(2, Role::LifecycleManager), &middle).await;
    until_friends(&left, &right).await;
    // They stay connected without the boot node.
    assert!(middle.stop(LONG).await);
    until_peer(&right, middle.peer_id(), "gone", |p| !p.connected).await;
    let error = right.client(left.peer_id()).list_pools().await.unwrap_err();
    assert!(error.kind().is_some(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boot_node_by_name_and_own_address_as_boot_node() {
    let other = start(config(0, Role::DataProviderInt)).await;
    let tcp = other.listen_addresses()[0].to_string().replace("/ip4/127.0.0.1", "");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut config = config(1, Role::LifecycleManager);
    config.listen = vec![format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()];
    config.boot_nodes = vec![format!("/dns4/localhost{tcp}").parse().unwrap(), config.listen[0].clone()];
    let node = start(config).await;
    until_friends(&node, &other).await;
    assert_eq!(node.peers().borrow().len(), 1);
}

/// Another program has the node's port on another local address: connections leave from ports of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_programs_on_its_port_do_not_keep_a_node_from_dialling() {
    let boot = start(config(0, Role::DataProviderInt)).await;
    let other = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let mut config = config(1, Role::LifecycleManager);
    config.listen = vec![format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()];
    let node = start_knowing(config, &boot).await;
    until_friends(&node, &boot).await;
}

/// A node on a thread of its own that can be frozen: its sockets exist but nothing passes, as if the network
/// were gone.
struct FreezableNode {
    node: Node,
    freeze: mpsc::UnboundedSender<std::sync::mpsc::Receiver<()>>,
    thread: std::thread::JoinHandle<()>,
}

impl FreezableNode {
    async fn start(config: prb_walkie::node::Config) -> Self {
        let (freeze, mut freezes) = mpsc::unbounded_channel::<std::sync::mpsc::Receiver<()>>();
        let (started, node) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                started.send(Node::start(config).await.unwrap()).unwrap();
                while let Some(release) = freezes.recv().await {
                    // Blocks the only thread that this node has.
                    let _ = release.recv();
                }
            });
        });
        let node = timeout(LONG, node).await.expect("a start").unwrap();
        Self { node, freeze, thread }
    }

    /// Freezes the node until the returned sender is dropped.
    fn freeze(&self) -> std::sync::mpsc::Sender<()> {
        let (release, released) = std::sync::mpsc::channel();
        self.freeze.send(released).unwrap();
        release
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_outage_is_recovered() {
    let provider = FreezableNode::start(provider(0, 8012)).await;
    let mut config = config(1, Role::LifecycleManager);
    config.boot_nodes = vec![address(&provider.node)];
    config.limits.ping_interval = Duration::from_millis(200);
    config.limits.ping_timeout = Duration::from_millis(1000);
    config.limits.call_timeout = Duration::from_secs(5);
    let lifecycle = start(config).await;
    let id = provider.node.peer_id();
    for _ in 0..2 {
        until_peer(&lifecycle, id, "there", |p| p.is_usable()).await;
        assert_eq!(port_of(&lifecycle, &provider.node).await, 8012);
        let frozen = provider.freeze();
        until_peer(&lifecycle, id, "gone", |p| !p.connected).await;
        let error = lifecycle.client(id).data_provider_info().await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        drop(frozen);
    }
    until_peer(&lifecycle, id, "there again", |p| p.is_usable()).await;
    assert_eq!(port_of(&lifecycle, &provider.node).await, 8012);
    let FreezableNode { freeze, thread, node } = provider;
    drop((freeze, node));
    let ended = tokio::task::spawn_blocking(move || thread.join());
    timeout(LONG, ended).await.expect("the thread's end").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_strangers_do_not_exhaust_the_node() {
    let mut busy = provider(0, 8012);
    busy.limits.handshakes = 8;
    busy.limits.connections = 16;
    let busy = start(busy).await;
    let friend = start_knowing(config(1, Role::LifecycleManager), &busy).await;
    until_friends(&busy, &friend).await;
    let at = busy.listen_addresses()[0].to_string();
    let port: u16 = at.rsplit('/').next().unwrap().parse().unwrap();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    // Connections beyond the limit are closed at once, before the handshake.
    let mut closed = 0;
    for stream in &silent {
        let mut byte = [0];
        let read = timeout(Duration::from_millis(20), stream.readable()).await;
        if read.is_ok() && matches!(stream.try_read(&mut byte), Ok(0) | Err(_)) {
            closed += 1;
        }
    }
    assert!(closed >= 200 - 8, "{closed} closed");
    assert_eq!(port_of(&friend, &busy).await, 8012);
    // Once they are gone, others can connect again.
    drop(silent);
    let late = start_knowing(config(2, Role::LifecycleManager), &busy).await;
    until_friends(&busy, &late).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_table_is_bounded_and_evicts_absent_peers() {
    let mut small = config(0, Role::LifecycleManager);
    small.limits.peers = 2;
    let small = start(small).await;
    let mut away = Vec::new();
    for n in 1..4 {
        let node = start_knowing(config(n, Role::DataProviderInt), &small).await;
        let id = node.peer_id();
        until_peer(&small, id, "there", |p| p.is_usable()).await;
        assert!(node.stop(LONG).await);
        until(&small, "gone", |table| !table.get(&id).is_some_and(|p| p.connected)).await;
        away.push(id);
    }
    let table = small.peers().borrow().clone();
    assert!(table.len() <= 2 && table.get(&away[0]).is_none(), "{table:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_waits_for_calls_in_flight() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut slow = config(0, Role::DataProviderInt);
    let notes = (Arc::clone(&entered), Arc::clone(&leave));
    slow.handlers = Handlers::new().on(calls::GetDataProviderInfo, move |_, _| {
        let (entered, leave) = notes.clone();
        async move {
            entered.notify_one();
            leave.notified().await;
            Ok(Info { para_id: 5, ..Info::default() })
        }
    });
    let slow = start(slow).await;
    let caller = start_knowing(config(1, Role::LifecycleManager), &slow).await;
    until_friends(&slow, &caller).await;
    let client = caller.client(slow.peer_id());
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.data_provider_info().await }
    });
    timeout(LONG, entered.notified()).await.expect("a call");
    let stopping = tokio::spawn({
        let slow = slow.clone();
        async move { slow.stop(LONG).await }
    });
    // New calls are refused until the last one is answered and the connection closes.
    let refused = async {
        while !matches!(
            client.list_pools().await,
            Err(Error::Refused { source, .. }) if source.message == "this peer is shutting down"
        ) {}
    };
    timeout(LONG, refused).await.unwrap();
    leave.notify_one();
    assert!(timeout(LONG, stopping).await.unwrap().unwrap());
    assert_eq!(timeout(LONG, call).await.unwrap().unwrap().unwrap().para_id, 5);
    until_peer(&caller, slow.peer_id(), "gone", |p| !p.connected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_per_call_works() {
    let provider = start(provider(0, 8012)).await;
    let client = start_knowing(config(1, Role::Client), &provider).await;
    let id = provider.peer_id();
    for _ in 0..5 {
        assert_eq!(port_of(&client, &provider).await, 8012);
        timeout(LONG, client.disconnect(id)).await.expect("no connection");
        // A pure client is not dialled back, and stays known for a while.
        until(&client, "gone", |table| !table.get(&id).is_some_and(|p| p.connected)).await;
        until(&provider, "gone", |table| table.iter().all(|p| !p.connected)).await;
    }
    timeout(LONG, client.disconnect(id)).await.expect("no connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_is_bounded_by_its_deadline() {
    let entered = Arc::new(Notify::new());
    let mut stuck = config(0, Role::DataProviderInt);
    let note = Arc::clone(&entered);
    stuck.handlers = Handlers::new().on(calls::GetDataProviderInfo, move |_, _| {
        note.notify_one();
        std::future::pending()
    });
    let stuck = start(stuck).await;
    let caller = start_knowing(config(1, Role::LifecycleManager), &stuck).await;
    until_friends(&stuck, &caller).await;
    let client = caller.client(stuck.peer_id());
    let call = tokio::spawn(async move { client.data_provider_info().await });
    timeout(LONG, entered.notified()).await.expect("a call");
    assert!(!timeout(LONG, stuck.stop(Duration::from_millis(100))).await.unwrap());
    let error = timeout(LONG, call).await.unwrap().unwrap().unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_listen_addresses_are_reported() {
    let taken = start(config(0, Role::Client)).await.listen_addresses()[0].clone();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let held: Multiaddr =
        format!("/ip4/127.0.0.1/tcp/{}", holder.local_addr().unwrap().port()).parse().unwrap();
    for (listen, part) in [
        (vec![held.clone()], held.to_string()),
        (vec![], "no address".to_owned()),
        (vec!["/ip4/192.0.2.1/tcp/0".parse().unwrap()], "192.0.2.1".to_owned()),
        (vec!["/ip4/127.0.0.1/udp/1".parse().unwrap()], "/udp/1".to_owned()),
    ] {
        let mut config = config(1, Role::Client);
        config.listen = listen;
        let error = Node::start(config).await.unwrap_err().to_string();
        assert!(error.contains(&part), "{error}");
    }
    // A dropped node releases its port.
    let mut again = config(1, Role::Client);
    again.listen = vec![taken];
    let started = timeout(LONG, async {
        loop {
            match Node::start(again.clone()).await {
                Err(ConfigError::Listen { .. }) => tokio::task::yield_now().await,
                other => break other,
            }
        }
    });
    started.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_never_answers_hello_is_not_in_the_table() {
    let silent = RawPeer::start(0, None, Box::new(|_| None)).await;
    let mut config = config(1, Role::LifecycleManager);
    config.boot_nodes = vec![silent.address.clone()];
    config.limits.call_timeout = Duration::from_millis(500);
    let node = start(config).await;
    let error = node.client(silent.peer_id).list_pools().await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert!(node.peers().borrow().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_without_ping_support_stays_connected() {
    let mut config = config(0, Role::DataProviderInt);
    config.limits.ping_interval = Duration::from_millis(20);
    let node = start(config).await;
    let raw = RawPeer::start(1, Some(address(&node)), Box::new(|_| None)).await;
    let hello = prb_walkie::proto::Request { method: "Hello".into(), ..Default::default() };
    let hello = prost::Message::encode_to_vec(&hello);
    // Calls pass while many pings fail.
    for _ in 0..20 {
        raw.ask(node.peer_id(), hello.clone()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(*raw.closed.lock().unwrap(), 0);
}
