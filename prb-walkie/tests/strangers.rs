//! Tests of attacks by strangers on real sockets: call floods, endless handshakes, phishing for proofs of the
//! key, and posing as a program on this machine.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "node_rig/rig.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of the rig")]
mod rig;

#[path = "node_rig/trickle.rs"]
#[allow(unreachable_pub, reason = "a part of the rig")]
mod trickle;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use prb_core::blob::{Error as BlobError, memory::MemorySource};
use prb_walkie::{
    blob::{
        Lookup,
        keyspace::{self, KeySpace},
    },
    node::{Config, Multiaddr, Node, Provenance},
    proto::{AuthStatus, Request, Response, Role, SystemInfo, data_provider as dp, lifecycle as lm},
    rpc::{ErrorKind, Handlers, calls},
};
use prost::Message;
use rig::{CHAIN, Hold, LONG, RawPeer, address, config, start, start_knowing, until_friends, until_peer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use trickle::Trickle;

const KEY: &str = "7d1f0c92b6e84a35917fd3402ce8ab16";
const OTHER_KEY: &str = "e5c04f6b19a8432d8b7795d1ca2306fe";

fn managed(n: usize) -> Config {
    let mut config = config(n, Role::LifecycleManager);
    config.handlers = Handlers::new()
        .on(calls::ListPool, |_, _| async { Ok(lm::PoolList::default()) })
        .on(calls::GetDataProviderInfo, |_, _| async { Ok(dp::Info::default()) });
    config
}

fn keyed(n: usize, key: &str) -> Config {
    let mut config = managed(n);
    config.auth.psk = Some(key.into());
    config
}

fn without_id(node: &Node) -> Multiaddr {
    node.listen_addresses()[0].clone()
}

/// Methods that a raw peer was called with, and the content of `Hello`.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<(String, Bytes)>>>);

impl Heard {
    fn methods(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|(method, _)| method.clone()).collect()
    }
}

