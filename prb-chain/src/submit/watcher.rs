//! Watches a submitted transaction until it is finalised or can no longer be included.
//!
//! `tracker` decides the next step; this module carries it out.

use prb_core::text::describe;
use std::sync::Arc;

use futures::{FutureExt, StreamExt, future::BoxFuture, future::OptionFuture, stream::FuturesUnordered};
use prb_core::{
    chain::{BatchOutcome, SubmitError, SubmitProgress},
    primitives::{Hash, ParaNumber},
    signer::Signer,
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Inner,
    prepare::Prepared,
    queries::{self, Block, Head},
    refusal::Watch,
    status::Status,
    tracker::{self, Action, End, Observation, Search, State},
};
use crate::{
    metadata::{ExtrinsicOutcome, Runtime},
    rpc::{Node, json::HexBytes},
};

/// Blocks searched at once.
const SEARCH_BATCH: u32 = 16;

/// What one node's finalised chain shows.
enum Found {
    In(Block, u32),
    /// It cannot get into a block any more.
    Gone(String),
    /// In no block below this one.
    NotYet {
        cursor: u32,
    },
}

/// A filler transaction's nonce and outcome.
pub(super) type Filled = (u64, Result<BatchOutcome, SubmitError>);

/// A transaction in flight.
pub(super) struct Watcher<'a> {
    pub(super) inner: &'a Inner,
    pub(super) prepared: &'a Prepared,
    /// Its signer.
    pub(super) signer: &'a Arc<dyn Signer>,
    progress: &'a mpsc::Sender<SubmitProgress>,
    watch: Option<Watch>,
    is_reported: bool,
    outcome: Option<Result<BatchOutcome, SubmitError>>,
    /// Transactions that fill nonces before this one.
    pub(super) fillers: FuturesUnordered<BoxFuture<'a, Filled>>,
}

impl Inner {
    /// Watches a transaction until its outcome is final or unknown.
    pub(super) async fn follow(
        &self,
        prepared: &Prepared,
        signer: &Arc<dyn Signer>,
        watch: Option<Watch>,
        progress: &mpsc::Sender<SubmitProgress>,
    ) -> Result<BatchOutcome, SubmitError> {
        let started = Instant::now();
        let mut watcher = Watcher {
            inner: self,
            prepared,
            signer,
            progress,
            watch: None,
            is_reported: false,
            outcome: None,
            fillers: FuturesUnordered::new(),
        };
        let mut observation = watcher.sent(watch);
        let mut state = State::new(prepared.birth.saturating_add(1), started, &self.config);
        loop {
            let (next, action) = tracker::decide(state, observation, Instant::now(), &self.config);
            state = next;
            if !state.is_watched() {
                watcher.watch = None;
            }
            observation = match action {
                Action::Listen { until } => watcher.listen(until).await,
                Action::Search { from, first } => Observation::Searched(watcher.search(from, first).await),
                Action::FillGap => {
                    watcher.fill_gap().await;
                    Observation::GapFilled
                }
                Action::Resend { attempt } => watcher.resend(attempt).await,
                Action::End(end) => return watcher.end(end, started),
            };
        }
    }
}

impl<'a> Watcher<'a> {
    fn sent(&mut self, watch: Option<Watch>) -> Observation {
        let watched = watch.is_some();
        if watched {
            self.watch = watch;
            if !std::mem::replace(&mut self.is_reported, true) {
                // A full channel may drop progress, by contract.
                let _ = self.progress.try_send(SubmitProgress::Submitted { extrinsic: self.prepared.hash });
            }
        }
        Observation::Sent { watched }
    }

    async fn listen(&mut self, until: Instant) -> Observation {
        loop {
            let next = OptionFuture::from(self.watch.as_mut().map(Watch::next));
            tokio::select! {
                Some(status) = next => {
                    let Some(status) = Status::read(status) else { return Observation::WatchEnded };
                    self.report(&status);
                    return Observation::Status(status);
                }
                Some((nonce, ended)) = self.fillers.next() => self.filler_ended(nonce, &ended),
                () = tokio::time::sleep_until(until) => return Observation::Quiet,
            }
        }
    }

    fn report(&self, status: &Status) {
        if let Status::InBlock(block) = status {
            let _ = self.progress.try_send(SubmitProgress::InBlock { block: *block });
        }
        if *status == Status::Future {
            let account = self.inner.address(self.prepared.account);
            let (nonce, until) = (self.prepared.nonce, self.prepared.last);
            tracing::warn!(account, nonce, until, "the transaction waits for a missing nonce before its own");
        }
    }

