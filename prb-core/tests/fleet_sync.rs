//! Tests of workers whose sync fails, stalls or takes long: what is reported, and that nothing else is delayed. On parts in
//! memory, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use prb_core::{
    blob::{
        self, BlobSource, BlockBatch, BlockCursor, Genesis, HeaderBatch, HeaderCursor, Heights,
        memory::MemorySource,
    },
    chain::Call,
    fleet::Command,
    primitives::{AccountId, ParaNumber, RelayNumber},
    prpc::Method,
    pruntime::{
        self, Connect, ConnectError, PRuntimeClient,
        scripted::{Failure, Restart, ScriptedWorker},
    },
    worker::State,
};
use tokio::sync::watch;

#[path = "fleet_rig/rig.rs"]
mod rig;
use rig::{BLOCK, Rig, grow};

const HOUR: Duration = Duration::from_secs(3600);

/// A rig whose worker computes.
async fn computing() -> Rig {
    let mut rig = Rig::new(1, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    rig
}

#[tokio::test(start_paused = true)]
async fn worker_crashing_at_a_block_is_reported_with_the_block() {
    let mut rig = Rig::new(2, 40).await;
    rig.workers[0].set_crashes_at(Some(30));
    rig.workers[0].set_restart(Restart::Kept);
    rig.run();
    rig.start();
    let named = |w: &prb_core::fleet::WorkerStatus| {
        w.reason.code() == "dies-at-block" && w.message.contains("block 30") && w.message.contains("2.0.0")
    };
    rig.until_worker(0, "named", named).await;
    assert_eq!(rig.status(0).state, State::Error);
    rig.until_worker(1, "computing", |w| w.state == State::Active).await;
    let exits = rig.workers[0].exits();
    tokio::time::sleep(5 * HOUR).await;
    let more = rig.workers[0].exits() - exits;
    assert!((10..200).contains(&more), "{more} deaths in five hours");
    rig.until_worker(0, "stalled", |w| w.stalled).await;
    // Another version of pRuntime gets over it.
    rig.workers[0].set_crashes_at(None);
    rig.until_all(State::Active).await;
    assert!(!rig.status(0).stalled);
}

#[tokio::test(start_paused = true)]
async fn busy_worker_is_polled_with_backoff() {
    let rig = computing().await;
    let rcu = Failure::refuse("RCU in progress, please try the request again later");
    rig.workers[0].fail_always(Method::DispatchBlocks, Some(rcu));
    let before = rig.workers[0].count(Method::DispatchBlocks);
    tokio::time::sleep(HOUR).await;
    let asked = rig.workers[0].count(Method::DispatchBlocks) - before;
    assert!((60..400).contains(&asked), "{asked} batches in an hour");
    let status = rig.status(0);
    assert!(
        status.failures >= 3 && status.reason.code() == "busy",
        "{}: {}",
        status.failures,
        status.message
    );
    rig.workers[0].fail_always(Method::DispatchBlocks, None);
    rig.until_worker(0, "at the tip", |w| w.lag == Some(0) && w.failures == 0).await;
}

/// The chain goes on, but the source of blocks has no new ones: nothing fails, and nothing is asked.
#[tokio::test(start_paused = true)]
async fn worker_for_which_nobody_has_blocks_says_so() {
    let mut rig = Rig::new(1, 10).await;
    let heights = *rig.source.heights().borrow();
    let (relay, para) = (heights.relay.unwrap(), heights.para.unwrap());
    rig.source.set_targets(RelayNumber(relay.0 + 100), ParaNumber(para.0 + 100));
    rig.start();
    rig.until_worker(0, "waits for blocks", |w| w.reason.code() == "awaiting-data").await;
    let since = rig.status(0).message_since;
    tokio::time::sleep(HOUR).await;
    let status = rig.status(0);
    assert_eq!((status.reason.code(), status.state), ("awaiting-data", State::Synching));
    assert_eq!(status.message_since, since, "it changes to and fro");
    rig.run();
    rig.until_all(State::Active).await;
}

#[tokio::test(start_paused = true)]
async fn heartbeats_do_not_wait_for_attestations_or_dispatches() {
    let rig = computing().await;
    let key = rig.key(0);
    rig.workers[0].set_latency(Method::GetRuntimeInfo, Duration::from_secs(600));
    rig.workers[0].set_latency(Method::DispatchBlocks, Duration::from_secs(600));
    rig.fleet().command(rig.ids[0], Command::RegisterAgain).unwrap();
    tokio::time::sleep(BLOCK * 3).await;
    rig.workers[0].edit(|s| s.push_message(key, 0, b"heartbeat"));
    let chain = rig.chain.clone();
    let until = tokio::time::Instant::now() + Duration::from_secs(180);
    while chain.worker(key).ingress_sequence == 0 {
        assert!(tokio::time::Instant::now() < until, "the heartbeat waits: {}", rig.status(0).message);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The worker was initialised, but the answer was lost: that is no failure of everything that follows.
#[tokio::test(start_paused = true)]
async fn lost_answer_to_the_initialisation_is_forgotten() {
    let mut rig = Rig::new(1, 40).await;
    rig.run();
    let machine = Arc::new(LosesInit(rig.workers[0].clone()));
    let mut parts = rig.parts(rig.source.clone());
    parts.connect = machine;
    rig.fleet = Some(prb_core::fleet::Fleet::start(parts, Rig::config()));
    rig.until_all(State::Active).await;
    rig.until_worker(0, "computing", |w| w.reason.code() == "computing").await;
    rig.workers[0].fail_always(Method::SyncCombinedHeaders, Some(Failure::refuse("broken")));
    rig.until_worker(0, "the failure", |w| w.state == State::Error && w.reason.code() == "sync-failing")
        .await;
    let before = rig.workers[0].count(Method::SyncCombinedHeaders);
    tokio::time::sleep(HOUR).await;
    let asked = rig.workers[0].count(Method::SyncCombinedHeaders) - before;
    assert!((1..400).contains(&asked), "{asked} batches in an hour");
}

/// A worker whose answer to `InitRuntime` never arrives.
#[derive(Debug)]
struct LosesInit(ScriptedWorker);

#[async_trait]
impl PRuntimeClient for LosesInit {
    async fn call(&self, method: Method, body: Bytes) -> Result<Bytes, pruntime::Error> {
        let answer = self.0.call(method, body).await;
        if method == Method::InitRuntime && answer.is_ok() {
            let (endpoint, source) = ("there".into(), "connection reset".into());
            return Err(pruntime::Error::Unreachable { endpoint, connected: true, source });
        }
        answer
    }

    async fn kick(&self) -> Result<(), pruntime::Error> {
        self.0.kick().await
    }
}

impl Connect for LosesInit {
    fn connect(&self, _: &str) -> Result<Arc<dyn PRuntimeClient>, ConnectError> {
        Ok(Arc::new(Self(self.0.clone())))
    }
}

#[tokio::test(start_paused = true)]
async fn worker_without_progress_is_reported() {
    let mut rig = Rig::new(2, 20).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    rig.workers[0].set_stuck(true);
    rig.until_worker(0, "named", |w| w.reason.code() == "no-progress").await;
    let before = rig.workers[0].count(Method::SyncCombinedHeaders);
    tokio::time::sleep(HOUR).await;
    let asked = rig.workers[0].count(Method::SyncCombinedHeaders) - before;
    assert!(asked < 400, "{asked} batches in an hour");
    assert_eq!(rig.status(1).lag, Some(0));
    rig.workers[0].set_stuck(false);
    rig.until_all(State::Active).await;
}

#[tokio::test(start_paused = true)]
async fn registration_with_a_different_key_is_not_sent() {
    let mut rig = Rig::new(2, 20).await;
    rig.workers[0].alter_registration(|info| info.operator = Some(AccountId([9; 32])));
    rig.run();
    rig.start();
    rig.until_worker(0, "the reason is shown", |w| w.reason.code() == "registration-rejected").await;
    rig.until_worker(1, "computing", |w| w.state == State::Active).await;
    tokio::time::sleep(HOUR).await;
    let registered =
        |event: &prb_core::chain::memory::Event| matches!(event.call, Call::RegisterWorker { .. });
    assert_eq!(rig.chain.events().iter().filter(|e| registered(e)).count(), 1, "the other one's alone");
    rig.workers[0].alter_registration(|_| {});
    rig.until_all(State::Active).await;
}

/// A source that grows while it is being asked, and had nothing yet when it was.
#[derive(Debug)]
struct Growing(Arc<MemorySource>);

#[async_trait::async_trait]
impl BlobSource for Growing {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.0.heights()
    }

    async fn genesis(&self) -> Result<Genesis, blob::Error> {
        self.0.genesis().await
    }

    async fn headers(&self, cursor: HeaderCursor, max: usize) -> Result<Option<HeaderBatch>, blob::Error> {
        // At the tip: nothing yet, and in the same moment the next block comes.
        if self.0.heights().borrow().para.is_some_and(|newest| newest == cursor.para) {
            grow(&self.0, 1);
            return Ok(None);
        }
        self.0.headers(cursor, max).await
    }

    async fn blocks(&self, cursor: BlockCursor, max: usize) -> Result<Option<BlockBatch>, blob::Error> {
        self.0.blocks(cursor, max).await
    }
}

#[tokio::test(start_paused = true)]
async fn source_that_grows_during_a_request_is_queried_again_at_once() {
    let mut rig = Rig::new(1, 10).await;
    let source = Arc::new(Growing(rig.source.clone()));
    rig.start_from(source, Rig::config());
    rig.until("the start", |s| s.workers.iter().all(|w| w.position.is_some_and(|at| at.block.0 > 5))).await;
    for _ in 0..10 {
        grow(&rig.source, 1);
        let newest = rig.source.heights().borrow().para.unwrap();
        // A minute is what it takes until a worker at the tip is looked at anyway.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let at = rig.status(0).position.unwrap().block;
        assert!(at.0 > newest.0, "it waits at {at} for {newest}: {}", rig.status(0).message);
    }
}

#[tokio::test(start_paused = true)]
async fn slow_catch_up_does_not_delay_workers_at_the_tip() {
    let mut rig = Rig::new(3, 60).await;
    for worker in &rig.workers[..2] {
        worker.set_latency(Method::DispatchBlocks, Duration::from_secs(100));
    }
    rig.run();
    rig.start();
    rig.until_worker(2, "computing", |w| w.state == State::Active).await;
    for _ in 0..200 {
        tokio::time::sleep(BLOCK).await;
        assert!(rig.status(2).lag.unwrap() <= 2, "{:?}", rig.status(2).lag);
    }
}
