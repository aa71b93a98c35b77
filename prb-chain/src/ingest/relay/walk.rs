//! Requests finality proofs and evaluates the answers.

use prb_core::{
    primitives::{Hash, RelayNumber},
    text::describe,
};

use super::{Proven, Tip, absent, wrong};
use crate::{
    ingest::Error,
    rpc::{self, Node, json},
    verify::{self, Checked, FinalityProof, grandpa},
};

/// Authority sets that are walked through before the missing headers of all of them are fetched together.
const SETS_PER_ROUND: usize = 16;
/// Header bytes after which no further set is added to a round.
const ROUND_BYTES: usize = 8 * 1024 * 1024;

/// The result of a node's proofs.
pub(super) enum Found {
    Proven(Vec<Proven>),
    /// Nothing beyond the tip, with the reason.
    Nothing(String),
}

/// The end of a block's authority set, according to a node.
pub(super) enum SetEnd {
    At(u32),
    /// It has not ended.
    Open,
    /// The node has no answer, with the reason.
    Nothing(String),
}

/// Proofs in sequence.
pub(super) struct Walked {
    pub(super) pieces: Vec<Piece>,
    /// Whether the last one ends a set.
    pub(super) ends_set: bool,
    /// Why there are no more, if the node has no more.
    pub(super) reason: Option<String>,
}

/// An answer to `grandpa_proveFinality`, which omits the header of the requested block.
pub(super) struct Piece {
    /// Number of the first header that is wanted.
    number: u32,
    /// That header's hash, if the proof omits it.
    missing: Option<Hash>,
    proof: FinalityProof,
}

/// What an answer proves.
#[derive(Debug, PartialEq, Eq)]
enum Evaluated {
    /// It reaches a justified block beyond the tip.
    Reaches {
        last: u32,
        /// Hash of the first wanted header, if the proof omits it.
        missing: Option<Hash>,
        /// Whether the justified block ends its set, if its header is known.
        ends_set: bool,
    },
    Nothing(String),
}

/// The block to request a proof of: the tip, or the block after it if the tip ends its set. For the last
/// block of a set, a node returns that block's own justification.
const fn requested_block(tip: u32, ends_set: bool) -> u32 {
    if ends_set { tip + 1 } else { tip }
}

/// Evaluates an answer to that request, without its signatures.
fn evaluate(
    tip: RelayNumber,
    ends_set: bool,
    proof: Option<&FinalityProof>,
) -> Result<Evaluated, verify::Error> {
    let nothing = |text: String| Ok(Evaluated::Nothing(text));
    let requested = requested_block(tip.0, ends_set);
    let Some(proof) = proof else { return nothing(format!("it has no proof of block {requested}")) };
    let (justified, _) = grandpa::target(&proof.justification)?;
    // In the current set a node answers its best justification, which may be older than the block.
    if justified <= tip.0 {
        return nothing(format!(
            "asked for a proof of block {requested}, it returned one of block {justified}"
        ));
    }
    let last = requested + u32::try_from(proof.headers.len()).unwrap_or(u32::MAX - requested);
    // Nodes cut off the headers of a long proof, at 100,000.
    if justified > last {
        return nothing(format!("its proof of block {justified} ends with the header of block {last}"));
    }
    let missing = match proof.headers.first() {
        _ if !ends_set => None,
        Some(header) => parent_of(header),
        None => Some(proof.block),
    };
    let ends_set = match proof.headers.last() {
        Some(header) => Checked::new(last, header.clone())?.change.is_some(),
        // Its header, which shows whether it ends the set, has not been fetched yet.
        None => false,
    };
    Ok(Evaluated::Reaches { last, missing, ends_set })
}

/// Fetches headers by finality proof. One proof covers the headers up to the end of a set, or to the newest
/// justified block: several sets' proofs are requested first, and then the headers that they omit, together.
pub(super) async fn by_finality_proofs(node: &Node, tip: Tip, ends_set: bool) -> Result<Found, Error> {
    match walk(node, tip.number, ends_set, u32::MAX).await? {
        Walked { pieces, reason: Some(reason), .. } if pieces.is_empty() => Ok(Found::Nothing(reason)),
        Walked { pieces, .. } => complete(node, Some(tip.hash), pieces).await.map(Found::Proven),
    }
}

