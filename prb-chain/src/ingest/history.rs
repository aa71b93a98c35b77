//! Alternates between history sources and nodes: sources come first, and again when nodes lack blocks.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::sync::OwnedRwLockWriteGuard;

use super::{Chains, Config, Error, Pause, start};
use crate::history::Replay;

/// How long the node loops may take to release the lock; they do so between two attempts.
const TURN_WITHIN: Duration = Duration::from_secs(5);

/// Uses a history source's start of the chains if the nodes confirm its blocks but no longer have their
/// states.
pub(super) async fn store_confirmed_start(
    chains: &Chains,
    history: Option<&mut Replay>,
) -> Result<bool, Error> {
    let Some(history) = history.filter(|_| chains.store.genesis().is_none()) else { return Ok(false) };
    let Some((found, genesis, source)) = history.find_start().await else { return Ok(false) };
    if !start::agrees(chains, &found, &genesis).await {
        tracing::warn!(
            source,
            "nodes do not confirm the start of the chain given by a history source; ignored"
        );
        return Ok(false);
    }
    history.store_start(genesis).await?;
    start::pin(chains);
    Ok(true)
}

/// Stores what the sources have, then watches for stalled nodes.
pub(super) async fn run(
    chains: &Chains,
    config: &Config,
    history: Option<Replay>,
    turn: OwnedRwLockWriteGuard<()>,
) -> Result<(), Error> {
    let Some(mut history) = history else {
        drop(turn);
        return pending().await;
    };
    let mut pause = Pause::new(config);
    let mut turn = Some(turn);
    loop {
        if turn.is_some() {
            match history.drain().await {
                Ok(drained) => {
                    if drained.stored {
                        let tips = *chains.store.tips().borrow();
                        let relay = tips.relay.map(|(number, _)| number.0);
                        tracing::info!(
                            relay,
                            para = tips.changes.0,
                            "stored all blocks that the sources have"
                        );
                    }
                    pause.reset();
                }
                Err(e) => pause.after(chains, "history", Error::Store(e)).await?,
            }
        }
        drop(turn.take());
        stalled(chains, &history).await;
        // A write lock that waits keeps new readers out, so without the limit a loop that hangs on a node would
        // stop all others.
        let wanted = Arc::clone(&chains.turn).write_owned();
        turn = tokio::time::timeout(TURN_WITHIN, wanted).await.ok();
    }
}

/// Waits until the stored blocks have stayed the same for a while although sources have more.
async fn stalled(chains: &Chains, history: &Replay) {
    let mut tips = chains.store.tips();
    loop {
        let before = *tips.borrow_and_update();
        tokio::time::sleep(history.config().stalled_after).await;
        let now = *tips.borrow();
        let extent = history.extent();
        let has_more = extent.relay > now.relay.map(|(number, _)| number) || extent.para > Some(now.changes);
        if now == before && has_more {
            return;
        }
    }
}