    fn end(&mut self, end: End, started: Instant) -> Result<BatchOutcome, SubmitError> {
        let account = self.prepared.account;
        match end {
            End::Included => {
                let next = self.prepared.nonce + 1;
                self.inner.remember(account, |known| known.next_nonce = next);
                let unread = || SubmitError::Unknown {
                    waited: started.elapsed(),
                    reason: "its outcome was not read".into(),
                };
                self.outcome.take().unwrap_or_else(|| Err(unread()))
            }
            // Whether the nonce was used is not known; the next `wait_until_idle` reads it. The nonces below it are used:
            // a node that lags must not make them seem unused.
            End::Lost { reason } => Err(SubmitError::Lost { reason }),
            End::Unknown { reason } => Err(SubmitError::Unknown { waited: started.elapsed(), reason }),
        }
    }

    /// Searches the finalised blocks from one on, after the block that the subscription reported as final.
    async fn search(&mut self, from: u32, first: Option<Hash>) -> Search {
        let found = match first {
            Some(block) => self.inner.find_in(self.prepared, block).await,
            None => None,
        };
        let (block, index) = match found {
            Some(found) => found,
            None => match self.inner.search(self.prepared, from).await {
                Ok((block, index)) => (block, index),
                Err(search) => return search,
            },
        };
        match self.inner.outcome(self.prepared, &block, index).await {
            Ok(outcome) => {
                // Effects must not be read from a state before this block.
                self.inner.finalised.raise(None, block.header.number);
                self.outcome = Some(outcome);
                Search::Included
            }
            Err(e) => Search::Unread { block: block.header.number, error: self.log_unread(&e) },
        }
    }

    fn log_unread(&self, error: &queries::Error) -> String {
        tracing::debug!(extrinsic = %self.prepared.hash, %error, "cannot determine the transaction's outcome yet");
        describe(error)
    }

    /// Sends the same transaction again: to the preferred node, or to the next one if a node has it and is
    /// silent.
    async fn resend(&mut self, attempt: usize) -> Observation {
        let nodes = self.inner.pool.trusted();
        // The node that watches it has it already.
        let place = attempt + usize::from(self.watch.is_some());
        let Some(node) = nodes.get(place % nodes.len().max(1)) else {
            return Observation::Sent { watched: false };
        };
        match self.inner.submit_to(node, self.prepared).await {
            Ok(watch) => {
                if watch.is_some() {
                    tracing::info!(node = %node.name(), extrinsic = %self.prepared.hash, "sent the transaction again");
                }
                // Without a subscription, the transaction is known there, or the node is unreachable.
                self.sent(watch)
            }
            // It may be in a block already; the search will find it.
            Err(refusal) => {
                tracing::debug!(node = %node.name(), %refusal, "node does not accept the transaction again");
                Observation::Sent { watched: false }
            }
        }
    }

    /// Tracks a transaction that fills a nonce, concurrently.
    pub(super) fn track_filler(&self, filler: Prepared, watch: Option<Watch>) {
        let (inner, signer) = (self.inner, self.signer);
        let followed = async move {
            let (progress, _) = mpsc::channel(1);
            let nonce = filler.nonce;
            (nonce, inner.follow(&filler, signer, watch, &progress).await)
        };
        self.fillers.push(followed.boxed());
    }

    fn filler_ended(&self, nonce: u64, ended: &Result<BatchOutcome, SubmitError>) {
        let account = self.inner.address(self.prepared.account);
        match ended {
            Ok(outcome) => {
                tracing::info!(account, nonce, block = outcome.number.0, "a missing nonce was filled")
            }
            Err(e) => {
                tracing::warn!(account, nonce, error = %describe(e), "a missing nonce could not be filled")
            }
        }
    }
}

impl Inner {
    /// Searches the finalised blocks that can include the transaction and were not searched yet. It is certain
    /// that no block can include it once all nodes that answer say so.
    async fn search(&self, prepared: &Prepared, from: u32) -> Result<(Block, u32), Search> {
        let failed = |e: queries::Error| Search::Failed { error: describe(&e) };
        let (mut gone, mut not_yet, mut last) = (None, None, None);
        for (node, head) in queries::heads(&self.pool).await.map_err(failed)? {
            match self.search_with(&node, &head, prepared, from).await {
                Ok(Found::In(block, index)) => return Ok((block, index)),
                Ok(Found::Gone(why)) => drop(gone.get_or_insert(why)),
                Ok(Found::NotYet { cursor }) => {
                    not_yet = not_yet.max(Some(cursor));
                    // The other nodes are not further ahead.
                    if gone.is_none() {
                        break;
                    }
                }
                Err(e) => last = Some(e),
            }
        }
        Err(match (gone, not_yet, last) {
            (Some(reason), None, _) => Search::Excluded { reason },
            (Some(reason), Some(_), _) => Search::Disputed { reason },
            (None, Some(next_block), _) => Search::NotYet { next_block },
            (None, None, Some(e)) => failed(e),
            (None, None, None) => Search::NotYet { next_block: from },
        })
    }

