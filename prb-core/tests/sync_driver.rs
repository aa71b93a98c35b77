//! What the driver does with sources, workers and bounds of all kinds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use prb_core::{
    blob::{
        self, BlobSource, BlockBatch, BlockCursor, Genesis, HeaderBatch, HeaderCursor, Heights, RefusedData,
        memory::MemorySource,
    },
    primitives::{ParaNumber, RelayNumber},
    prpc::{InitRuntimeRequest, Method},
    pruntime::{
        PRuntime,
        scripted::{Failure, ScriptedWorker},
    },
    sync::{
        BatchSize, BatchSizes, Driver, Error, Lane, Limits, Outcome, PlannedStep, Position, SentBatch, Step,
        StepResult, TransferBudget, TransferLimits, plan,
    },
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

#[path = "fleet_rig/rig.rs"]
mod rig;
use rig::{genesis, grow};

fn position(relay: u32, para: u32, block: u32) -> Position {
    Position { relay_header: RelayNumber(relay), para_header: ParaNumber(para), block: ParaNumber(block) }
}

async fn worker() -> (ScriptedWorker, PRuntime) {
    let worker = ScriptedWorker::new(1);
    let client = PRuntime::new(Arc::new(worker.clone()));
    client.init(&InitRuntimeRequest::default()).await.unwrap();
    (worker, client)
}

/// A driver with the sizes of one worker.
struct One {
    driver: Driver,
    sizes: BatchSizes,
}

impl One {
    async fn run(&mut self, client: &PRuntime, planned: PlannedStep) -> StepResult {
        let stepped = self.driver.step(client.clone(), planned, self.sizes).await;
        self.sizes = stepped.sizes;
        stepped
    }

    async fn step(&mut self, client: &PRuntime, at: Position, step: Step) -> Result<Outcome, Error> {
        let heights = *self.driver.heights().borrow();
        self.run(client, PlannedStep::new(at, heights, step, Lane::CatchUp)).await.result
    }

    const fn batch_bytes(&self) -> (usize, usize) {
        (self.sizes.headers.bytes(), self.sizes.blocks.bytes())
    }

    fn all_capacity_is_free(&self) -> bool {
        let budget = self.driver.budget();
        [Lane::Tip, Lane::CatchUp].into_iter().all(|lane| budget.free_bytes(lane) == budget.all_bytes(lane))
    }
}

fn driver(source: Arc<dyn BlobSource>, max_bytes: usize) -> One {
    let budget = TransferBudget::new(TransferLimits::new(1 << 20));
    One { driver: Driver::new(source, budget), sizes: BatchSizes::new(max_bytes) }
}

fn memory(blocks: u32) -> Arc<MemorySource> {
    let source = Arc::new(MemorySource::new(genesis()));
    grow(&source, blocks);
    source
}

/// Steps until the plan says to wait; gives the number of steps.
async fn drive(one: &mut One, client: &PRuntime, at: &mut Position) -> usize {
    for steps in 0.. {
        let heights = *one.driver.heights().borrow();
        match one.step(client, *at, plan(*at, &heights, &Limits::default())).await.unwrap() {
            Outcome::Advanced { position, .. } => *at = position,
            Outcome::NotYet { .. } => return steps,
        }
    }
    unreachable!()
}

#[tokio::test]
async fn a_worker_is_driven_to_the_tip_in_batches_of_any_size() {
    for max_bytes in [BatchSize::MIN_BYTES, 1 << 20] {
        let (worker, client) = worker().await;
        let source = memory(300);
        let mut driver = driver(source, max_bytes);
        let mut at = position(1, 0, 1);
        let steps = drive(&mut driver, &client, &mut at).await;
        assert_eq!(at, position(601, 301, 301));
        assert_eq!(at, Position::of(&worker.state().info));
        let largest = worker.calls().iter().map(|(_, size)| *size).max().unwrap();
        assert!(largest <= max_bytes);
        assert_eq!(steps == 2, max_bytes > BatchSize::MIN_BYTES, "{steps} steps");
        assert!(driver.all_capacity_is_free(), "all given back");
    }
}

#[tokio::test]
async fn batches_shrink_when_they_are_too_slow_and_grow_back() {
    let (worker, client) = worker().await;
    let source = memory(1);
    let mut driver = driver(Arc::clone(&source) as Arc<dyn BlobSource>, 1 << 20);
    worker.fail_next(Method::SyncCombinedHeaders, Failure::TimedOut);
    worker.fail_next(Method::SyncCombinedHeaders, Failure::Refuse { status: 413, message: String::new() });
    worker.fail_next(Method::SyncCombinedHeaders, Failure::refuse("BlockNumberMismatch"));
    let mut at = position(1, 0, 1);
    let step = plan(at, &driver.driver.heights().borrow(), &Limits::default());
    for expected in [1 << 19, 1 << 18, 1 << 18] {
        assert!(matches!(driver.step(&client, at, step).await, Err(Error::Worker(_))));
        assert_eq!(driver.batch_bytes(), (expected, 1 << 20));
    }
    for _ in 0..30 {
        drive(&mut driver, &client, &mut at).await;
        grow(&source, 1);
    }
    assert_eq!(driver.batch_bytes(), (1 << 20, 1 << 20));
    assert!(driver.all_capacity_is_free());
}

