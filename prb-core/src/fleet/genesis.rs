//! Fetches the genesis that workers are initialised with.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::supervisor::HELPER_BACKOFF;
use crate::{blob::Genesis, sync::Backoff, worker::Context};

/// Fetches the chain's genesis as soon as the source has it, then ends.
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
                info!(para_id = found.para_id, relay_genesis = %found.relay_number, "fetched the chain's genesis");
                genesis.send_replace(Some(Arc::new(found)));
                return;
            }
            Err(error) => {
                let wait = backoff.fail();
                // The first attempts usually precede the first stored block: no warning for them.
                if backoff.attempts() % 10 == 5 {
                    warn!(error = %crate::text::describe(&error), "cannot get the chain's genesis from the data source yet");
                }
                // Growing heights cut the pause short, except for its first second: they may grow many times
                // a second.
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
