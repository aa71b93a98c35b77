//! Runs a case: nodes with faults, an ingest, and checks of its store and log.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use codec::Encode;
use prb_chain::{
    ingest::{self, Ingest},
    rpc::{self, NodePool},
    store::{self, Store},
};
use prb_core::primitives::{ParaNumber, RelayNumber};
use prb_devnet::{Config, Devnet, Fault, Node, RpcLimits};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::instrument::WithSubscriber;

use crate::{
    ANSWER, BOUND,
    faults::{Alone, NodeFault, What},
    log::Log,
    proxy::{Corruption, Proxy},
};

/// Cases that run at the same time.
const AT_ONCE: usize = 8;

/// How many cases run.
static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// One of the [`AT_ONCE`] places. All tests share them: the bounds of a case are in real time.
struct Place;

impl Place {
    fn take() -> Self {
        let running = RUNNING.lock().unwrap();
        *ENDED.wait_while(running, |running| *running >= AT_ONCE).unwrap() += 1;
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap() -= 1;
        ENDED.notify_one();
    }
}
/// Most lines with one text, however long a case takes: retries are logged at growing intervals.
const MOST_LINES: usize = 25;
/// One of this many messages is corrupted, with a good node beside it and without.
const CORRUPTED: u32 = 4;
const CORRUPTED_ALONE: u32 = 30;
/// Relay blocks made in one go while the ingest runs.
const LIVE: u32 = 8;

#[derive(Clone, Debug)]
pub(crate) struct Case {
    faults: Vec<&'static NodeFault>,
    has_good_node: bool,
    /// Of what is done to messages.
    seed: u64,
}

impl Case {
    pub(crate) fn beside_a_good_node(faults: &[&'static NodeFault]) -> Self {
        Self { faults: faults.to_vec(), has_good_node: true, seed: 0 }
    }

    pub(crate) fn of_the_only_node(fault: &'static NodeFault) -> Self {
        Self { faults: vec![fault], has_good_node: false, seed: 0 }
    }

    pub(crate) fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    fn corrupt(&self) -> Option<Corruption> {
        self.faults.iter().find_map(|fault| match fault.what {
            What::Corrupted(corrupt) => Some(corrupt),
            _ => None,
        })
    }

    fn has(&self, what: What) -> bool {
        self.faults.iter().any(|fault| fault.what == what)
    }
}

/// Runs the cases, each in a runtime of its own; fails with all that went wrong.
pub(crate) fn run_all(mut cases: Vec<Case>) {
    if let Ok(only) = std::env::var("PRB_TEST_FAULT") {
        cases.retain(|case| format!("{:?}", case.faults).contains(&only));
    }
    let queue = Mutex::new(VecDeque::from(cases));
    let (failures, slowest) = (Mutex::new(Vec::new()), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = { queue.lock().unwrap().pop_front() } {
                    let whats: Vec<_> = case.faults.iter().map(|fault| fault.what).collect();
                    let place = Place::take();
                    let start = Instant::now();
                    let outcome = run(&case);
                    drop(place);
                    slowest.lock().unwrap().insert(start.elapsed(), format!("{whats:?}"));
                    if let Err(failure) = outcome {
                        failures.lock().unwrap().push(format!("{whats:?}: {failure}"));
                    }
                }
            });
        }
    });
    let slowest = slowest.into_inner().unwrap();
    for (time, case) in slowest.iter().rev().take(5) {
        println!("{time:?} {case}");
    }
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}\n{}", failures.len(), failures.join("\n"));
}

fn run(case: &Case) -> Result<(), String> {
    let log = Log::default();
    let dispatch = log.dispatch();
    let of_thread = dispatch.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Blocking threads log, too; the guard is leaked because they end with the runtime.
        .on_thread_start(move || std::mem::forget(tracing::dispatcher::set_default(&of_thread)))
        .build()
        .unwrap();
    let _default = tracing::dispatcher::set_default(&dispatch);
    let outcome = runtime.block_on(async {
        let rig = Rig::set(case, log.clone()).await;
        let outcome = rig.play(case).await;
        rig.end().await;
        outcome
    });
    runtime.shutdown_background();
    let lines = log.lines();
    outcome
        .and_then(|()| judge(case, &lines))
        .map_err(|failure| format!("{failure}\n  {}", lines.join("\n  ")))
}

/// Checks that the log names the fault, and not too often.
fn judge(case: &Case, lines: &[String]) -> Result<(), String> {
    if !is_reported(case, lines) {
        return Err(format!("no line says {:?}", case.faults[0].log));
    }
    let mut counts = BTreeMap::<String, usize>::new();
    for line in lines {
        let words: String = line.chars().filter(|c| !c.is_ascii_digit()).collect();
        *counts.entry(words).or_default() += 1;
    }
    match counts.into_iter().find(|(_, count)| *count > MOST_LINES) {
        Some((line, count)) => Err(format!("{count} lines: {line}")),
        None => Ok(()),
    }
}

