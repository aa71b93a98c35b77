//! A sent transaction's way to its end: in a finalised block, or never in one.

use std::{sync::Arc, time::Duration};

use futures::future::OptionFuture;
use prb_core::{
    chain::{BatchOutcome, SubmitError, SubmitProgress},
    primitives::{Hash, ParaNumber},
    signer::Signer,
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Inner,
    ask::{self, Block, Head},
    prepare::Prepared,
    refusal::Watch,
};
use crate::{
    metadata::{ExtrinsicOutcome, Runtime},
    rpc::{Node, json::HexBytes},
};

mod heed;

use heed::Heeded;

/// Blocks searched in one go.
const SEARCH_BATCH: u32 = 16;
/// The pause before a transaction is sent again doubles up to so many times [`Config::poll_interval`].
///
/// [`Config::poll_interval`]: super::Config::poll_interval
const MAX_RESEND_PAUSE: u32 = 16;

/// What is known of a transaction on its way.
pub(super) struct Way<'a> {
    pub(super) prepared: &'a Prepared,
    /// What signed it.
    pub(super) signer: &'a Arc<dyn Signer>,
    watch: Option<Watch>,
    /// The next block to search.
    cursor: u32,
    /// What the watch said last, for messages.
    seen: String,
    submitted: bool,
    /// The watch saw it in a block that keeps its place, as far as is known.
    in_block: bool,
    /// The node keeps it for later: it waits for a nonce before its own.
    pub(super) future: bool,
    /// It is sent again from then on, while it is in no block.
    resend_at: Instant,
    resend_pause: Duration,
    resends: usize,
    /// Since when one node says that no block can hold it while others have not come so far.
    gone_since: Option<Instant>,
    ask_at: Instant,
    /// When a node last told anything.
    answered: Instant,
    started: Instant,
}

/// What one look at the finalised chain showed.
enum Look {
    Found(Block, u32),
    /// It cannot get into a block any more.
    Gone(String),
    /// Not in the blocks below this one.
    NotYet {
        cursor: u32,
    },
}

impl Inner {
    /// Follows a transaction until it is final, lost, or nodes have been away for too long.
    pub(super) async fn follow(
        &self,
        prepared: &Prepared,
        signer: &Arc<dyn Signer>,
        watch: Option<Watch>,
        progress: &mpsc::Sender<SubmitProgress>,
    ) -> Result<BatchOutcome, SubmitError> {
        let now = Instant::now();
        let mut way = Way {
            prepared,
            signer,
            in_block: false,
            future: false,
            resend_at: now,
            resend_pause: self.config.poll_interval,
            resends: 0,
            gone_since: None,
            ask_at: now + self.patience(watch.is_some()),
            watch,
            cursor: prepared.birth.saturating_add(1),
            seen: "sent".into(),
            submitted: false,
            answered: now,
            started: now,
        };
        if way.watch.is_some() {
            way.submitted(progress);
        }
        loop {
            let next = OptionFuture::from(way.watch.as_mut().map(Watch::next));
            let ask_at = way.ask_at;
            let status = tokio::select! {
                Some(status) = next => Some(status),
                () = tokio::time::sleep_until(ask_at) => None,
            };
            let look = match status {
                Some(status) => match way.heed(status, progress) {
                    Heeded::Nothing => {
                        way.ask_at = Instant::now() + self.patience(way.watch.is_some());
                        continue;
                    }
                    Heeded::Finalised(block) => self.find_in(&mut way, block).await,
                    Heeded::Lost => self.look(&mut way).await,
                },
                None => self.look(&mut way).await,
            };
            if let Some(result) = self.judge(&mut way, look).await {
                return result;
            }
            if !way.in_block && way.resend_at <= Instant::now() {
                if way.future {
                    self.fill_gap(&way).await;
                }
                self.resend(&mut way, progress).await;
            }
            way.ask_at = Instant::now() + self.patience(way.watch.is_some());
        }
    }

    const fn patience(&self, watched: bool) -> std::time::Duration {
        if watched { self.config.watch_patience } else { self.config.poll_interval }
    }

    /// Draws the conclusions from a look at the chain; `None` goes on.
    async fn judge(
        &self,
        way: &mut Way<'_>,
        look: Result<Look, ask::Error>,
    ) -> Option<Result<BatchOutcome, SubmitError>> {
        let error = match look {
            Ok(Look::Found(block, index)) => match self.outcome(way.prepared, &block, index).await {
                Ok(result) => {
                    let next = way.prepared.nonce + 1;
                    self.remember(way.prepared.account, |known| known.next_nonce = next);
                    // Effects are not asked of a state that does not show the block.
                    self.finalised.raise(None, block.header.number);
                    return Some(result);
                }
                Err(e) => {
                    way.cursor = block.header.number;
                    e
                }
            },
            Ok(Look::Gone(why)) => {
                self.remember(way.prepared.account, |known| known.next_nonce = 0);
                return Some(Err(SubmitError::Lost { reason: format!("{why} (last seen: {})", way.seen) }));
            }
            Ok(Look::NotYet { cursor }) => {
                (way.cursor, way.answered) = (cursor, Instant::now());
                return None;
            }
            Err(e) => e,
        };
        tracing::debug!(extrinsic = %way.prepared.hash, %error, "cannot learn the transaction's fate yet");
        (way.answered.elapsed() >= self.config.unknown_after).then(|| {
            let reason = format!("{error} (last seen: {})", way.seen);
            Err(SubmitError::Unknown { waited: way.started.elapsed(), reason })
        })
    }

