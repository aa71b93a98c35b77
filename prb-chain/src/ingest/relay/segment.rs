//! Relay blocks from one node: from somewhere in the chain up to the end of an authority set.

use std::{sync::Arc, time::Duration};

use prb_core::primitives::{Hash, RelayNumber};
use tokio::time::Instant;

use super::{
    Proven, Tip, proofs_of, prove_state,
    walk::{self, SetEnd, Walked},
};
use crate::{ingest::Error, rpc::Node};

/// Blocks to ask a node for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The block that is before the wanted ones, or whose set's last block is.
    pub(super) from: u32,
    pub(super) starts: Starts,
    /// A block up to which, at least.
    pub(super) to: u32,
}

/// What is known of the block that a span starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Starts {
    /// The wanted blocks follow it; it may be its set's last one.
    After { ends_set: bool },
    /// The wanted blocks follow the last one of its set: somebody else is asked for those up to there.
    AfterItsSet,
}

/// Blocks in sequence, each piece with what proves the parachain's head at its end. Of their own they are linked by
/// their hashes, and nothing else is checked.
pub(super) struct Segment {
    /// Number of the first block.
    pub(super) first: u32,
    /// Hash of the block before it, as the first header says.
    pub(super) parent: Hash,
    pub(super) pieces: Vec<(Proven, Vec<Vec<u8>>)>,
    /// The last block.
    pub(super) last: Tip,
    /// Whether it ends its set: else it is the newest one that is justified.
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

    /// Blocks of the longest piece: about an authority set.
    pub(super) fn longest(&self) -> usize {
        self.pieces.iter().map(|(piece, _)| piece.headers.len()).max().unwrap_or_default()
    }
}

/// What a node gives for a span.
pub(super) enum Given {
    Blocks(Segment),
    /// Nothing, and why.
    Nothing(String),
    /// Whoever is asked for the blocks before has these too.
    Covered,
}

async fn ask(node: &Node, para_id: u32, proves_state_of: Option<Hash>, span: Span) -> Result<Given, Error> {
    if let Some(block) = proves_state_of {
        prove_state(node, block, para_id).await?;
    }
    let (from, ends_set) = match span.starts {
        Starts::After { ends_set } => (span.from, ends_set),
        Starts::AfterItsSet => match walk::set_end(node, span.from).await? {
            SetEnd::At(end) if end >= span.to => return Ok(Given::Covered),
            SetEnd::At(end) => (end, true),
            SetEnd::Open => return Ok(Given::Covered),
            SetEnd::Nothing(reason) => return Ok(Given::Nothing(reason)),
        },
    };
    let Walked { pieces, ends_set, reason } = walk::walk(node, RelayNumber(from), ends_set, span.to).await?;
    if pieces.is_empty() {
        return Ok(Given::Nothing(reason.unwrap_or_default()));
    }
    let proven = walk::complete(node, None, pieces).await?;
    let proofs = proofs_of(node, para_id, &proven).await?;
    let (first, last) = match (proven.first(), proven.last()) {
        (Some(first), Some(last)) => (first.headers.first().cloned(), last.headers.last()),
        _ => (None, None),
    };
    let (Some(first), Some(last)) = (first, last) else { return Ok(Given::Nothing(String::new())) };
    let last = Tip { number: RelayNumber(last.number), hash: last.hash };
    let (first, parent) = (first.number, first.parent());
    Ok(Given::Blocks(Segment {
        first,
        parent,
        pieces: proven.into_iter().zip(proofs).collect(),
        last,
        ends_set,
    }))
}

/// What became of a question.
pub(super) struct Answer {
    pub(super) node: Arc<Node>,
    pub(super) span: Span,
    pub(super) took: Duration,
    pub(super) result: Result<Given, Error>,
}

/// Asks a node for a span, and before that, where a block is given, whether it has that block's state.
pub(super) async fn answer(
    node: Arc<Node>,
    para_id: u32,
    proves_state_of: Option<Hash>,
    span: Span,
) -> Answer {
    let start = Instant::now();
    let result = ask(&node, para_id, proves_state_of, span).await;
    Answer { node, span, took: start.elapsed(), result }
}
