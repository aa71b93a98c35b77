//! Fetches storage changes of the stored parachain headers.
//!
//! Spans of blocks are distributed over all fit nodes, each as large as the node answers in reasonable time,
//! and stored in order. A node's changes are trusted unless it was proven wrong: checking them requires the
//! whole state. A worker detects wrong ones at once (`StateRootMismatch`).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use codec::DecodeAll;
use futures::{StreamExt, stream::FuturesUnordered};
use prb_core::{primitives::ParaNumber, prpc::Method, text::describe, wire};
use tokio::time::Instant;

use super::{Chains, Config, Error, Pause, absent, pace::Pace, write, wrong};
use crate::{
    rpc::{self, Capability, Node, Refusal, json},
    store::Store,
    verify,
};

/// Blocks in the first request to a node, which has to execute each of them again.
const FIRST: u32 = 4;
/// Most bytes that wait for earlier blocks.
// The daemon's memory is bounded by this, however far a fast node is ahead of a slow one.
const BUFFERED_BYTES: usize = 64 * 1024 * 1024;
/// Capabilities that a node needs.
const NEEDED: [Capability; 2] = [Capability::StorageChanges, Capability::States];
/// Most answers that wait for earlier blocks.
const BUFFERED_ANSWERS: usize = 64;
/// Bytes after which no further blocks are stored in one transaction.
// A block may change 20 MB, so a count of blocks would not bound a transaction.
const STORED_AT_ONCE: usize = 16 * 1024 * 1024;

/// Largest storage changes of a block, in bytes: with its header they fit into a request to a worker.
const MAX_BLOCK_BYTES: usize = Method::DispatchBlocks.body_limit_bytes() - 64 * 1024;

/// Follows the parachain's storage changes.
pub(super) async fn run(chains: &Chains, config: &Config) -> Result<(), Error> {
    let mut pause = Pause::new(config);
    let mut pace = Pace::new(FIRST, config.changes_per_call, config.answer_time);
    let mut tips = chains.store.tips();
    let mut in_full = true;
    loop {
        let (next, last) = {
            let tips = tips.borrow_and_update();
            (tips.changes.next(), tips.para_header.map(|(number, _)| number))
        };
        let Some(last) = last.filter(|last| *last >= next) else {
            pause.reset();
            // Cannot fail: the store lives as long as this loop, and with it the sender.
            let _ = tips.changed().await;
            continue;
        };
        let few = last.0 - next.0 < config.changes_per_call.max(1);
        if in_full && few && !chains.near_target(config.headers_per_batch) {
            // The target may be false: after this wait, continue with what there is.
            in_full = tokio::time::timeout(config.batch_wait, tips.changed()).await.is_ok();
            continue;
        }
        in_full = true;
        let turn = chains.turn.read().await;
        let stored = chains.store.tips().borrow().changes;
        let round = match stored.next() == next {
            true => Round::new(chains, config, &mut pace, next.0, last.0).run().await,
            // A history source had more in the meantime.
            false => Ok(()),
        };
        drop(turn);
        match round {
            Ok(()) => pause.reset(),
            Err(e) => pause.after(chains, "storage changes", e).await?,
        }
    }
}

/// Blocks of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blocks {
    first: u32,
    last: u32,
}

impl Blocks {
    const fn count(self) -> u32 {
        self.last - self.first + 1
    }
}

/// The result of a request.
struct Answer {
    node: Arc<Node>,
    blocks: Blocks,
    took: Duration,
    result: Result<Vec<Vec<u8>>, Error>,
}

/// Blocks in sequence that are stored together.
struct Batch {
    first: u32,
    changes: Vec<Vec<u8>>,
    bytes: usize,
}

/// A node, and the number of its requests in flight.
struct NodeLoad {
    node: Arc<Node>,
    in_flight: usize,
}

/// The work from one block to another.
struct Round<'a> {
    chains: &'a Chains,
    config: &'a Config,
    pace: &'a mut Pace,
    nodes: Vec<NodeLoad>,
    /// First block that was not requested yet.
    cursor: u32,
    last: u32,
    /// Blocks that a node failed to return.
    again: VecDeque<Blocks>,
    /// First block that is neither stored nor being stored.
    next: u32,
    /// Answers that are not being stored yet.
    early: BTreeMap<u32, Vec<Vec<u8>>>,
    /// Bytes of it, and of what is being stored.
    held_bytes: usize,
    failure: Option<Error>,
}

impl<'a> Round<'a> {
    fn new(chains: &'a Chains, config: &'a Config, pace: &'a mut Pace, first: u32, last: u32) -> Self {
        let nodes = fit(chains).into_iter().map(|node| NodeLoad { node, in_flight: 0 }).collect();
        Self {
            chains,
            config,
            pace,
            nodes,
            cursor: first,
            last,
            again: VecDeque::new(),
            next: first,
            early: BTreeMap::new(),
            held_bytes: 0,
            failure: None,
        }
    }