/// Adds the headers that the proofs leave out, and checks that all follow one another: on `parent`, or on whatever the
/// first one says that it follows.
pub(super) async fn complete(
    node: &Node,
    parent: Option<Hash>,
    pieces: Vec<Piece>,
) -> Result<Vec<Proven>, Error> {
    let missing: Vec<[Hash; 1]> = pieces.iter().filter_map(|piece| Some([piece.missing?])).collect();
    let first: Vec<Option<json::Header>> = node.request_some("chain_getHeader", &missing).await?;
    let mut first = first.into_iter();
    let mut whole = Vec::with_capacity(pieces.len());
    for Piece { number, missing, mut proof } in pieces {
        if let Some(hash) = missing {
            let header =
                first.next().flatten().ok_or_else(|| absent(node, format!("header of block {number}")))?;
            let header = verify::header(hash, number, header.encode()).map_err(wrong(node))?;
            proof.headers.insert(0, header.encoded);
        }
        whole.push((number, proof));
    }
    // Thousands of headers: other tasks of this thread should not wait for them.
    let linked = tokio::task::spawn_blocking(move || link(parent, whole)).await?;
    linked.map_err(wrong(node))
}

fn link(mut parent: Option<Hash>, pieces: Vec<(u32, FinalityProof)>) -> Result<Vec<Proven>, verify::Error> {
    let mut proven = Vec::with_capacity(pieces.len());
    for (number, FinalityProof { block, justification, headers }) in pieces {
        let before =
            parent.or_else(|| headers.first().and_then(|header| parent_of(header))).unwrap_or_default();
        let headers = verify::chain(before, number, headers)?;
        let Some(last) = headers.last() else { break };
        if last.hash != block {
            let (number, expected, actual) = (last.number, block, last.hash);
            return Err(verify::Error::HeaderHash { number, expected, actual });
        }
        parent = Some(last.hash);
        proven.push(Proven { headers, justification });
    }
    Ok(proven)
}

/// A header starts with its parent's hash.
fn parent_of(header: &[u8]) -> Option<Hash> {
    header.get(..32).and_then(|hash| hash.try_into().ok()).map(Hash)
}

/// Proofs from the tip on, each starting where the one before ends its set, until one reaches the block `to`.
pub(super) async fn walk(
    node: &Node,
    mut tip: RelayNumber,
    mut ends_set: bool,
    to: u32,
) -> Result<Walked, Error> {
    let (mut pieces, mut bytes) = (Vec::new(), 0);
    while tip.0 < to && pieces.len() < SETS_PER_ROUND && bytes < ROUND_BYTES {
        let proof = match prove(node, requested_block(tip.0, ends_set)).await {
            Ok(proof) => proof,
            // What is proven already is used; the next round fails again if the node does.
            Err(_) if !pieces.is_empty() => break,
            // Whatever the reason of the refusal (not covered, too large, no such method), the node gives no proof.
            Err(Error::Rpc(e @ rpc::Error::Call { .. })) if !e.is_retryable() => {
                return Ok(Walked { pieces, ends_set, reason: Some(describe(&e)) });
            }
            Err(e) => return Err(e),
        };
        match evaluate(tip, ends_set, proof.as_ref()).map_err(wrong(node))? {
            Evaluated::Nothing(reason) => return Ok(Walked { pieces, ends_set, reason: Some(reason) }),
            Evaluated::Reaches { last, missing, ends_set: ends } => {
                let Some(proof) = proof else { break };
                let number = tip.next().0;
                bytes += proof.headers.iter().map(Vec::len).sum::<usize>();
                (tip, ends_set) = (RelayNumber(last), ends);
                pieces.push(Piece { number, missing, proof });
                // The next proof is requested for the block after the end of a set.
                if !ends_set {
                    break;
                }
            }
        }
    }
    Ok(Walked { pieces, ends_set, reason: None })
}

/// Finds the end of a block's set.
pub(super) async fn set_end(node: &Node, number: u32) -> Result<SetEnd, Error> {
    let proof = match prove(node, number).await {
        Ok(proof) => proof,
        Err(Error::Rpc(e @ rpc::Error::Call { .. })) if !e.is_retryable() => {
            return Ok(SetEnd::Nothing(describe(&e)));
        }
        Err(e) => return Err(e),
    };
    // Asked for the last block of a set, a node answers with that block's own justification.
    if let Some(proof) = &proof
        && grandpa::target(&proof.justification).map_err(wrong(node))?.0 == number
    {
        return Ok(SetEnd::At(number));
    }
    Ok(match evaluate(RelayNumber(number), false, proof.as_ref()).map_err(wrong(node))? {
        Evaluated::Reaches { last, ends_set: true, .. } => SetEnd::At(last),
        Evaluated::Reaches { .. } => SetEnd::Open,
        Evaluated::Nothing(reason) => SetEnd::Nothing(reason),
    })
}

async fn prove(node: &Node, number: u32) -> Result<Option<FinalityProof>, Error> {
    let proof: Option<json::HexBytes> = node.request_bulk("grandpa_proveFinality", [number]).await?;
    proof.map(|proof| FinalityProof::decode(&proof.0).map_err(wrong(node))).transpose()
}

#[cfg(test)]
#[path = "walk/tests.rs"]
mod tests;
