//! Tests of the details beyond the original's messages: equal at both ends, bounded, and only sent on
//! request.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "node_rig/rig.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of the rig")]
mod rig;

#[path = "manage_rig/rig.rs"]
#[allow(dead_code, reason = "each test program uses a part of the rig")]
mod bench;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bench::{Bench, MNEMONIC, worker};
use prb_core::{
    blob::Heights,
    chain::{
        AccountOnChain, ChainView, PoolOnChain, Registration, Session, SessionState, Unreadable, Withdrawal,
        WorkerOnChain,
    },
    inventory::{
        AfterExternalStop, Edit, FleetRecord, Goal, Inventory, KeyChange, Operator, Pool, Worker,
        memory::MemoryInventory,
    },
    manage::{Manager, Parts, memory::MemoryKeys},
    primitives::{AccountId, Hash, ParaNumber, PoolId, RelayNumber, WorkerKey},
    prpc::{MemoryUsage, PhactoryInfo},
    queue::{JobId, Stats},
    vault::{Sealed, memory::MemoryVault},
    wire::AttestationProvider,
    worker::{
        Checkpoint, Command, Desired, Event, EventKind, InFlight, Operation, Reason, Stage, State,
        WorkerStatus,
    },
};
use prb_walkie::{
    manage::{
        Sources,
        detail::{MAX_PROVIDERS, MAX_TEXT_BYTES, MAX_WITH_EVENTS, PoolDetail, WorkerDetail, encode_worker},
        state::worker_state,
    },
    node::Limits,
    proto::{
        FullAccount, WorkerStateUpdate, db, detail as wire, lifecycle as lm,
        provider_detail::{Detail, Provider},
    },
    rpc::Handlers,
};
use prost::Message;
use tokio::sync::watch;
use uuid::Uuid;

fn query(ids: &[&str]) -> wire::StatusQuery {
    wire::StatusQuery { ids: ids.iter().map(|id| (*id).to_owned()).collect(), detail: true, events: true }
}

async fn with_worker() -> (Bench, String) {
    let bench = Bench::new(true).await;
    bench.chain.add_pool(
        PoolId(1),
        prb_core::chain::memory::MemoryChain::account_of(MNEMONIC),
        u128::MAX >> 1,
    );
    let mut owner = FullAccount::default();
    owner.mnemonic = MNEMONIC.to_owned();
    let pool =
        db::Pool { pid: 1, name: "p".into(), owner: Some(owner), enabled: true, ..db::Pool::default() };
    let _: lm::PoolList = bench.ok("CreatePool", &lm::CreatePool { pools: vec![pool] }).await;
    bench.connect(1);
    let made: lm::WorkerList = bench.ok("CreateWorker", &lm::CreateWorker { workers: vec![worker(1)] }).await;
    bench.until_active().await;
    (bench, made.workers[0].uuid.clone())
}

#[tokio::test]
async fn details_are_sent_only_on_request() {
    let (bench, id) = with_worker().await;
    // As an original asks: the answer has its own fields only.
    let plain = bench.ask("GetWorkerStatus", Vec::new()).await.unwrap();
    let known = WorkerStateUpdate::decode(plain.clone()).unwrap();
    assert_eq!(plain, known.encode_to_vec());
    assert!(known.worker_states[0].session_info_json.contains("WorkerIdle"));

    let all: wire::StatusUpdate = bench.ok("GetWorkerStatus", &query(&[])).await;
    let fleet = all.detail.unwrap();
    // The detail contains what the JSON does; events are only sent for named workers.
    assert!(all.worker_states[0].session_info_json.is_empty() && fleet.workers[0].events.is_empty());
    assert_eq!(fleet.known_commands().collect::<Vec<_>>(), Command::ALL);
    let told = WorkerDetail::from(fleet.workers[0].clone());
    assert_eq!((told.reason, told.goal, told.stalled), (Some("computing"), Some(Goal::Compute), false));
    let status = bench.manager.status(&[]).unwrap().remove(0);
    assert_eq!(told.chain.as_ref(), status.chain.as_deref());
    assert_eq!(told.info.as_ref(), status.info.as_deref());
    assert!(told.chain.unwrap().session.unwrap().stake.is_some());

    let one: wire::StatusUpdate = bench.ok("GetWorkerStatus", &query(&[&id])).await;
    let told = WorkerDetail::from(one.detail.unwrap().workers.remove(0));
    let events = bench.manager.events(id.parse().unwrap()).unwrap();
    assert!(events.iter().any(|event| matches!(event.kind, EventKind::OperationDone { .. })), "{events:?}");
    let kinds = |events: &[prb_core::worker::Event]| {
        events.iter().map(|e| (e.number, e.kind.clone())).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&told.events), kinds(&events));
    bench.stop().await;
}

