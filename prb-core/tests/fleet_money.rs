//! Tests of what costs an operator money: stakes for changed keys, stops that are undone, calls that are paid for
//! repeatedly. On parts in memory, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prb_core::{
    chain::{
        Call, SessionState,
        memory::{self as chain_memory},
    },
    fleet::{Command, CommandError, Fleet},
    inventory::{AfterExternalStop, Edit, Goal, Inventory},
    primitives::{AccountId, PoolId},
    prpc::Method,
    pruntime::{
        Connect, ConnectError, PRuntimeClient,
        scripted::{ScriptedConnect, ScriptedWorker},
    },
    queue::{CallOutcome, JobOutcome, JobQueue},
    wire::{Message, MessageOrigin, SignedMessage},
    worker::{Settings, State},
};

#[path = "fleet_rig/rig.rs"]
mod rig;
use rig::{BLOCK, PHA, POOL, Rig, STAKE, account, endpoint};

const HOUR: Duration = Duration::from_secs(3600);

/// A rig whose workers compute.
async fn computing(workers: usize) -> Rig {
    computing_on(chain_memory::Config::default(), workers, Settings::default()).await
}

async fn computing_on(config: chain_memory::Config, workers: usize, settings: Settings) -> Rig {
    let mut rig = Rig::with(config, workers, 10).await;
    rig.run();
    rig.start_with(Rig::config().with_settings(settings));
    rig.until_all(State::Active).await;
    rig
}

fn count(rig: &Rig, is: impl Fn(&Call) -> bool) -> usize {
    rig.chain.events().iter().filter(|event| is(&event.call)).count()
}

fn starts(rig: &Rig) -> usize {
    count(rig, |call| matches!(call, Call::StartComputing { .. }))
}

fn quick_cool_down() -> chain_memory::Config {
    chain_memory::Config::default().with_cool_down_secs(600)
}

async fn stop_elsewhere(rig: &Rig, index: usize) {
    rig.submit(Call::StopComputing { pool: POOL, worker: rig.key(index) }).await;
}

#[tokio::test(start_paused = true)]
async fn worker_stopped_by_its_owner_stays_stopped() {
    let rig = computing_on(quick_cool_down(), 2, Settings::default()).await;
    stop_elsewhere(&rig, 0).await;
    rig.until_worker(0, "cooling", |w| w.message.contains("minutes left; stays stopped")).await;
    assert_eq!(rig.status(0).state, State::Synched);
    rig.until_worker(0, "cooled", |w| w.reason.code() == "cooled-down").await;
    tokio::time::sleep(HOUR).await;
    // The owner reclaims it by hand: still no reason to lock the stake again.
    rig.submit(Call::ReclaimWorker { pool: POOL, worker: rig.key(0) }).await;
    rig.until_worker(0, "stopped", |w| w.reason.code() == "stopped").await;
    tokio::time::sleep(HOUR).await;
    assert_eq!((starts(&rig), rig.status(0).saved.goal), (2, Goal::StayStopped));
    assert_eq!(rig.status(1).state, State::Active);
    // A fleet that starts again knows.
    let mut rig = rig;
    rig.fleet().stop().await;
    rig.start();
    rig.until_worker(0, "stopped", |w| w.reason.code() == "stopped").await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(starts(&rig), 2);
    // Until it is told otherwise.
    let answer = rig.fleet().command(rig.ids[0], Command::Start).unwrap();
    assert!(answer.contains("starts computing with 100 PHA"), "{answer}");
    rig.until_all(State::Active).await;
    assert_eq!(starts(&rig), 3);
}

#[tokio::test(start_paused = true)]
async fn stop_while_the_fleet_was_down_is_detected() {
    let mut rig = computing_on(quick_cool_down(), 1, Settings::default()).await;
    rig.fleet().stop().await;
    stop_elsewhere(&rig, 0).await;
    tokio::time::sleep(Duration::from_secs(1200)).await;
    rig.submit(Call::ReclaimWorker { pool: POOL, worker: rig.key(0) }).await;
    rig.submit(Call::RemoveWorker { pool: POOL, worker: rig.key(0) }).await;
    rig.start();
    rig.until_worker(0, "stopped", |w| w.reason.code() == "stopped").await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(count(&rig, |call| matches!(call, Call::AddWorker { .. })), 1);
    // Its owner starts it elsewhere: then it is to compute again.
    rig.submit(Call::AddWorker { pool: POOL, worker: rig.key(0) }).await;
    rig.submit(Call::StartComputing { pool: POOL, worker: rig.key(0), stake: STAKE }).await;
    rig.until_all(State::Active).await;
    assert_eq!(rig.status(0).saved.goal, Goal::Compute);
}