    async fn search_with(
        &self,
        node: &Node,
        head: &Head,
        prepared: &Prepared,
        from: u32,
    ) -> Result<Found, queries::Error> {
        let number = head.header.number;
        let end = number.min(prepared.last);
        let mut cursor = from;
        while cursor <= end {
            let last = end.min(cursor.saturating_add(SEARCH_BATCH - 1));
            for block in queries::blocks_by_number(node, cursor..=last).await? {
                if let Some(index) = position(&block, prepared.hash) {
                    return Ok(Found::In(block, index));
                }
            }
            // A false head may have the largest number.
            let Some(next) = last.checked_add(1) else { break };
            cursor = next;
        }
        if number >= prepared.last {
            let (birth, last) = (prepared.birth, prepared.last);
            return Ok(Found::Gone(format!(
                "it expired: blocks {} to {last} do not include it",
                birth.saturating_add(1)
            )));
        }
        // A node behind the last searched block does not know the blocks in between.
        if number.saturating_add(1) < from {
            return Ok(Found::NotYet { cursor: from });
        }
        let runtime = self.runtimes.at(node, Some(head.hash)).await?;
        // It may have been signed for a newer runtime that is in the best block only, so compare versions.
        if runtime.spec_version() > prepared.runtime.spec_version() {
            return Ok(Found::Gone("the runtime was upgraded".into()));
        }
        let nonce = queries::funds(node, &runtime, prepared.account, Some(head.hash)).await?.nonce;
        // Only the finalised nonce counts: the best block's may be retracted, with the transaction that used
        // it.
        if nonce > prepared.nonce {
            return Ok(Found::Gone("another transaction of the account took its nonce".into()));
        }
        Ok(Found::NotYet { cursor })
    }

    /// Checks the block that the subscription reported as final.
    async fn find_in(&self, prepared: &Prepared, hash: Hash) -> Option<(Block, u32)> {
        let block = queries::any(&self.pool, |node| async move {
            queries::blocks(&node, &[hash])
                .await?
                .pop()
                .ok_or_else(|| queries::Error::wrong(&node, "no block"))
        })
        .await
        .ok()?;
        let index = position(&block, prepared.hash)?;
        Some((block, index))
    }

    /// Reads the calls' outcome from the block's events. The inner error is a node's.
    async fn outcome(
        &self,
        prepared: &Prepared,
        block: &Block,
        index: u32,
    ) -> Result<Result<BatchOutcome, SubmitError>, queries::Error> {
        let outcome = queries::any(&self.pool, |node| async move {
            // The code in the parent's state wrote the events.
            let runtime = self.runtimes.at(&node, Some(block.header.parent_hash)).await?;
            let events = events(&node, &runtime, block.hash).await?;
            Ok(runtime.batch_outcome(events, index, prepared.calls)?)
        })
        .await?;
        Ok(match outcome {
            ExtrinsicOutcome::Ran { calls, fee } => Ok(BatchOutcome {
                extrinsic: prepared.hash,
                block: block.hash,
                number: ParaNumber(block.header.number),
                calls,
                fee,
            }),
            ExtrinsicOutcome::Failed(error) => Err(SubmitError::Dispatch(error)),
        })
    }
}

fn position(block: &Block, extrinsic: Hash) -> Option<u32> {
    let index = block.extrinsics.iter().position(|bytes| Hash::of(bytes) == extrinsic)?;
    u32::try_from(index).ok()
}

async fn events(node: &Node, runtime: &Runtime, block: Hash) -> Result<Vec<u8>, queries::Error> {
    let key = HexBytes(runtime.item("System", "Events")?.key(&[]));
    let events: Option<HexBytes> = node.request("state_getStorage", (key, block)).await?;
    // Every block has at least the events of its inherents.
    events
        .map(|bytes| bytes.0)
        .ok_or_else(|| queries::Error::wrong(node, format!("block {block} has no events")))
}
