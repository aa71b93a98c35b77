//! Tests of the reader: the content and the cost of views.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use codec::Encode;
use prb_chain::{
    reader::{self, Reader},
    rpc::NodePool,
};
use prb_core::{
    chain::{ChainReader, ChainView, Followed, SessionState, WorkerOnChain},
    primitives::{AccountId, PoolId},
};
use prb_devnet::{
    Config,
    runtime::types::{self, session_account},
};
use sp_core::Pair as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::net::{Net, STAKE, Worker};

pub(crate) struct Running {
    /// The reader's own pool, so that its counters include no other calls.
    pool: NodePool,
    pub(crate) reader: Reader,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(net: &Net, config: reader::Config) -> Self {
        let pool = crate::net::pool(&net.devnet);
        let (reader, task) = Reader::new(pool.clone(), config);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(task.run(cancel.clone()));
        Self { pool, reader, cancel, task }
    }

    fn asked(&self, method: &str) -> u64 {
        self.pool.counters().snapshot().by_method.get(method).copied().unwrap_or(0)
    }

    fn follow(&self, workers: &[Worker]) {
        let workers = workers.iter().map(Worker::key).collect();
        self.reader.follow(Followed::default().with_workers(workers));
    }

    /// Follows these workers and waits until they appear.
    async fn track(&self, workers: &[Worker]) -> Arc<ChainView> {
        self.follow(workers);
        self.until(|view| {
            view.workers.len() == workers.len()
                && workers.iter().all(|worker| view.workers.contains_key(&worker.key()))
        })
        .await
    }

    pub(crate) async fn until(&self, is: impl Fn(&ChainView) -> bool) -> Arc<ChainView> {
        let mut views = self.reader.views();
        let view = views.wait_for(|view| view.as_ref().is_some_and(|view| is(view)));
        let view = tokio::time::timeout(Duration::from_secs(30), view).await.expect("no view in time");
        view.unwrap().clone().unwrap()
    }

    /// Returns the view at the newest final block.
    pub(crate) async fn newest(&self, net: &Net) -> Arc<ChainView> {
        let block = net.devnet.para().finalized_number();
        self.at_least(block).await
    }

    /// Returns the newest view of a worker, compared with the devnet's state.
    async fn shown(&self, net: &Net, worker: &Worker) -> Arc<WorkerOnChain> {
        assert_true(net, &*self.newest(net).await, worker)
    }

    async fn at_least(&self, block: u32) -> Arc<ChainView> {
        self.until(|view| view.block.0 >= block).await
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
        let mut views = self.reader.views();
        while views.changed().await.is_ok() {}
        // Nothing is followed any more, and nothing is awaited.
        self.reader.follow(Followed::default());
    }
}

pub(crate) fn quick() -> reader::Config {
    reader::Config::default()
        .with_retry_min(Duration::from_millis(20))
        .with_retry_max(Duration::from_millis(100))
}

