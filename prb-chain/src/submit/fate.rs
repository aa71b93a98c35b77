//! A sent transaction's way to its end: in a finalised block, or never in one.

use std::sync::Arc;

use futures::future::OptionFuture;
use prb_core::{
    chain::{BatchOutcome, SubmitError, SubmitProgress},
    primitives::{Hash, ParaNumber},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Inner,
    ask::{self, Block},
    prepare::Prepared,
    refusal::{Refusal, Watch},
};
use crate::{
    metadata::{ExtrinsicOutcome, Runtime},
    rpc::{
        Node,
        json::{self, HexBytes},
    },
};

/// Blocks searched in one go.
const SEARCH_BATCH: u32 = 16;
/// How often a transaction is sent again.
const MAX_RESENDS: u32 = 10;

/// What a watch tells (`author_submitAndWatchExtrinsic`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Status {
    Future,
    Ready,
    Broadcast(Vec<String>),
    InBlock(Hash),
    Retracted(Hash),
    FinalityTimeout(Hash),
    Finalized(Hash),
    Usurped(Hash),
    Dropped,
    Invalid,
}

/// What is known of a transaction on its way.
struct Way<'a> {
    prepared: &'a Prepared,
    watch: Option<Watch>,
    /// The next block to search.
    cursor: u32,
    /// What the watch said last, for messages.
    seen: String,
    submitted: bool,
    /// Whether sending it again may help.
    resend: bool,
    resends: u32,
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
        watch: Option<Watch>,
        progress: &mpsc::Sender<SubmitProgress>,
    ) -> Result<BatchOutcome, SubmitError> {
        let now = Instant::now();
        let mut way = Way {
            prepared,
            resend: watch.is_none(),
            ask_at: now + self.patience(watch.is_some()),
            watch,
            cursor: prepared.birth.saturating_add(1),
            seen: "sent".into(),
            submitted: false,
            resends: 0,
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
                    Heeded::Finalised(block) => self.find_in(&way, block).await,
                    Heeded::Lost => self.look(&way).await,
                },
                None => self.look(&way).await,
            };
            if let Some(result) = self.judge(&mut way, look).await {
                return result;
            }
            if way.watch.is_none() && way.resend && way.resends < MAX_RESENDS {
                self.resend(&mut way).await;
                if way.watch.is_some() {
                    way.submitted(progress);
                }
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

    /// Searches the finalised blocks that can hold the transaction and were not searched yet.
    async fn look(&self, way: &Way<'_>) -> Result<Look, ask::Error> {
        let (prepared, cursor) = (way.prepared, way.cursor);
        ask::any(&self.pool, |node| async move { self.look_with(&node, prepared, cursor).await }).await
    }

    async fn look_with(&self, node: &Node, prepared: &Prepared, from: u32) -> Result<Look, ask::Error> {
        let head = ask::finalised_head(node).await?;
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
    async fn find_in(&self, way: &Way<'_>, hash: Hash) -> Result<Look, ask::Error> {
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
            ExtrinsicOutcome::Ran(calls) => Ok(BatchOutcome {
                extrinsic: prepared.hash,
                block: block.hash,
                number: ParaNumber(block.header.number),
                calls,
            }),
            ExtrinsicOutcome::Failed(error) => Err(SubmitError::Dispatch(error)),
        })
    }

    /// Sends the same transaction again, to the first node that answers.
    async fn resend(&self, way: &mut Way<'_>) {
        let node: Arc<Node> = self.pool.pick();
        match self.submit_to(&node, way.prepared).await {
            Ok(Some(watch)) => {
                tracing::info!(node = %node.name(), extrinsic = %way.prepared.hash, "sent the transaction again");
                (way.watch, way.resend) = (Some(watch), false);
                way.resends += 1;
            }
            // It is known there, or the node is away.
            Ok(None) => {}
            // Probably it is in a block already: the search tells.
            Err(refusal) => {
                tracing::debug!(node = %node.name(), ?refusal, "node does not take the transaction again");
                way.resends += 1;
                way.resend = !matches!(refusal, Refusal::MovedOn { .. });
            }
        }
    }
}

enum Heeded {
    Nothing,
    Finalised(Hash),
    Lost,
}

impl Way<'_> {
    fn submitted(&mut self, progress: &mpsc::Sender<SubmitProgress>) {
        if !self.submitted {
            self.submitted = true;
            // A full channel loses progress, by contract.
            let _ = progress.try_send(SubmitProgress::Submitted { extrinsic: self.prepared.hash });
        }
    }

    fn heed(
        &mut self,
        status: Option<Result<Box<RawValue>, serde_json::Error>>,
        progress: &mpsc::Sender<SubmitProgress>,
    ) -> Heeded {
        let status = status.and_then(Result::ok).and_then(|raw| json::parse::<Status>(raw.get()).ok());
        let Some(status) = status else {
            self.seen = format!("{}, then the watch was lost", self.seen);
            (self.watch, self.resend) = (None, true);
            return Heeded::Lost;
        };
        self.answered = Instant::now();
        self.seen = status.name().into();
        match status {
            Status::Future | Status::Ready | Status::Broadcast(_) | Status::Retracted(_) => Heeded::Nothing,
            Status::InBlock(block) => {
                let _ = progress.try_send(SubmitProgress::InBlock { block });
                Heeded::Nothing
            }
            Status::Finalized(block) => {
                self.watch = None;
                Heeded::Finalised(block)
            }
            // The pool has forgotten it, a block may hold it all the same.
            Status::FinalityTimeout(_) | Status::Usurped(_) | Status::Dropped | Status::Invalid => {
                self.watch = None;
                Heeded::Lost
            }
        }
    }
}

impl Status {
    const fn name(&self) -> &'static str {
        match self {
            Self::Future => "future",
            Self::Ready => "ready",
            Self::Broadcast(_) => "broadcast",
            Self::InBlock(_) => "in a block",
            Self::Retracted(_) => "retracted",
            Self::FinalityTimeout(_) => "not final in time",
            Self::Finalized(_) => "final",
            Self::Usurped(_) => "usurped",
            Self::Dropped => "dropped",
            Self::Invalid => "invalid",
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn statuses_are_read_as_nodes_write_them() {
        let hash = Hash([0xab; 32]);
        for (json, status) in [
            (r#""ready""#.to_owned(), Status::Ready),
            (r#"{"broadcast":["peer"]}"#.to_owned(), Status::Broadcast(vec!["peer".into()])),
            (format!(r#"{{"inBlock":"{hash}"}}"#), Status::InBlock(hash)),
            (format!(r#"{{"finalized":"{hash}"}}"#), Status::Finalized(hash)),
            (format!(r#"{{"finalityTimeout":"{hash}"}}"#), Status::FinalityTimeout(hash)),
            (r#""dropped""#.to_owned(), Status::Dropped),
            (r#""invalid""#.to_owned(), Status::Invalid),
        ] {
            assert_eq!(json::parse::<Status>(&json).unwrap(), status, "{json}");
        }
    }
}