    async fn run(mut self) -> Result<(), Error> {
        let store = &self.chains.store;
        // At most one is being stored: what comes meanwhile is stored together.
        let (mut requests, mut storing) = (FuturesUnordered::new(), FuturesUnordered::new());
        loop {
            while let Some((node, blocks)) = self.assign() {
                requests.push(ask(node, store, blocks));
            }
            if storing.is_empty()
                && let Some(batch) = self.next_batch()
            {
                storing.push(store_batch(store, batch));
            }
            let done = tokio::select! {
                Some(stored) = storing.next() => stored.map(|bytes| self.held_bytes -= bytes),
                Some(answer) = requests.next() => self.on_answer(answer),
                else => break,
            };
            if let Err(e) = done {
                // The next attempt starts where the store ends.
                while storing.next().await.is_some() {}
                return Err(e);
            }
        }
        if self.next > self.last {
            if let Some(failure) = &self.failure {
                self.chains.record_failure("storage changes", failure);
            }
            return Ok(());
        }
        let chain = self.chains.para.chain();
        Err(self.failure.unwrap_or(Error::Rpc(rpc::Error::NoTrustedNode { chain })))
    }

    /// Returns the next request, for the node with the fewest in flight.
    fn assign(&mut self) -> Option<(Arc<Node>, Blocks)> {
        let most = self.config.changes_in_flight.max(1);
        let load =
            self.nodes.iter_mut().filter(|load| load.in_flight < most).min_by_key(|load| load.in_flight)?;
        let size = self.pace.of(&load.node);
        let blocks = match self.again.pop_front() {
            Some(blocks) if blocks.count() > size => {
                let last = blocks.first + size - 1;
                self.again.push_front(Blocks { first: last + 1, ..blocks });
                Blocks { last, ..blocks }
            }
            Some(blocks) => blocks,
            None => {
                let full = self.early.len() >= BUFFERED_ANSWERS || self.held_bytes >= BUFFERED_BYTES;
                if self.cursor > self.last || full {
                    return None;
                }
                let first = self.cursor;
                let last = self.last.min(first.saturating_add(size - 1));
                self.cursor = last + 1;
                Blocks { first, last }
            }
        };
        load.in_flight += 1;
        Some((Arc::clone(&load.node), blocks))
    }

    fn on_answer(&mut self, answer: Answer) -> Result<(), Error> {
        let Answer { node, blocks, took, result } = answer;
        if let Some(load) = self.nodes.iter_mut().find(|load| Arc::ptr_eq(&load.node, &node)) {
            load.in_flight -= 1;
        }
        match result {
            Ok(changes) => {
                NEEDED.into_iter().for_each(|capability| node.has_offered(capability));
                self.pace.answered(&node, blocks.count(), took);
                self.held_bytes += bytes(&changes);
                self.early.insert(blocks.first, changes);
                Ok(())
            }
            Err(e @ (Error::Store(_) | Error::Task(_))) => Err(e),
            Err(e) => {
                self.failed(&node, blocks, e);
                Ok(())
            }
        }
    }

    /// Handles a failed request: smaller spans if it was too large, otherwise another node.
    fn failed(&mut self, node: &Arc<Node>, blocks: Blocks, error: Error) {
        self.again.push_front(blocks);
        let is_large = blocks.count() > 1;
        if is_large && is_too_much(&error) {
            self.pace.was_too_much(node, blocks.count());
        }
        // No fault of the node: it stays in the round, with smaller requests.
        if is_large && is_too_large(&error) {
            return;
        }
        tracing::debug!(node = %node.name(), first = blocks.first, last = blocks.last, error = %error, "node returned no storage changes");
        // For this round only; the recorded failure decides about the next.
        self.nodes.retain(|load| !Arc::ptr_eq(&load.node, node));
        if matches!(&error, Error::Rpc(e) if e.refusal() == Some(Refusal::StatePruned)) {
            node.lacks(Capability::States, &describe(&error));
        }
        if let Some(earlier) = self.failure.replace(error) {
            self.chains.record_failure("storage changes", &earlier);
        }
    }

    /// What follows on the stored blocks.
    fn next_batch(&mut self) -> Option<Batch> {
        let mut batch = Batch { first: self.next, changes: Vec::new(), bytes: 0 };
        while batch.bytes < STORED_AT_ONCE
            && let Some(changes) = self.early.remove(&self.next)
        {
            self.next += changes.len() as u32;
            batch.bytes += bytes(&changes);
            batch.changes.extend(changes);
        }
        (!batch.changes.is_empty()).then_some(batch)
    }
}