    /// Searches the finalised blocks that can hold the transaction and were not searched yet. That no block
    /// can hold it is believed once all nodes that answer say so, or those that do not have had time to come
    /// as far as the others.
    async fn look(&self, way: &mut Way<'_>) -> Result<Look, ask::Error> {
        let (mut gone, mut not_yet, mut last) = (None, None, None);
        for (node, head) in ask::heads(&self.pool).await? {
            match self.look_with(&node, &head, way.prepared, way.cursor).await {
                Ok(Look::Found(block, index)) => return Ok(Look::Found(block, index)),
                Ok(Look::Gone(why)) => drop(gone.get_or_insert(why)),
                Ok(Look::NotYet { cursor }) => {
                    not_yet = not_yet.max(Some(cursor));
                    // Others are not further.
                    if gone.is_none() {
                        break;
                    }
                }
                Err(e) => last = Some(e),
            }
        }
        match (gone, not_yet, last) {
            (Some(why), None, _) => Ok(Look::Gone(why)),
            (Some(why), Some(_), _) => {
                let since = *way.gone_since.get_or_insert_with(Instant::now);
                let over = since.elapsed() >= self.config.watch_patience;
                Ok(if over { Look::Gone(why) } else { Look::NotYet { cursor: way.cursor } })
            }
            (None, Some(cursor), _) => Ok(Look::NotYet { cursor }),
            (None, None, Some(e)) => Err(e),
            (None, None, None) => Ok(Look::NotYet { cursor: way.cursor }),
        }
    }

    async fn look_with(
        &self,
        node: &Node,
        head: &Head,
        prepared: &Prepared,
        from: u32,
    ) -> Result<Look, ask::Error> {
        let number = head.header.number;
        let end = number.min(prepared.last);
        let mut cursor = from;
        while cursor <= end {
            let last = end.min(cursor + (SEARCH_BATCH - 1));
            for block in ask::blocks_by_number(node, cursor..=last).await? {
                if let Some(index) = position(&block, prepared.hash) {
                    return Ok(Look::Found(block, index));
                }
            }
            cursor = last + 1;
        }
        if number >= prepared.last {
            let (birth, last) = (prepared.birth, prepared.last);
            return Ok(Look::Gone(format!("it expired: blocks {} to {last} do not hold it", birth + 1)));
        }
        // A node behind the last one searched tells nothing about the blocks in between.
        if number + 1 < from {
            return Ok(Look::NotYet { cursor: from });
        }
        let runtime = self.runtimes.at(node, Some(head.hash)).await?;
        // It may have been signed for a runtime that is in the best block only: that is a later one.
        if runtime.spec_version() > prepared.runtime.spec_version() {
            return Ok(Look::Gone("the runtime was upgraded".into()));
        }
        let nonce = ask::funds(node, &runtime, prepared.account, Some(head.hash)).await?.nonce;
        if nonce > prepared.nonce {
            return Ok(Look::Gone("another transaction of the account took its nonce".into()));
        }
        Ok(Look::NotYet { cursor })
    }

    /// Looks into the block that a watch called final, and into all of them if it is not there.
    async fn find_in(&self, way: &mut Way<'_>, hash: Hash) -> Result<Look, ask::Error> {
        let wanted = way.prepared.hash;
        let block = ask::any(&self.pool, |node| async move {
            ask::blocks(&node, &[hash]).await?.pop().ok_or_else(|| ask::Error::wrong(&node, "no block"))
        })
        .await;
        if let Ok(block) = block
            && let Some(index) = position(&block, wanted)
        {
            return Ok(Look::Found(block, index));
        }
        self.look(way).await
    }

    /// Reads what became of the calls from the block's events. The inner error is a node's.
    async fn outcome(
        &self,
        prepared: &Prepared,
        block: &Block,
        index: u32,
    ) -> Result<Result<BatchOutcome, SubmitError>, ask::Error> {
        let outcome = ask::any(&self.pool, |node| async move {
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

    /// Sends the same transaction again: to the node that is asked first, or to the next one where a node has
    /// it and is silent.
    async fn resend(&self, way: &mut Way<'_>, progress: &mpsc::Sender<SubmitProgress>) {
        let nodes = self.pool.trusted();
        let place = way.resends + usize::from(way.watch.is_some());
        let Some(node) = nodes.get(place % nodes.len().max(1)) else { return };
        way.resends += 1;
        way.resend_at = Instant::now() + way.resend_pause;
        let longest = self.config.poll_interval.saturating_mul(MAX_RESEND_PAUSE);
        way.resend_pause = way.resend_pause.saturating_mul(2).min(longest);
        match self.submit_to(node, way.prepared).await {
            Ok(Some(watch)) => {
                tracing::info!(node = %node.name(), extrinsic = %way.prepared.hash, "sent the transaction again");
                way.watch = Some(watch);
                way.future = false;
                way.submitted(progress);
            }
            // It is known there, or the node is away.
            Ok(None) => {}
            // Perhaps it is in a block already: the search tells.
            Err(refusal) => {
                tracing::debug!(node = %node.name(), ?refusal, "node does not take the transaction again");
            }
        }
    }
}

fn position(block: &Block, extrinsic: Hash) -> Option<u32> {
    let index = block.extrinsics.iter().position(|bytes| Hash::of(bytes) == extrinsic)?;
    u32::try_from(index).ok()
}

async fn events(node: &Node, runtime: &Runtime, block: Hash) -> Result<Vec<u8>, ask::Error> {
    let key = HexBytes(runtime.item("System", "Events")?.key(&[]));
    let events: Option<HexBytes> = node.request("state_getStorage", (key, block)).await?;
    // Every block has the events of its inherents at least.
    events.map(|bytes| bytes.0).ok_or_else(|| ask::Error::wrong(node, format!("block {block} has no events")))
}
