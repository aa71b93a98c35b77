//! A second look at storage changes that a worker could not apply.

use std::sync::Arc;

use prb_core::{blob::Span, primitives::ParaNumber};

use super::{Error, absent, changes, write};
use crate::{rpc::NodePool, store::Store};

/// Blocks in one question.
const PER_CALL: u32 = 100;

/// What came of a second look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rechecked {
    /// Nodes that answered.
    pub nodes: usize,
    /// Blocks whose stored changes were replaced.
    pub replaced: Vec<ParaNumber>,
}

/// Fetches the changes of some blocks again, from every node of the pool, and replaces stored ones that
/// most nodes do not confirm. Where as many confirm them as do not, they are replaced as well: it is them
/// that are suspect. Nodes in the minority are demoted.
///
/// Call it where a worker answers `StateRootMismatch`, with the block that it names.
///
/// # Errors
/// Where no node answers, or the store fails.
pub async fn recheck(
    para: &NodePool,
    store: &Arc<Store>,
    blocks: Span<ParaNumber>,
) -> Result<Rechecked, Error> {
    let mut outcome = Rechecked { nodes: 0, replaced: Vec::new() };
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

async fn recheck_chunk(
    para: &NodePool,
    store: &Arc<Store>,
    blocks: Span<ParaNumber>,
) -> Result<Rechecked, Error> {
    let (mut answers, mut failure) = (Vec::new(), None);
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
    for number in blocks.first.0..=blocks.last.0 {
        let number = ParaNumber(number);
        let stored = write(store, move |store| store.changes(number)).await?;
        let at = (number.0 - blocks.first.0) as usize;
        let right = most_common(answers.iter().map(|(_, changes)| &changes[at]), &stored).clone();
        for (node, changes) in &answers {
            if changes[at] != right {
                node.demote(&format!("its storage changes of block {number} are not those of other nodes"));
            }
        }
        if right != stored {
            tracing::warn!(block = number.0, "stored storage changes were wrong, replaced");
            write(store, move |store| store.replace_changes(number, &[right])).await?;
            replaced.push(number);
        }
    }
    Ok(Rechecked { nodes: answers.len(), replaced })
}

/// The answer that most give; among equals, one that is not the suspect.
fn most_common<'a>(answers: impl Iterator<Item = &'a Vec<u8>> + Clone, suspect: &'a Vec<u8>) -> &'a Vec<u8> {
    let votes = |answer: &Vec<u8>| answers.clone().filter(|other| *other == answer).count();
    answers.clone().max_by_key(|answer| (votes(answer), *answer != suspect)).unwrap_or(suspect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suspect_needs_a_majority() {
        let [a, b] = [vec![1], vec![2]];
        assert_eq!(most_common([&a, &b].into_iter(), &a), &b);
        assert_eq!(most_common([&b, &a].into_iter(), &a), &b);
        assert_eq!(most_common([&a, &b, &a].into_iter(), &a), &a);
        assert_eq!(most_common([&b].into_iter(), &a), &b);
        assert_eq!(most_common([&a].into_iter(), &a), &a);
    }
}
