//! Storage changes of the stored parachain headers.
//!
//! A node's word is taken for them: checking them takes the whole state. A worker finds out at once
//! (`StateRootMismatch`).

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use prb_core::primitives::ParaNumber;

use super::{Chains, Config, Error, Pause, absent, write};
use crate::{
    rpc::{self, Node, json},
    store::Store,
};

/// One answer's blocks.
struct Span {
    first: ParaNumber,
    changes: Vec<Vec<u8>>,
}

/// Follows the parachain's storage changes.
pub(super) async fn run(chains: &Chains, config: &Config) -> Result<(), Error> {
    let mut pause = Pause::new(config);
    let mut tips = chains.store.tips();
    let mut per_call = config.changes_per_call.max(1);
    loop {
        let (next, last) = {
            let tips = tips.borrow_and_update();
            (tips.changes.next(), tips.para_header.map(|(number, _)| number))
        };
        let ready = |last: &ParaNumber| {
            *last >= next && (last.0 - next.0 >= per_call || chains.near_target(config.headers_per_batch))
        };
        let Some(last) = last.filter(ready) else {
            pause.reset();
            // The store, and with it the sender, lives as long as this loop.
            let _ = tips.changed().await;
            continue;
        };
        match advance(chains, config, next, last, per_call).await {
            Ok(()) => {
                pause.reset();
                per_call = (per_call * 2).min(config.changes_per_call.max(1));
            }
            Err(e) => {
                if is_too_much(&e) {
                    per_call = (per_call / 2).max(1);
                }
                pause.after(chains, "storage changes", e).await?;
            }
        }
    }
}

/// Whether fewer blocks in one question may help: the answer was too large or took too long.
const fn is_too_much(error: &Error) -> bool {
    matches!(
        error,
        Error::Rpc(rpc::Error::Timeout { .. } | rpc::Error::Disconnected { .. } | rpc::Error::Call { .. })
    )
}

/// Fetches some spans at once and stores them in order.
async fn advance(
    chains: &Chains,
    config: &Config,
    next: ParaNumber,
    last: ParaNumber,
    per_call: u32,
) -> Result<(), Error> {
    let starts = (next.0..=last.0).step_by(per_call as usize);
    let spans = starts.map(|first| fetch(chains, first, last.0.min(first + per_call - 1)));
    stream::iter(spans)
        .buffered(config.changes_in_flight.max(1))
        .try_for_each(|span| {
            write(&chains.store, move |store| store.append_changes(span.first, &span.changes))
        })
        .await
}

async fn fetch(chains: &Chains, first: u32, last: u32) -> Result<Span, Error> {
    let changes = fetch_from(&chains.para.pick(), &chains.store, first, last).await?;
    Ok(Span { first: ParaNumber(first), changes })
}

/// SCALE changes of blocks whose headers are stored, as one node tells them.
pub(super) async fn fetch_from(
    node: &Node,
    store: &Arc<Store>,
    first: u32,
    last: u32,
) -> Result<Vec<Vec<u8>>, Error> {
    let hashes =
        move |store: &Store| Ok((store.para_hash(ParaNumber(first))?, store.para_hash(ParaNumber(last))?));
    let (from, to) = write(store, hashes).await?;
    let changes: Vec<json::StorageChanges> = node.request("pha_getStorageChanges", (from, to)).await?;
    if changes.len() != (last - first + 1) as usize {
        return Err(absent(node, format!("storage changes of blocks {first} to {last}")));
    }
    Ok(changes.iter().map(json::StorageChanges::encode).collect())
}