/// Compares a view with the devnet's state, read without RPC.
fn assert_true(net: &Net, view: &ChainView, worker: &Worker) -> Arc<WorkerOnChain> {
    let block = view.block.0;
    let key = worker.key();
    let shown = view.workers[&key].clone().unwrap();
    let info: Option<types::WorkerInfoV2> = net.value_at(block, "PhalaRegistry", "Workers", &key.0);
    let registration = shown.registration.as_ref().map(|r| {
        let operator = r.operator.map(|operator| operator.0);
        (r.pubkey.0, r.ecdh_pubkey, r.runtime_version, r.last_updated, operator, r.initial_score, &r.features)
    });
    let expected = info.as_ref().map(|i| {
        let operator = i.operator.clone().map(Into::into);
        let (pubkey, ecdh) = (i.pubkey.0, i.ecdh_pubkey.0);
        (pubkey, ecdh, i.runtime_version, i.last_updated, operator, i.initial_score, &i.features)
    });
    assert_eq!(registration, expected);
    let pool = net.value_at::<u64>(block, "PhalaStakePoolv2", "WorkerAssignments", &key.0);
    assert_eq!(shown.pool, pool.map(PoolId));
    let origin = prb_core::wire::MessageOrigin::Worker(key).encode();
    let ingress = net.value_at::<u64>(block, "PhalaMq", "OffchainIngress", &origin);
    assert_eq!(shown.ingress_sequence, ingress.unwrap_or(0));
    let account = session_account(pool.unwrap_or(0), &worker.pair.public());
    let account: &[u8; 32] = account.as_ref();
    let session: Option<types::SessionInfo> =
        pool.and_then(|_| net.value_at(block, "PhalaComputation", "Sessions", account));
    let seen = shown.session.as_ref().map(|s| {
        let benchmark = (s.p_init, s.p_instant, s.iterations, s.working_start_time, s.challenge_time_last);
        (s.account.0, s.ve, s.v, s.v_updated_at, benchmark, s.cool_down_start, s.total_reward, s.stake)
    });
    let stake = net.value_at::<u128>(block, "PhalaComputation", "Stakes", account);
    let expected = session.as_ref().map(|s| {
        let b = &s.benchmark;
        let benchmark = (b.p_init, b.p_instant, b.iterations, b.working_start_time, b.challenge_time_last);
        (*account, s.ve, s.v, s.v_updated_at, benchmark, s.cool_down_start, s.stats.total_reward, stake)
    });
    assert_eq!(seen, expected);
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn view_follows_a_worker_from_registration_to_removal() {
    let net = Net::start(Config { cool_down_secs: 0, ..Config::default() }).await;
    let submitter = net.submitter();
    let running = Running::start(&net, quick());
    let workers = Worker::several(2);
    let (worker, bystander) = (&workers[0], &workers[1]);
    running.track(&workers).await;
    let view = running.newest(&net).await;
    assert_eq!((view.benchmark_blocks, view.cool_down_period_secs), (8, 0));
    assert_eq!(*assert_true(&net, &view, worker), WorkerOnChain::default());

    net.done(&submitter, [worker.register(&net)]).await;
    let shown = running.shown(&net, worker).await;
    assert!(shown.registration.is_some());
    net.done(&submitter, [worker.bench_report(&net, 0)]).await;
    let shown = running.shown(&net, worker).await;
    assert!(shown.registration.as_ref().unwrap().initial_score.is_some());
    net.done(&submitter, [worker.add(1)]).await;
    let shown = running.shown(&net, worker).await;
    assert_eq!(shown.session.as_ref().unwrap().state, SessionState::Ready);
    net.done(&submitter, [worker.start(1, STAKE)]).await;
    let shown = running.shown(&net, worker).await;
    assert_eq!(shown.session.as_ref().unwrap().state, SessionState::WorkerIdle);
    assert_eq!(shown.session.as_ref().unwrap().stake, Some(STAKE));

    let (pool, key) = (PoolId(1), worker.key());
    use prb_core::chain::Call;
    net.done(&submitter, [Call::StopComputing { pool, worker: key }]).await;
    let shown = running.shown(&net, worker).await;
    assert_eq!(shown.session.as_ref().unwrap().state, SessionState::WorkerCoolingDown);
    net.done(
        &submitter,
        [Call::ReclaimWorker { pool, worker: key }, Call::RemoveWorker { pool, worker: key }],
    )
    .await;
    let shown = running.shown(&net, worker).await;
    assert_eq!((shown.pool, &shown.session), (None, &None));
    // Added and started in one block: the session's values appear with the binding.
    net.done(&submitter, [worker.add(1), worker.start(1, 2 * STAKE)]).await;
    let shown = running.shown(&net, worker).await;
    assert_eq!(shown.session.as_ref().unwrap().stake, Some(2 * STAKE));
    assert_eq!(*running.shown(&net, bystander).await, WorkerOnChain::default());
    running.stop().await;
    net.stop().await;
}

/// Returns the calls that the nodes got while `blocks` parachain blocks became final, one after the other.
async fn cost(net: &Net, running: &Running, blocks: u32) -> BTreeMap<String, u64> {
    running.newest(net).await;
    let before = running.pool.counters().snapshot().by_method;
    for _ in 0..blocks {
        net.finalise(net.devnet.para().finalized_number() + 1);
        running.newest(net).await;
    }
    let mut counts = running.pool.counters().snapshot().by_method;
    for (method, count) in before {
        *counts.get_mut(&method).unwrap() -= count;
    }
    // Limited by time, independent of the number of blocks.
    for by_time in ["chain_getFinalizedHead", "chain_getHeader"] {
        counts.remove(by_time);
    }
    counts.retain(|_, count| *count > 0);
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn cost_of_a_block_is_the_same_for_1_and_500_workers() {
    const BLOCKS: u32 = 10;
    let net = Net::start(Config::default()).await;
    let submitter = net.submitter();
    let workers = Worker::several(500);
    for some in workers.chunks(100) {
        net.done(&submitter, some.iter().map(|worker| worker.register(&net))).await;
    }
    let mut costs = Vec::new();
    for count in [1, 500] {
        let running = Running::start(&net, quick());
        net.still(running.track(&workers[..count])).await;
        costs.push(cost(&net, &running, BLOCKS).await);
        running.stop().await;
    }
    assert_eq!(costs[0], BTreeMap::from([("pha_getStorageChanges".to_owned(), u64::from(BLOCKS))]));
    assert_eq!(costs[0], costs[1]);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followed_workers_appear_without_a_new_block() {
    let net = Net::start(Config::default()).await;
    let submitter = net.submitter();
    let workers = Worker::several(3);
    net.scored(&submitter, &workers).await;
    net.done(&submitter, [workers[2].add(1), workers[2].start(1, STAKE)]).await;
    let running = Running::start(&net, quick());
    net.still(running.track(&workers[..1])).await;
    let first = running.newest(&net).await;
    net.still(running.track(&workers)).await;
    let view = running.newest(&net).await;
    assert_eq!(view.block, first.block);
    for worker in &workers {
        assert!(assert_true(&net, &view, worker).registration.is_some());
    }
    let last = view.workers[&workers[2].key()].as_ref().unwrap();
    assert!(last.session.as_ref().unwrap().state.is_computing());
    let view = net.still(running.track(&workers[1..])).await;
    assert!(!view.workers.contains_key(&workers[0].key()));
    running.stop().await;
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_beyond_a_bound_are_unreadable() {
    let net = Net::start(Config::default()).await;
    let running = Running::start(&net, quick().with_max_workers(2).with_max_accounts(1));
    let workers = Worker::several(3);
    let accounts = [1, 2].map(|n| AccountId([n; 32]));
    let followed = |workers: &[Worker]| {
        Followed::default()
            .with_workers(workers.iter().map(Worker::key).collect())
            .with_accounts(accounts.into())
    };
    running.reader.follow(followed(&workers));
    let view = net.still(running.until(|view| view.workers.len() == 3 && view.accounts.len() == 2)).await;
    let refused: Vec<_> = view.workers.values().filter_map(|reading| reading.as_ref().err()).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].to_string(), "the reader follows at most 2 workers");
    assert_eq!(view.accounts[&accounts[0]].as_ref().unwrap().free, 0);
    assert_eq!(
        view.accounts[&accounts[1]].as_ref().unwrap_err().to_string(),
        "the reader follows at most 1 accounts"
    );
    running.reader.follow(followed(&workers[1..]));
    let all_good = |view: &ChainView| view.workers.len() == 2 && view.workers.values().all(Result::is_ok);
    net.still(running.until(all_good)).await;
    running.stop().await;
    net.stop().await;
}

/// The chain advances and the worker is registered while the reader is cut off. Returns whether catching up
/// took a snapshot.
async fn catches_up(max_gap_blocks: u32) -> bool {
    let net = Net::start(Config::default()).await;
    let workers = Worker::several(1);
    let running = Running::start(&net, quick().with_max_gap_blocks(max_gap_blocks));
    net.still(running.track(&workers)).await;
    let before = running.asked("state_queryStorageAt");
    let outcome = {
        let (sender, mut progress) = tokio::sync::mpsc::channel(8);
        let (batch, submitter) = (net.batch([workers[0].register(&net)]), net.submitter());
        let away = async {
            crate::net::until(&mut progress, |p| {
                matches!(p, prb_core::chain::SubmitProgress::Submitted { .. })
            })
            .await;
            net.devnet.para().stop_rpc().await;
            net.finalise(net.devnet.para().finalized_number() + 12);
            net.devnet.para().start_rpc().await.unwrap();
        };
        use prb_core::chain::ChainSubmitter;
        net.still(async { tokio::join!(submitter.submit(&batch, sender), away).0 }).await.unwrap()
    };
    let view = running.newest(&net).await;
    assert!(view.block.0 >= outcome.number.0 + 8);
    assert!(assert_true(&net, &view, &workers[0]).registration.is_some());
    let snapshot = running.asked("state_queryStorageAt") > before;
    running.stop().await;
    net.stop().await;
    snapshot
}

#[tokio::test(flavor = "multi_thread")]
async fn short_gap_is_caught_up_by_changes() {
    assert!(!catches_up(100).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_gap_is_caught_up_by_a_snapshot() {
    assert!(catches_up(4).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn node_without_storage_changes_is_usable() {
    let net = Net::start(Config::default()).await;
    net.devnet.para().faults().refuse("pha_getStorageChanges");
    let submitter = net.submitter();
    let workers = Worker::several(1);
    let running = Running::start(&net, quick().with_refused_blocks(1_000));
    net.still(running.track(&workers)).await;
    net.done(&submitter, [workers[0].register(&net)]).await;
    let view = running.newest(&net).await;
    assert!(assert_true(&net, &view, &workers[0]).registration.is_some());
    // It is not asked again at each block.
    assert_eq!(running.asked("pha_getStorageChanges"), 1);
    running.stop().await;
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn views_continue_after_a_runtime_upgrade() {
    let net = Net::start(Config::default()).await;
    let submitter = net.submitter();
    let workers = Worker::several(1);
    let running = Running::start(&net, quick());
    net.still(running.track(&workers)).await;
    net.scored(&submitter, &workers).await;
    net.devnet.upgrade_para_runtime();
    net.finalise(net.devnet.para().best_number() + 3);
    net.done(&submitter, [workers[0].add(1), workers[0].start(1, STAKE)]).await;
    let view = running.newest(&net).await;
    let shown = assert_true(&net, &view, &workers[0]);
    assert_eq!(shown.session.as_ref().unwrap().state, SessionState::WorkerIdle);
    // Three times: at the start, at the block with the new code, and at the first block that it executed.
    assert_eq!(running.asked("state_getRuntimeVersion"), 3);
    running.stop().await;
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_repeated_at_intervals() {
    let net = Net::start(Config::default()).await;
    let workers = Worker::several(1);
    let running = Running::start(&net, quick().with_resnapshot_blocks(4));
    net.still(running.track(&workers)).await;
    // Two or three snapshots, of the chain's values and of the worker's, which has no session.
    let snapshots = cost(&net, &running, 11).await["state_queryStorageAt"];
    assert!((2..=3).contains(&snapshots), "{snapshots}");
    running.stop().await;
    net.stop().await;
}
