//! The reader's loop: waits for a finalised head or a change of the followed set, queries a node, publishes a
//! view.

use prb_core::text::describe;
use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use codec::Decode;
use prb_core::{
    chain::{ChainView, Followed},
    primitives::Hash,
    wire::Header,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Shared,
    layout::Layout,
    state::{Bounds, State},
    storage,
};
use crate::{
    metadata::{self, Runtimes},
    rpc::{self, FinalizedHead, Node, NodePool, json},
};

#[derive(Debug)]
pub(super) struct Engine {
    pool: NodePool,
    config: Config,
    shared: Arc<Shared>,
    views: watch::Sender<Option<Arc<ChainView>>>,
    runtimes: Runtimes,
    state: Option<State>,
    /// The block and the followed set of the newest view.
    shown: Option<(u32, Arc<Followed>)>,
    /// Whether the state has changed since the newest view.
    changed: bool,
    /// Block at which the next snapshot is due.
    snapshot_at: u32,
    /// Block until which nodes are not asked for changes, after all refused.
    refused_until: u32,
}

/// SnapshotReason a step failed; it is retried.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
    #[error(transparent)]
    Metadata(metadata::Error),
    #[error("the header of block {0} is not readable")]
    Header(u32),
}

impl From<metadata::FetchError> for Error {
    fn from(e: metadata::FetchError) -> Self {
        match e {
            metadata::FetchError::Rpc(e) => Self::Rpc(e),
            metadata::FetchError::Metadata(e) => Self::Metadata(e),
        }
    }
}

/// SnapshotReason a snapshot is taken.
#[derive(Clone, Copy, Debug)]
enum SnapshotReason {
    First,
    Gap,
    Due,
    RuntimeUpgrade,
    Refused,
    /// The node did not return the changes, or not all.
    MissingChanges,
}

impl SnapshotReason {
    /// The metric's label.
    const fn as_str(self) -> &'static str {
        match self {
            Self::First => "First",
            Self::Gap => "Gap",
            Self::Due => "Due",
            Self::RuntimeUpgrade => "RuntimeUpgrade",
            Self::Refused => "Refused",
            Self::MissingChanges => "Doubt",
        }
    }
}

impl Engine {
    pub(super) fn new(
        pool: NodePool,
        config: Config,
        shared: Arc<Shared>,
        views: watch::Sender<Option<Arc<ChainView>>>,
    ) -> Self {
        let runtimes = Runtimes::default();
        Self {
            pool,
            config,
            shared,
            views,
            runtimes,
            state: None,
            shown: None,
            changed: false,
            snapshot_at: 0,
            refused_until: 0,
        }
    }