/// Whether the log names the fault of an only node.
fn is_reported(case: &Case, lines: &[String]) -> bool {
    let ([fault], false) = (&case.faults[..], case.has_good_node) else { return true };
    fault.log.is_empty() || fault.log.split('|').any(|text| lines.iter().any(|line| line.contains(text)))
}

/// A running ingest, and its log on this thread.
pub(crate) struct Fetching {
    pub(crate) relay: NodePool,
    pub(crate) store: Arc<Store>,
    pub(crate) log: Log,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), ingest::Error>>,
    _dir: TempDir,
}

impl Fetching {
    /// Starts an ingest from the nodes in this order, whose tasks log to their own log.
    pub(crate) fn start(devnets: &[&Devnet]) -> Self {
        let urls = |of: fn(&Devnet) -> String| devnets.iter().map(|devnet| of(devnet)).collect();
        // A block of 20 MB of changes takes 40 MB as JSON, and half as much again where the values are small.
        let quick = |urls| quick(urls).with_max_response_bytes(256 << 20).with_request_timeout(BOUND * 3);
        let relay = NodePool::new("relay", quick(urls(|net| net.relay().url()))).unwrap();
        let para = NodePool::new("para", quick(urls(|net| net.para().url()))).unwrap();
        Self::between(relay, para, Log::default())
    }

    fn between(relay: NodePool, para: NodePool, log: Log) -> Self {
        let dir = TempDir::new().unwrap();
        let store = Arc::new(Store::open(dir.path(), store::Config::default()).unwrap());
        let config = ingest::Config::default()
            .with_retry_min(Duration::from_millis(20))
            .with_retry_max(Duration::from_millis(100))
            .with_batch_wait(Duration::from_millis(100))
            .with_answer_time(Duration::from_millis(50));
        let ingest = Ingest::new(relay.clone(), para, Arc::clone(&store), config);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(ingest.run(cancel.clone()).with_subscriber(log.dispatch()));
        Self { relay, store, log, cancel, task, _dir: dir }
    }

    /// Waits until everything that is final is stored, and compares it with the devnet's blocks.
    pub(crate) async fn has_all_of(&self, truth: &Devnet) {
        if let Err(failure) =
            async { self.stored(truth, BOUND * 6).await.and_then(|()| self.compare(truth)) }.await
        {
            panic!("{failure}\n  {}", self.log.lines().join("\n  "));
        }
    }

    async fn stored(&self, truth: &Devnet, bound: Duration) -> Result<(), String> {
        timeout(bound, self.reaches(truth)).await.map_err(|_| {
            let (relay, para) = (truth.relay().finalized_number(), truth.para().finalized_number());
            format!("wanted {relay} and {para}, got {:?}", *self.store.heights().borrow())
        })
    }

    async fn reaches(&self, truth: &Devnet) {
        let relay = RelayNumber(truth.relay().finalized_number());
        let para = ParaNumber(truth.para().finalized_number());
        let mut heights = self.store.heights();
        // Cannot fail: the store outlives this.
        let _ = heights.wait_for(|h| h.relay >= Some(relay) && h.para >= Some(para)).await;
    }

    /// Checks that all stored blocks are the chain's.
    fn compare(&self, truth: &Devnet) -> Result<(), String> {
        let view = self.store.view().map_err(|e| e.to_string())?;
        for n in 2..=truth.relay().finalized_number() {
            let header = truth.relay().header(n).unwrap().encode();
            if view.relay_header(RelayNumber(n)).unwrap() != Some(&*header) {
                return Err(format!("relay header {n} is wrong"));
            }
        }
        for n in 1..=truth.para().finalized_number() {
            let header = truth.para().header(n).unwrap().encode();
            let changes = truth.para().storage_changes(n).unwrap().encode();
            if view.para_header(ParaNumber(n)).unwrap() != Some(&*header) {
                return Err(format!("parachain header {n} is wrong"));
            }
            if view.changes(ParaNumber(n)).unwrap() != Some(&*changes) {
                return Err(format!("storage changes of {n} are wrong"));
            }
        }
        Ok(())
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        // The result shows in the store.
        let _ = self.task.await;
    }
}

struct Rig {
    bad: Devnet,
    good: Option<Devnet>,
    fetching: Fetching,
    _proxies: Option<[Proxy; 2]>,
}