/// A stranger that answers `Hello` like one of ours, asks for a proof in it, and refuses all other calls as
/// unauthorised.
async fn thief(n: usize, heard: &Heard) -> RawPeer {
    let heard = heard.clone();
    let answer = move |bytes: Vec<u8>| {
        let request = Request::decode(bytes.as_slice()).unwrap();
        heard.0.lock().unwrap().push((request.method.clone(), request.data.clone()));
        let mut response = Response { request_nonce: request.nonce, ..Response::default() };
        if request.method == "Hello" {
            let hello = SystemInfo::decode(request.data).unwrap();
            let info = SystemInfo {
                role: Role::LifecycleManager.into(),
                chain_identity: CHAIN.to_string(),
                bridge_identity: "default".into(),
                auth: AuthStatus::NeedAuth.into(),
                // It reflects the message, since it has no key of its own.
                key_exchange: hello.key_exchange,
                key_proof: vec![7; 32].into(),
                ..SystemInfo::default()
            };
            response.data = info.encode_to_vec().into();
        } else {
            let error = prb_walkie::proto::ResponseError {
                r#type: 4,
                message: "prove it".into(),
                is_let_in_from_same_machine: None,
            };
            (response.has_error, response.error) = (true, Some(error));
        }
        Some(response.encode_to_vec())
    };
    RawPeer::start(n, None, Box::new(answer)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stranger_gets_no_proof_of_the_key() {
    let heard = Heard::default();
    let thief = thief(0, &heard).await;
    let mut config = keyed(1, KEY);
    config.limits.hello_interval = Duration::from_millis(100);
    let place = thief.address.to_string();
    config.boot_nodes = vec![place.split("/p2p/").next().unwrap().parse().unwrap()];
    let node = start(config).await;
    until_peer(&node, thief.peer_id, "met", |p| p.auth == AuthStatus::NeedAuth).await;
    // The thief demands authentication in its Hello and in its answer to every call, management calls included. It has
    // not proved that it knows the key itself, so it gets no `Auth`, from which it could guess the key.
    for _ in 0..3 {
        let info = node.client(thief.peer_id).data_provider_info().await.unwrap_err();
        assert_eq!(info.kind(), Some(ErrorKind::Unauthorized), "{info}");
        let pools = node.client(thief.peer_id).list_pools().await.unwrap_err();
        assert_eq!(pools.kind(), Some(ErrorKind::Unauthorized), "{pools}");
    }
    let methods = heard.methods();
    assert!(methods.iter().filter(|method| *method == "Hello").count() > 3, "{methods:?}");
    assert!(!methods.iter().any(|method| method == "Auth"), "{methods:?}");
    // Each Hello has another message, which does not reveal the key that it was made with.
    let heard = heard.0.lock().unwrap().clone();
    let hellos = heard.into_iter().filter(|(method, _)| method == "Hello");
    let offers: Vec<_> = hellos.map(|(_, data)| SystemInfo::decode(data).unwrap().key_exchange).collect();
    assert!(offers.iter().all(|offer| offer.len() == 33) && offers[0] != offers[1]);
    assert_ne!(node.peers().borrow().get(&thief.peer_id).unwrap().provenance, Provenance::SharedKey);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_with_the_key_gets_its_provenance_and_a_proof() {
    let guarded = start(keyed(0, KEY)).await;
    let knowing = |mut config: Config| {
        config.boot_nodes = vec![without_id(&guarded)];
        start(config)
    };
    let friend = knowing(keyed(1, KEY)).await;
    let wrong = knowing(keyed(2, OTHER_KEY)).await;
    let none = knowing(managed(3)).await;
    let at = |node: &Node, provenance| {
        let (node, id) = (node.clone(), guarded.peer_id());
        async move { until_peer(&node, id, "its provenance", |p| p.provenance == provenance).await }
    };
    at(&friend, Provenance::SharedKey).await;
    at(&wrong, Provenance::BootNode).await;
    at(&none, Provenance::BootNode).await;
    // In both directions: the dialled peer asks, too.
    until_peer(&guarded, friend.peer_id(), "known by the key", |p| p.provenance == Provenance::SharedKey)
        .await;
    for other in [&wrong, &none] {
        until_peer(&guarded, other.peer_id(), "no more than here", |p| {
            p.provenance == Provenance::SameMachine
        })
        .await;
    }
    friend.client(guarded.peer_id()).list_pools().await.unwrap();
    for other in [&wrong, &none] {
        let error = other.client(guarded.peer_id()).list_pools().await.unwrap_err();
        assert_eq!(error.kind(), Some(ErrorKind::Unauthorized), "{error}");
    }
}

/// Never answers long polls and store reads; answers the rest as a data provider does.
#[derive(Debug)]
struct Stuck(KeySpace);

#[async_trait]
impl Lookup for Stuck {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, BlobError> {
        if key.starts_with("headers:") {
            std::future::pending::<()>().await;
        }
        self.0.get(key).await
    }

    fn reserve_bytes(&self, key: &str) -> usize {
        self.0.reserve_bytes(key)
    }
}

fn request(method: &str, key: &str) -> Vec<u8> {
    let data = dp::GetBlobByKey { key: key.into() }.encode_to_vec().into();
    Request { method: method.into(), data, ..Request::default() }.encode_to_vec()
}

/// Sixteen strangers send every kind of call, which never end: everything else is answered as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn flood_of_calls_keeps_nobody_out() {
    let source = Arc::new(MemorySource::of_empty_blocks(3));
    let mut provider = managed(0);
    provider.role = Role::DataProviderInt;
    provider.limits.call_timeout = LONG;
    provider.blobs = Some(Arc::new(Stuck(KeySpace::new(source, keyspace::Config::default()))));
    let provider = start(provider).await;
    let mut strangers = Vec::new();
    for n in 1..=16 {
        strangers.push(Arc::new(RawPeer::start(n, Some(address(&provider)), Box::new(|_| None)).await));
    }
    let id = provider.peer_id();
    let mut flood = tokio::task::JoinSet::new();
    for stranger in &strangers {
        for _ in 0..16 {
            let stranger = Arc::clone(stranger);
            flood
                .spawn(async move { stranger.ask(id, request("GetBlobByKey", "headers:1:0:1000000")).await });
        }
    }
    // Calls without a slot are refused; the others never end. They get 96 of 256 slots, because all have one
    // address.
    for _ in 0..160 {
        // A stream beyond those of its connection is reset.
        if let Ok(bytes) = timeout(LONG, flood.join_next()).await.expect("a refusal").unwrap().unwrap() {
            assert!(Response::decode(bytes.as_slice()).unwrap().has_error);
        }
    }
    let mut caller = config(17, Role::LifecycleManager);
    caller.boot_nodes = vec![address(&provider)];
    let started = Instant::now();
    let caller = start(caller).await;
    until_friends(&caller, &provider).await;
    for _ in 0..20 {
        caller.client(id).data_provider_info().await.unwrap();
        caller.client(id).list_pools().await.unwrap();
        let heights = caller.client(id).blob_by_key("heights:1000000:1000000:60000").await.unwrap();
        assert!(heights.is_some());
        assert!(caller.client(id).blob("heights:1000000:1000000:60000").await.unwrap().is_some());
    }
    assert!(started.elapsed() < Duration::from_secs(30), "nobody waits for heights over RPC");
}

/// A blob of that many bytes.
#[derive(Debug)]
struct Large(usize);

#[async_trait]
impl Lookup for Large {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, BlobError> {
        Ok((key == "genesis").then(|| vec![7; self.0].into()))
    }

    fn reserve_bytes(&self, _: &str) -> usize {
        self.0
    }
}

/// A call whose caller does not read the answer is in flight until it has: otherwise one caller could have any number
/// of large answers in the node's memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_not_read_keeps_its_slot() {
    let mut provider = managed(0);
    provider.role = Role::DataProviderInt;
    provider.limits.call_timeout = LONG;
    provider.limits.calls_per_ip = 1;
    // More than the system's buffers hold.
    provider.blobs = Some(Arc::new(Large(32 << 20)));
    let provider = start(provider).await;
    let (id, hold) = (provider.peer_id(), Arc::new(Hold::default()));
    let slow = RawPeer::start_slow(1, address(&provider), Arc::clone(&hold)).await;
    let other = RawPeer::start(2, Some(address(&provider)), Box::new(|_| None)).await;
    let reading = tokio::spawn(async move { slow.ask(id, request("GetBlobByKey", "genesis")).await });
    // The answer is complete, and is being written.
    timeout(LONG, hold.begun.notified()).await.expect("the first byte");
    let ask = async || {
        let answer = other.ask(id, request("GetBlobByKey", "headers:1:0:1000000")).await.unwrap();
        Response::decode(answer.as_slice()).unwrap()
    };
    let refused = ask().await.error.expect("the address has its only slot in use");
    assert_eq!(refused.message, "too many calls at once");
    hold.go_on.notify_one();
    let answer = timeout(LONG, reading).await.expect("the rest").unwrap().unwrap();
    assert!(answer.len() > 32 << 20);
    let is_free = async { while ask().await.has_error {} };
    timeout(LONG, is_free).await.expect("the slot is free again");
}

/// Strangers at ever new addresses, of which each displaces an earlier one, and takes what the node has for it byte by
/// byte: connections that are being closed for that reason leave the reserve to known peers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_closing_of_displaced_connections_leaves_the_reserve() {
    let mut guarded = managed(0);
    guarded.role = Role::DataProviderInt;
    guarded.blobs = Some(Arc::new(Large(8 << 20)));
    // Fourteen may come in; strangers have eleven of these.
    guarded.limits.connections = 16;
    let friend_id = rig::identity(1).peer_id().to_string().parse().unwrap();
    guarded.trust.peers.insert(friend_id);
    let guarded = start(guarded).await;
    let mut crowd = Vec::new();
    let mut hosts = (2..=250).cycle();
    let mut more = async |crowd: &mut Vec<Trickle>| {
        let from = Ipv4Addr::new(127, 0, 0, hosts.next().unwrap());
        let genesis = request("GetBlobByKey", "genesis");
        crowd.extend(Trickle::start(from, guarded.peer_id(), without_id(&guarded), genesis).await);
    };
    for _ in 0..40 {
        more(&mut crowd).await;
    }
    assert!(crowd.len() > 11, "{} have an answer", crowd.len());
    let friend = start_knowing(config(1, Role::Trader), &guarded).await;
    let attack = async {
        loop {
            more(&mut crowd).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = attack => {}
        () = until_friends(&guarded, &friend) => {}
    }
}

/// Connects from another local address and stays silent.
async fn mute(to: SocketAddr, from: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_handshakes_block_only_their_own_address() {
    let mut guarded = managed(0);
    guarded.limits.handshakes = 16;
    let guarded = start(guarded).await;
    let port = port_of(&guarded);
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(mute(([127, 0, 0, 1], port).into(), "127.0.0.2").await);
    }
    // Long before the handshakes time out.
    let honest = start_knowing(config(1, Role::Trader), &guarded).await;
    timeout(Duration::from_secs(7), until_friends(&guarded, &honest))
        .await
        .expect("a place for the honest one");
    drop(held);
}

fn port_of(node: &Node) -> u16 {
    let place = node.listen_addresses()[0].to_string();
    place.rsplit('/').next().unwrap().parse().unwrap()
}

/// Connects from many addresses, without a word.
async fn mute_addresses(node: &Node) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for host in 2..60 {
        held.push(mute(([127, 0, 0, 1], port_of(node)).into(), &format!("127.0.0.{host}")).await);
    }
    held
}

