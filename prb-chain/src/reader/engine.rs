//! The reader's loop: wait for a finalised head or a worker to track, ask a node, show a view.

use std::{collections::HashSet, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use codec::Decode;
use prb_core::{
    chain::ChainView,
    primitives::{Hash, WorkerKey},
    wire::Header,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Config, Shared, layout::Layout, state::State, storage};
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
    /// Block at which the next snapshot is due.
    snapshot_at: u32,
    /// Block until which nodes are not asked for changes, after they refused.
    refused_until: u32,
}

/// Why a step failed; it is tried again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
    #[error(transparent)]
    Metadata(#[from] metadata::Error),
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

/// Why everything is read anew.
#[derive(Clone, Copy, Debug)]
enum Why {
    First,
    Gap,
    Due,
    RuntimeUpgrade,
    Refused,
    Doubt,
}

impl Engine {
    pub(super) fn new(
        pool: NodePool,
        config: Config,
        shared: Arc<Shared>,
        views: watch::Sender<Option<Arc<ChainView>>>,
    ) -> Self {
        let runtimes = Runtimes::default();
        Self { pool, config, shared, views, runtimes, state: None, snapshot_at: 0, refused_until: 0 }
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
                new = heads.next() => head = Some(new),
                // Before the first head there is nothing to do, and looking for it shall not be disturbed.
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
                        tracing::warn!(block = head.number, error = %e, "cannot read the chain, will retry");
                    }
                    metrics::counter!("prb_reader_failures_total").increment(1);
                    let pause = pauses.next().unwrap_or(self.config.retry_max);
                    retry_at = Some(Instant::now() + pause.max(Duration::from_millis(1)));
                }
            }
        }
    }

    /// Steps with the node that told of the head, then with the others.
    async fn step_on_any(&mut self, head: &FinalizedHead) -> Result<(), Error> {
        let mut nodes = vec![Arc::clone(&head.node)];
        nodes.extend(self.pool.candidates().into_iter().filter(|node| !Arc::ptr_eq(node, &head.node)));
        let mut last = Ok(());
        for node in nodes {
            last = self.step(&node, head).await;
            match &last {
                Ok(()) => return Ok(()),
                Err(e) => tracing::debug!(node = %node.name(), error = %e, "cannot read the chain here"),
            }
        }
        last
    }

    /// Brings the state to the head and to the workers wanted, and shows it.
    async fn step(&mut self, node: &Node, head: &FinalizedHead) -> Result<(), Error> {
        let wanted: HashSet<WorkerKey> = self.shared.wanted().clone();
        let mut dirty = self.state.as_mut().is_some_and(|state| state.retain(&wanted));
        match self.plan(head.number) {
            Plan::Nothing => {}
            Plan::Snapshot(why) => {
                self.snapshot(node, head, &wanted, why).await?;
                dirty = true;
            }
            Plan::Changes { from } => {
                self.changes(node, head, from, &wanted).await?;
                dirty = true;
            }
        }
        if let Some(state) = &mut self.state {
            let new: Vec<_> = wanted.iter().filter(|worker| !state.contains(worker)).copied().collect();
            if !new.is_empty() {
                fill(node, state, &new, self.config.keys_per_call).await?;
                dirty = true;
            }
            if dirty {
                let view = state.view();
                metrics::gauge!("prb_reader_block").set(view.block.0);
                self.views.send_replace(Some(Arc::new(view)));
            }
        }
        Ok(())
    }

    fn plan(&self, head: u32) -> Plan {
        let Some(state) = &self.state else { return Plan::Snapshot(Why::First) };
        if head <= state.block {
            Plan::Nothing
        } else if head - state.block > self.config.max_gap_blocks {
            Plan::Snapshot(Why::Gap)
        } else if head >= self.snapshot_at {
            Plan::Snapshot(Why::Due)
        } else if head < self.refused_until {
            Plan::Snapshot(Why::Refused)
        } else {
            Plan::Changes { from: state.block + 1 }
        }
    }

    async fn snapshot(
        &mut self,
        node: &Node,
        head: &FinalizedHead,
        wanted: &HashSet<WorkerKey>,
        why: Why,
    ) -> Result<(), Error> {
        tracing::debug!(block = head.number, ?why, workers = wanted.len(), "taking a snapshot");
        metrics::counter!("prb_reader_snapshots_total", "why" => format!("{why:?}")).increment(1);
        let header = Header::decode(&mut &*head.header).map_err(|_| Error::Header(head.number))?;
        // The head's state was written by the code in its parent's state.
        let written_by = if head.number == 0 { head.hash } else { header.parent_hash };
        let layout = Layout::new(&*self.runtimes.at(node, Some(written_by)).await?)?;
        let keys = State::global_keys(&layout);
        let globals = storage::query(node, keys, head.hash, self.config.keys_per_call).await?;
        let mut state = State::new(head.number, head.hash, layout, &globals)?;
        let workers: Vec<_> = wanted.iter().copied().collect();
        fill(node, &mut state, &workers, self.config.keys_per_call).await?;
        self.state = Some(state);
        self.snapshot_at = head.number.saturating_add(spread(self.config.resnapshot_blocks, &head.hash));
        Ok(())
    }

    async fn changes(
        &mut self,
        node: &Node,
        head: &FinalizedHead,
        from: u32,
        wanted: &HashSet<WorkerKey>,
    ) -> Result<(), Error> {
        let from_hash: Hash = match from == head.number {
            true => head.hash,
            false => node.request("chain_getBlockHash", [from]).await?,
        };
        let answer: Result<Vec<json::StorageChanges>, _> =
            node.request("pha_getStorageChanges", (from_hash, head.hash)).await;
        let changes = match answer {
            Ok(changes) => changes,
            Err(e) if e.is_refused_method() => {
                tracing::warn!(node = %node.name(), error = %e, "node gives no storage changes: reading all workers anew at each block");
                self.refused_until = head.number.saturating_add(self.config.refused_blocks);
                return self.snapshot(node, head, wanted, Why::Refused).await;
            }
            Err(e) if e.is_retryable() => return Err(e.into()),
            Err(e) => {
                // A state that the node has pruned, for one: asking again would not help.
                tracing::info!(node = %node.name(), error = %e, "node does not tell the changes since block {from}");
                return self.snapshot(node, head, wanted, Why::Doubt).await;
            }
        };
        if changes.len() != (head.number - from + 1) as usize {
            return self.snapshot(node, head, wanted, Why::Doubt).await;
        }
        let Some(state) = &mut self.state else { return Ok(()) };
        let changes: Vec<_> = changes.into_iter().flat_map(json::StorageChanges::into_main).collect();
        let follow_up = state.apply(head.number, head.hash, &changes);
        if follow_up.runtime_changed {
            // Values read in the old layout must not stay, should the snapshot fail.
            self.state = None;
            return self.snapshot(node, head, wanted, Why::RuntimeUpgrade).await;
        }
        if !follow_up.sessions.is_empty()
            && let Err(e) = sessions(node, state, &follow_up.sessions, self.config.keys_per_call).await
        {
            // The state has moved on without these values.
            self.state = None;
            return Err(e.into());
        }
        Ok(())
    }
}

enum Plan {
    Nothing,
    Snapshot(Why),
    Changes { from: u32 },
}

/// Reads workers, and then their sessions, at the state's block.
async fn fill(
    node: &Node,
    state: &mut State,
    workers: &[WorkerKey],
    keys_per_call: usize,
) -> Result<(), rpc::Error> {
    let keys = State::worker_keys(state.layout(), workers);
    let values = storage::query(node, keys, state.hash, keys_per_call).await?;
    // A failure in between must not leave workers half known.
    let found = state.add(workers, &values);
    let result = sessions(node, state, &found, keys_per_call).await;
    if result.is_err() {
        state.remove(workers);
    }
    result
}

async fn sessions(
    node: &Node,
    state: &mut State,
    sessions: &[prb_core::primitives::AccountId],
    keys_per_call: usize,
) -> Result<(), rpc::Error> {
    let keys = state.session_keys(sessions);
    let values = storage::query(node, keys, state.hash, keys_per_call).await?;
    state.fill_sessions(sessions, &values);
    Ok(())
}

/// `blocks`, less up to a quarter, so that readers started together do not all read at once.
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