/// Stores a batch; gives its bytes.
async fn store_batch(store: &Arc<Store>, batch: Batch) -> Result<usize, Error> {
    let Batch { first, changes, bytes } = batch;
    write(store, move |store| store.append_changes(ParaNumber(first), &changes)).await?;
    Ok(bytes)
}

fn bytes(changes: &[Vec<u8>]) -> usize {
    changes.iter().map(Vec::len).sum()
}

/// Returns the nodes that share the work: those without recorded failures, or else the first of the others.
fn fit(chains: &Chains) -> Vec<Arc<Node>> {
    let mut trusted = chains.para.trusted();
    trusted.sort_by_key(|node| !NEEDED.iter().all(|needed| node.offers(*needed)));
    let fit: Vec<_> = trusted.iter().filter(|node| node.is_fit_for(&NEEDED)).cloned().collect();
    if fit.is_empty() { trusted.into_iter().take(1).collect() } else { fit }
}

/// Whether fewer blocks in one request may help: the answer was too large or too slow.
fn is_too_much(error: &Error) -> bool {
    use rpc::Error::{AnswerTooLarge, Disconnected, Timeout};
    matches!(error, Error::Rpc(Timeout { .. } | Disconnected { .. } | AnswerTooLarge { .. }))
        || is_too_large(error)
}

fn is_too_large(error: &Error) -> bool {
    matches!(error, Error::Rpc(e) if e.refusal() == Some(Refusal::AnswerTooLarge))
}

async fn ask(node: Arc<Node>, store: &Arc<Store>, blocks: Blocks) -> Answer {
    let start = Instant::now();
    let result = fetch_from(&node, store, blocks.first, blocks.last).await;
    Answer { node, blocks, took: start.elapsed(), result }
}

/// Fetches SCALE changes of blocks, whose headers are stored, from one node.
pub(super) async fn fetch_from(
    node: &Node,
    store: &Arc<Store>,
    first: u32,
    last: u32,
) -> Result<Vec<Vec<u8>>, Error> {
    let hashes =
        move |store: &Store| Ok((store.para_hash(ParaNumber(first))?, store.para_hash(ParaNumber(last))?));
    let (from, to) = write(store, hashes).await?;
    let answer = node.request_bulk::<Vec<json::ScaleChanges>>("pha_getStorageChanges", (from, to)).await;
    let changes = match answer {
        Ok(changes) => changes,
        // A single block exceeds the node's answer limit; SCALE has less overhead than JSON.
        Err(e) if first == last && e.refusal() == Some(Refusal::AnswerTooLarge) => {
            let scale: json::HexBytes =
                node.request_bulk("pha_getStorageChangesAt", [to]).await.map_err(|scale| {
                    tracing::warn!(node = %node.name(), block = first, "one block's storage changes are too large for the node's answers: raise --rpc-max-response-size");
                    if scale.is_refused_method() { e } else { scale }
                })?;
            // Decoded here, because a worker that cannot decode them does not say which block they belong to.
            wire::StorageChanges::decode_all(&mut &*scale.0)
                .map_err(|_| wrong(node)(verify::Error::Encoding { what: "storage changes" }))?;
            let changes = vec![scale.0];
            return within(node, first, changes, MAX_BLOCK_BYTES);
        }
        Err(e) => return Err(e.into()),
    };
    if changes.len() != (last - first + 1) as usize {
        return Err(absent(node, format!("storage changes of blocks {first} to {last}")));
    }
    within(node, first, changes.into_iter().map(|changes| changes.0).collect(), MAX_BLOCK_BYTES)
}

/// Refuses a block's changes that no request to a worker can hold.
// They are not proven before a worker applies them, and a worker that is never sent them never reports them.
fn within(node: &Node, first: u32, changes: Vec<Vec<u8>>, most: usize) -> Result<Vec<Vec<u8>>, Error> {
    match (first..).zip(&changes).find(|(_, changes)| changes.len() > most) {
        None => Ok(changes),
        Some((number, changes)) => {
            let bytes = changes.len();
            let what = format!(
                "storage changes of block {number} that workers accept: it returned {bytes} bytes, and a request to \
                 a worker may have {most}"
            );
            Err(absent(node, what))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::{Config, NodePool};

    #[test]
    fn changes_that_no_worker_accepts_are_requested_from_another_node() -> Result<(), rpc::Error> {
        let node = NodePool::new("para", Config::new(["ws://n:1"]))?.pick();
        let changes = |lengths: [usize; 2]| lengths.map(|bytes| vec![0; bytes]).to_vec();
        assert!(within(&node, 7, changes([10, 9]), 10).is_ok());
        match within(&node, 7, changes([10, 11]), 10) {
            Err(Error::Absent { node, what }) => {
                assert!(&*node == "n:1" && what.contains("block 8") && what.contains("11 bytes"), "{what}");
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }
}
