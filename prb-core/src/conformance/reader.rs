//! Conformance suite of [`ChainReader`].

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeSet,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    chain::{ChainReader, ChainView, Followed},
    primitives::{AccountId, Hash, ParaNumber, PoolId, WorkerKey},
    wire::MessageOrigin,
};

/// Number of workers known to a backend's chain.
pub const WORKERS: usize = 4;
/// Number of blocks after which something that has not appeared never will.
const MAX_BLOCKS: usize = 50;
/// How long to wait for a block's view before the next block is produced.
const VIEW_TIMEOUT: Duration = Duration::from_millis(500);

/// A reader, and the chain that it reads, for one check.
#[async_trait]
pub trait Controls: Send + Sync + fmt::Debug {
    /// The reader. It follows at most [`WORKERS`] + 1 workers.
    fn reader(&self) -> &dyn ChainReader;

    /// A worker registered on the chain, `n` below [`WORKERS`]; keys ascend with `n`.
    fn worker(&self, n: usize) -> WorkerKey;

    /// Produces a block and finalises it.
    async fn progress(&self);

    /// Raises the message sequence of a worker, in a block that is final when this returns.
    async fn change(&self, worker: WorkerKey);

    /// Makes a worker's value unreadable, or readable again.
    async fn set_unreadable(&self, worker: WorkerKey, unreadable: bool);

    /// Stops the reader.
    async fn close(&self);
}

/// Runs all checks, each with its own reader.
///
/// ```
/// use prb_core::conformance::reader::{self, Controls};
///
/// /// `Own` is a reader together with the chain that it reads.
/// async fn conforms<Own: Controls>(fresh: impl AsyncFn() -> Own) {
///     reader::all(fresh).await;
/// }
/// ```
///
/// # Panics
/// If the backend violates the seam's contract.
pub async fn all<C: Controls>(make: impl AsyncFn() -> C) {
    followed_workers_appear_and_dropped_ones_disappear(&make().await).await;
    unknown_subjects_are_empty(&make().await).await;
    unreadable_workers_delay_no_others(&make().await).await;
    subjects_beyond_the_limit_are_unreadable(&make().await).await;
    follow_never_blocks_and_the_last_set_wins(&make().await).await;
    replaced_sets_leave_no_stale_workers(&make().await).await;
    the_channel_closes_with_the_reader(&make().await).await;
}

/// Follows the views, and checks that they never go back.
struct Viewer<'c, C> {
    controls: &'c C,
    views: watch::Receiver<Option<Arc<ChainView>>>,
    last: Option<(ParaNumber, Hash)>,
    /// Whether a view has arrived that was not examined yet.
    fresh: bool,
    /// Workers that no view may contain from now on.
    gone: Vec<WorkerKey>,
}

impl<'c, C: Controls> Viewer<'c, C> {
    fn new(controls: &'c C) -> Self {
        Self { controls, views: controls.reader().views(), last: None, fresh: false, gone: Vec::new() }
    }

    fn current(&mut self) -> Option<Arc<ChainView>> {
        let is_new = std::mem::take(&mut self.fresh) || self.views.has_changed().unwrap_or(false);
        let view = self.views.borrow_and_update().clone()?;
        if is_new {
            let back = self.gone.iter().find(|gone| view.workers.contains_key(gone));
            assert_eq!(back, None, "block {} shows a worker that had left the set", view.block);
        }
        if let Some((block, hash)) = self.last {
            assert!(view.block >= block, "a view of block {} after one of block {block}", view.block);
            assert!(view.block > block || view.hash == hash, "two hashes of block {block}");
        }
        self.last = Some((view.block, view.hash));
        Some(view)
    }

    /// Produces blocks until a view meets the condition.
    async fn until(&mut self, what: &str, is: impl Fn(&ChainView) -> bool) -> Arc<ChainView> {
        for _ in 0..MAX_BLOCKS {
            if let Some(view) = self.current().filter(|view| is(view)) {
                return view;
            }
            self.block().await;
        }
        panic!("{what} did not appear within {MAX_BLOCKS} blocks: {:?}", self.current());
    }

    /// Produces a block, and gives the reader some time to process it.
    async fn block(&mut self) {
        self.controls.progress().await;
        self.fresh |= matches!(tokio::time::timeout(VIEW_TIMEOUT, self.views.changed()).await, Ok(Ok(())));
    }

