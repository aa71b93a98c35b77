//! Fetches what workers start with.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::supervisor::HELPER_BACKOFF;
use crate::{blob::Genesis, sync::Backoff, worker::Context};

/// Fetches the chain's genesis as soon as the source has it, and ends.
pub(super) async fn fetch(
    ctx: Arc<Context>,
    genesis: watch::Sender<Option<Arc<Genesis>>>,
    cancel: CancellationToken,
) {
    let mut backoff = Backoff::new(HELPER_BACKOFF);
    let mut heights = ctx.source.heights();
    loop {
        let fetched = tokio::select! {
            () = cancel.cancelled() => return,
            fetched = ctx.source.genesis() => fetched,
        };
        match fetched {
            Ok(found) => {
                info!(para_id = found.para_id, relay_genesis = %found.relay_number, "the chain is known");
                genesis.send_replace(Some(Arc::new(found)));
                return;
            }
            Err(error) => {
                let wait = backoff.fail();
                // The first tries come before anything can be there.
                if backoff.attempts() % 10 == 5 {
                    warn!(%error, "the chain is not known yet");
                }
                // Growing heights end the pause, but not its first second: they may grow many times a second.
                let least = wait.min(HELPER_BACKOFF.first);
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = async {
                        tokio::time::sleep(least).await;
                        let _ = tokio::time::timeout(wait - least, heights.changed()).await;
                    } => {}
                }
            }
        }
    }
}
