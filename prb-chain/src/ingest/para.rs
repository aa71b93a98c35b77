//! Parachain headers, up to what a stored relay block's state names.

use prb_core::primitives::{Hash, ParaNumber};

use super::{Chains, Config, Error, Pause, absent, relay::window, write, wrong};
use crate::{
    rpc::{Node, json},
    store::ParaHead,
    verify::{self, Checked},
};

/// Most blocks of a branch that a node's best chain does not have.
const MAX_FORK: usize = 256;

/// Follows the parachain's headers.
pub(super) async fn run(chains: &Chains, config: &Config) -> Result<(), Error> {
    let mut pause = Pause::new(config);
    let mut tips = chains.store.tips();
    let mut in_full = true;
    loop {
        tips.mark_unchanged();
        let turn = chains.turn.read().await;
        let advanced = advance(chains, config, in_full).await;
        drop(turn);
        match advanced {
            Ok(Step::Stored) => {
                pause.reset();
                in_full = true;
            }
            // The store, and with it the senders, lives as long as this loop.
            Ok(Step::UpToDate) => {
                pause.reset();
                let _ = tips.changed().await;
            }
            // The target may be a false one: what there is goes on without it.
            Ok(Step::Few) => {
                pause.reset();
                in_full = tokio::time::timeout(config.batch_wait, tips.changed()).await.is_ok();
            }
            Err(e) => pause.after(chains, "parachain headers", e).await?,
        }
    }
}

/// What one attempt came to.
enum Step {
    Stored,
    /// No relay block vouches for more.
    UpToDate,
    /// There are some, but more are on their way.
    Few,
}

/// Stores the headers up to the next head that a relay block vouches for; `in_full` leaves few headers for
/// later while there are more to come.
async fn advance(chains: &Chains, config: &Config, in_full: bool) -> Result<Step, Error> {
    let limit = config.headers_per_batch;
    let head = write(&chains.store, move |store| store.next_head(limit)).await?;
    let Some(ParaHead { number, hash }) = head else { return Ok(Step::UpToDate) };
    let tip = chains.store.tips().borrow().para_header;
    let missing = number.0 - tip.map_or(0, |(tip, _)| tip.0);
    if in_full && missing < limit / 2 && !chains.near_target(limit) {
        return Ok(Step::Few);
    }
    let (first, parent) = match tip {
        Some((tip, hash)) => (tip.next().0, hash),
        // Nothing comes before the genesis header.
        None => (0, Hash::default()),
    };
    let node = chains.para.pick();
    let mut headers = Vec::new();
    while first + headers.len() as u32 <= number.0 {
        let from = first + headers.len() as u32;
        let last = number.0.min(from.saturating_add(config.headers_per_batch - 1));
        headers.extend(window(&node, from, last).await?);
    }
    let mut checked = verify::chain(parent, first, headers).map_err(wrong(&node))?;
    if checked.last().is_some_and(|last| last.hash != hash) {
        by_hash(&node, parent, hash, &mut checked).await?;
    }
    let headers: Vec<_> = checked.into_iter().map(|header| header.encoded).collect();
    write(&chains.store, move |store| store.append_para_headers(ParaNumber(first), &headers)).await?;
    Ok(Step::Stored)
}

/// Replaces the last headers by those of the branch that ends with `hash`.
///
/// A node's best chain may still be another branch: it answers a question by number honestly with a header
/// that the relay chain does not vouch for.
async fn by_hash(node: &Node, parent: Hash, hash: Hash, checked: &mut Vec<Checked>) -> Result<(), Error> {
    let (mut branch, mut wanted) = (Vec::new(), hash);
    while let Some(other) = checked.pop() {
        if other.hash == wanted {
            checked.push(other);
            break;
        }
        if branch.len() == MAX_FORK {
            let Checked { number, hash: actual, .. } = other;
            return Err(wrong(node)(verify::Error::HeaderHash { number, expected: wanted, actual }));
        }
        let number = other.number;
        let header: Option<json::Header> = node.request("chain_getHeader", [wanted]).await?;
        let header = header.ok_or_else(|| absent(node, format!("parachain header {number} ({wanted})")))?;
        let header = verify::header(wanted, number, header.encode()).map_err(wrong(node))?;
        wanted = header.parent();
        branch.push(header);
    }
    if checked.is_empty() && wanted != parent {
        let number = branch.last().map_or(0, |first| first.number);
        return Err(wrong(node)(verify::Error::Parent { number }));
    }
    checked.extend(branch.into_iter().rev());
    Ok(())
}