    /// Replaces the set. No view sent after this may contain subjects that were removed from it.
    fn follow(&mut self, workers: &[WorkerKey]) {
        self.gone.clear();
        self.controls.reader().follow(of(workers));
        // Views sent before this are consumed, and do not count.
        self.current();
        let known = (0..WORKERS).map(|n| self.worker(n));
        self.gone = known.filter(|known| !workers.contains(known)).collect();
    }

    fn worker(&self, n: usize) -> WorkerKey {
        self.controls.worker(n)
    }
}

fn of(workers: &[WorkerKey]) -> Followed {
    Followed { workers: workers.iter().copied().collect(), ..Followed::default() }
}

fn shows(view: &ChainView, workers: &[WorkerKey]) -> bool {
    let shown: BTreeSet<_> = view.workers.keys().copied().collect();
    shown == workers.iter().copied().collect()
}

fn is_registered(view: &ChainView, worker: &WorkerKey) -> bool {
    matches!(view.workers.get(worker), Some(Ok(state)) if state.registration.is_some())
}

async fn followed_workers_appear_and_dropped_ones_disappear<C: Controls>(controls: &C) {
    let mut viewer = Viewer::new(controls);
    let [one, two] = [0, 1].map(|n| viewer.worker(n));
    viewer.until("a view", |view| view.workers.is_empty()).await;
    viewer.follow(&[one]);
    viewer.until("a worker", |view| shows(view, &[one]) && is_registered(view, &one)).await;
    viewer.follow(&[one, two]);
    let view = viewer.until("a second worker", |view| shows(view, &[one, two])).await;
    assert!(
        is_registered(&view, &one) && is_registered(&view, &two),
        "both followed workers are in the view"
    );
    let before = view.workers[&two].as_ref().unwrap().ingress_sequence;
    controls.change(two).await;
    let has_changed = |view: &ChainView| {
        view.workers[&two].as_ref().is_ok_and(|state| state.ingress_sequence == before + 1)
    };
    viewer.until("a change", has_changed).await;
    viewer.follow(&[two]);
    viewer.until("the one that stayed", |view| shows(view, &[two])).await;
    for _ in 0..3 {
        viewer.block().await;
        let view = viewer.current().unwrap();
        assert!(shows(&view, &[two]) && has_changed(&view), "{view:?}");
    }
    // Once more, for a worker that was dropped and followed again.
    viewer.follow(&[one, two]);
    viewer.until("a worker that came back", |view| is_registered(view, &one)).await;
}

async fn unknown_subjects_are_empty<C: Controls>(controls: &C) {
    let mut viewer = Viewer::new(controls);
    let (known, unknown) = (viewer.worker(0), WorkerKey([0xfe; 32]));
    let (account, sender) = (AccountId([0xfd; 32]), MessageOrigin::Cluster(Hash([0xfc; 32])));
    controls.reader().follow(Followed {
        workers: [known, unknown].into(),
        pools: [PoolId(u64::MAX)].into(),
        accounts: [account].into(),
        senders: [sender.clone()].into(),
    });
    let complete = |view: &ChainView| {
        (view.workers.len(), view.pools.len(), view.accounts.len(), view.senders.len()) == (2, 1, 1, 1)
    };
    let view = viewer.until("everything that is followed", complete).await;
    assert!(is_registered(&view, &known), "the registered worker is in the view");
    let empty = view.workers[&unknown].as_ref().expect("nothing is unreadable about it");
    assert_eq!(
        (&empty.registration, empty.pool, &empty.session),
        (&None, None, &None),
        "a worker that the chain does not know has an empty entry"
    );
    // A chain without pools reports them as missing.
    if let Ok(pool) = &view.pools[&PoolId(u64::MAX)] {
        assert_eq!(**pool, None, "a pool that does not exist is `None`");
    }
    assert!(view.accounts[&account].is_ok(), "an account that the chain does not know is readable");
    assert_eq!(view.senders[&sender].as_deref(), Ok(&0), "a sender without messages begins at sequence 0");
}

