//! A monitor's console over managers that answer nothing, garbage, or nonsense: right answers, nothing shown raw.

use std::time::{Duration, Instant};

use prb::console::Console;
use prb_walkie::{
    identity::Identity,
    node::{self, Multiaddr, Node},
    proto::{
        Empty, Role, WorkerState, data_provider as dp, db,
        detail::{self, StatusQuery, StatusUpdate},
        lifecycle as lm,
        provider_detail::{Detail, Node as ChainNode, Provider},
    },
    rpc::{
        Handlers,
        calls::{self, Call, Method},
    },
};
use prost::Message;

use crate::rig::*;

/// An answer to `GetWorkerStatus` that is none: bytes where a message should be.
#[derive(Clone, PartialEq, Message)]
struct Garbage {
    #[prost(bytes = "vec", tag = "1")]
    worker_states: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct GarbageStatus;

impl Call for GarbageStatus {
    type Request = StatusQuery;
    type Response = Garbage;
    const METHOD: Method = Method::GetWorkerStatus;
}

async fn start(role: Role, hostname: &str, handlers: Handlers, boot_nodes: Vec<Multiaddr>) -> Node {
    let identity = tokio::task::spawn_blocking(Identity::generate).await.unwrap().unwrap();
    let mut config = node::Config::new(identity, role);
    (config.mdns, config.boot_nodes, config.handlers) = (false, boot_nodes, handlers);
    config.ignore_bridge_identity = true;
    config.hostname = hostname.into();
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    Node::start(config).await.unwrap()
}

/// A monitor that has found a manager with these handlers, and the path of the manager's pages.
async fn monitor_of(hostname: &str, handlers: Handlers) -> (Page, Node, String) {
    let manager = start(Role::LifecycleManager, hostname, handlers, Vec::new()).await;
    let monitor = start(Role::Client, "monitor", Handlers::new(), manager.listen_addresses()).await;
    let id = manager.peer_id();
    found(&monitor, &[&manager]).await;
    (Page::of_console(Console::of_peers(monitor)).await, manager, format!("/managers/{id}"))
}

fn no_pools() -> Handlers {
    Handlers::new().on(calls::ListPool, |_, Empty {}| async { Ok(lm::PoolList::default()) })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_never_answers_holds_nobody_up() {
    let silent = no_pools().on(calls::GetWorkerDetail, |_, _: StatusQuery| std::future::pending());
    let (page, _manager, base) = monitor_of("silent", silent).await;
    let start = Instant::now();
    let paths = ["", "/workers", "/pools", "/chain-data", "/workers/new"].map(|path| format!("{base}{path}"));
    let answers = futures::future::join_all(paths.iter().map(|path| page.get(path))).await;
    for (path, answer) in paths.iter().zip(&answers) {
        assert_eq!(answer.status, 504, "{path}: {}", answer.body);
        answer.has(&["The peer has not answered within"]);
    }
    // Those who look at once wait once, and an answer comes before the port gives the request up.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    // Whoever looks next is told at once, and holds no request's place for long.
    let start = Instant::now();
    assert_eq!(page.get(&paths[1]).await.status, 504);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(page.get("/").await.status, 200, "the other pages go on");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// Waits until a monitor has found these peers.
async fn found(monitor: &Node, all: &[&Node]) {
    let mut peers = monitor.peers();
    let found = async {
        while !all
            .iter()
            .all(|node| peers.borrow_and_update().get(&node.peer_id()).is_some_and(|peer| peer.connected))
        {
            peers.changed().await.unwrap();
        }
    };
    tokio::time::timeout(LONG, found).await.expect("a peer was not found");
}

/// The lags of an original's workers are relative to the data providers, some of which may never answer.
#[tokio::test(flavor = "multi_thread")]
async fn silent_data_providers_hold_no_fleet_up() {
    let worker = db::Worker {
        uuid: uuid::Uuid::from_u128(1).to_string(),
        name: "rack-1".into(),
        enabled: true,
        ..db::Worker::default()
    };
    let state = WorkerState { worker: Some(worker), para_block_dispatched_to: 90, ..WorkerState::default() };
    let original = no_pools().on(calls::GetWorkerDetail, move |_, _: StatusQuery| {
        let worker_states = vec![state.clone()];
        async { Ok(StatusUpdate { worker_states, detail: None }) }
    });
    let silent = Handlers::new().on(calls::GetDataProviderInfo, |_, Empty {}| std::future::pending());
    let honest = Handlers::new().on(calls::GetDataProviderInfo, |_, Empty {}| async {
        Ok(dp::Info { para_target: 100, ..dp::Info::default() })
    });
    let (manager, silent, honest) = tokio::join!(
        start(Role::LifecycleManager, "original", original, Vec::new()),
        start(Role::DataProviderInt, "silent", silent, Vec::new()),
        start(Role::DataProviderInt, "honest", honest, Vec::new()),
    );
    let boot = [&manager, &silent, &honest].into_iter().flat_map(|node| node.listen_addresses()).collect();
    let monitor = start(Role::Client, "monitor", Handlers::new(), boot).await;
    found(&monitor, &[&manager, &silent, &honest]).await;
    let page = Page::of_console(Console::of_peers(monitor)).await;
    let answer = page.get(&format!("/managers/{}", manager.peer_id())).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.has(&["<dt>Largest</dt><dd class=\"\">10</dd>"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn number_of_pools_is_limited() {
    let pools = 4 * prb_core::inventory::Limits::POOLS + 1;
    let many = Handlers::new()
        .on(calls::ListPool, move |_, Empty {}| async move {
            Ok(lm::PoolList { pools: vec![db::Pool::default(); pools] })
        })
        .on(calls::GetWorkerDetail, |_, _: StatusQuery| async { Ok(StatusUpdate::default()) });
    let (page, _manager, base) = monitor_of("many", many).await;
    let answer = page.get(&base).await;
    assert_eq!(answer.status, 502, "{}", answer.body);
    answer.has(&[&format!("names {pools} pools")]);
}

/// Nobody knows whether an edit that is not answered was made, and that is said.
#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_is_not_answered_may_have_been_made() {
    let handlers = no_pools()
        .on(calls::GetWorkerDetail, |_, _: StatusQuery| async { Ok(StatusUpdate::default()) })
        .on(calls::CreatePool, |_, _: lm::CreatePool| std::future::pending());
    let (page, _manager, base) = monitor_of("slow", handlers).await;
    let answer = page.post(&format!("{base}/pools/save"), Some(TOKEN), "pid=7&name=seven&sync_only=1").await;
    assert_eq!(answer.status, 504, "{}", answer.body);
    answer.has(&["has not answered within", "may have been made nevertheless: check before you repeat it"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_refused_and_not_shown() {
    let garbage = b"<script>alert(1)</script>".to_vec();
    let handlers = no_pools().on(GarbageStatus, move |_, _: StatusQuery| {
        let worker_states = garbage.clone();
        async { Ok(Garbage { worker_states }) }
    });
    let (page, _manager, base) = monitor_of("garbage", handlers).await;
    for path in ["", "/workers", "/pools", "/chain-data"] {
        let answer = page.get(&format!("{base}{path}")).await;
        assert_eq!(answer.status, 502, "{path}: {}", answer.body);
        answer.lacks(&["<script>alert", "alert(1)"]);
    }
}

/// A worker of the original's messages with invalid values in all fields.
fn nonsense_worker(n: u128, name: &str) -> db::Worker {
    db::Worker {
        uuid: uuid::Uuid::from_u128(n).to_string(),
        name: name.into(),
        endpoint: NASTY.into(),
        stake: "-1e99".into(),
        pid: u64::MAX,
        ..db::Worker::default()
    }
}

fn nonsense_state(worker: db::Worker) -> WorkerState {
    WorkerState {
        status: 99,
        parent_header_synched_to: i32::MIN,
        para_header_synched_to: -7,
        para_block_dispatched_to: i32::MAX,
        last_message: NASTY.into(),
        session_info_json: "{\"v\": \"<b onmouseover\", \"raw\": ".into(),
        public_key: "zz".into(),
        worker: Some(worker),
        ..WorkerState::default()
    }
}

fn nonsense_detail() -> detail::Worker {
    detail::Worker {
        uuid: uuid::Uuid::from_u128(1).to_string(),
        reason: NASTY.into(),
        goal: NASTY.into(),
        since_ms: u64::MAX,
        key_change: Some(detail::KeyChange { at_ms: u64::MAX, block: Some(u32::MAX) }),
        in_flight: Some(detail::InFlight { operation: NASTY.into(), ..detail::InFlight::default() }),
        endpoints: vec![NASTY.into(); 1000],
        ..detail::Worker::default()
    }
}

fn nonsense_provider() -> Provider {
    Provider {
        peer_id: NASTY.into(),
        host: NASTY.into(),
        state: NASTY.into(),
        reason: NASTY.repeat(20),
        provenance: NASTY.into(),
        for_ms: Some(u64::MAX),
        ..Provider::default()
    }
}

/// A fleet with far too many of everything.
fn nonsense_fleet() -> detail::Fleet {
    let node = ChainNode {
        name: NASTY.into(),
        chain: NASTY.into(),
        last_error: Some(NASTY.repeat(20)),
        lacks: vec![NASTY.into(); 1000],
        ..ChainNode::default()
    };
    let chain_nodes =
        Detail { nodes: vec![node; 1000], problems: vec![NASTY.into(); 1000], ..Detail::default() };
    detail::Fleet {
        notes: vec![NASTY.into(); 1000],
        workers: vec![nonsense_detail()],
        pools: vec![detail::Pool { pid: 1, after_stop: NASTY.into(), ..detail::Pool::default() }],
        commands: vec![NASTY.into(); 1000],
        takes_settings: true,
        providers: vec![nonsense_provider(); 1000],
        chain_nodes: Some(chain_nodes),
        ..detail::Fleet::default()
    }
}

/// Negative numbers, invalid ids, markup as names and far too many of everything.
#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_shown_as_text_and_within_bounds() {
    let twice = nonsense_worker(1, NASTY);
    let without_id = db::Worker { uuid: NASTY.into(), ..nonsense_worker(3, "none") };
    let mut worker_states: Vec<_> = [twice.clone(), twice, without_id].map(nonsense_state).into();
    worker_states.push(WorkerState::default());
    let update = StatusUpdate { worker_states, detail: Some(nonsense_fleet()) };
    let pool = db::Pool {
        uuid: uuid::Uuid::from_u128(9).to_string(),
        pid: 1,
        name: NASTY.into(),
        ..db::Pool::default()
    };
    let pools = lm::PoolList { pools: vec![pool, db::Pool { uuid: "x".into(), ..db::Pool::default() }] };
    let handlers = Handlers::new()
        .on(calls::ListPool, move |_, Empty {}| {
            let pools = pools.clone();
            async { Ok(pools) }
        })
        .on(calls::GetWorkerDetail, move |_, _: StatusQuery| {
            let update = update.clone();
            async { Ok(update) }
        });
    let (page, _manager, base) = monitor_of(NASTY, handlers).await;
    let id = uuid::Uuid::from_u128(1);
    for path in [
        "/".to_owned(),
        base.clone(),
        format!("{base}/workers?columns=all"),
        format!("{base}/workers/{id}"),
        format!("{base}/workers/{id}/edit"),
        format!("{base}/pools"),
        format!("{base}/chain-data"),
        format!("{base}/workers/confirm?command=kick&id={id}"),
    ] {
        let answer = page.get(&path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.lacks(&["<b onmouseover"]);
        assert!(answer.body.len() < 2 << 20, "{path}: {} bytes", answer.body.len());
    }
    let overview = page.get(&base).await;
    // What the peer tells of its chain nodes.
    assert_eq!(overview.count("<p class=\"notice bad\">&lt;b"), 64);
    overview.lacks(&["Nothing. Waiting"]);
}