/// A source that answers as told.
#[derive(Debug)]
struct Odd {
    headers: Option<HeaderBatch>,
    /// Answers to smaller requests name this size.
    smallest: usize,
    heights: watch::Sender<Heights>,
}

#[async_trait]
impl BlobSource for Odd {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.heights.subscribe()
    }

    async fn genesis(&self) -> Result<Genesis, blob::Error> {
        Err(blob::Error::NotReady)
    }

    async fn headers(&self, cursor: HeaderCursor, max: usize) -> Result<Option<HeaderBatch>, blob::Error> {
        if max < self.smallest {
            let cursor = format!("{cursor:?}");
            return Err(blob::Error::TooLarge { cursor, size_bytes: self.smallest, limit_bytes: max });
        }
        Ok(self.headers.clone())
    }

    async fn blocks(&self, _: BlockCursor, _: usize) -> Result<Option<BlockBatch>, blob::Error> {
        Ok(None)
    }
}

fn one_header() -> HeaderBatch {
    let body = prost::Message::encode_to_vec(&prb_core::prpc::CombinedHeadersToSync::default());
    let span = blob::Span { first: RelayNumber(1), last: RelayNumber(1) };
    HeaderBatch { relay: span, para: None, body: body.into() }
}

async fn step_of(odd: Odd) -> (Result<Outcome, Error>, ScriptedWorker) {
    let (worker, client) = worker().await;
    let mut driver = driver(Arc::new(odd), BatchSize::MIN_BYTES);
    let step = Step::Headers(HeaderCursor { relay: RelayNumber(1), para: ParaNumber(0) });
    let done = driver.step(&client, position(1, 0, 1), step).await;
    assert!(driver.all_capacity_is_free());
    (done, worker)
}

fn odd(headers: Option<HeaderBatch>, smallest: usize) -> Odd {
    Odd { headers, smallest, heights: watch::Sender::default() }
}

#[tokio::test]
async fn wrong_answers_of_a_source_are_rejected() {
    let mut wrong = one_header();
    wrong.relay.first = RelayNumber(2);
    let (done, worker) = step_of(odd(Some(wrong), 0)).await;
    assert!(matches!(&done, Err(e @ Error::WrongBatch { .. }) if e.is_source()), "{done:?}");
    assert_eq!(worker.count(Method::SyncCombinedHeaders), 0, "it is not sent");

    // Accepted, and nothing came of it.
    let (done, _) = step_of(odd(Some(one_header()), 0)).await;
    assert!(matches!(&done, Err(e @ Error::NoProgress { .. }) if !e.is_source()), "{done:?}");

    let (done, _) = step_of(odd(None, 0)).await;
    assert!(matches!(done, Ok(Outcome::NotYet { .. })));
}

#[tokio::test]
async fn room_is_made_for_a_batch_that_cannot_be_smaller() {
    let (done, worker) = step_of(odd(Some(one_header()), 3 << 20)).await;
    assert!(matches!(done, Err(Error::NoProgress { .. })), "{done:?}");
    assert_eq!(worker.count(Method::SyncCombinedHeaders), 1);
    // More than pRuntime takes at all.
    let (done, worker) = step_of(odd(Some(one_header()), 101 << 20)).await;
    assert!(matches!(done, Err(Error::Source(blob::Error::TooLarge { .. }))), "{done:?}");
    assert_eq!(worker.count(Method::SyncCombinedHeaders), 0);
}

/// Notes what it hears of refusals.
#[derive(Debug)]
struct Hearing(Arc<MemorySource>, Mutex<Vec<RefusedData>>);

#[async_trait]
impl BlobSource for Hearing {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.0.heights()
    }

    async fn genesis(&self) -> Result<Genesis, blob::Error> {
        self.0.genesis().await
    }

    async fn headers(&self, cursor: HeaderCursor, max: usize) -> Result<Option<HeaderBatch>, blob::Error> {
        self.0.headers(cursor, max).await
    }

    async fn blocks(&self, cursor: BlockCursor, max: usize) -> Result<Option<BlockBatch>, blob::Error> {
        self.0.blocks(cursor, max).await
    }

    fn refused(&self, refusal: &RefusedData) {
        self.1.lock().unwrap().push(refusal.clone());
    }
}