#[tokio::test]
async fn command_is_previewed_and_carried_out() {
    let (bench, id) = with_worker().await;
    let request = |command: &str, dry_run| wire::CommandRequest {
        ids: vec![id.clone()],
        command: command.into(),
        dry_run,
    };
    let dry: wire::CommandUpdate = bench.ok("CommandWorker", &request("stop", true)).await;
    assert!(dry.answers[0].text.contains("stops computing") && !dry.answers[0].refused, "{dry:?}");
    let goal = || bench.manager.status(&[]).unwrap()[0].saved.goal;
    assert_eq!(goal(), Goal::Compute);
    let refused: wire::CommandUpdate = bench.ok("CommandWorker", &request("reclaim", true)).await;
    assert!(refused.answers[0].refused && refused.answers[0].text.contains("stop it first"), "{refused:?}");

    let done: wire::CommandUpdate = bench.ok("CommandWorker", &request("stop", false)).await;
    assert_eq!((done.answers[0].uuid.as_str(), done.answers[0].refused), (id.as_str(), false));
    bench.until("a stop", || goal() == Goal::StayStopped).await;
    let error = bench.ask("CommandWorker", request("explode", false).encode_to_vec()).await.unwrap_err();
    assert_eq!(error.message, "there is no command \"explode\"");
    bench.stop().await;
}

fn session(seed: u8) -> Session {
    let long = u64::from(seed);
    Session {
        account: AccountId([seed; 32]),
        state: SessionState::WorkerCoolingDown,
        ve: u128::MAX - u128::from(seed),
        v: 1 << 64,
        v_updated_at: long + 1,
        p_init: u32::from(seed) + 2,
        p_instant: u32::from(seed) + 3,
        iterations: long + 4,
        working_start_time: long + 5,
        challenge_time_last: long + 6,
        cool_down_start: long + 7,
        total_reward: u128::MAX,
        stake: Some(30_000_000_000_000_000),
    }
}

fn on_chain(seed: u8) -> WorkerOnChain {
    let mut chain = WorkerOnChain::default();
    chain.registration = Some(Registration {
        pubkey: WorkerKey([seed; 32]),
        ecdh_pubkey: [seed; 32],
        runtime_version: 0x0203,
        last_updated: 1_700_000_000,
        operator: Some(AccountId([9; 32])),
        attestation_provider: Some(AttestationProvider::Ias),
        confidence_level: 1,
        initial_score: Some(2000),
        features: vec![4, 1],
    });
    chain.pool = Some(PoolId(12));
    chain.session = Some(session(seed));
    chain.ingress_sequence = u64::MAX;
    chain.endpoints = vec!["https://a.example.org".into()];
    chain.endpoints_unreadable = Some(Unreadable::new("not kept"));
    chain
}

fn view(pools: Vec<Pool>) -> ChainView {
    let mut view = ChainView::default();
    view.block = ParaNumber(77);
    view.unreadable = vec![Unreadable::new("the cool-down period cannot be read")];
    let mut chain = PoolOnChain::default();
    chain.owner = AccountId([8; 32]);
    (chain.free_stake, chain.releasing_stake, chain.total_value) = (u128::MAX, 2, 3);
    (chain.cap, chain.commission_millionths) = (Some(4), Some(50_000));
    chain.workers = (0..100).map(|n| WorkerKey([n; 32])).collect();
    chain.cooling_down = vec![WorkerKey([1; 32])];
    chain.withdrawals = vec![Withdrawal { start_time: 5 }];
    let mut account = AccountOnChain::default();
    account.free = 1_500_000_000_000;
    for pool in pools {
        let reading = match pool.pid.0 % 3 {
            0 => Ok(Arc::new(Some(chain.clone()))),
            1 => Ok(Arc::new(None)),
            _ => Err(Unreadable::new("x".repeat(2 * MAX_TEXT_BYTES))),
        };
        view.pools.insert(pool.pid, reading);
        view.accounts.insert(pool.operator.unwrap().account, Ok(Arc::new(account)));
    }
    view
}

