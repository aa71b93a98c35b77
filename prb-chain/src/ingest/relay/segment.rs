//! Fetches relay blocks from one node, from any block up to the end of an authority set.

use std::{sync::Arc, time::Duration};

use prb_core::primitives::{Hash, RelayNumber};
use tokio::time::Instant;

use super::{
    Proven, Tip, proofs_of, prove_state,
    walk::{self, SetEnd, Walked},
};
use crate::{ingest::Error, rpc::Node};

/// Blocks to request of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The block before the requested ones, or a block in the set before them; see [`Starts`].
    pub(super) from: u32,
    pub(super) starts: Starts,
    /// The last requested block; the answer may reach further.
    pub(super) to: u32,
}

/// Where a span starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starts {
    /// After `from`, which may be the last block of its set.
    After { ends_set: bool },
    /// After the last block of the set that `from` belongs to: the blocks up to there are part of another span.
    AfterItsSet,
}

/// Consecutive blocks, in pieces with the read proof at each one's end. They are linked by their hashes; nothing else
/// has been checked.
pub(super) struct Segment {
    /// Number of the first block.
    pub(super) first: u32,
    /// Hash of the block before it, according to the first header.
    pub(super) parent: Hash,
    pub(super) pieces: Vec<(Proven, Vec<Vec<u8>>)>,
    /// The last block.
    pub(super) last: Tip,
    /// Whether it ends its set; otherwise it is the newest justified block.
    pub(super) ends_set: bool,
}

impl Segment {
    pub(super) fn bytes(&self) -> usize {
        let of = |(piece, proof): &(Proven, Vec<Vec<u8>>)| {
            let headers: usize = piece.headers.iter().map(|header| header.encoded.len()).sum();
            headers + piece.justification.len() + proof.iter().map(Vec::len).sum::<usize>()
        };
        self.pieces.iter().map(of).sum()
    }

    /// Number of blocks in the longest piece, which is about an authority set.
    pub(super) fn longest(&self) -> usize {
        self.pieces.iter().map(|(piece, _)| piece.headers.len()).max().unwrap_or_default()
    }
}

/// A node's answer for a span.
pub(super) enum Outcome {
    Blocks(Segment),
    /// It has nothing, with the reason.
    Nothing(String),
    /// The span is part of the one before it.
    Covered,
}

async fn fetch(
    node: &Node,
    para_id: u32,
    proves_state_of: Option<Hash>,
    span: Span,
) -> Result<Outcome, Error> {
    if let Some(block) = proves_state_of {
        prove_state(node, block, para_id).await?;
    }
    let (from, ends_set) = match span.starts {
        Starts::After { ends_set } => (span.from, ends_set),
        Starts::AfterItsSet => match walk::set_end(node, span.from).await? {
            SetEnd::At(end) if end >= span.to => return Ok(Outcome::Covered),
            SetEnd::At(end) => (end, true),
            SetEnd::Open => return Ok(Outcome::Covered),
            SetEnd::Nothing(reason) => return Ok(Outcome::Nothing(reason)),
        },
    };
    let Walked { pieces, ends_set, reason } = walk::walk(node, RelayNumber(from), ends_set, span.to).await?;
    if pieces.is_empty() {
        return Ok(Outcome::Nothing(reason.unwrap_or_default()));
    }
    // Without the parent: it belongs to a span that another node may still be fetching.
    let proven = walk::complete(node, None, pieces).await?;
    let proofs = proofs_of(node, para_id, &proven).await?;
    let (first, last) = match (proven.first(), proven.last()) {
        (Some(first), Some(last)) => (first.headers.first().cloned(), last.headers.last()),
        _ => (None, None),
    };
    let (Some(first), Some(last)) = (first, last) else { return Ok(Outcome::Nothing(String::new())) };
    let last = Tip { number: RelayNumber(last.number), hash: last.hash };
    let (first, parent) = (first.number, first.parent());
    Ok(Outcome::Blocks(Segment {
        first,
        parent,
        pieces: proven.into_iter().zip(proofs).collect(),
        last,
        ends_set,
    }))
}

/// A span's outcome.
pub(super) struct Answer {
    pub(super) node: Arc<Node>,
    pub(super) span: Span,
    pub(super) took: Duration,
    pub(super) result: Result<Outcome, Error>,
}

/// Fetches a span from a node; first checks that the node has the state of the block `proves_state_of`, if given.
pub(super) async fn answer(
    node: Arc<Node>,
    para_id: u32,
    proves_state_of: Option<Hash>,
    span: Span,
) -> Answer {
    let start = Instant::now();
    let result = fetch(&node, para_id, proves_state_of, span).await;
    Answer { node, span, took: start.elapsed(), result }
}