#[tokio::test]
async fn content_that_a_worker_refused_is_reported_to_the_source() {
    let (worker, client) = worker().await;
    let source = Arc::new(Hearing(memory(5), Mutex::default()));
    let mut driver = driver(Arc::clone(&source) as Arc<dyn BlobSource>, 1 << 20);
    let heard = || std::mem::take(&mut *source.1.lock().unwrap());
    let at = position(1, 0, 1);
    let headers = HeaderCursor { relay: RelayNumber(1), para: ParaNumber(0) };
    worker.fail_next(Method::SyncCombinedHeaders, Failure::refuse("HeaderHashMismatch"));
    driver.step(&client, at, Step::Headers(headers)).await.unwrap_err();
    assert_eq!(heard(), [RefusedData::Headers { cursor: headers, message: "HeaderHashMismatch".into() }]);

    // About the worker, not about what it was sent.
    let position_texts = ["BlockNumberMismatch", "RelaychainHeaderNotSynced", "RCU in progress, please try"];
    let mut others: Vec<_> = position_texts.into_iter().map(Failure::refuse).collect();
    others.push(Failure::Refuse { status: 413, message: String::new() });
    others.extend([Failure::Unreachable, Failure::TimedOut]);
    for failure in others {
        worker.fail_next(Method::SyncCombinedHeaders, failure);
        driver.step(&client, at, Step::Headers(headers)).await.unwrap_err();
        assert_eq!(heard(), []);
    }

    driver.step(&client, at, Step::Headers(headers)).await.unwrap();
    let at = position(11, 6, 1);
    let step = Step::Blocks(BlockCursor { from: ParaNumber(1), to: ParaNumber(3) });
    let message = "StateRootMismatch block=2 expected=0x01 actual=0x02".to_owned();
    worker.fail_next(Method::DispatchBlocks, Failure::refuse(&message));
    driver.step(&client, at, step).await.unwrap_err();
    let blocks = blob::Span { first: ParaNumber(1), last: ParaNumber(3) };
    assert_eq!(heard(), [RefusedData::Blocks { blocks, at: Some(ParaNumber(2)), message }]);
    let undecodable = Failure::Refuse { status: 400, message: "DecodeError(x)".into() };
    worker.fail_next(Method::DispatchBlocks, undecodable);
    worker.fail_next(Method::DispatchBlocks, Failure::refuse("NoStateRoot"));
    driver.step(&client, at, step).await.unwrap_err();
    driver.step(&client, at, step).await.unwrap_err();
    assert_eq!(heard(), [RefusedData::Blocks { blocks, at: None, message: "DecodeError(x)".into() }]);
    driver.step(&client, at, step).await.unwrap();
    assert_eq!(heard(), []);
}

/// A source that takes its time: one permit an answer.
#[derive(Debug)]
struct Gated {
    inner: Arc<MemorySource>,
    gate: Semaphore,
    asked: Mutex<Vec<BlockCursor>>,
}