/// One that has more to say than is told.
fn provider() -> Provider {
    let reason = "x".repeat(2 * MAX_TEXT_BYTES);
    Provider { peer_id: "peer".into(), reason, answered: u64::MAX, ..Provider::default() }
}

/// A manager of pools 0, 1 and 2 and `workers` workers, with every field set.
async fn full(workers: u128) -> (Handlers, Manager, Arc<ChainView>) {
    let inventory = Arc::new(MemoryInventory::default());
    let pools: Vec<_> = (0..3)
        .map(|pid| {
            let operator = Operator { account: AccountId([pid + 1; 32]), key: Sealed(vec![1]) };
            let pool = Pool::new(Uuid::from_u128(pid.into()), PoolId(pid.into()), format!("pool {pid}"));
            let mut pool = pool.with_operator(operator);
            pool.after_stop = Some(AfterExternalStop::Reclaim);
            pool
        })
        .collect();
    let of = |n: u128| {
        let endpoint = format!("http://10.{}.{}.{}:8000", n >> 16, n >> 8 & 255, n & 255);
        Worker::new(Uuid::from_u128(1000 + n), PoolId(0), format!("worker {n:05}"), endpoint, 30 << 60)
    };
    let edits = pools.iter().cloned().map(Edit::PutPool).chain((0..workers).map(|n| Edit::PutWorker(of(n))));
    inventory.apply(edits.collect()).await.unwrap();
    let manager = Manager::new(Parts {
        inventory,
        vault: Arc::new(MemoryVault::new()),
        keys: Arc::new(MemoryKeys),
        fleet: None,
    });
    let view = Arc::new(view(pools));
    let heights = Heights {
        relay: Some(RelayNumber(1)),
        relay_target: Some(RelayNumber(2)),
        para: Some(ParaNumber(3)),
        para_target: None,
    };
    let sources = Sources {
        heights: Some(watch::channel(heights).1),
        chain: Some(watch::channel(Some(Arc::clone(&view))).1),
        jobs: Some(Arc::new(|| Some(Stats { waiting: 1, delayed: 2, active: 3, succeeded: 4, failed: 5 }))),
        providers: Some(Arc::new(|| vec![provider(); 2 * MAX_PROVIDERS])),
        chain_nodes: Some(Arc::new(|| Detail { free_bytes: Some(7), ..Detail::default() })),
    };
    let handlers = prb_walkie::manage::handlers(manager.clone(), sources, Handlers::new());
    (handlers, manager, view)
}

async fn ask(handlers: Handlers, query: &wire::StatusQuery) -> Result<wire::StatusUpdate, String> {
    let mut server = rig::config(0, prb_walkie::proto::Role::LifecycleManager);
    server.handlers = handlers;
    let node = rig::start(server).await;
    let caller = rig::start_knowing(rig::config(1, prb_walkie::proto::Role::Client), &node).await;
    rig::until_peer(&caller, node.peer_id(), "connected", |peer| peer.connected).await;
    let answer = caller.client(node.peer_id()).worker_detail(query.clone()).await;
    answer.map_err(|error| format!("{error:?}"))
}

#[tokio::test]
async fn fleet_detail_round_trips() {
    let (handlers, _, view) = full(1).await;
    let mut fleet = ask(handlers, &query(&[])).await.unwrap().detail.unwrap();
    assert_eq!(fleet.chain_nodes.as_ref().unwrap().free_bytes, Some(7));
    let providers = fleet.bounded_providers();
    assert_eq!((providers.len(), providers[0].reason.len()), (MAX_PROVIDERS, MAX_TEXT_BYTES));
    assert_eq!((&*providers[0].peer_id, providers[0].answered), ("peer", u64::MAX));
    assert_eq!(fleet.heights().relay_target, Some(RelayNumber(2)));
    assert_eq!((fleet.heights().para_target, fleet.chain_block), (None, Some(77)));
    let stats = fleet.job_stats().unwrap();
    assert_eq!((stats.waiting, stats.delayed, stats.active, stats.succeeded, stats.failed), (1, 2, 3, 4, 5));
    assert_eq!(fleet.bounded_notes(), ["the cool-down period cannot be read"]);
    // No worker runs here.
    assert_eq!(fleet.known_commands().count(), 0);
    assert_eq!(fleet.workers[0].reason, "no-fleet");
    for (pid, told) in fleet.pools.into_iter().map(|pool| (PoolId(pool.pid), PoolDetail::from(pool))) {
        assert_eq!(told.after_stop, Some(AfterExternalStop::Reclaim));
        assert_eq!(told.account.unwrap().unwrap().free, 1_500_000_000_000);
        match (told.chain.unwrap(), &view.pools[&pid]) {
            (Err(told), Err(_)) => assert_eq!(told.reason.len(), MAX_TEXT_BYTES),
            (told, known) => assert_eq!(told.as_ref(), known.as_ref()),
        }
    }
}