#[tokio::test(start_paused = true)]
async fn after_stop_is_configured_per_fleet_pool_and_worker() {
    let settings = Settings::default().with_after_stop(AfterExternalStop::StartAgain);
    let rig = computing_on(quick_cool_down(), 3, settings).await;
    rig.edit_worker(1, |w| w.after_stop = Some(AfterExternalStop::Reclaim)).await;
    rig.edit_worker(2, |w| w.after_stop = Some(AfterExternalStop::StayStopped)).await;
    for index in 0..3 {
        stop_elsewhere(&rig, index).await;
    }
    rig.until_worker(0, "computing again", |w| w.state == State::Active).await;
    rig.until_worker(1, "reclaimed", |w| w.reason.code() == "stopped").await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(rig.status(2).reason.code(), "cooled-down");
    let reclaimed = |call: &Call| matches!(call, Call::ReclaimWorker { .. });
    assert_eq!((starts(&rig), count(&rig, reclaimed)), (4, 2));
    assert!(rig.chain.events().iter().all(|event| event.result.is_ok()), "none too early");
}

#[tokio::test(start_paused = true)]
async fn commands_stop_reclaim_and_take_out() {
    let rig = computing_on(quick_cool_down(), 1, Settings::default()).await;
    let command = |command| rig.fleet().command(rig.ids[0], command);
    for refused in [Command::Reclaim, Command::LeavePool] {
        let error = command(refused).unwrap_err();
        assert!(matches!(error, CommandError::NotNow { .. }) && error.to_string().contains("stop it first"));
    }
    // Each may be given twice.
    for _ in 0..2 {
        assert!(command(Command::Stop).unwrap().contains("100 PHA stay locked"));
    }
    rig.until_worker(0, "cooling", |w| w.reason.code() == "cooling-down").await;
    assert!(command(Command::Stop).unwrap().contains("stays stopped"));
    for _ in 0..2 {
        assert!(command(Command::Reclaim).unwrap().contains("100 PHA are reclaimed"));
    }
    rig.until_worker(0, "stopped", |w| w.reason.code() == "stopped").await;
    tokio::time::sleep(BLOCK * 5).await;
    for _ in 0..2 {
        assert!(command(Command::LeavePool).unwrap().contains("leaves pool 1"));
    }
    let out = |w: &prb_core::fleet::WorkerStatus| w.chain.as_ref().is_some_and(|c| c.pool.is_none());
    rig.until_worker(0, "out of the pool", |w| out(w) && w.reason.code() == "stopped").await;
    tokio::time::sleep(HOUR).await;
    let calls: Vec<_> = rig.chain.events().iter().map(|event| event.call.name()).skip(3).collect();
    assert_eq!(
        calls,
        [
            "PhalaStakePoolv2::stop_computing",
            "PhalaStakePoolv2::reclaim_pool_worker",
            "PhalaStakePoolv2::remove_worker"
        ]
    );
    command(Command::Start).unwrap();
    rig.until_all(State::Active).await;
    assert!(rig.chain.events().iter().all(|event| event.result.is_ok()));
}

/// A machine that is gone for good is stopped, reclaimed and taken out of its pool: only its key is needed.
#[tokio::test(start_paused = true)]
async fn worker_that_does_not_answer_can_be_stopped_and_reclaimed() {
    let mut rig = computing_on(quick_cool_down(), 2, Settings::default()).await;
    let key = rig.key(0);
    let session = |rig: &Rig| rig.chain.worker(key).session.map(|session| session.state);
    rig.workers[0].set_down(true);
    rig.until_worker(0, "unreachable", |w| w.state == State::Error).await;
    rig.fleet().command(rig.ids[0], Command::Stop).unwrap();
    rig.until("its cool-down", |_| session(&rig) == Some(SessionState::WorkerCoolingDown)).await;
    rig.until_worker(0, "its goal", |w| w.saved.goal == Goal::StayStopped).await;
    // A restart in between does not forget.
    rig.fleet().command(rig.ids[0], Command::LeavePool).unwrap();
    // A restart does not forget it, however soon it comes.
    rig.fleet().stop().await;
    rig.start();
    rig.until("it leaves", |_| rig.chain.worker(key).pool.is_none()).await;
    let status = rig.status(0);
    assert_eq!((status.state, status.reason.code()), (State::Error, "unreachable"));
    // It comes back: it stays stopped, and the other was not touched.
    rig.workers[0].set_down(false);
    rig.until_worker(0, "stopped", |w| w.reason.code() == "stopped").await;
    tokio::time::sleep(BLOCK * 20).await;
    assert_eq!((rig.chain.worker(key).pool, rig.status(1).state), (None, State::Active));
}