impl Gated {
    fn new(inner: Arc<MemorySource>) -> Arc<Self> {
        Arc::new(Self { inner, gate: Semaphore::new(0), asked: Mutex::default() })
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

#[async_trait]
impl BlobSource for Gated {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.inner.heights()
    }

    async fn genesis(&self) -> Result<Genesis, blob::Error> {
        self.inner.genesis().await
    }

    async fn headers(&self, cursor: HeaderCursor, max: usize) -> Result<Option<HeaderBatch>, blob::Error> {
        self.inner.headers(cursor, max).await
    }

    async fn blocks(&self, cursor: BlockCursor, max: usize) -> Result<Option<BlockBatch>, blob::Error> {
        self.asked.lock().unwrap().push(cursor);
        // What it has is what it has when it is asked.
        let answer = self.inner.blocks(cursor, max).await;
        self.gate.acquire().await.unwrap().forget();
        answer
    }
}

fn blocks_from(from: u32, to: u32, heights: Heights, lane: Lane) -> PlannedStep {
    let step = Step::Blocks(BlockCursor { from: ParaNumber(from), to: ParaNumber(to) });
    PlannedStep::new(position(11, to + 1, from), heights, step, lane)
}

#[tokio::test]
async fn missing_data_is_reported_with_the_heights_of_the_plan() {
    let (_, client) = worker().await;
    let source = Gated::new(memory(5));
    let one = driver(Arc::clone(&source) as Arc<dyn BlobSource>, 1 << 20);
    let before = *source.heights().borrow();
    let step = one.driver.step(client, blocks_from(6, 6, before, Lane::Tip), one.sizes);
    let step = tokio::spawn(step);
    while source.asked() == 0 {
        tokio::task::yield_now().await;
    }
    // It grows while the fetch is under way: who waited for more than what it has now would miss that.
    grow(&source.inner, 1);
    source.gate.add_permits(1);
    let stepped = step.await.unwrap();
    assert_eq!(stepped.result.unwrap(), Outcome::NotYet { heights: before });
    assert_eq!((stepped.sent, one.all_capacity_is_free()), (None, true));
    assert_ne!(*source.heights().borrow(), before);
}

#[tokio::test]
async fn fetches_of_catch_up_are_bounded_and_the_tip_does_not_wait_for_them() {
    let source = Gated::new(memory(50));
    let one = driver(Arc::clone(&source) as Arc<dyn BlobSource>, 1 << 20);
    let heights = *source.heights().borrow();
    let mut steps = JoinSet::new();
    let mut workers = Vec::new();
    let mut start = async |from: u32, lane: Lane, steps: &mut JoinSet<StepResult>| {
        let (worker, client) = worker().await;
        worker.edit(|state| (state.info.blocknum, state.info.para_headernum) = (from, 51));
        steps.spawn(one.driver.step(client, blocks_from(from, 50, heights, lane), one.sizes));
        workers.push(worker);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    };
    for from in 1..=30 {
        start(from, Lane::CatchUp, &mut steps).await;
    }
    assert_eq!(source.asked(), prb_core::sync::CATCH_UP_FETCHES);
    start(49, Lane::Tip, &mut steps).await;
    assert_eq!(source.asked.lock().unwrap().last().unwrap().from, ParaNumber(49));
    // One after another, in their order.
    source.gate.add_permits(31);
    while let Some(stepped) = steps.join_next().await {
        assert!(matches!(stepped.unwrap().result, Ok(Outcome::Advanced { .. })));
    }
    let asked: Vec<_> = source.asked.lock().unwrap().iter().map(|cursor| cursor.from.0).collect();
    let expected: Vec<_> = (1..=8).chain([49]).chain(9..=30).collect();
    assert_eq!(asked, expected);
    assert!(one.all_capacity_is_free());
}

#[tokio::test]
async fn other_calls_go_on_beside_a_step_and_a_dropped_step_gives_all_back() {
    let (worker, client) = worker().await;
    let one = driver(memory(300), 1 << 20);
    worker.fail_next(Method::SyncCombinedHeaders, Failure::Hang);
    let heights = *one.driver.heights().borrow();
    let planned = PlannedStep::of(position(1, 0, 1), heights, &Limits::default(), Lane::CatchUp);
    let step = tokio::spawn(one.driver.step(client.clone(), planned, one.sizes));
    while worker.count(Method::SyncCombinedHeaders) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!one.all_capacity_is_free());
    client.info().await.unwrap();
    client.egress_messages().await.unwrap();
    step.abort();
    assert!(step.await.unwrap_err().is_cancelled());
    assert!(one.all_capacity_is_free());
    let stepped = one.driver.step(client, planned, one.sizes).await;
    let sent = blob::Span { first: RelayNumber(1), last: RelayNumber(600) };
    assert_eq!(stepped.sent, Some(SentBatch::Headers(sent)));
    assert!(matches!(stepped.result, Ok(Outcome::Advanced { .. })));
}

#[tokio::test]
async fn a_broken_connection_makes_the_next_batch_smaller() {
    let (worker, client) = worker().await;
    let mut one = driver(memory(5), 1 << 20);
    let mut at = position(1, 0, 1);
    let step = plan(at, &one.driver.heights().borrow(), &Limits::default());
    worker.fail_next(Method::SyncCombinedHeaders, Failure::Unreachable);
    one.step(&client, at, step).await.unwrap_err();
    assert_eq!(one.batch_bytes(), (1 << 19, 1 << 20));
    drive(&mut one, &client, &mut at).await;
}

#[tokio::test]
async fn uncharged_fetches_count_against_the_limit() {
    let source = Gated::new(memory(50));
    source.gate.add_permits(100);
    let limits = TransferLimits::new(2 * 1024);
    let driver = Driver::new(Arc::clone(&source) as Arc<dyn BlobSource>, TransferBudget::new(limits));
    let heights = *source.heights().borrow();
    let mut steps = JoinSet::new();
    for from in 1..=30 {
        let (worker, client) = worker().await;
        worker.fail_always(Method::DispatchBlocks, Some(Failure::Hang));
        let planned = blocks_from(from, 50, heights, Lane::CatchUp);
        steps.spawn(driver.step(client, planned, BatchSizes::new(1 << 20)));
    }
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    // One is sent and takes the whole share; as many as may be fetched wait behind it.
    assert_eq!(source.asked(), 1 + prb_core::sync::CATCH_UP_FETCHES);
    steps.shutdown().await;
    assert_eq!(driver.budget().free_bytes(Lane::CatchUp), driver.budget().all_bytes(Lane::CatchUp));
}
