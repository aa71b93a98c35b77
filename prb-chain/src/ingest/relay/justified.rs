//! Justifications that nodes keep with blocks: at changes of the authority set, and every 512 blocks.

use prb_core::{
    primitives::{Hash, RelayNumber},
    wire::{AuthoritySet, GRANDPA_ENGINE_ID},
};

use super::{Proven, Tip, window};
use crate::{
    ingest::{Config, Error, absent, wrong},
    rpc::{Node, json},
    verify::{self, Checked, grandpa},
};

/// Blocks at the end of what was fetched that are asked for a justification, newest first.
const NEWEST: usize = 16;
/// Nodes keep the justification of every block whose number this divides.
const PERIOD: u32 = 512;
/// Headers after which a justified one among them is looked for, rather than fetching the rest of the set.
const STRETCH: usize = 4 * PERIOD as usize;

/// Headers in windows, until one schedules a change of authorities, or a justified one is found. Nothing
/// where no block up to the target is justified.
pub(super) async fn find(
    node: &Node,
    config: &Config,
    tip: Tip,
    target: RelayNumber,
    set: &AuthoritySet,
) -> Result<Option<Proven>, Error> {
    let mut headers: Vec<Checked> = Vec::new();
    // Headers that were searched already.
    let mut searched = 0;
    loop {
        let (first, parent) =
            headers.last().map_or((tip.number.next().0, tip.hash), |last| (last.number + 1, last.hash));
        let last = target.0.min(first.saturating_add(config.headers_per_batch.max(1) - 1));
        let window = match window(node, first, last).await {
            // The target may be a false one: what was fetched may hold a justified block.
            Err(Error::Absent { .. }) if !headers.is_empty() => {
                return newest(node, headers, searched, NEWEST, set).await;
            }
            other => other?,
        };
        let seen = headers.len();
        headers.extend(verify::chain(parent, first, window).map_err(wrong(node))?);
        if let Some(at) = headers[seen..].iter().position(|header| header.change.is_some()) {
            headers.truncate(seen + at + 1);
            return at_change(node, headers, set).await.map(Some);
        }
        if last == target.0 {
            return newest(node, headers, searched, NEWEST, set).await;
        }
        let is_full = headers.len() >= config.max_unproven_headers as usize;
        if is_full || headers.len() - searched >= STRETCH {
            let length = headers.len();
            if let Some(proven) = newest(node, headers.clone(), searched, 0, set).await? {
                return Ok(Some(proven));
            }
            searched = length;
        }
        if is_full {
            return Err(absent(
                node,
                format!("justification of a block from {} to {last}", tip.number.next()),
            ));
        }
    }
}

/// The justification that nodes keep where the set changes.
async fn at_change(node: &Node, headers: Vec<Checked>, set: &AuthoritySet) -> Result<Proven, Error> {
    let lack =
        |number: u32| absent(node, format!("justification of block {number}, which changes the authorities"));
    let last = headers.last().ok_or_else(|| lack(0))?;
    let justification = justification(node, last.hash).await?.ok_or_else(|| lack(last.number))?;
    if let Err(e) = grandpa::check(&justification, set, last.number, last.hash) {
        return Err(wrong(node)(forced_change(&headers).unwrap_or(e)));
    }
    Ok(Proven { headers, justification })
}

/// That a header among these forces a change: what comes from there on is signed by a set that none announces.
fn forced_change(headers: &[Checked]) -> Option<verify::Error> {
    let forced = headers.iter().find(|header| header.forces_change)?;
    Some(verify::Error::ForcedChange { number: forced.number })
}

/// Blocks that may be justified, newest first: some at the end, and those that nodes keep.
fn candidates(headers: &[Checked], from: usize, newest: usize) -> impl Iterator<Item = usize> {
    let end = headers.len().saturating_sub(newest);
    (from..headers.len()).rev().filter(move |at| *at >= end || headers[*at].number.is_multiple_of(PERIOD))
}

/// The newest of the headers, from one on, whose justification the node has. One that does not hold is
/// passed over: an older one may.
async fn newest(
    node: &Node,
    mut headers: Vec<Checked>,
    from: usize,
    newest: usize,
    set: &AuthoritySet,
) -> Result<Option<Proven>, Error> {
    let candidates: Vec<usize> = candidates(&headers, from, newest).collect();
    let (mut bad, mut forced) = (None, None);
    for at in candidates {
        let Checked { number, hash, .. } = headers[at];
        let Some(justification) = justification(node, hash).await? else { continue };
        match grandpa::check(&justification, set, number, hash) {
            Ok(()) => {
                headers.truncate(at + 1);
                if let Some(e) = bad {
                    // It is used all the same: what is verified may come from anybody.
                    node.demote(&format!("one of its justifications does not hold: {e}"));
                }
                return Ok(Some(Proven { headers, justification }));
            }
            Err(e) => match forced_change(&headers[..=at]) {
                Some(change) => drop(forced.get_or_insert(change)),
                None => drop(bad.get_or_insert(e)),
            },
        }
    }
    forced.or(bad).map_or(Ok(None), |e| Err(wrong(node)(e)))
}

async fn justification(node: &Node, hash: Hash) -> Result<Option<Vec<u8>>, Error> {
    let block: Option<json::SignedBlock> = node.request_bulk("chain_getBlock", [hash]).await?;
    let all = block.and_then(|block| block.justifications).unwrap_or_default();
    Ok(all.into_iter().find(|(engine, _)| *engine == GRANDPA_ENGINE_ID).map(|(_, bytes)| bytes.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(first: u32, count: u32) -> Vec<Checked> {
        let header = |number| Checked {
            number,
            hash: Hash::default(),
            encoded: vec![],
            state_root: Hash::default(),
            change: None,
            forces_change: false,
        };
        (first..first + count).map(header).collect()
    }

    #[test]
    fn candidates_are_the_newest_and_those_that_nodes_keep() {
        let headers = headers(100, 1_000);
        let numbers = |from, newest| -> Vec<u32> {
            candidates(&headers, from, newest).map(|at| headers[at].number).collect()
        };
        assert_eq!(numbers(0, 0), [1_024, 512]);
        assert_eq!(numbers(500, 0), [1_024]);
        assert_eq!(numbers(0, 2), [1_099, 1_098, 1_024, 512]);
        assert_eq!(numbers(998, 5), [1_099, 1_098]);
    }
}