/// Silent connections from more addresses than there are handshakes: one from another address ends the oldest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_handshakes_of_many_addresses_make_room() {
    let mut guarded = managed(0);
    guarded.limits.handshakes = 16;
    let guarded = start(guarded).await;
    let held = mute_addresses(&guarded).await;
    let honest = start_knowing(config(1, Role::Trader), &guarded).await;
    timeout(Duration::from_secs(5), until_friends(&guarded, &honest))
        .await
        .expect("a place for the honest one");
    drop(held);
}

/// The same strangers, and three programs at one address that is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_address_has_several_handshakes_beside_endless_ones() {
    let mut guarded = managed(0);
    guarded.limits.handshakes = 16;
    guarded.trust.networks = vec!["127.0.0.100/32".parse().unwrap()];
    let guarded = start(guarded).await;
    let mut held = mute_addresses(&guarded).await;
    for n in 0..3 {
        let mut known = mute(([127, 0, 0, 1], port_of(&guarded)).into(), "127.0.0.100").await;
        // The handshake's first line, which is answered with the same.
        known.write_all(b"\x13/multistream/1.0.0\n").await.unwrap();
        let mut answer = [0; 20];
        let read = timeout(LONG, known.read_exact(&mut answer)).await.expect("an answer, or the end");
        assert!(read.is_ok(), "handshake {n}: {read:?}");
        held.push(known);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_identities_do_not_keep_out_a_named_peer() {
    let mut guarded = managed(0);
    guarded.limits.connections = 16;
    guarded.limits.connections_per_ip = 6;
    let friend_id = rig::identity(20).peer_id().to_string().parse().unwrap();
    guarded.trust.peers.insert(friend_id);
    let guarded = start(guarded).await;
    let mut crowd = Vec::new();
    for n in 1..=10 {
        let dialled = RawPeer::start(n, Some(address(&guarded)), Box::new(|_| None));
        crowd.push(dialled.await);
    }
    let denied = async {
        while crowd.iter().filter(|peer| *peer.closed.lock().unwrap() > 0).count() < 4 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, denied).await.expect("an address has its share");
    let friend = start_knowing(config(20, Role::Trader), &guarded).await;
    timeout(LONG, until_friends(&guarded, &friend)).await.expect("the one that is named");
}

/// A stranger at the end of a connection that we made calls over it: a local listener may forward to
/// anywhere, so this does not prove a program on this machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dialled_peer_is_not_authorised_by_its_address() {
    let stranger = RawPeer::start(0, None, Box::new(|_| None)).await;
    let mut local = managed(1);
    local.boot_nodes = vec![stranger.address.clone()];
    let local = start(local).await;
    let ask = || stranger.ask(local.peer_id(), request("ListPool", ""));
    let connected = async {
        loop {
            match ask().await {
                Ok(bytes) => break bytes,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let answer = Response::decode(timeout(LONG, connected).await.unwrap().as_slice()).unwrap();
    assert_eq!(answer.error.map(|error| error.r#type()), Some(ErrorKind::Unauthorized));
    // A peer that dials us is authorised.
    let caller = RawPeer::start(2, Some(address(&local)), Box::new(|_| None)).await;
    let answer = caller.ask(local.peer_id(), request("ListPool", "")).await.unwrap();
    assert!(!Response::decode(answer.as_slice()).unwrap().has_error);
}

/// Two programs on one machine, of which the called one has dialled: the caller dials, too, and is
/// authorised.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_on_one_machine_authorise_each_other_whoever_dials_first() {
    let caller = start(managed(0)).await;
    let mut local = managed(1);
    local.boot_nodes = vec![address(&caller)];
    let local = start(local).await;
    until_friends(&caller, &local).await;
    let let_in = async {
        while caller.client(local.peer_id()).list_pools().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, let_in).await.expect("the caller's own connection lets it in");
}