/// The status of a worker with values in all fields that its details have.
fn detailed_status(at: SystemTime) -> WorkerStatus {
    let mut entry = Worker::new(Uuid::from_u128(2), PoolId(12), "a", "http://a", 1);
    entry.endpoints = vec!["https://a.example.org".into()];
    (entry.gatekeeper, entry.after_stop) = (true, Some(AfterExternalStop::StartAgain));
    let desired = Desired { worker: Arc::new(entry), pool: None };
    let mut status = WorkerStatus::idle(&desired, Reason::Unresponsive, at);
    status.chain = Some(Arc::new(on_chain(3)));
    (status.lag, status.stalled, status.failures) = (Some(0), true, 7);
    status.saved.goal = Goal::LeavePool;
    status.saved = seen(status.saved, KeyChange { at_ms: 5, block: Some(ParaNumber(0)) });
    status
}

/// An event of every kind.
fn all_events(at: SystemTime) -> Vec<Event> {
    let kinds = [
        EventKind::State {
            before: State::Idle,
            after: State::Active,
            reason: "computing",
            message: "Computing".into(),
        },
        EventKind::Commanded(Command::LeavePool),
        EventKind::Edited,
        EventKind::Initialised,
        EventKind::LostState,
        EventKind::KeyChanged { last: WorkerKey([7; 32]), now: WorkerKey([8; 32]) },
        EventKind::Goal { before: Goal::Compute, after: Goal::StayStopped },
        EventKind::OperationSent { operation: "restart" },
        EventKind::OperationWithdrawn { operation: "restart" },
        EventKind::OperationDone { operation: "add", block: ParaNumber(0), extrinsic: Some(Hash([5; 32])) },
        EventKind::OperationDone { operation: "add", block: ParaNumber(9), extrinsic: None },
        EventKind::OperationFailed { operation: "register", error: "no".into() },
        EventKind::Checkpoint(Ok(ParaNumber(0))),
        EventKind::Checkpoint(Err("disk full".into())),
        EventKind::Stalled,
        EventKind::Panicked { text: "oh".into() },
    ];
    kinds.into_iter().zip(0..).map(|(kind, n)| Event::new(n, at, kind)).collect()
}

fn at() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_652_349_600_999)
}

#[test]
fn worker_detail_round_trips() {
    let (mut status, events) = (detailed_status(at()), all_events(at()));
    for result in [Ok(ParaNumber(0)), Err(Arc::from("busy"))] {
        status.checkpoint = Some(Checkpoint { at: at(), result });
        let mut wire = encode_worker(&status, &events);
        // An event that a later version might add.
        wire.events.push(wire::Event { kind: 99, ..wire::Event::default() });
        let told = WorkerDetail::from(wire::Worker::decode(&*wire.encode_to_vec()).unwrap());
        assert_eq!(told.events, events);
        assert_eq!((told.reason, told.since, told.lag), (Some("unresponsive"), at(), Some(0)));
        assert_eq!((told.stalled, told.failures, told.goal), (true, 7, Some(Goal::LeavePool)));
        assert_eq!(
            (told.chain.as_ref(), told.checkpoint),
            (status.chain.as_deref(), status.checkpoint.clone())
        );
        assert_eq!((told.gatekeeper, told.after_stop), (true, Some(AfterExternalStop::StartAgain)));
        assert_eq!((told.info, told.endpoints.len()), (None, 1));
        assert_eq!(told.key_change, Some(KeyChange { at_ms: 5, block: Some(ParaNumber(0)) }));
        assert_eq!(told.in_flight, None);
    }
}

