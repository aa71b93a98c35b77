//! Justifications that nodes store with blocks: at changes of the authority set, and every 512 blocks.

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

/// Number of fetched blocks, newest first, that are checked for a justification.
// Near the newest block nodes keep more justifications than at old ones, but not for every block.
const NEWEST: usize = 16;
/// Nodes store the justification of every block whose number is a multiple of this.
const PERIOD: u32 = 512;
/// Headers after which a justified one among them is looked for, instead of fetching the rest of the set.
// Sets of an era have thousands of blocks, and test networks have one set forever.
const STRETCH: usize = 4 * PERIOD as usize;

/// Fetches headers in windows until one schedules a change of authorities, or a justified one is found.
/// Returns nothing if no block up to the target is justified.
pub(super) async fn find(
    node: &Node,
    config: &Config,
    tip: Tip,
    target: RelayNumber,
    set: &AuthoritySet,
) -> Result<Option<Proven>, Error> {
    let mut headers: Vec<Checked> = Vec::new();
    // Number of headers that were searched already.
    let mut searched = 0;
    loop {
        let (first, parent) =
            headers.last().map_or((tip.number.next().0, tip.hash), |last| (last.number + 1, last.hash));
        let last = target.0.min(first.saturating_add(config.headers_per_batch.max(1) - 1));
        let window = match window(node, first, last).await {
            // The target may be false; the fetched headers may nevertheless contain a justified block.
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
            // Far from the newest block only multiples of the period can be justified.
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

/// Uses the justification that nodes store where the authority set changes.
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

/// Detects a forced change of authorities among these headers: from there on, blocks are signed by a set that
/// no earlier header announces.
fn forced_change(headers: &[Checked]) -> Option<verify::Error> {
    let forced = headers.iter().find(|header| header.forces_change)?;
    Some(verify::Error::ForcedChange { number: forced.number })
}

/// Blocks that may be justified, newest first: some at the end, and multiples of [`PERIOD`].
fn candidates(headers: &[Checked], from: usize, newest: usize) -> impl Iterator<Item = usize> {
    let end = headers.len().saturating_sub(newest);
    (from..headers.len()).rev().filter(move |at| *at >= end || headers[*at].number.is_multiple_of(PERIOD))
}

/// Returns the newest of the headers, from an index on, whose justification the node has. An invalid one is
/// skipped, because an older one may be valid.
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
                    // Its other answers are still used: verified data may come from anybody.
                    node.demote(&format!("one of its justifications is not valid: {e}"));
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
    fn candidates_are_the_newest_and_multiples_of_the_period() {
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