    pub(super) async fn run(mut self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&mut self) {
        let mut heads = self.pool.finalized_heads();
        let mut head: Option<FinalizedHead> = None;
        let mut pauses = pauses(&self.config);
        let mut retry_at: Option<Instant> = None;
        let shared = Arc::clone(&self.shared);
        loop {
            let retry = async {
                match retry_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let known = head.is_some();
            tokio::select! {
                new = heads.next() => {
                    if new.fell {
                        // The head that this state was read at has been withdrawn, so everything is read again.
                        (self.state, self.shown) = (None, None);
                    }
                    head = Some(new);
                }
                // Without a head there is nothing to do, and the search for it must not be interrupted.
                () = shared.changed.notified(), if known => {}
                () = retry => {}
            }
            let Some(head) = &head else { continue };
            match self.step_on_any(head).await {
                Ok(()) => {
                    pauses = self::pauses(&self.config);
                    retry_at = None;
                }
                Err(e) => {
                    if retry_at.is_none() {
                        tracing::warn!(block = head.number, error = %describe(&e), "cannot read the chain, retrying");
                    }
                    metrics::counter!("prb_reader_failures_total").increment(1);
                    let pause = pauses.next().unwrap_or(self.config.retry_max);
                    retry_at = Some(Instant::now() + pause.max(Duration::from_millis(1)));
                }
            }
        }
    }

    /// Tries a step with the node that announced the head, then with the others, and publishes what is known
    /// then.
    async fn step_on_any(&mut self, head: &FinalizedHead) -> Result<(), Error> {
        let mut nodes = vec![Arc::clone(&head.node)];
        // The announcing node first: it certainly has the block.
        nodes.retain(|node| node.is_trusted());
        nodes.extend(self.pool.trusted().into_iter().filter(|node| !Arc::ptr_eq(node, &head.node)));
        let mut last = Err(rpc::Error::NoTrustedNode { chain: self.pool.chain() }.into());
        for node in nodes {
            last = self.step(&node, head).await;
            match &last {
                Ok(()) => break,
                Err(e) => {
                    tracing::debug!(node = %node.name(), error = %describe(&e), "cannot read the chain from this node")
                }
            }
        }
        // Also after a failure: what could be read is published regardless of what could not.
        self.publish();
        last
    }

    /// Brings the state to the head and to the followed set.
    async fn step(&mut self, node: &Node, head: &FinalizedHead) -> Result<(), Error> {
        let followed = self.shared.followed();
        if let Some(state) = &mut self.state {
            state.follow(&followed);
        }
        match self.plan(head.number) {
            Plan::Nothing => {}
            Plan::Snapshot(why) => self.snapshot(node, head, &followed, why).await?,
            Plan::Changes { from } => self.changes(node, head, from, &followed).await?,
        }
        if let Some(state) = &mut self.state {
            self.changed |= fill(node, state, self.config.keys_per_call).await?;
        }
        Ok(())
    }

    /// Publishes a view if there is anything new.
    fn publish(&mut self) {
        let Some(state) = &mut self.state else { return };
        let followed = self.shared.followed();
        let same_set = self.shown.as_ref().is_some_and(|(_, shown)| Arc::ptr_eq(shown, &followed));
        if !self.changed && same_set {
            return;
        }
        let mut view = state.view(&followed);
        let block = view.block.0;
        metrics::gauge!("prb_reader_block").set(block);
        {
            // A subject that was removed while the view was built must not be published: the lock keeps the set
            // unchanged until the view is sent. Added subjects appear with the next step, which their addition has
            // triggered.
            let current = self.shared.lock();
            if !Arc::ptr_eq(&current, &followed) {
                view.retain(&current);
            }
            self.views.send_replace(Some(Arc::new(view)));
        }
        (self.shown, self.changed) = (Some((block, followed)), false);
    }

    fn plan(&self, head: u32) -> Plan {
        let Some(state) = &self.state else {
            // A lagging node must not turn the view back.
            let behind = self.shown.as_ref().is_some_and(|(block, _)| head < *block);
            return if behind { Plan::Nothing } else { Plan::Snapshot(SnapshotReason::First) };
        };
        if head <= state.block {
            Plan::Nothing
        } else if head - state.block > self.config.max_gap_blocks {
            Plan::Snapshot(SnapshotReason::Gap)
        } else if head >= self.snapshot_at {
            Plan::Snapshot(SnapshotReason::Due)
        } else if head < self.refused_until {
            Plan::Snapshot(SnapshotReason::Refused)
        } else {
            Plan::Changes { from: state.block + 1 }
        }
    }

    async fn snapshot(
        &mut self,
        node: &Node,
        head: &FinalizedHead,
        followed: &Arc<Followed>,
        why: SnapshotReason,
    ) -> Result<(), Error> {
        tracing::debug!(
            block = head.number,
            why = why.as_str(),
            workers = followed.workers.len(),
            "taking a snapshot"
        );
        metrics::counter!("prb_reader_snapshots_total", "why" => why.as_str()).increment(1);
        let header = Header::decode(&mut &*head.header).map_err(|_| Error::Header(head.number))?;
        // The head's state was written by the code in its parent's state.
        let written_by = if head.number == 0 { head.hash } else { header.parent_hash };
        let runtime = self.runtimes.at(node, Some(written_by)).await?;
        let layout = Layout::new(&runtime, self.config.max_cooling_down);
        let mut state = State::new(head.number, head.hash, layout, self.bounds());
        state.follow(followed);
        fill(node, &mut state, self.config.keys_per_call).await?;
        state.succeed(self.state.take());
        self.state = Some(state);
        self.changed = true;
        self.snapshot_at = head.number.saturating_add(spread(self.config.resnapshot_blocks, &head.hash));
        Ok(())
    }

    async fn changes(
        &mut self,
        node: &Node,
        head: &FinalizedHead,
        from: u32,
        followed: &Arc<Followed>,
    ) -> Result<(), Error> {
        let from_hash: Hash = match from == head.number {
            true => head.hash,
            false => node.request("chain_getBlockHash", [from]).await?,
        };
        let answer: Result<Vec<json::StorageChanges>, _> =
            node.request_bulk("pha_getStorageChanges", (from_hash, head.hash)).await;
        let changes = match answer {
            Ok(changes) => changes,
            Err(e) if e.is_refused_method() => {
                tracing::warn!(node = %node.name(), error = %describe(&e), "node does not support storage changes, reading everything again at each block");
                self.refused_until = head.number.saturating_add(self.config.refused_blocks);
                return self.snapshot(node, head, followed, SnapshotReason::Refused).await;
            }
            Err(e) if e.is_retryable() => return Err(e.into()),
            Err(e) => {
                // For example, the node may have pruned the state; asking again would not help.
                tracing::info!(node = %node.name(), error = %describe(&e), "node did not return the changes since block {from}");
                return self.snapshot(node, head, followed, SnapshotReason::MissingChanges).await;
            }
        };
        if changes.len() != (head.number - from + 1) as usize {
            return self.snapshot(node, head, followed, SnapshotReason::MissingChanges).await;
        }
        let Some(state) = &mut self.state else { return Ok(()) };
        let changes: Vec<_> = changes.into_iter().flat_map(json::StorageChanges::into_main).collect();
        let runtime_changed = state.apply(head.number, head.hash, &changes);
        self.changed = true;
        if runtime_changed {
            // Discarded first: values in the old layout must not stay if the snapshot fails.
            self.state = None;
            return self.snapshot(node, head, followed, SnapshotReason::RuntimeUpgrade).await;
        }
        Ok(())
    }

    const fn bounds(&self) -> Bounds {
        Bounds {
            workers: self.config.max_workers,
            pools: self.config.max_pools,
            accounts: self.config.max_accounts,
            senders: self.config.max_senders,
        }
    }
}

enum Plan {
    Nothing,
    Snapshot(SnapshotReason),
    Changes { from: u32 },
}

/// Reads the state's missing values at its block; returns whether any were missing. Values that were read are
/// kept if a later part fails.
async fn fill(node: &Node, state: &mut State, keys_per_call: usize) -> Result<bool, rpc::Error> {
    /// A subject's own values, and those that they refer to: a worker's session, a pool's balance. Those refer to
    /// no others.
    const LEVELS: usize = 2;
    let mut read = false;
    for _ in 0..LEVELS {
        let keys = state.unread();
        if keys.is_empty() {
            break;
        }
        let values = storage::query(node, keys, state.hash, keys_per_call).await?;
        state.fill(&values);
        read = true;
    }
    Ok(read)
}

/// Returns `blocks` reduced by up to a quarter, so that readers started together do not all take a snapshot
/// at once.
fn spread(blocks: u32, seed: &Hash) -> u32 {
    let part = u32::from_le_bytes([seed.0[0], seed.0[1], seed.0[2], seed.0[3]]) % (blocks / 4).max(1);
    blocks.saturating_sub(part).max(1)
}

fn pauses(config: &Config) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(config.retry_min)
        .with_max_delay(config.retry_max)
        .with_jitter()
        .without_max_times()
        .build()
}