#[test]
fn operations_in_flight_round_trip() {
    let mut status = detailed_status(at());
    let operations = Operation::NAMES.into_iter().chain([InFlight::MESSAGES]);
    for (operation, stage) in operations.zip(Stage::ALL.into_iter().cycle()) {
        for job in [None, Some(JobId(u64::MAX))] {
            status.in_flight = Some(InFlight { operation, stage, since: at(), job });
            let wire = encode_worker(&status, &[]).encode_to_vec();
            assert_eq!(WorkerDetail::from(wire::Worker::decode(&*wire).unwrap()).in_flight, status.in_flight);
        }
    }
}

/// Returns the record with a key and this change of it, as a store has it.
fn seen(saved: FleetRecord, changed: KeyChange) -> FleetRecord {
    let mut json = serde_json::to_value(saved).unwrap();
    json["seen_keys"] = serde_json::json!({ "key": WorkerKey([7; 32]), "changed": changed });
    serde_json::from_value(json).unwrap()
}

#[test]
fn invalid_values_are_skipped() {
    let odd = wire::Worker {
        reason: "later".into(),
        goal: "fly".into(),
        after_stop: "never".into(),
        in_flight: Some(wire::InFlight { operation: "fly".into(), ..wire::InFlight::default() }),
        since_ms: u64::MAX,
        chain: Some(wire::WorkerOnChain {
            registration: b"x".as_slice().into(),
            session: Some(wire::Session { state: 300, ..wire::Session::default() }),
            ..wire::WorkerOnChain::default()
        }),
        ..wire::Worker::default()
    };
    let told = WorkerDetail::from(odd);
    assert_eq!((told.reason, told.goal, told.after_stop, told.in_flight), (None, None, None, None));
    let chain = told.chain.unwrap();
    assert!(chain.registration.is_none() && chain.session.is_none());
    let _ = told.since.elapsed();
    let keys =
        wire::PoolOnChain { exists: true, workers: vec![1; 33].into(), ..wire::PoolOnChain::default() };
    let told = PoolDetail::from(wire::Pool { chain: Some(keys), ..wire::Pool::default() });
    assert_eq!(told.chain.unwrap().unwrap().as_ref().as_ref().unwrap().workers, [WorkerKey([1; 32])]);
}

#[tokio::test]
async fn five_thousand_workers_fit_into_an_answer() {
    let (handlers, manager, _) = full(5000).await;
    let update = ask(handlers.clone(), &query(&[])).await.unwrap();
    let mut fleet = update.detail.clone().unwrap();
    assert_eq!((update.worker_states.len(), fleet.workers.len()), (5000, 5000));
    // With every field that a worker can have.
    let info = PhactoryInfo {
        public_key: Some("ab".repeat(32)),
        ecdh_public_key: Some("cd".repeat(32)),
        genesis_block_hash: Some("ef".repeat(32)),
        state_root: "01".repeat(32),
        version: "2.3.0".into(),
        git_revision: "23".repeat(20),
        memory_usage: Some(MemoryUsage { rust_used: 1 << 40, ..MemoryUsage::default() }),
        ..PhactoryInfo::default()
    };
    let status = manager.status(&[]).unwrap().remove(0);
    for (n, worker) in fleet.workers.iter_mut().enumerate() {
        let mut status = WorkerStatus::clone(&status);
        (status.info, status.chain) = (Some(Arc::new(info.clone())), Some(Arc::new(on_chain(n as u8))));
        *worker = encode_worker(&status, &[]);
    }
    let states = update.encoded_len() - update.detail.unwrap().encoded_len();
    let bytes = states + fleet.encoded_len();
    let mut status = WorkerStatus::clone(&status);
    (status.info, status.chain) = (Some(Arc::new(info)), Some(Arc::new(on_chain(0))));
    let original = 5000 * worker_state(&status).encoded_len();
    println!(
        "5,000 workers: {bytes} bytes, {states} of them the original's fields; as the original: {original}"
    );
    assert!(bytes < original, "{bytes}, {original}");
    assert!(bytes < Limits::default().answer_bytes / 8, "{bytes}");

    let many: Vec<_> = (0..=MAX_WITH_EVENTS as u128).map(|n| Uuid::from_u128(1000 + n).to_string()).collect();
    let refused =
        ask(handlers, &wire::StatusQuery { ids: many, detail: true, events: true }).await.unwrap_err();
    assert!(refused.contains("at most 100 workers"), "{refused}");
}
