//! Fetches storage changes that a worker refused again from all nodes, and replaces what was wrong.

use std::sync::Arc;

use codec::DecodeAll;
use prb_core::{
    blob::Span,
    primitives::{Hash, ParaNumber},
    wire,
};

use super::{Error, absent, changes, write};
use crate::{
    rpc::{Node, NodePool, json},
    store::{self, Store},
    verify::{Checked, state},
};

/// Blocks in one request.
pub(super) const PER_CALL: u32 = 100;
/// Keys in one read proof.
const KEYS_PER_PROOF: usize = 500;

/// The result of a recheck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecheckOutcome {
    /// Number of nodes that answered.
    pub nodes: usize,
    /// Blocks whose stored changes were replaced.
    pub replaced: Vec<ParaNumber>,
}

/// Fetches the changes of some blocks again, from every node of the pool, and replaces stored ones that are
/// wrong.
///
/// If nodes and store differ, the values that each answer claims are read by proof under the block's state
/// root, which exposes wrong keys and values. (It does not expose an omitted change: of the proven answers,
/// the one with most changes is used.) Nodes that gave other changes are demoted. If no node has the state
/// any more, the most frequent answer is used, and among equally frequent ones not the suspect's; nodes that
/// gave other changes are deferred for a while.
///
/// [`Suspects`](super::Suspects) triggers this when a worker answers `StateRootMismatch`.
///
/// # Errors
/// No node answers, or the store fails.
pub async fn recheck(
    para: &NodePool,
    store: &Arc<Store>,
    blocks: Span<ParaNumber>,
) -> Result<RecheckOutcome, Error> {
    let mut outcome = RecheckOutcome { nodes: 0, replaced: Vec::new() };
    let mut first = blocks.first;
    while first <= blocks.last {
        let last = ParaNumber(blocks.last.0.min(first.0.saturating_add(PER_CALL - 1)));
        let chunk = recheck_chunk(para, store, Span { first, last }).await?;
        outcome.nodes = outcome.nodes.max(chunk.nodes);
        outcome.replaced.extend(chunk.replaced);
        first = last.next();
    }
    Ok(outcome)
}

/// A node and its answer for each block of a chunk.
type Answer = (Arc<Node>, Vec<Vec<u8>>);

async fn recheck_chunk(
    para: &NodePool,
    store: &Arc<Store>,
    blocks: Span<ParaNumber>,
) -> Result<RecheckOutcome, Error> {
    let (mut answers, mut failure) = (Vec::new(), None);
    // Demoted nodes, too: what they answer is compared by proof where possible, and one of them may be the only
    // node with the state.
    for node in para.candidates() {
        match changes::fetch_from(&node, store, blocks.first.0, blocks.last.0).await {
            Ok(changes) => answers.push((node, changes)),
            Err(e) => failure = Some(e),
        }
    }
    if answers.is_empty() {
        return Err(failure.unwrap_or_else(|| absent(&para.pick(), "storage changes")));
    }
    let mut replaced = Vec::new();
    for number in (blocks.first.0..=blocks.last.0).map(ParaNumber) {
        let stored = write(store, move |store| store.changes(number)).await?;
        let at = (number.0 - blocks.first.0) as usize;
        if answers.iter().all(|(_, changes)| changes[at] == stored) {
            continue;
        }
        let Decision { right, is_proven } = decide(store, &answers, at, number, &stored).await?;
        for (node, _) in answers.iter().filter(|(_, changes)| changes[at] != right) {
            if is_proven {
                node.demote(&format!("its storage changes of block {number} are wrong"));
            } else {
                node.defer(&format!("it is the only node with its storage changes of block {number}"));
            }
        }
        if right != stored {
            tracing::warn!(block = number.0, "stored storage changes were wrong and have been replaced");
            write(store, move |store| store.replace_changes(number, &[right])).await?;
            replaced.push(number);
        }
    }
    Ok(RecheckOutcome { nodes: answers.len(), replaced })
}

/// The correct answer.
struct Decision {
    right: Vec<u8>,
    /// Whether it is proven, rather than chosen by majority.
    is_proven: bool,
}

async fn decide(
    store: &Arc<Store>,
    answers: &[Answer],
    at: usize,
    number: ParaNumber,
    stored: &Vec<u8>,
) -> Result<Decision, Error> {
    let header = write(store, move |store| {
        let header = store.view()?.para_header(number)?.map(<[u8]>::to_vec);
        header.ok_or(store::Error::Missing { what: "parachain header" })
    })
    .await?;
    let header = Checked::new(number.0, header).map_err(|_| store::Error::Corrupt { what: "header" })?;
    let mut best: Option<(usize, &Vec<u8>)> = None;
    // The stored changes compete as well: the worker may be broken, not the data.
    for candidate in answers.iter().map(|(_, changes)| &changes[at]).chain([stored]) {
        let Ok(changes) = wire::StorageChanges::decode_all(&mut &**candidate) else { continue };
        for (node, _) in answers {
            match is_proven(node, &header, &changes).await {
                Ok(true) if best.is_none_or(|(len, _)| len < changes.main.len()) => {
                    best = Some((changes.main.len(), candidate));
                    break;
                }
                Ok(_) => break,
                // Another node may still have the state, or give a better proof.
                Err(()) => {}
            }
        }
    }
    let all = answers.iter().map(|(_, changes)| &changes[at]);
    Ok(match best {
        Some((_, proven)) => Decision { right: proven.clone(), is_proven: true },
        None => Decision { right: most_common(all, stored).clone(), is_proven: false },
    })
}

/// Whether the state after the block holds every value that was claimed as written. Fails if the node cannot
/// prove anything.
async fn is_proven(node: &Node, header: &Checked, changes: &wire::StorageChanges) -> Result<bool, ()> {
    for some in changes.main.chunks(KEYS_PER_PROOF) {
        let keys: Vec<Vec<u8>> = some.iter().map(|(key, _)| key.clone()).collect();
        let asked: Vec<_> = keys.iter().cloned().map(json::HexBytes).collect();
        let hash: Hash = header.hash;
        // With the values, of which one may be a runtime.
        let proof: json::ReadProof =
            node.request_bulk("state_getReadProof", (asked, hash)).await.map_err(drop)?;
        let values =
            state::read("changed values", header.state_root, proof.into_nodes(), &keys).map_err(drop)?;
        if some.iter().zip(values).any(|((_, claimed), value)| *claimed != value) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The most frequent answer; among equally frequent ones not the suspect's.
fn most_common<'a>(answers: impl Iterator<Item = &'a Vec<u8>> + Clone, suspect: &'a Vec<u8>) -> &'a Vec<u8> {
    let votes = |answer: &Vec<u8>| answers.clone().filter(|other| *other == answer).count();
    answers.clone().max_by_key(|answer| (votes(answer), *answer != suspect)).unwrap_or(suspect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspect_needs_a_majority() {
        let [a, b] = [vec![1], vec![2]];
        assert_eq!(most_common([&a, &b].into_iter(), &a), &b);
        assert_eq!(most_common([&b, &a].into_iter(), &a), &b);
        assert_eq!(most_common([&a, &b, &a].into_iter(), &a), &a);
        assert_eq!(most_common([&b].into_iter(), &a), &b);
        assert_eq!(most_common([&a].into_iter(), &a), &a);
    }
}