/// A client of a machine that can be taken away from one of its addresses.
#[derive(Debug)]
struct Address(ScriptedWorker, Arc<AtomicBool>);

#[async_trait::async_trait]
impl PRuntimeClient for Address {
    async fn call(
        &self,
        method: Method,
        body: bytes::Bytes,
    ) -> Result<bytes::Bytes, prb_core::pruntime::Error> {
        if self.1.load(Ordering::Relaxed) {
            let (endpoint, source) = ("there".into(), "no route".into());
            return Err(prb_core::pruntime::Error::Unreachable { endpoint, connected: false, source });
        }
        self.0.call(method, body).await
    }

    async fn kick(&self) -> Result<(), prb_core::pruntime::Error> {
        self.0.kick().await
    }
}

#[derive(Debug)]
struct Addresses(ScriptedConnect, ScriptedWorker, Arc<AtomicBool>);

impl Connect for Addresses {
    fn connect(&self, place: &str) -> Result<Arc<dyn PRuntimeClient>, ConnectError> {
        if place == endpoint(0) {
            return Ok(Arc::new(Address(self.1.clone(), Arc::clone(&self.2))));
        }
        self.0.connect(place)
    }
}

#[tokio::test(start_paused = true)]
async fn moved_machine_is_used_at_its_new_endpoint() {
    let mut rig = Rig::new(1, 10).await;
    let gone = Arc::new(AtomicBool::new(false));
    let mut parts = rig.parts(rig.source.clone());
    parts.connect = Arc::new(Addresses(rig.connect.clone(), rig.workers[0].clone(), Arc::clone(&gone)));
    rig.run();
    rig.fleet = Some(Fleet::start(parts, Rig::config()));
    rig.until_all(State::Active).await;
    let sent = rig.chain.events().len();

    // The same machine at a second address, before it leaves the first: synced once, whatever the entries.
    let moved = rig.add_worker(POOL).await;
    rig.connect.add(&endpoint(moved), rig.workers[0].clone());
    rig.edit_worker(moved, |w| w.name = "moved".into()).await;
    rig.until_worker(moved, "the reason is shown", |w| w.reason.code() == "key-in-use").await;
    tokio::time::sleep(BLOCK * 100).await;
    assert_eq!(rig.workers[0].overlaps(), 0, "one pRuntime takes one sync at a time");
    assert_eq!(rig.status(0).state, State::Active);

    gone.store(true, Ordering::Relaxed);
    rig.until_worker(moved, "computing there", |w| w.state == State::Active).await;
    rig.until_worker(0, "named", |w| w.reason.code() == "key-moved" && w.message.contains("moved")).await;
    tokio::time::sleep(BLOCK * 20).await;
    assert_eq!((rig.chain.events().len(), rig.workers[0].overlaps()), (sent, 0), "nothing had to be sent");
}

#[tokio::test(start_paused = true)]
async fn added_entry_displaces_no_other() {
    let mut rig = Rig::new(2, 10).await;
    rig.run();
    rig.start_with(Rig::config().with_max_workers(2));
    rig.until_all(State::Active).await;
    let third = rig.add_worker(POOL).await;
    rig.edit_worker(third, |w| w.name = "aaa, before the others".into()).await;
    rig.until_worker(third, "no room", |w| w.reason.code() == "fleet-full").await;
    tokio::time::sleep(BLOCK * 10).await;
    assert_eq!(rig.status(third).state, State::Idle);
    assert_eq!(rig.fleet().status().count(State::Active), 2);
    let refused = rig.fleet().command(rig.ids[third], Command::Restart).unwrap_err();
    assert!(refused.to_string().contains("its maximum of 2 workers"), "{refused}");
    rig.inventory.apply(vec![Edit::RemoveWorker(rig.ids[0])]).await.unwrap();
    rig.until_worker(third, "in its place", |w| w.state == State::Active).await;
}

#[tokio::test(start_paused = true)]
async fn success_without_effect_is_repeated_with_backoff() {
    let mut rig = Rig::new(1, 10).await;
    rig.tick();
    // A trader that says that everything went well, and does nothing.
    let (queue, chain) = (rig.queue.clone(), rig.chain.clone());
    let mut taken = tokio::task::JoinSet::new();
    taken.spawn(async move {
        loop {
            let lease = queue.lease(HOUR).await.unwrap();
            let calls = vec![CallOutcome::Done; lease.job.calls.len()];
            let outcome = JobOutcome { calls, block: chain.head(), extrinsic: None, fee: None };
            queue.complete(lease.id, lease.token, outcome).await.unwrap();
        }
    });
    rig.start();
    rig.until_worker(0, "the reason is shown", |w| w.reason.code() == "operation-without-effect").await;
    tokio::time::sleep(HOUR).await;
    let jobs = rig.queue.stats().await.unwrap().succeeded;
    assert!((5..30).contains(&jobs), "{jobs} in an hour");
    assert_eq!(rig.status(0).state, State::Error);
}

