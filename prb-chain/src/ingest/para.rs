//! Parachain headers, up to what a stored relay block's state names.

use prb_core::primitives::{Hash, ParaNumber};

use super::{Chains, Config, Error, Pause, relay::window, write, wrong};
use crate::{store::ParaHead, verify};

/// Follows the parachain's headers.
pub(super) async fn run(chains: &Chains, config: &Config) -> Result<(), Error> {
    let mut pause = Pause::new(config);
    let mut tips = chains.store.tips();
    let mut in_full = true;
    loop {
        tips.mark_unchanged();
        match advance(chains, config, in_full).await {
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
    let checked = verify::chain(parent, first, headers).map_err(wrong(&node))?;
    if let Some(last) = checked.last().filter(|last| last.hash != hash) {
        let (number, actual) = (last.number, last.hash);
        return Err(wrong(&node)(verify::Error::HeaderHash { number, expected: hash, actual }));
    }
    let headers: Vec<_> = checked.into_iter().map(|header| header.encoded).collect();
    write(&chains.store, move |store| store.append_para_headers(ParaNumber(first), &headers)).await?;
    Ok(Step::Stored)
}
