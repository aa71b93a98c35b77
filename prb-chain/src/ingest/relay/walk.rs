//! Requests finality proofs and evaluates the answers.

use prb_core::primitives::{Hash, RelayNumber};

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

/// An answer of `grandpa_proveFinality`, which lacks the header of the requested block.
struct Piece {
    /// Number of the first wanted header.
    number: u32,
    /// That header's hash, if the proof omits it.
    missing: Option<Hash>,
    proof: FinalityProof,
}

/// What an answer proves.
#[derive(Debug, PartialEq, Eq)]
enum Worth {
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
const fn question(tip: u32, ends_set: bool) -> u32 {
    if ends_set { tip + 1 } else { tip }
}

/// Evaluates an answer to that request, apart from its signatures.
fn judge(tip: Tip, ends_set: bool, proof: Option<&FinalityProof>) -> Result<Worth, verify::Error> {
    let nothing = |text: String| Ok(Worth::Nothing(text));
    let asked = question(tip.number.0, ends_set);
    let Some(proof) = proof else { return nothing(format!("it has no proof of block {asked}")) };
    let (justified, _) = grandpa::target(&proof.justification)?;
    if justified <= tip.number.0 {
        return nothing(format!("asked to prove block {asked}, it proved block {justified}"));
    }
    let last = asked + u32::try_from(proof.headers.len()).unwrap_or(u32::MAX - asked);
    if justified > last {
        return nothing(format!("its proof of block {justified} ends with the header of block {last}"));
    }
    // An encoded header starts with its parent's hash.
    let parent = |header: &Vec<u8>| header.get(..32).and_then(|hash| hash.try_into().ok()).map(Hash);
    let missing = match proof.headers.first() {
        _ if !ends_set => None,
        Some(header) => parent(header),
        None => Some(proof.block),
    };
    let ends_set = match proof.headers.last() {
        Some(header) => Checked::new(last, header.clone())?.change.is_some(),
        // Its header, which tells whether it ends the set, has not been fetched yet.
        None => false,
    };
    Ok(Worth::Reaches { last, missing, ends_set })
}

/// Fetches headers by finality proof. One proof covers the headers up to the end of a set, or to the newest
/// justified block: several sets' proofs are requested first, and then the headers that they omit, together.
pub(super) async fn by_finality_proofs(node: &Node, tip: Tip, ends_set: bool) -> Result<Found, Error> {
    let pieces = match walk(node, tip, ends_set).await? {
        (pieces, Some(reason)) if pieces.is_empty() => return Ok(Found::Nothing(reason)),
        (pieces, _) => pieces,
    };
    let missing: Vec<[Hash; 1]> = pieces.iter().filter_map(|piece| Some([piece.missing?])).collect();
    let first: Vec<Option<json::Header>> = node.request_some("chain_getHeader", &missing).await?;
    let mut first = first.into_iter();

    let mut parent = tip.hash;
    let mut proven = Vec::new();
    for Piece { number, missing, proof } in pieces {
        let mut headers = Vec::with_capacity(proof.headers.len() + 1);
        if let Some(hash) = missing {
            let header =
                first.next().flatten().ok_or_else(|| absent(node, format!("header of block {number}")))?;
            headers.push(verify::header(hash, number, header.encode()).map_err(wrong(node))?.encoded);
        }
        headers.extend(proof.headers);
        let headers = verify::chain(parent, number, headers).map_err(wrong(node))?;
        let Some(last) = headers.last() else { break };
        if last.hash != proof.block {
            let (number, expected, actual) = (last.number, proof.block, last.hash);
            return Err(wrong(node)(verify::Error::HeaderHash { number, expected, actual }));
        }
        parent = last.hash;
        proven.push(Proven { headers, justification: proof.justification });
    }
    Ok(Found::Proven(proven))
}

/// Requests proofs from the tip on, each starting where the previous one ends its set; also returns why there
/// are no more, if so.
async fn walk(node: &Node, mut tip: Tip, mut ends_set: bool) -> Result<(Vec<Piece>, Option<String>), Error> {
    let (mut pieces, mut bytes) = (Vec::new(), 0);
    while pieces.len() < SETS_PER_ROUND && bytes < ROUND_BYTES {
        let proof = match prove(node, question(tip.number.0, ends_set)).await {
            Ok(proof) => proof,
            // What is proven already is used; the next round meets the failure again.
            Err(_) if !pieces.is_empty() => break,
            // Whatever the reason of the refusal (not covered, too large, no such method), the node gives no proof.
            Err(Error::Rpc(e @ rpc::Error::Call { .. })) if !e.is_retryable() => {
                return Ok((pieces, Some(e.to_string())));
            }
            Err(e) => return Err(e),
        };
        match judge(tip, ends_set, proof.as_ref()).map_err(wrong(node))? {
            Worth::Nothing(reason) => return Ok((pieces, Some(reason))),
            Worth::Reaches { last, missing, ends_set: ends } => {
                let Some(proof) = proof else { break };
                let number = tip.number.next().0;
                bytes += proof.headers.iter().map(Vec::len).sum::<usize>();
                (tip, ends_set) = (Tip { number: RelayNumber(last), hash: proof.block }, ends);
                pieces.push(Piece { number, missing, proof });
                if !ends_set {
                    break;
                }
            }
        }
    }
    Ok((pieces, None))
}

async fn prove(node: &Node, number: u32) -> Result<Option<FinalityProof>, Error> {
    let proof: Option<json::HexBytes> = node.request_bulk("grandpa_proveFinality", [number]).await?;
    proof.map(|proof| FinalityProof::decode(&proof.0).map_err(wrong(node))).transpose()
}

#[cfg(test)]
#[path = "walk/tests.rs"]
mod tests;