#[tokio::test(start_paused = true)]
async fn refused_operation_costs_a_fee_once() {
    let mut rig = Rig::new(1, 10).await;
    // A pool with too little stake, and one whose operator does not own it.
    for pid in [2, 3] {
        rig.put_pool(PoolId(pid), true).await;
        rig.add_worker(PoolId(pid)).await;
    }
    rig.chain.add_pool(PoolId(2), account(PoolId(2)), STAKE - 1);
    rig.chain.add_pool(PoolId(3), AccountId([7; 32]), 1000 * PHA);
    rig.run();
    rig.start();
    rig.until_worker(0, "computing", |w| w.state == State::Active).await;
    for (index, name) in [(1, "InsufficientFreeStake"), (2, "UnauthorizedPoolOwner")] {
        rig.until_worker(index, name, |w| w.state == State::Error && w.message.contains(name)).await;
    }
    tokio::time::sleep(5 * HOUR).await;
    let failed = |pool: u64| {
        let events = rig.chain.events();
        events.iter().filter(|e| e.result.is_err() && e.operator == account(PoolId(pool))).count()
    };
    assert!(failed(2) <= 1 && failed(3) <= 1, "{} and {} refusals were paid for", failed(2), failed(3));
    assert!((1..3).all(|index| rig.status(index).lag.unwrap() <= 1), "they go on with the chain");
    // Mended: they go on by themselves.
    rig.chain.contribute(PoolId(2), STAKE);
    rig.chain.set_pool_owner(PoolId(3), account(PoolId(3)));
    rig.until_all(State::Active).await;
}

#[tokio::test(start_paused = true)]
async fn messages_of_other_senders_are_carried_once_by_any_worker() {
    let rig = computing(2).await;
    let gatekeeper = |sequence| SignedMessage {
        message: Message { sender: MessageOrigin::Gatekeeper, destination: vec![1], payload: vec![2] },
        sequence,
        signature: vec![0; 64],
    };
    let key = rig.key(0);
    for worker in &rig.workers {
        worker.edit(|state| {
            for sequence in 0..3 {
                state.egress.push(gatekeeper(sequence));
            }
            state.info.pending_messages = state.egress.len() as u64;
        });
    }
    rig.workers[0].edit(|state| state.push_message(key, 0, b"heartbeat"));
    let jobs = rig.queue.stats().await.unwrap().succeeded;
    let carried = || {
        let events = rig.chain.events();
        let messages = events.into_iter().filter_map(|event| match event.call {
            Call::SyncOffchainMessage(message) => Some((message, event.result.is_ok())),
            _ => None,
        });
        messages.collect::<Vec<_>>()
    };
    rig.until("the messages", |_| carried().len() >= 4).await;
    tokio::time::sleep(BLOCK * 20).await;
    let carried = carried();
    assert!(carried.iter().all(|(_, ok)| *ok), "{carried:?}");
    let of_gatekeepers: Vec<u64> = carried
        .iter()
        .filter(|(message, _)| message.message.sender == MessageOrigin::Gatekeeper)
        .map(|(message, _)| message.sequence)
        .collect();
    assert_eq!((of_gatekeepers, carried.len()), (vec![0, 1, 2], 4));
    assert_eq!(
        rig.queue.stats().await.unwrap().succeeded - jobs,
        2,
        "the other worker leaves them to the first"
    );
}

/// A command that waits for a checkpoint is stored at the shutdown, whenever the last write was.
#[tokio::test(start_paused = true)]
async fn stop_that_waits_for_a_checkpoint_outlives_a_shutdown() {
    let mut rig = computing(2).await;
    rig.workers[0].set_latency(Method::TakeCheckpoint, HOUR);
    rig.fleet().command(rig.ids[0], Command::Checkpoint).unwrap();
    rig.until_worker(0, "the checkpoint", |w| &*w.message == "Taking a checkpoint").await;
    // So that nothing else is written.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for id in &rig.ids {
        rig.fleet().command(*id, Command::Stop).unwrap();
    }
    // The other worker's goal is stored at once. The saver then collects changes for this long, and ends first.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(rig.fleet().stop().await);
    assert_eq!(rig.inventory.snapshots().borrow().saved(rig.ids[0]).goal, Goal::Stop);
    rig.workers[0].set_latency(Method::TakeCheckpoint, Duration::ZERO);
    rig.start();
    rig.until_worker(0, "the stop", |w| w.reason.code() == "cooling-down").await;
}