async fn unreadable_workers_delay_no_others<C: Controls>(controls: &C) {
    let mut viewer = Viewer::new(controls);
    let [good, bad, late] = [0, 1, 2].map(|n| viewer.worker(n));
    controls.set_unreadable(bad, true).await;
    viewer.follow(&[good, bad]);
    let view = viewer.until("both workers", |view| shows(view, &[good, bad])).await;
    assert!(is_registered(&view, &good), "an unreadable subject delays no other");
    let reason = view.workers[&bad].as_ref().expect_err("its value is unreadable").to_string();
    assert!(!reason.is_empty(), "an unreadable value has a reason");
    // Others join and change meanwhile.
    viewer.follow(&[good, bad, late]);
    viewer.until("a worker that joins", |view| is_registered(view, &late)).await;
    let before = viewer.current().unwrap().workers[&good].as_ref().unwrap().ingress_sequence;
    controls.change(good).await;
    let view = viewer
        .until("a change", |view| {
            view.workers[&good].as_ref().is_ok_and(|state| state.ingress_sequence == before + 1)
        })
        .await;
    assert!(view.workers[&bad].is_err(), "a value that cannot be read is an error");
    controls.set_unreadable(bad, false).await;
    controls.change(bad).await;
    viewer.until("the worker that is readable again", |view| is_registered(view, &bad)).await;
}

async fn subjects_beyond_the_limit_are_unreadable<C: Controls>(controls: &C) {
    let mut viewer = Viewer::new(controls);
    let known: Vec<_> = (0..WORKERS).map(|n| viewer.worker(n)).collect();
    let others = [0xf0, 0xf1, 0xf2].map(|n| WorkerKey([n; 32]));
    let all: Vec<_> = known.iter().copied().chain(others).collect();
    viewer.follow(&all);
    let view = viewer.until("everything that is followed", |view| shows(view, &all)).await;
    let refused: Vec<_> = view.workers.values().filter_map(|reading| reading.as_ref().err()).collect();
    assert_eq!(refused.len(), all.len() - WORKERS - 1, "number of subjects beyond the reader's limit");
    assert!(refused.iter().all(|why| why.reason.contains(&(WORKERS + 1).to_string())), "{refused:?}");
    viewer.follow(&known);
    viewer.until("what is within the limit", |view| known.iter().all(|key| is_registered(view, key))).await;
}

async fn follow_never_blocks_and_the_last_set_wins<C: Controls>(controls: &C) {
    let mut viewer = Viewer::new(controls);
    let [one, two, three] = [0, 1, 2].map(|n| viewer.worker(n));
    // No block is produced, and no call waits.
    let began = Instant::now();
    for n in 0..1_000 {
        viewer.follow(&[two, if n % 2 == 0 { one } else { three }]);
    }
    viewer.follow(&[two, three]);
    assert!(began.elapsed() < Duration::from_secs(5), "1,001 calls took {:?}", began.elapsed());
    viewer.until("the last set", |view| shows(view, &[two, three])).await;
    for _ in 0..3 {
        viewer.block().await;
        let view = viewer.current().unwrap();
        assert!(shows(&view, &[two, three]), "{view:?}");
    }
}

async fn replaced_sets_leave_no_stale_workers<C: Controls>(controls: &C) {
    let mut viewer = Viewer::new(controls);
    let keys: Vec<_> = (0..WORKERS).map(|n| viewer.worker(n)).collect();
    for round in 0..3 * WORKERS {
        let (old, new) = (keys[round % WORKERS], keys[(round + 1) % WORKERS]);
        viewer.follow(&[old]);
        let reading = controls.progress();
        tokio::pin!(reading);
        // While a block is being processed, as far as can be arranged from here.
        let done = tokio::time::timeout(Duration::from_millis(round as u64), &mut reading).await.is_ok();
        viewer.follow(&[new]);
        if !done {
            reading.await;
        }
        let view = viewer.until("the new set", |view| view.workers.contains_key(&new)).await;
        assert!(shows(&view, &[new]), "a worker that left the set is still in the view: {view:?}");
    }
}

async fn the_channel_closes_with_the_reader<C: Controls>(controls: &C) {
    let mut viewer = Viewer::new(controls);
    let worker = viewer.worker(0);
    viewer.follow(&[worker]);
    viewer.until("a worker", |view| is_registered(view, &worker)).await;
    controls.close().await;
    while viewer.views.changed().await.is_ok() {}
    // Holders of the reader are neither harmed nor blocked.
    viewer.follow(&[]);
    assert!(controls.reader().views().has_changed().is_err(), "the channel closes when the reader stops");
}