impl Rig {
    async fn set(case: &Case, log: Log) -> Self {
        let config = Config { history: 60, set_length: 20, ..Config::default() };
        let other = Config { seed: 7, ..config.clone() };
        let bad = if case.has(What::OtherGenesis) { other } else { config.clone() };
        let bad = Devnet::start(bad).await.unwrap();
        let good = match case.has_good_node {
            true => Some(Devnet::start(config).await.unwrap()),
            false => None,
        };
        for fault in &case.faults {
            inject(&bad, fault.what).await;
        }
        let one_in = if case.has_good_node { CORRUPTED } else { CORRUPTED_ALONE };
        let proxies = match case.corrupt() {
            Some(corrupt) => Some([
                Proxy::start(&bad.relay().url(), corrupt, one_in, case.seed).await,
                Proxy::start(&bad.para().url(), corrupt, one_in, case.seed + 1).await,
            ]),
            None => None,
        };
        let [bad_relay, bad_para] = match &proxies {
            Some(proxies) => proxies.each_ref().map(Proxy::url),
            None => [bad.relay().url(), bad.para().url()],
        };
        let urls = |bad: String, of: fn(&Devnet) -> String| {
            std::iter::once(bad).chain(good.as_ref().map(of)).collect::<Vec<_>>()
        };
        let relay = NodePool::new("relay", quick(urls(bad_relay, |net| net.relay().url()))).unwrap();
        let para = NodePool::new("para", quick(urls(bad_para, |net| net.para().url()))).unwrap();
        if case.has(What::OtherGenesis) {
            // The first endpoint determines the chain, so an operator's list, or the store, has the right one first.
            let first = good.as_ref().unwrap();
            relay.pin(0, prb_core::primitives::Hash(first.relay().block_hash(0).unwrap().0));
            para.pin(0, prb_core::primitives::Hash(first.para().block_hash(0).unwrap().0));
        }
        Self { bad, good, fetching: Fetching::between(relay, para, log), _proxies: proxies }
    }

    async fn play(&self, case: &Case) -> Result<(), String> {
        let truth = self.good.as_ref().unwrap_or(&self.bad);
        let waits = self.good.is_none() && case.faults.iter().any(|fault| fault.alone == Alone::Waits);
        if waits {
            for _ in 0..LIVE {
                self.bad.tick().map_err(|e| e.to_string())?;
            }
            // Time for the fault to show, longer on a busy machine: until it is reported.
            let shown = async { tokio::join!(sleep(ANSWER * 8), self.reported(case)) };
            tokio::select! {
                () = self.fetching.reaches(truth) => return Err("it continues with the fault".into()),
                _ = shown => {}
            }
            self.heal().await;
        }
        self.fetching.stored(truth, BOUND).await?;
        if case.has(What::Restarts) {
            for node in [self.bad.relay(), self.bad.para()] {
                node.stop_rpc().await;
            }
        }
        for _ in 0..LIVE {
            for net in [Some(&self.bad), self.good.as_ref()].into_iter().flatten() {
                net.tick().map_err(|e| e.to_string())?;
            }
        }
        if case.has(What::Restarts) && self.good.is_none() {
            // Otherwise it might be back before it is missed.
            self.reported(case).await;
            for node in [self.bad.relay(), self.bad.para()] {
                node.start_rpc().await.map_err(|e| e.to_string())?;
            }
        }
        self.fetching.stored(truth, BOUND).await?;
        self.fetching.compare(truth)
    }

    /// Waits until the fault is reported; if it never is, that is found at the end.
    async fn reported(&self, case: &Case) {
        let reported = async {
            while !is_reported(case, &self.fetching.log.lines()) {
                sleep(ANSWER).await;
            }
        };
        let _ = timeout(BOUND, reported).await;
    }

    async fn heal(&self) {
        for node in [self.bad.relay(), self.bad.para()] {
            node.faults().heal();
            if node.rpc_limits() != RpcLimits::default() {
                node.set_rpc_limits(RpcLimits::default());
                restart(node).await;
            }
        }
    }

    async fn end(self) {
        self.fetching.stop().await;
        self.bad.relay().faults().heal();
        self.bad.para().faults().heal();
    }
}

async fn restart(node: &Arc<Node>) {
    node.stop_rpc().await;
    node.start_rpc().await.unwrap();
}

async fn inject(net: &Devnet, what: What) {
    let (node, fault) = match what {
        What::Relay(fault) => (net.relay(), fault),
        What::Para(fault) => (net.para(), fault),
        What::OtherGenesis | What::Corrupted(_) | What::Restarts => return,
    };
    let fault: Fault = fault.parse().unwrap();
    node.inject(&fault);
    if fault.is_server_fault() {
        restart(node).await;
    }
}

fn quick(endpoints: Vec<String>) -> rpc::Config {
    rpc::Config::new(endpoints)
        .with_request_timeout(ANSWER)
        .with_connect_timeout(ANSWER)
        .with_max_response_bytes(2 * 1024 * 1024)
        .with_reconnect_min(Duration::from_millis(20))
        .with_reconnect_max(Duration::from_millis(100))
        // In proportion to the defaults: longer than attempts in between take.
        .with_demotion(ANSWER * 5)
        .with_demotion_max(ANSWER * 10)
        .with_stall_after(ANSWER)
        .with_poll_interval(ANSWER / 4)
}
